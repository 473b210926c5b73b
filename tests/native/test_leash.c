/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Nothing outlives its sandbox: init.c, each way with its signals confined by Landlock and without.
 *
 * Every process of a tree holds the writing end of a pipe, so the end of file on it is the end of the last of them.
 */
#include "launch.h"

#include <sys/socket.h>

#define TREE_PROCESSES 12

static int scoped;

/* ---- the roles of the program */

static void say_ready(void)
{
	if (write(1, "r", 1) != 1)
		_exit(3);
}

/* Leaves: each in a session of its own, its parent dead, deaf to what can be ignored. */
__attribute__((noreturn)) static void be_leaf(void)
{
	for (int number = 1; number < 64; number++)
		signal(number, SIG_IGN);
	say_ready();
	while (1)
		pause();
}

static void grow_leaf(void)
{
	pid_t pid = fork();

	if (pid == 0) {
		setsid();
		if (fork() == 0)
			be_leaf();
		_exit(0);
	}
	waitpid(pid, NULL, 0);
}

__attribute__((noreturn)) static void be_tree(int stays)
{
	for (int i = 0; i < TREE_PROCESSES; i++)
		grow_leaf();
	while (stays)
		pause();
	_exit(5);
}

/* A chain of processes of which only the last lives, for ever: nothing to catch by walking. */
__attribute__((noreturn)) static void be_chain(void)
{
	if (fork() == 0) {
		setsid();
		say_ready();
		while (1)
			if (fork() != 0)
				_exit(0);
	}
	while (1)
		pause();
}

__attribute__((noreturn)) static void be_patient(void)
{
	say_ready();
	while (1)
		pause();
}

/* ---- */

struct watched {
	struct launched launched;
	int end; /* reads as ended when every process of the tree is dead */
};

static struct watched start(char *role, int ready)
{
	struct slk_launch_plan plan = plan_of(ROLE(role));
	struct watched watched;
	int ends[2];

	plan.scope_signals = (uint8_t)scoped;
	CHECK_EQUAL(0, pipe2(ends, O_CLOEXEC));
	plan.stdio[1] = ends[1];
	watched.end = ends[0];
	watched.launched = launch(&plan);
	close(ends[1]);
	hear(&watched.launched, SLK_REPORT_STARTED);
	hear(&watched.launched, SLK_REPORT_LISTENER);
	while (ready > 0) {
		char bytes[64];
		struct pollfd waiting = {watched.end, POLLIN, 0};

		CHECK_EQUAL(1, poll(&waiting, 1, PATIENCE_MS));
		ready -= (int)read(watched.end, bytes, sizeof(bytes));
	}
	return watched;
}

static void check_all_dead(struct watched *watched)
{
	struct pollfd waiting = {watched->end, POLLIN, 0};
	char bytes[64];

	CHECK_EQUAL(1, poll(&waiting, 1, PATIENCE_MS));
	CHECK_EQUAL(0, read(watched->end, bytes, sizeof(bytes)));
	close(watched->end);
	let_go(&watched->launched);
}

static void check_alive(const struct watched *watched)
{
	struct pollfd waiting = {watched->end, POLLIN, 0};

	CHECK_EQUAL(0, poll(&waiting, 1, 20));
	CHECK_EQUAL(0, kill(watched->launched.told.of[SLK_REPORT_STARTED].pid, 0));
}

/* Nothing is told, in particular not that a stopped program goes on. */
static void check_silent(const struct watched *watched)
{
	struct pollfd waiting = {watched->launched.control, POLLIN, 0};

	CHECK_EQUAL(0, poll(&waiting, 1, 20));
}

static void cut(struct watched *watched)
{
	close(watched->launched.control);
	watched->launched.control = -1;
}

static void order(const struct watched *watched, int kind, int number)
{
	struct slk_order message = {kind, number};

	CHECK_EQUAL(0, slk_order_send(watched->launched.control, &message));
}

