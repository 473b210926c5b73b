/* SPDX-License-Identifier: Apache-2.0 */
/* init as a tracer: tracer.c and its orders. What programs see of it is tests/behaviour/test_interrupted_calls.py's and
 * test_traced_processes.py's. */
#include "launch.h"

#include <pthread.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/time.h>

/* ---- the roles of the program */

static void *rest(void *unused)
{
	for (;;)
		pause();
	return unused;
}

static void tick(int number)
{
	(void)number;
}

/* Each signal of its timer is a stop, of whichever thread. */
static int be_ticking(void)
{
	struct itimerval every = {{0, 200}, {0, 200}};
	pthread_t thread;

	signal(SIGALRM, tick);
	for (int i = 0; i < 4; i++)
		pthread_create(&thread, NULL, rest, NULL);
	setitimer(ITIMER_REAL, &every, NULL);
	rest(NULL);
	return 1;
}

/* Executes when it is told to, among its threads. */
static int be_executing(void)
{
	char *const argv[] = {"sleep", "1000", NULL};
	pthread_t thread;
	sigset_t told;
	int number;

	sigemptyset(&told);
	sigaddset(&told, SIGUSR1);
	sigprocmask(SIG_BLOCK, &told, NULL);
	pthread_create(&thread, NULL, rest, NULL);
	sigwait(&told, &number);
	execve("/bin/sleep", argv, no_environment);
	return 1;
}

/* ---- */

static struct slk_engine *engine_of(int *ret_ledger_fd)
{
	static struct slk_call rows[SLK_CALLS_MAX];
	struct slk_engine_config config = {.calls = rows, .call_count = SLK_CALLS_MAX, .openat_nr = -1, .open_nr = -1,
					   .creat_nr = -1, .openat2_nr = -1};
	struct slk_engine *engine = NULL;

	config.ledger_fd = *ret_ledger_fd = memfd_create("ledger", MFD_CLOEXEC);
	CHECK_EQUAL(0, ftruncate(config.ledger_fd, (off_t)slk_ledger_bytes()));
	CHECK_EQUAL(0, slk_shared_create(&config.shared));
	CHECK_EQUAL(0, slk_engine_create(&config, &engine));
	return engine;
}

static pid_t tracer_of(pid_t pid)
{
	char path[64], text[2048] = "";
	const char *at;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	CHECK(fd >= 0);
	CHECK(read(fd, text, sizeof(text) - 1) > 0);
	close(fd);
	at = strstr(text, "TracerPid:");
	CHECK(at != NULL);
	return (pid_t)atoi(at + strlen("TracerPid:"));
}

/* How many; one that is not the leader. */
static int threads_of(pid_t pid, pid_t *ret_other)
{
	char path[64];
	struct dirent *entry;
	int count = 0;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	dir = opendir(path);
	CHECK(dir);
	while ((entry = readdir(dir))) {
		pid_t tid = (pid_t)atoi(entry->d_name);

		count += tid > 0;
		if (tid > 0 && tid != pid && ret_other)
			*ret_other = tid;
	}
	closedir(dir);
	return count;
}

struct traced {
	struct slk_engine *engine;
	int ledger_fd;
	struct launched launched;
	pid_t program;
};

static struct traced start_with(char *const *argv)
{
	struct slk_launch_plan plan = plan_of(argv);
	struct traced traced;

	traced.engine = engine_of(&traced.ledger_fd);
	plan.engine = traced.engine;
	traced.launched = launch(&plan);
	hear(&traced.launched, SLK_REPORT_LISTENER);
	traced.program = hear(&traced.launched, SLK_REPORT_STARTED)->pid;
	return traced;
}

static struct traced start(char *script)
{
	return start_with(SHELL(script));
}

static void end(struct traced *traced)
{
	hear(&traced->launched, SLK_REPORT_GONE);
	let_go(&traced->launched);
	slk_engine_destroy(traced->engine);
	close(traced->ledger_fd);
}

static void order(const struct traced *traced, int kind, int number)
{
	struct slk_order message = {.kind = kind, .number = number};

	CHECK_EQUAL(0, slk_order_send(traced->launched.control, &message));
}

static void test_only_an_init_with_the_signal_scope_traces(void)
{
	int expected = slk_landlock_abi() >= 6;
	struct traced traced = start("exec sleep 1000");

	slk_order_init(traced.engine, traced.launched.control, SLK_ORDER_TRACE, traced.program, PATIENCE_MS);
	CHECK(!expected || COMES_TRUE(tracer_of(traced.program) != 0)); /* it may have been in execve */
	CHECK_EQUAL(expected, slk_order_init(traced.engine, traced.launched.control, SLK_ORDER_TRACE, traced.program, PATIENCE_MS));
	CHECK_EQUAL(expected ? traced.launched.init : 0, tracer_of(traced.program));
	order(&traced, SLK_ORDER_SIGNAL, SIGTERM);
	CHECK_EQUAL(SIGTERM, hear(&traced.launched, SLK_REPORT_EXITED)->status);
	end(&traced);
}

static void test_a_process_outside_is_not_traced(void)
{
	struct traced traced = start("exec sleep 1000");

	slk_order_init(traced.engine, traced.launched.control, SLK_ORDER_TRACE, getpid(), PATIENCE_MS);
	CHECK_EQUAL(0, tracer_of(getpid()));
	order(&traced, SLK_ORDER_KILL, 0);
	end(&traced);
}

