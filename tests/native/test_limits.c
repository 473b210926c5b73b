/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What init ends its sandbox for (limits.c, cputime.c), with its signals confined by Landlock and without.
 *
 * Every process of a tree holds the writing end of a pipe, so the end of file on it is the end of the last of them.
 */
#include "launch.h"

#define TREE_PROCESSES 6
#define MS UINT64_C(1000000)

static int scoped;

/* ---- the roles of the program */

static void say(char word)
{
	if (write(1, &word, 1) != 1)
		_exit(3);
}

static void on_term(int number)
{
	(void)number;
	say('t');
	_exit(6);
}

/* In a session of its own, its parent dead. */
static void grow(int is_deaf)
{
	pid_t pid = fork();

	if (pid == 0) {
		setsid();
		if (fork() != 0)
			_exit(0);
		signal(SIGTERM, is_deaf ? SIG_IGN : on_term);
		say('r');
		while (1)
			pause();
	}
	waitpid(pid, NULL, 0);
}

__attribute__((noreturn)) static void be_tree(int is_deaf)
{
	for (int i = 0; i < TREE_PROCESSES; i++)
		grow(is_deaf);
	signal(SIGTERM, is_deaf ? SIG_IGN : SIG_DFL);
	/* The program itself ends last, so that all others are heard. */
	if (!is_deaf) {
		sigset_t term;
		int number;

		sigemptyset(&term);
		sigaddset(&term, SIGTERM);
		sigprocmask(SIG_BLOCK, &term, NULL);
		say('r');
		sigwait(&term, &number);
		poll(NULL, 0, 100);
		_exit(7);
	}
	say('r');
	while (1)
		pause();
}

__attribute__((noreturn)) static void be_stopped(void)
{
	signal(SIGTERM, on_term);
	say('r');
	raise(SIGSTOP);
	while (1)
		pause();
}

static void burn(long ms)
{
	struct timespec used;

	do
		clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
	while (used.tv_sec * 1000 + used.tv_nsec / 1000000 < ms);
}

/* Ends when it is told to, long before anybody looks. */
__attribute__((noreturn)) static void be_quick(void)
{
	signal(SIGUSR1, on_term);
	say('r');
	while (1)
		pause();
}

/* Each child uses 2 ms; nobody is told to stop. */
__attribute__((noreturn)) static void be_parent_of_many(int waits)
{
	say('r');
	if (!waits)
		signal(SIGCHLD, SIG_IGN);
	while (1) {
		pid_t pid = fork();

		if (pid == 0) {
			burn(2);
			_exit(0);
		}
		waitpid(pid, NULL, 0); /* where it is ignored, until all are gone */
	}
}

/* A supervisor that hears nothing: more stops than its socket holds. */
__attribute__((noreturn)) static void be_restless(void)
{
	pid_t self = getpid();

	say('r');
	if (fork() == 0)
		while (kill(self, SIGCONT) == 0)
			;
	while (1)
		raise(SIGSTOP);
}

/* ---- */

struct watched {
	struct launched launched;
	int end;
};

static struct watched start(char *role, struct slk_launch_plan limits, int ready)
{
	struct slk_launch_plan plan = plan_of(ROLE(role));
	struct slk_order begin = {.kind = SLK_ORDER_BEGIN};
	struct watched watched;
	int ends[2];
	char byte;

	plan.scope_signals = (uint8_t)scoped;
	plan.timeout_ns = limits.timeout_ns;
	plan.grace_ns = limits.grace_ns;
	plan.cpu_time_ns = limits.cpu_time_ns;
	CHECK_EQUAL(0, pipe2(ends, O_CLOEXEC));
	plan.stdio[1] = ends[1];
	watched.end = ends[0];
	watched.launched = launch(&plan);
	close(ends[1]);
	hear(&watched.launched, SLK_REPORT_STARTED);
	CHECK_EQUAL(watched.launched.told.of[SLK_REPORT_STARTED].pid,
		    hear(&watched.launched, SLK_REPORT_LISTENER)->pid);
	while (ready-- > 0) {
		struct pollfd waiting = {watched.end, POLLIN, 0};

		CHECK_EQUAL(1, poll(&waiting, 1, PATIENCE_MS));
		CHECK_EQUAL(1, read(watched.end, &byte, 1));
		CHECK_EQUAL('r', byte);
	}
	CHECK_EQUAL(0, slk_order_send(watched.launched.control, &begin));
	return watched;
}

/* How many of them said that they were asked to end. */
static int check_all_dead(struct watched *watched)
{
	struct pollfd waiting = {watched->end, POLLIN, 0};
	int asked = 0;
	char byte;

	for (;;) {
		CHECK_EQUAL(1, poll(&waiting, 1, PATIENCE_MS));
		if (read(watched->end, &byte, 1) == 0)
			break;
		asked += byte == 't';
	}
	close(watched->end);
	let_go(&watched->launched);
	return asked;
}

static void test_all_are_asked_to_end_when_the_time_is_over(void)
{
	struct slk_launch_plan limits = {.timeout_ns = 20 * MS, .grace_ns = 20000 * MS};
	struct watched watched = start("tree", limits, TREE_PROCESSES + 1);

	CHECK_EQUAL(SLK_LIMIT_TIMEOUT, hear(&watched.launched, SLK_REPORT_LIMIT)->status);
	CHECK_EQUAL(7 << 8, hear(&watched.launched, SLK_REPORT_EXITED)->status);
	hear(&watched.launched, SLK_REPORT_DONE);
	CHECK_EQUAL(TREE_PROCESSES, check_all_dead(&watched));
}

