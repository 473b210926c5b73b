/* SPDX-License-Identifier: Apache-2.0 */
/* Waiting in C: when the pump returns, and which threads it calls new. */
#include "target.h"

#include <pthread.h>

static struct target target;
static struct served served;

static void begin(int workers)
{
	target = start_target(workers, SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV);
	served = start_engine(&target, NULL, 0);
}

static void end(void)
{
	end_engine(&served);
	end_target(&target);
}

struct pumped {
	int state;
	uint32_t count;
	int32_t other;
	int64_t took_us;
};

static struct pumped pump(int other_fd, int64_t timeout_us, uint32_t capacity)
{
	struct pumped pumped = {.count = 77, .other = 77};
	uint64_t start = slk_now_ns();

	pumped.state = slk_pump(served.engine, other_fd, timeout_us, batch, capacity, &pumped.count, &pumped.other);
	pumped.took_us = (int64_t)(slk_now_ns() - start) / 1000;
	CHECK(pumped.state >= 0);
	return pumped;
}

static void answer(const struct pumped *pumped)
{
	for (uint32_t i = 0; i < pumped->count; i++)
		CHECK_EQUAL(0, slk_answer_value(served.engine, batch[i].slot, 1));
}

static void test_the_timeout_ends_the_wait(void)
{
	struct pumped pumped;

	begin(1);
	pumped = pump(-1, 30000, SLK_BATCH_MAX);
	CHECK_EQUAL(SLK_NOTIF_EMPTY, pumped.state);
	CHECK_EQUAL(0, pumped.count);
	CHECK_EQUAL(0, pumped.other);
	CHECK(pumped.took_us >= 30000);
	pumped = pump(-1, 0, SLK_BATCH_MAX);
	CHECK_EQUAL(0, pumped.count);
	end();
}

static void test_the_other_descriptor_ends_the_wait(void)
{
	struct pumped pumped;
	int ends[2];

	begin(1);
	CHECK_EQUAL(0, pipe(ends));
	CHECK_EQUAL(1, write(ends[1], "x", 1));
	pumped = pump(ends[0], -1, SLK_BATCH_MAX);
	CHECK_EQUAL(1, pumped.other);
	CHECK_EQUAL(0, pumped.count);
	close(ends[1]);
	close(ends[0]);
	end();
}

static void test_a_request_ends_the_wait(void)
{
	struct pumped pumped;

	begin(1);
	ASK(&target, 0, SLOW_NR);
	pumped = pump(-1, -1, SLK_BATCH_MAX);
	CHECK_EQUAL(1, pumped.count);
	CHECK_EQUAL(0, pumped.other);
	answer(&pumped);
	CHECK_EQUAL(1, told(&target, 0));
	end();
}

static void test_a_request_and_the_other_descriptor_come_together(void)
{
	struct pumped pumped;
	int ends[2];

	begin(1);
	CHECK_EQUAL(0, pipe(ends));
	CHECK_EQUAL(1, write(ends[1], "x", 1));
	ASK(&target, 0, SLOW_NR);
	CHECK(COMES_TRUE(slk_listener_state(target.listener) == SLK_NOTIF_PENDING));
	pumped = pump(ends[0], -1, SLK_BATCH_MAX);
	CHECK_EQUAL(1, pumped.count);
	CHECK_EQUAL(1, pumped.other);
	answer(&pumped);
	CHECK_EQUAL(1, told(&target, 0));
	close(ends[0]);
	close(ends[1]);
	end();
}

static void test_the_end_of_the_target_ends_the_wait(void)
{
	struct pumped pumped;

	begin(1);
	close(target.talk[0]);
	target.workers = 0;
	pumped = pump(-1, -1, SLK_BATCH_MAX);
	CHECK_EQUAL(SLK_NOTIF_TERMINAL, pumped.state);
	CHECK_EQUAL(0, pumped.count);
	end();
}

/* ---- a program that asks without pause, for what C answers alone */

static struct pumped pump_under_load(int workers, int other_fd, int64_t timeout_us, uint32_t capacity)
{
	struct pumped pumped;
	int32_t tids[64];

	begin(workers);
	for (int worker = 0; worker < workers; worker++)
		ASK(&target, worker, LOOP_NR, UNLISTED_NR);
	alarm(PATIENCE_MS / 1000); /* a pump that never returns is the failure: die by it */
	do { /* new threads end the wait as well, once */
		pumped = pump(other_fd, timeout_us, capacity);
		CHECK_EQUAL(0, pumped.count);
	} while (slk_new_threads(served.engine, tids, 64) > 0 || counts_of(&served).received < 100);
	pumped = pump(other_fd, timeout_us, capacity);
	alarm(0);
	target.words[0] = 1;
	close(target.listener); /* lets go of those that still ask */
	target.listener = -1;
	for (int worker = 0; worker < workers; worker++)
		CHECK(told(&target, worker) >= 0); /* 0: it came too late to ask at all */
	end();
	return pumped;
}