static void test_stops_of_a_traced_program_are_told_once(void)
{
	struct traced traced = start("exec sleep 1000");

	slk_order_init(traced.engine, traced.launched.control, SLK_ORDER_TRACE, traced.program, PATIENCE_MS);
	for (int stop = 1; stop <= 3; stop++) {
		traced.launched.told.kinds = 0;
		order(&traced, SLK_ORDER_SIGNAL, SIGTSTP);
		CHECK_EQUAL(stop, hear(&traced.launched, SLK_REPORT_STOPPED)->stop);
		CHECK_EQUAL(SIGTSTP, traced.launched.told.of[SLK_REPORT_STOPPED].status);
		order(&traced, SLK_ORDER_CONTINUE, stop);
		CHECK_EQUAL(stop, hear(&traced.launched, SLK_REPORT_CONTINUED)->stop);
	}
	order(&traced, SLK_ORDER_SIGNAL, SIGKILL);
	CHECK_EQUAL(SIGKILL, hear(&traced.launched, SLK_REPORT_EXITED)->status);
	end(&traced);
}

/* Those that are only traced are their parents' to reap, and not counted: here sleep, the shell's child. */
static void test_who_is_only_traced_is_not_counted_as_reaped(void)
{
	struct traced traced = start("sleep 1000 & echo $! > /proc/$$/comm; read x < /proc/$$/comm; wait; exit 3");
	char path[64], name[32] = "";
	pid_t child = 0;

	snprintf(path, sizeof(path), "/proc/%d/comm", traced.program);
	for (int tries = 0; tries < 1000 && child <= 0; tries++) {
		int fd = open(path, O_RDONLY | O_CLOEXEC);

		CHECK(fd >= 0);
		CHECK(read(fd, name, sizeof(name) - 1) > 0);
		close(fd);
		child = (pid_t)atoi(name);
		poll(NULL, 0, 5);
	}
	CHECK(child > 0);
	slk_order_init(traced.engine, traced.launched.control, SLK_ORDER_TRACE, child, PATIENCE_MS);
	CHECK_EQUAL(0, kill(child, SIGKILL));
	CHECK_EQUAL(3 << 8, hear(&traced.launched, SLK_REPORT_EXITED)->status);
	CHECK_EQUAL(1, hear(&traced.launched, SLK_REPORT_DONE)->reaped);
	end(&traced);
}

/* By somebody else, so that init may find it dead between taking a stop and going on with it. */
static void test_a_traced_program_that_is_killed_has_not_been_stopped(void)
{
	for (int round = 0; round < 50; round++) {
		struct traced traced = start_with(ROLE("ticking"));

		slk_order_init(traced.engine, traced.launched.control, SLK_ORDER_TRACE, traced.program, PATIENCE_MS);
		CHECK(COMES_TRUE(threads_of(traced.program, NULL) == 5));
		poll(NULL, 0, 1 + round % 3);
		CHECK_EQUAL(0, kill(traced.program, SIGKILL));
		CHECK_EQUAL(SIGKILL, hear(&traced.launched, SLK_REPORT_EXITED)->status);
		CHECK(!HAS(&traced.launched, SLK_REPORT_STOPPED));
		end(&traced);
	}
}

/* execve waits until the sibling that it has killed is reaped, which is ours to do: we trace that one. */
static void test_a_process_that_is_in_execve_is_traced_when_it_can_be(void)
{
	int expected = slk_landlock_abi() >= 6;
	struct traced traced = start_with(ROLE("executing"));
	siginfo_t info;
	pid_t sibling;

	CHECK(COMES_TRUE(threads_of(traced.program, &sibling) == 2));
	CHECK_EQUAL(0, ptrace(PTRACE_SEIZE, sibling, 0, 0));
	order(&traced, SLK_ORDER_SIGNAL, SIGUSR1);
	CHECK_EQUAL(0, waitid(P_PID, (id_t)sibling, &info, WEXITED | WNOWAIT | __WALL));
	CHECK_EQUAL(0, slk_order_init(traced.engine, traced.launched.control, SLK_ORDER_TRACE, traced.program, PATIENCE_MS));
	CHECK_EQUAL(0, tracer_of(traced.program));
	CHECK_EQUAL(sibling, waitpid(sibling, NULL, __WALL));
	CHECK(!expected || COMES_TRUE(tracer_of(traced.program) == traced.launched.init));
	order(&traced, SLK_ORDER_KILL, 0);
	end(&traced);
}

/* A group has job control while one of it has a parent in another group of its session: whoever started us may be gone. */
static int in_a_group_of_its_own(void *argument)
{
	(void)argument;
	setpgid(0, 0);
	begin_tests();
	RUN(test_only_an_init_with_the_signal_scope_traces);
	RUN(test_a_process_outside_is_not_traced);
	RUN(test_stops_of_a_traced_program_are_told_once);
	RUN(test_who_is_only_traced_is_not_counted_as_reaped);
	RUN(test_a_traced_program_that_is_killed_has_not_been_stopped);
	RUN(test_a_process_that_is_in_execve_is_traced_when_it_can_be);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 2)
		return strcmp(argv[1], "ticking") == 0 ? be_ticking() : be_executing();
	if (slk_landlock_abi() < 0)
		return 77;
	return exit_of(in_child(in_a_group_of_its_own, NULL));
}