static void test_who_does_not_is_killed_after_the_grace(void)
{
	struct slk_launch_plan limits = {.timeout_ns = 20 * MS, .grace_ns = 50 * MS};
	struct watched watched = start("deaf", limits, TREE_PROCESSES + 1);

	CHECK_EQUAL(SLK_LIMIT_TIMEOUT, hear(&watched.launched, SLK_REPORT_LIMIT)->status);
	hear(&watched.launched, SLK_REPORT_DONE);
	CHECK(!HAS(&watched.launched, SLK_REPORT_EXITED));
	CHECK_EQUAL(0, check_all_dead(&watched));
}

static void test_who_is_stopped_goes_on_to_end(void)
{
	struct slk_launch_plan limits = {.timeout_ns = 50 * MS, .grace_ns = 20000 * MS};
	struct watched watched = start("stopped", limits, 1);

	CHECK_EQUAL(6 << 8, hear(&watched.launched, SLK_REPORT_EXITED)->status);
	CHECK(HAS(&watched.launched, SLK_REPORT_STOPPED) && HAS(&watched.launched, SLK_REPORT_LIMIT));
	CHECK_EQUAL(1, check_all_dead(&watched));
}

static void test_nobody_has_to_listen_for_it(void)
{
	struct slk_launch_plan limits = {.timeout_ns = 300 * MS, .grace_ns = 20000 * MS};
	struct watched watched = start("restless", limits, 1);
	struct pollfd waiting = {watched.end, POLLIN, 0};
	char byte;

	CHECK_EQUAL(1, poll(&waiting, 1, PATIENCE_MS));
	CHECK_EQUAL(0, read(watched.end, &byte, 1)); /* all are dead, and we have read no report so far */
	hear(&watched.launched, SLK_REPORT_DONE);
	CHECK(HAS(&watched.launched, SLK_REPORT_STOPPED) && HAS(&watched.launched, SLK_REPORT_LIMIT));
	close(watched.end);
	let_go(&watched.launched);
}

static void test_who_has_ended_by_itself_is_told_so(void)
{
	struct slk_launch_plan plan = plan_of(SHELL("exit 4")), limits = {.timeout_ns = 60000 * MS};
	struct told told;

	plan.timeout_ns = limits.timeout_ns;
	plan.scope_signals = (uint8_t)scoped;
	CHECK_EQUAL(4 << 8, run_to_the_end(&plan, &told));
	CHECK_EQUAL(0, (told.kinds >> SLK_REPORT_LIMIT) & 1);
	CHECK_EQUAL(0, told.of[SLK_REPORT_DONE].used_ns);
}

static void test_the_clock_does_not_run_before_it_is_begun(void)
{
	struct slk_launch_plan plan = plan_of(SHELL("sleep 0.1; exit 4"));

	plan.timeout_ns = 1;
	plan.scope_signals = (uint8_t)scoped;
	CHECK_EQUAL(4 << 8, run_to_the_end(&plan, NULL));
}

static void check_used(char *role)
{
	struct slk_launch_plan limits = {.cpu_time_ns = 60 * MS};
	struct watched watched = start(role, limits, 1);
	const struct slk_report *report = hear(&watched.launched, SLK_REPORT_LIMIT);

	CHECK_EQUAL(SLK_LIMIT_CPU_TIME, report->status);
	CHECK(report->used_ns >= 60 * MS);
	CHECK(hear(&watched.launched, SLK_REPORT_DONE)->used_ns >= 60 * MS);
	check_all_dead(&watched);
}

static void test_what_children_used_that_are_waited_for_counts(void)
{
	check_used("parent");
}

static void test_what_children_used_that_nobody_waits_for_counts(void)
{
	check_used("careless");
}

static void test_what_was_used_at_the_end_counts_if_nobody_looked_before(void)
{
	struct slk_launch_plan limits = {.cpu_time_ns = 1};
	struct watched watched = start("quick", limits, 1);
	struct slk_order order = {.kind = SLK_ORDER_SIGNAL, .number = SIGUSR1};

	CHECK_EQUAL(0, slk_order_send(watched.launched.control, &order));
	hear(&watched.launched, SLK_REPORT_DONE);
	CHECK_EQUAL(SLK_LIMIT_CPU_TIME, watched.launched.told.of[SLK_REPORT_LIMIT].status);
	check_all_dead(&watched);
}

static void run_all(void)
{
	RUN(test_all_are_asked_to_end_when_the_time_is_over);
	RUN(test_who_does_not_is_killed_after_the_grace);
	RUN(test_who_is_stopped_goes_on_to_end);
	RUN(test_nobody_has_to_listen_for_it);
	RUN(test_who_has_ended_by_itself_is_told_so);
	RUN(test_the_clock_does_not_run_before_it_is_begun);
	RUN(test_what_children_used_that_are_waited_for_counts);
	RUN(test_what_children_used_that_nobody_waits_for_counts);
	RUN(test_what_was_used_at_the_end_counts_if_nobody_looked_before);
}

static void take_role(const char *role)
{
	if (!strcmp(role, "tree"))
		be_tree(0);
	if (!strcmp(role, "deaf"))
		be_tree(1);
	if (!strcmp(role, "stopped"))
		be_stopped();
	if (!strcmp(role, "restless"))
		be_restless();
	if (!strcmp(role, "parent"))
		be_parent_of_many(1);
	if (!strcmp(role, "careless"))
		be_parent_of_many(0);
	be_quick();
}

int main(int argc, char **argv)
{
	if (argc > 1)
		take_role(argv[1]);
	begin_tests();
	run_both_ways(run_all, &scoped);
	return 0;
}
