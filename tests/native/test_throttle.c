/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A share of the processors (throttle.c): that nobody gets more, and that nobody sees how.
 *
 * What is checked of time is an upper bound: on a busy machine everybody gets less.
 */
#include "held.h"

#define PERCENT 10 /* also on a busy machine everybody would get more */
#define UNSEEN_PERCENT 3
/* What is saved up at the start, and what everybody has in hand before the first look comes. */
#define AHEAD_MS 110

static int scoped;

struct ran {
	int status;
	double used_ms, wall_ms;
};

static struct ran run_at(char *role, uint32_t percent)
{
	struct slk_launch_plan plan = plan_of(ROLE(role));
	struct slk_order begin = {.kind = SLK_ORDER_BEGIN};
	struct launched launched;
	struct ran ran;
	uint64_t began;

	plan.scope_signals = (uint8_t)scoped;
	plan.cpu_percent = percent;
	began = slk_now_ns();
	launched = launch(&plan);
	hear(&launched, SLK_REPORT_STARTED);
	CHECK_EQUAL(0, slk_order_send(launched.control, &begin));
	hear(&launched, SLK_REPORT_DONE);
	CHECK(HAS(&launched, SLK_REPORT_EXITED) && !HAS(&launched, SLK_REPORT_STOPPED));
	ran.status = launched.told.of[SLK_REPORT_EXITED].status;
	ran.used_ms = (double)(launched.told.of[SLK_REPORT_DONE].user_us + launched.told.of[SLK_REPORT_DONE].system_us) / 1e3;
	ran.wall_ms = (double)(slk_now_ns() - began) / 1e6;
	let_go(&launched);
	if (getenv("SLK_MEASURE"))
		printf("%s: %.0f ms in %.0f ms: %.1f %% (status %d)\n", role, ran.used_ms, ran.wall_ms,
		       100 * ran.used_ms / ran.wall_ms, ran.status);
	return ran;
}

static void check_share(char *role)
{
	struct ran ran = run_at(role, PERCENT);

	CHECK_EQUAL(0, ran.status);
	CHECK(ran.used_ms <= ran.wall_ms * PERCENT / 100 + AHEAD_MS);
}

static void test_one_thread_gets_its_share(void)
{
	check_share("one");
}

static void test_a_hundred_threads_get_no_more(void)
{
	check_share("hundred");
}

static void test_many_short_processes_get_no_more(void)
{
	check_share("forks");
}

static void test_who_computes_in_short_turns_gets_no_more(void)
{
	check_share("turns");
}

static void test_who_takes_the_number_of_one_that_is_held_gets_no_more(void)
{
	check_share("replaced");
}

static void test_no_parent_is_told(void)
{
	CHECK_EQUAL(0, run_at("parent", UNSEEN_PERCENT).status);
}

static void test_stops_of_job_control_are_told_as_ever(void)
{
	CHECK_EQUAL(0, run_at("stopped", PERCENT).status);
}

static void test_no_call_is_interrupted(void)
{
	CHECK_EQUAL(0, run_at("calls", UNSEEN_PERCENT).status);
}

static void test_no_call_comes_back_with_less(void)
{
	CHECK_EQUAL(0, run_at("long", 20).status);
}

static void test_but_with_a_signal(void)
{
	CHECK_EQUAL(0, run_at("alarm", 20).status);
}

static void test_signals_interrupt_as_ever(void)
{
	CHECK_EQUAL(0, run_at("interrupted", UNSEEN_PERCENT).status);
}

static void test_more_than_there_is_is_no_limit(void)
{
	CHECK_EQUAL(0, run_at("one", 100000).status);
}

/* The leash breaks while all are held. */
static void test_who_is_held_dies_with_the_rest(void)
{
	struct slk_launch_plan plan = plan_of(ROLE("forever"));
	struct slk_order begin = {.kind = SLK_ORDER_BEGIN};
	struct launched launched;
	struct pollfd waiting;
	int ends[2];
	char byte;

	CHECK_EQUAL(0, pipe2(ends, O_CLOEXEC));
	plan.scope_signals = (uint8_t)scoped;
	plan.cpu_percent = 2;
	plan.stdio[1] = ends[1];
	launched = launch(&plan);
	close(ends[1]);
	hear(&launched, SLK_REPORT_STARTED);
	CHECK_EQUAL(0, slk_order_send(launched.control, &begin));
	CHECK_EQUAL(1, read(ends[0], &byte, 1));
	poll(NULL, 0, 150); /* by now they are held: of 100 ms they get 2 */
	let_go(&launched);
	waiting = (struct pollfd){ends[0], POLLIN, 0};
	CHECK_EQUAL(1, poll(&waiting, 1, 0));
	CHECK_EQUAL(0, read(ends[0], &byte, 1));
	close(ends[0]);
}

/* What the doctor asks. */
static void test_a_trial_holds_and_lets_go(void)
{
	uint64_t held_ns = UINT64_MAX, free_ns = 0;

	CHECK(slk_throttle_try(20 * MS, &held_ns, &free_ns) == 0);
	CHECK(held_ns < 2 * MS);
	CHECK(free_ns > 0);
	CHECK(waitpid(-1, NULL, WNOHANG | __WALL) < 0 && errno == ECHILD);
}

static void all(int is_scoped)
{
	scoped = is_scoped;
	RUN(test_a_trial_holds_and_lets_go);
	RUN(test_one_thread_gets_its_share);
	RUN(test_a_hundred_threads_get_no_more);
	RUN(test_many_short_processes_get_no_more);
	RUN(test_who_computes_in_short_turns_gets_no_more);
	RUN(test_who_takes_the_number_of_one_that_is_held_gets_no_more);
	RUN(test_no_parent_is_told);
	RUN(test_stops_of_job_control_are_told_as_ever);
	RUN(test_no_call_is_interrupted);
	RUN(test_no_call_comes_back_with_less);
	RUN(test_but_with_a_signal);
	RUN(test_signals_interrupt_as_ever);
	RUN(test_more_than_there_is_is_no_limit);
	RUN(test_who_is_held_dies_with_the_rest);
}

int main(int argc, char **argv)
{
	if (argc > 1)
		play(argv[1]);
	begin_tests();
	if (slk_throttle_possible() < 0)
		skip_all("tracing is forbidden here");
	if (slk_landlock_abi() >= 6)
		all(1);
	else
		all(0);
	return 0;
}
