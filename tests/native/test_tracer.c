/* SPDX-License-Identifier: Apache-2.0 */
/* init as a tracer: tracer.c and its orders. What programs see of it is tests/behaviour/test_interrupted_calls.py's. */
#include "launch.h"

#include <sys/mman.h>

static struct slk_engine *engine_of(int *ret_ledger_fd)
{
	static struct slk_call rows[SLK_CALLS_MAX];
	struct slk_engine_config config = {.calls = rows, .call_count = SLK_CALLS_MAX, .openat_nr = -1, .open_nr = -1,
					   .creat_nr = -1, .openat2_nr = -1};
	struct slk_engine *engine = NULL;

	config.ledger_fd = *ret_ledger_fd = memfd_create("ledger", MFD_CLOEXEC);
	CHECK_EQUAL(0, ftruncate(config.ledger_fd, (off_t)slk_ledger_bytes()));
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

struct traced {
	struct slk_engine *engine;
	int ledger_fd;
	struct launched launched;
	pid_t program;
};

static struct traced start(char *script)
{
	struct slk_launch_plan plan = plan_of(SHELL(script));
	struct traced traced;

	traced.engine = engine_of(&traced.ledger_fd);
	plan.engine = traced.engine;
	traced.launched = launch(&plan);
	hear(&traced.launched, SLK_REPORT_LISTENER);
	traced.program = hear(&traced.launched, SLK_REPORT_STARTED)->pid;
	return traced;
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

	CHECK_EQUAL(expected, slk_order_init(traced.engine, traced.launched.control, SLK_ORDER_TRACE, traced.program, PATIENCE_MS));
	CHECK_EQUAL(expected ? traced.launched.init : 0, tracer_of(traced.program));
	CHECK_EQUAL(expected, slk_order_init(traced.engine, traced.launched.control, SLK_ORDER_TRACE, traced.program, PATIENCE_MS));
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

int main(void)
{
	if (slk_landlock_abi() < 0)
		return 77;
	RUN(test_only_an_init_with_the_signal_scope_traces);
	RUN(test_a_process_outside_is_not_traced);
	RUN(test_stops_of_a_traced_program_are_told_once);
	RUN(test_who_is_only_traced_is_not_counted_as_reaped);
	return 0;
}
