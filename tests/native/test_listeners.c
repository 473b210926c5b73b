/* SPDX-License-Identifier: Apache-2.0 */
/* One engine that serves several listeners: listeners.c, and what engine.c and answers.c make of them. */
#include "target.h"

#define FURTHER_MAX 32

static struct target first, others[FURTHER_MAX];
static struct served served;

/* The engine takes the listener: what end_target closes is none any more. */
static void attach(struct target *target, int number)
{
	int taken = fcntl(target->listener, F_DUPFD_CLOEXEC, 3);

	CHECK(taken >= 0);
	CHECK_EQUAL(number, slk_engine_attach_further(served.engine, taken, 0));
	close(target->listener);
	target->listener = -1;
}

static void begin(int count)
{
	first = start_target(1, SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV);
	served = start_engine(&first, NULL, 0);
	for (int i = 0; i < count; i++) {
		others[i] = start_target(1, SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV);
		attach(&others[i], i + 1);
	}
}

static void end(int count)
{
	while (count-- > 0) /* those that came later hold the ends of their elders' sockets */
		end_target(&others[count]);
	end_engine(&served);
	end_target(&first);
}

/* Until there are so many for Python, in batch. */
static void pump(uint32_t wanted)
{
	uint64_t end_ns = slk_now_ns() + PATIENCE_MS * 1000000ull;
	uint32_t count = 0, found = 0;
	int32_t other;

	while (found < wanted && slk_now_ns() < end_ns) {
		CHECK_EQUAL(SLK_NOTIF_EMPTY,
			    slk_pump(served.engine, -1, 1000000, batch + found, SLK_BATCH_MAX - found, &count, &other));
		found += count;
	}
	CHECK_EQUAL(wanted, found);
}

static void pump_for_a_moment(void)
{
	uint32_t count;
	int32_t other;

	CHECK_EQUAL(SLK_NOTIF_EMPTY, slk_pump(served.engine, -1, 1000, batch, SLK_BATCH_MAX, &count, &other));
	CHECK_EQUAL(0, count);
}

static void test_each_is_answered_by_its_own(void)
{
	begin(3);
	CHECK_EQUAL(3, slk_engine_further(served.engine));
	ASK(&first, 0, SLOW_NR);
	for (int i = 0; i < 3; i++)
		ASK(&others[i], 0, SLOW_NR);
	pump(4);
	for (int i = 0; i < 4; i++) {
		CHECK_EQUAL(1, slk_answer_alive(served.engine, batch[i].slot));
		CHECK_EQUAL(batch[i].tid, batch[i].listener ? others[batch[i].listener - 1].pids[0] : first.pids[0]);
		CHECK_EQUAL(0, slk_answer_value(served.engine, batch[i].slot, 100 + batch[i].listener));
	}
	CHECK_EQUAL(100, told(&first, 0));
	for (int i = 0; i < 3; i++)
		CHECK_EQUAL(101 + i, told(&others[i], 0));
	end(3);
}

/* Answered in C, with errno and descriptor: the first asks nothing meanwhile. */
static void test_what_is_answered_in_c_is_so_for_all(void)
{
	int null = open("/dev/null", O_RDONLY | O_CLOEXEC);

	begin(2);
	ASK(&others[1], 0, REFUSED_NR, AT_FDCWD, 0, 0, 0);
	pump(1);
	CHECK_EQUAL(SLK_REASON_REFUSED, batch[0].reason);
	CHECK_EQUAL(-REFUSED_ERRNO, told(&others[1], 0));
	ASK(&others[0], 0, SLOW_NR);
	pump(1);
	CHECK(slk_answer_fd(served.engine, batch[0].slot, null, 1) >= 3);
	CHECK(told(&others[0], 0) >= 3);
	ASK(&others[0], 0, UNLISTED_NR);
	while (counts_of(&served).received < 3)
		pump_for_a_moment();
	CHECK_EQUAL(-ENOSYS, told(&others[0], 0));
	close(null);
	end(2);
}

static void end_worker(struct target *target)
{
	kill(target->pids[0], SIGKILL);
	CHECK_EQUAL(0, exit_of(target->pid));
	close(target->talk[0]);
	munmap(target->words, WORDS_BYTES);
}