static void test_the_timeout_holds_under_load(void)
{
	struct pumped pumped = pump_under_load(4, -1, 100000, SLK_BATCH_MAX);

	CHECK(pumped.took_us < 5000000);
	CHECK_EQUAL(0, pumped.other);
}

/* With more callers than the batch has room for, the queue may never be seen empty. */
static void test_the_timeout_holds_when_the_queue_is_never_empty(void)
{
	CHECK(pump_under_load(6, -1, 100000, 1).took_us < 5000000);
}

static void test_the_other_descriptor_is_seen_under_load(void)
{
	int ends[2];

	CHECK_EQUAL(0, pipe(ends));
	CHECK_EQUAL(1, write(ends[1], "x", 1));
	CHECK_EQUAL(1, pump_under_load(4, ends[0], -1, SLK_BATCH_MAX).other);
	CHECK_EQUAL(1, pump_under_load(6, ends[0], -1, 1).other);
	close(ends[0]);
	close(ends[1]);
}

/* ---- new threads */

static int new_threads(int32_t *ret_tids)
{
	return slk_new_threads(served.engine, ret_tids, 64);
}

static void make_worker_known(int worker)
{
	struct pumped pumped;

	ASK(&target, worker, SLOW_NR);
	do /* a thread that became new meanwhile may end the wait first */
		pumped = pump(-1, -1, SLK_BATCH_MAX);
	while (!pumped.count);
	answer(&pumped);
	CHECK_EQUAL(1, told(&target, worker));
}

static void test_a_thread_becomes_new_some_time_after_it_asked(void)
{
	struct pumped pumped;
	int32_t tids[64];
	uint64_t asked_at;

	begin(1);
	CHECK_EQUAL(0, new_threads(tids));
	asked_at = slk_now_ns();
	make_worker_known(0);
	if (slk_now_ns() - asked_at < 4000000)
		CHECK_EQUAL(0, new_threads(tids));
	pumped = pump(-1, -1, SLK_BATCH_MAX); /* for ever: the new thread is what ends it */
	CHECK_EQUAL(0, pumped.count);
	CHECK(slk_now_ns() - asked_at >= 5000000);
	CHECK_EQUAL(1, new_threads(tids));
	CHECK_EQUAL(target.pids[0], tids[0]);
	CHECK_EQUAL(0, new_threads(tids)); /* told once */
	make_worker_known(0);
	CHECK(pump(-1, 50000, SLK_BATCH_MAX).took_us >= 50000);
	CHECK_EQUAL(0, new_threads(tids));
	slk_forget_thread(served.engine, target.pids[0]);
	make_worker_known(0);
	CHECK(COMES_TRUE(new_threads(tids) == 1));
	end();
}

static void test_several_threads_come_oldest_first_and_as_many_as_fit(void)
{
	int32_t tids[64] = {0};
	int got = 0;

	begin(5);
	for (int worker = 0; worker < 5; worker++)
		make_worker_known(worker);
	while (got < 5) {
		int count = slk_new_threads(served.engine, tids + got, got < 4 ? 2 : 1);

		CHECK(count >= 0 && count <= 2);
		got += count;
	}
	for (int worker = 0; worker < 5; worker++)
		CHECK_EQUAL(target.pids[worker], tids[worker]);
	end();
}

/* Ten thousand short-lived ones are none of anybody's business. */
static void test_threads_that_ended_meanwhile_are_never_new(void)
{
	int32_t tids[64];
	int done = 0, told_new = 0;

	begin(1);
	make_worker_known(0);
	CHECK(COMES_TRUE(new_threads(tids) == 1));
	ASK(&target, 0, SPAWN_NR, 10000);
	while (done < 10000) {
		struct pumped pumped = pump(-1, -1, SLK_BATCH_MAX);

		answer(&pumped);
		done += (int)pumped.count;
		told_new += new_threads(tids);
	}
	CHECK_EQUAL(0, told(&target, 0));
	CHECK(told_new < 100); /* one that was slow to be scheduled lived long enough */
	CHECK(COMES_TRUE(new_threads(tids) == 0 && served.engine->new_count == 0));
	end();
}

int main(void)
{
	begin_tests();
	RUN(test_the_timeout_ends_the_wait);
	RUN(test_the_other_descriptor_ends_the_wait);
	RUN(test_a_request_ends_the_wait);
	RUN(test_a_request_and_the_other_descriptor_come_together);
	RUN(test_the_end_of_the_target_ends_the_wait);
	RUN(test_the_timeout_holds_under_load);
	RUN(test_the_timeout_holds_when_the_queue_is_never_empty);
	RUN(test_the_other_descriptor_is_seen_under_load);
	RUN(test_a_thread_becomes_new_some_time_after_it_asked);
	RUN(test_several_threads_come_oldest_first_and_as_many_as_fit);
	RUN(test_threads_that_ended_meanwhile_are_never_new);
	return 0;
}