static void test_cutting_the_leash_ends_a_tree_of_sessions_and_orphans(void)
{
	struct watched watched = start("tree", TREE_PROCESSES);

	cut(&watched);
	check_all_dead(&watched);
}

static void test_the_leash_holds_while_a_duplicate_is_open(void)
{
	struct watched watched = start("tree", TREE_PROCESSES);
	int kept = fcntl(watched.launched.control, F_DUPFD_CLOEXEC, 0);

	CHECK(kept >= 0);
	cut(&watched);
	check_alive(&watched);
	close(kept);
	check_all_dead(&watched);
}

/* The supervisor is killed: nobody closes anything, and the kernel does. */
static int supervisor_that_dies(void *argument)
{
	struct watched watched = start("tree", TREE_PROCESSES);
	int *told = argument;

	CHECK_EQUAL(sizeof(pid_t), write(told[1], &watched.launched.init, sizeof(pid_t)));
	raise(SIGKILL);
	return 0;
}

static void test_the_death_of_the_supervisor_cuts_the_leash(void)
{
	pid_t supervisor, init;
	int told[2];

	CHECK_EQUAL(0, pipe2(told, O_CLOEXEC));
	supervisor = in_child(supervisor_that_dies, told);
	CHECK_EQUAL(sizeof(init), read(told[0], &init, sizeof(init)));
	CHECK_EQUAL(1000 + SIGKILL, exit_of(supervisor));
	CHECK_EQUAL(0, exit_of(init)); /* our child since, for we are a subreaper; the runner looks for others */
	close(told[0]);
	close(told[1]);
}

static void test_the_end_of_the_program_ends_what_it_left(void)
{
	struct watched watched = start("parent", 1);
	char byte;

	CHECK_EQUAL(5 << 8, hear(&watched.launched, SLK_REPORT_EXITED)->status);
	CHECK(hear(&watched.launched, SLK_REPORT_DONE)->reaped > TREE_PROCESSES);
	while (read(watched.end, &byte, 1) > 0)
		; /* of the leaves that were ready in time */
	check_all_dead(&watched);
}

static void test_an_order_to_kill_ends_everything(void)
{
	struct watched watched = start("tree", TREE_PROCESSES);

	order(&watched, SLK_ORDER_KILL, 0);
	hear(&watched.launched, SLK_REPORT_DONE);
	check_all_dead(&watched);
}

static void test_an_order_that_is_none_ends_everything(void)
{
	struct watched watched = start("tree", TREE_PROCESSES);

	CHECK_EQUAL(1, send(watched.launched.control, "?", 1, MSG_NOSIGNAL));
	check_all_dead(&watched);
	watched = start("patient", 1);
	order(&watched, 12345, 0);
	check_all_dead(&watched);
}

static void test_a_signal_reaches_the_program(void)
{
	struct watched watched = start("patient", 1);

	order(&watched, SLK_ORDER_SIGNAL, SIGUSR1);
	CHECK_EQUAL(SIGUSR1, hear(&watched.launched, SLK_REPORT_EXITED)->status);
	check_all_dead(&watched);
}

static void test_stopping_and_going_on_are_told(void)
{
	struct watched watched = start("patient", 1);

	order(&watched, SLK_ORDER_SIGNAL, SIGSTOP);
	CHECK_EQUAL(SIGSTOP, hear(&watched.launched, SLK_REPORT_STOPPED)->status);
	order(&watched, SLK_ORDER_SIGNAL, SIGCONT);
	hear(&watched.launched, SLK_REPORT_CONTINUED);
	order(&watched, SLK_ORDER_SIGNAL, SIGTERM);
	CHECK_EQUAL(SIGTERM, hear(&watched.launched, SLK_REPORT_EXITED)->status);
	check_all_dead(&watched);
}