static void test_one_that_ends_is_dropped_and_the_rest_goes_on(void)
{
	int before;

	begin(1);
	before = open_descriptors();
	others[1] = start_target(1, SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV);
	attach(&others[1], 2);
	end_worker(&others[1]);
	CHECK(COMES_TRUE((pump_for_a_moment(), slk_engine_further(served.engine) == 1)));
	CHECK_EQUAL(before, open_descriptors());
	ASK(&others[0], 0, SLOW_NR);
	pump(1);
	CHECK_EQUAL(0, slk_answer_value(served.engine, batch[0].slot, 5));
	CHECK_EQUAL(5, told(&others[0], 0));
	/* Its number is free again. */
	others[1] = start_target(1, SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV);
	attach(&others[1], 2);
	end(2);
}

/* Python has a call of one that is dead by now: no other listener may get its number until that is answered. */
static void test_one_with_open_calls_stays_until_they_are_answered(void)
{
	uint32_t slot;
	int before;

	begin(1);
	before = open_descriptors();
	ASK(&others[0], 0, SLOW_NR);
	pump(1);
	slot = batch[0].slot;
	end_worker(&others[0]);
	before--; /* its socket */
	CHECK(COMES_TRUE((pump_for_a_moment(), slk_engine_further(served.engine) == 0)));
	CHECK_EQUAL(before, open_descriptors());
	CHECK_EQUAL(-ENOENT, slk_answer_alive(served.engine, slot));
	others[1] = start_target(1, SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV);
	attach(&others[1], 2);
	CHECK_EQUAL(-ENOENT, slk_answer_value(served.engine, slot, 1));
	CHECK_EQUAL(-EBADSLT, slk_answer_value(served.engine, slot, 1));
	CHECK_EQUAL(before + 1, open_descriptors()); /* the second's socket and listener for the first's listener */
	end_target(&others[1]);
	end_engine(&served);
	end_target(&first);
}

static void test_the_end_of_the_first_is_the_end_of_it(void)
{
	uint32_t count;
	int32_t other;

	begin(1);
	end_worker(&first);
	while (slk_pump(served.engine, -1, 1000, batch, SLK_BATCH_MAX, &count, &other) != SLK_NOTIF_TERMINAL)
		CHECK_EQUAL(0, count);
	CHECK_EQUAL(1, slk_engine_further(served.engine));
	end_target(&others[0]);
	end_engine(&served);
	close(first.listener);
}

/* Who asks without pause keeps nobody else waiting. */
static void test_one_that_asks_and_asks_leaves_the_others_their_turn(void)
{
	begin(2);
	ASK(&first, 0, LOOP_NR, UNLISTED_NR);
	ASK(&others[0], 0, LOOP_NR, UNLISTED_NR);
	while (counts_of(&served).received < 100)
		pump_for_a_moment();
	for (int times = 0; times < 20; times++) {
		ASK(&others[1], 0, SLOW_NR);
		pump(1);
		CHECK_EQUAL(2, batch[0].listener);
		CHECK_EQUAL(0, slk_answer_value(served.engine, batch[0].slot, times));
		CHECK_EQUAL(times, told(&others[1], 0));
	}
	first.words[0] = others[0].words[0] = 1;
	for (int i = 0; i < 2; i++) {
		const struct target *target = i ? &others[0] : &first;
		struct pollfd over = {target->talk[0], POLLIN, 0};

		while (poll(&over, 1, 0) == 0)
			pump_for_a_moment();
		CHECK(told(target, 0) > 0);
	}
	end(2);
}

static void test_there_are_only_so_many(void)
{
	struct target more;

	begin(FURTHER_MAX);
	more = start_target(1, SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV);
	CHECK_EQUAL(-ENOSPC, slk_engine_attach_further(served.engine, more.listener, 0));
	CHECK_EQUAL(FURTHER_MAX, slk_engine_further(served.engine));
	end_target(&more);
	end(FURTHER_MAX);
}

static void test_what_is_no_listener_is_refused(void)
{
	begin(0);
	CHECK_EQUAL(-EBADF, slk_engine_attach_further(served.engine, -1, 0));
	CHECK_EQUAL(0, slk_engine_further(served.engine));
	end(0);
}

int main(void)
{
	begin_tests();
	RUN(test_each_is_answered_by_its_own);
	RUN(test_what_is_answered_in_c_is_so_for_all);
	RUN(test_one_that_ends_is_dropped_and_the_rest_goes_on);
	RUN(test_one_with_open_calls_stays_until_they_are_answered);
	RUN(test_the_end_of_the_first_is_the_end_of_it);
	RUN(test_one_that_asks_and_asks_leaves_the_others_their_turn);
	RUN(test_there_are_only_so_many);
	RUN(test_what_is_no_listener_is_refused);
	return 0;
}
