/* SPDX-License-Identifier: Apache-2.0 */
/* Percentiles of how long calls waited (times.c). */
#include "check.h"

static struct slk_timing *timing;
static struct slk_engine engine;

static void note(int nr, int is_pythons, long wait_us, int count)
{
	for (int i = 0; i < count; i++) {
		uint64_t until;

		slk_timing_begin(timing, 7);
		if (is_pythons)
			slk_timing_by_python(timing, 7);
		until = slk_now_ns() + (uint64_t)wait_us * 1000u;
		while (slk_now_ns() < until)
			;
		slk_timing_end(timing, 7, nr);
	}
}

static struct slk_times row_of(int nr, int is_by_python)
{
	struct slk_times rows[8];
	int count = slk_engine_times(&engine, rows, 8);

	for (int i = 0; i < count; i++)
		if (rows[i].nr == nr && rows[i].is_by_python == is_by_python)
			return rows[i];
	return (struct slk_times){0};
}

static void test_rows_are_apart(void)
{
	note(1, 0, 0, 3);
	note(1, 1, 0, 2);
	note(1023, 0, 0, 1);
	CHECK_EQUAL(3, row_of(1, 0).count);
	CHECK_EQUAL(2, row_of(1, 1).count);
	CHECK_EQUAL(1, row_of(1023, 0).count);
	CHECK_EQUAL(0, row_of(2, 0).count);
}

/* Who waits at least so long is told to have; how much longer a busy machine makes it, nobody knows. */
static void test_percentiles_are_those_of_the_clock(void)
{
	struct slk_times row;

	note(5, 0, 100, 90);
	note(5, 0, 3000, 10);
	row = row_of(5, 0);
	CHECK_EQUAL(100, row.count);
	CHECK(row.p50_ns >= 99000);
	CHECK(row.p99_ns >= 2990000);
	CHECK(row.p50_ns < row.p99_ns);
}

static void test_bounds_part_all_calls(void)
{
	static const uint64_t bounds_ns[] = {90000, 2000000, 60000000000};
	uint64_t counts[8], c = 0, python = 0;
	struct slk_timing *others = timing;

	engine.timing = timing = slk_timing_create();
	CHECK(timing != NULL);
	note(5, 0, 100, 20);
	note(6, 0, 2100, 3);
	note(6, 1, 100, 2);
	CHECK_EQUAL(0, slk_engine_latencies(&engine, bounds_ns, 3, counts));
	for (int i = 0; i < 4; i++) {
		c += counts[i];
		python += counts[4 + i];
	}
	CHECK_EQUAL(23, c);
	CHECK_EQUAL(2, python);
	CHECK_EQUAL(0, counts[0] + counts[4]);
	CHECK(counts[2] >= 3); /* a busy machine may make more wait so long */
	CHECK_EQUAL(0, counts[3] + counts[7]);
	slk_timing_destroy(timing);
	engine.timing = timing = others;
}

static void test_what_has_no_room_is_not_told(void)
{
	struct slk_times rows[1];

	note(1, 0, 0, 1);
	note(2, 0, 0, 1);
	CHECK_EQUAL(1, slk_engine_times(&engine, rows, 1));
}

static void test_numbers_that_are_none_are_left_out(void)
{
	note(-1, 0, 0, 1);
	note(SLK_CALLS_MAX, 0, 0, 1);
	slk_timing_begin(NULL, 0);
	slk_timing_by_python(NULL, 0);
	slk_timing_by_python(timing, SLK_SLOTS_MAX);
	slk_timing_end(NULL, 0, 1);
}

/* The cost of both ends, for whoever looks: no check, the machine may be busy. */
static void test_cost(void)
{
	enum { TIMES = 1000000 };
	uint64_t start = slk_now_ns();

	note(9, 0, -1000, 1);
	start = slk_now_ns();
	for (int i = 0; i < TIMES; i++) {
		uint32_t slot = (uint32_t)i % SLK_SLOTS_MAX;

		slk_timing_begin(timing, slot);
		slk_timing_end(timing, slot, 9);
	}
	printf("  %.1f ns a call\n", (double)(slk_now_ns() - start) / TIMES);
}

int main(void)
{
	begin_tests();
	timing = slk_timing_create();
	CHECK(timing != NULL);
	engine.timing = timing;
	RUN(test_rows_are_apart);
	RUN(test_percentiles_are_those_of_the_clock);
	RUN(test_bounds_part_all_calls);
	RUN(test_what_has_no_room_is_not_told);
	RUN(test_numbers_that_are_none_are_left_out);
	RUN(test_cost);
	slk_timing_destroy(timing);
	return 0;
}