static void test_only_the_stop_that_is_meant_is_ended(void)
{
	struct watched watched = start("patient", 1);

	order(&watched, SLK_ORDER_SIGNAL, SIGSTOP);
	CHECK_EQUAL(1, hear(&watched.launched, SLK_REPORT_STOPPED)->stop);
	order(&watched, SLK_ORDER_CONTINUE, 2);
	order(&watched, SLK_ORDER_CONTINUE, 0);
	check_silent(&watched);
	order(&watched, SLK_ORDER_CONTINUE, 1);
	CHECK_EQUAL(1, hear(&watched.launched, SLK_REPORT_CONTINUED)->stop);
	watched.launched.told.kinds &= ~(1 << SLK_REPORT_STOPPED);
	order(&watched, SLK_ORDER_SIGNAL, SIGSTOP);
	order(&watched, SLK_ORDER_CONTINUE, 1);
	CHECK_EQUAL(2, hear(&watched.launched, SLK_REPORT_STOPPED)->stop);
	check_silent(&watched);
	cut(&watched);
	check_all_dead(&watched);
}

static void test_a_stopped_tree_dies_as_well(void)
{
	struct watched watched = start("patient", 1);

	order(&watched, SLK_ORDER_SIGNAL, SIGSTOP);
	hear(&watched.launched, SLK_REPORT_STOPPED);
	cut(&watched);
	check_all_dead(&watched);
}

static void test_an_order_after_the_end_is_epipe(void)
{
	struct watched watched = start("patient", 1);
	struct slk_order message = {SLK_ORDER_SIGNAL, SIGTERM};

	order(&watched, SLK_ORDER_KILL, 0);
	hear(&watched.launched, SLK_REPORT_GONE);
	CHECK_EQUAL(-EPIPE, slk_order_send(watched.launched.control, &message));
	check_all_dead(&watched);
}

static int bystander(void *argument)
{
	int *ends = argument;
	char byte;

	close(ends[1]);
	return read(ends[0], &byte, 1) == 1 ? 0 : 1;
}

/* kill(-1) must be confined: somebody outside lives on. */
static void test_a_bystander_is_not_harmed(void)
{
	struct watched watched;
	pid_t pid;
	int ends[2];

	CHECK_EQUAL(0, pipe2(ends, O_CLOEXEC));
	pid = in_child(bystander, ends);
	watched = start("tree", TREE_PROCESSES);
	cut(&watched);
	check_all_dead(&watched);
	CHECK_EQUAL(1, write(ends[1], "x", 1));
	CHECK_EQUAL(0, exit_of(pid));
	close(ends[0]);
	close(ends[1]);
}

static void test_a_chain_of_forks_does_not_outrun_the_leash(void)
{
	struct watched watched = start("chain", 1);

	cut(&watched);
	check_all_dead(&watched);
}

static void run_all(void)
{
	RUN(test_cutting_the_leash_ends_a_tree_of_sessions_and_orphans);
	RUN(test_the_leash_holds_while_a_duplicate_is_open);
	RUN(test_the_death_of_the_supervisor_cuts_the_leash);
	RUN(test_the_end_of_the_program_ends_what_it_left);
	RUN(test_an_order_to_kill_ends_everything);
	RUN(test_an_order_that_is_none_ends_everything);
	RUN(test_a_signal_reaches_the_program);
	RUN(test_stopping_and_going_on_are_told);
	RUN(test_only_the_stop_that_is_meant_is_ended);
	RUN(test_a_stopped_tree_dies_as_well);
	RUN(test_an_order_after_the_end_is_epipe);
	RUN(test_a_bystander_is_not_harmed);
}

static void take_role(const char *role)
{
	if (!strcmp(role, "tree"))
		be_tree(1);
	if (!strcmp(role, "parent"))
		be_tree(0);
	if (!strcmp(role, "chain"))
		be_chain();
	be_patient();
}

int main(int argc, char **argv)
{
	if (argc > 1)
		take_role(argv[1]);
	begin_tests();
	if (run_both_ways(run_all, &scoped))
		RUN(test_a_chain_of_forks_does_not_outrun_the_leash);
	return 0;
}
