/* SPDX-License-Identifier: Apache-2.0 */
/* An engine in the place of one that has died: each call that waits is answered once, wherever the other one had got to. */
#include "target.h"

/* What is left open, all at once. */
static uint32_t left_open(const struct served *served)
{
	uint32_t count = 0;

	CHECK_EQUAL(0, slk_take_over_calls(served->engine, batch, SLK_BATCH_MAX, &count));
	return count;
}

static void answered_with(const struct target *target, const struct served *served, int64_t value)
{
	CHECK_EQUAL(0, slk_answer_value(served->engine, batch[0].slot, value));
	CHECK_EQUAL(value, told(target, 0));
}

static void test_a_call_that_was_received_is_asked_again(void)
{
	struct target target = start_target(1, 0);
	struct served served = start_engine(&target, NULL, 0);

	ASK(&target, 0, SLOW_NR, -1, 2, 3, 4, 5);
	next_request(&served);
	replace_engine(&served, &target);
	CHECK_EQUAL(1, left_open(&served));
	CHECK_EQUAL(SLOW_NR, batch[0].nr);
	CHECK_EQUAL(target.pids[0], batch[0].tid);
	CHECK_EQUAL(UINT64_MAX, batch[0].args[0]);
	CHECK_EQUAL(5, batch[0].args[4]);
	CHECK_EQUAL(SLK_RESUMED, batch[0].is_resumed);
	CHECK(batch[0].instruction_pointer != 0);
	answered_with(&target, &served, 7);
	end_target(&target);
	end_engine(&served);
}

static void test_one_that_is_in_no_slot_yet_is_not_lost(void)
{
	struct target target = start_target(1, 0);
	struct served served = start_engine(&target, NULL, 0);
	const struct slk_request *request;

	ASK(&target, 0, SLOW_NR, 9);
	request = next_request(&served);
	memset(&served.slots[request->slot], 0, sizeof(*served.slots)); /* as if killed behind the system call */
	replace_engine(&served, &target);
	CHECK_EQUAL(1, left_open(&served));
	CHECK_EQUAL(9, batch[0].args[0]);
	answered_with(&target, &served, 8);
	/* And only once, though its words are there still. */
	replace_engine(&served, &target);
	CHECK_EQUAL(0, left_open(&served));
	end_target(&target);
	end_engine(&served);
}

static void test_an_answer_that_was_prepared_is_sent(void)
{
	struct target target = start_target(1, 0);
	struct served served = start_engine(&target, NULL, 0);
	struct slk_slot *slot;

	ASK(&target, 0, SLOW_NR);
	slot = &served.slots[next_request(&served)->slot];
	slot->value = 77;
	slot->error = 0;
	slot->flags = 0;
	slot->phase = SLK_PHASE_PREPARED;
	replace_engine(&served, &target);
	CHECK_EQUAL(0, left_open(&served));
	CHECK_EQUAL(77, told(&target, 0));
	end_target(&target);
	end_engine(&served);
}

/* It was sent, and its slot not freed: nobody else is answered with it. */
static void test_an_answer_that_was_sent_is_sent_to_nobody(void)
{
	struct target target = start_target(1, 0);
	struct served served = start_engine(&target, NULL, 0);
	struct slk_slot slot;
	uint32_t index;

	ASK(&target, 0, SLOW_NR);
	index = next_request(&served)->slot;
	slot = served.slots[index];
	answered_with(&target, &served, 1);
	slot.phase = SLK_PHASE_PREPARED;
	served.slots[index] = slot;
	ASK(&target, 0, SLOW_NR);
	replace_engine(&served, &target);
	CHECK_EQUAL(0, left_open(&served));
	next_request(&served);
	answered_with(&target, &served, 2);
	end_target(&target);
	end_engine(&served);
}

static void test_what_was_being_done_comes_first_and_with_its_note(void)
{
	struct target target = start_target(2, 0);
	struct served served = start_engine(&target, NULL, 0);
	uint32_t slots[2];

	for (int worker = 0; worker < 2; worker++) {
		ASK(&target, worker, SLOW_NR, worker);
		slots[worker] = next_request(&served)->slot;
	}
	slk_slot_acts(served.engine, slots[1], 4711);
	replace_engine(&served, &target);
	CHECK_EQUAL(2, left_open(&served));
	CHECK_EQUAL(slots[1], batch[0].slot);
	CHECK_EQUAL(SLK_RESUMED_ACT, batch[0].is_resumed);
	CHECK_EQUAL(4711, batch[0].noted);
	CHECK_EQUAL(SLK_RESUMED, batch[1].is_resumed);
	for (int worker = 0; worker < 2; worker++) {
		CHECK_EQUAL(0, slk_answer_value(served.engine, slots[worker], worker));
		CHECK_EQUAL(worker, told(&target, worker));
	}
	end_target(&target);
	end_engine(&served);
}

static void test_a_call_whose_caller_was_killed_is_given_up(void)
{
	struct target target = start_target(1, 0);
	struct served served = start_engine(&target, NULL, 0);

	ASK(&target, 0, SLOW_NR);
	next_request(&served);
	end_target(&target);
	slk_engine_destroy(served.engine);
	start_engine_with(&served, &target, NULL, 0);
	slk_take_over(served.engine);
	CHECK_EQUAL(0, left_open(&served));
	end_engine(&served);
}

static void test_a_call_that_three_died_of_is_refused(void)
{
	struct target target = start_target(2, 0);
	struct served served = start_engine(&target, NULL, 0);
	uint32_t deadly, harmless;

	ASK(&target, 1, SLOW_NR);
	harmless = next_request(&served)->slot;
	ASK(&target, 0, SLOW_NR);
	deadly = next_request(&served)->slot;
	for (int death = 1; death <= 3; death++) {
		slk_handles(served.engine, deadly);
		replace_engine(&served, &target);
		CHECK_EQUAL(2, left_open(&served));
	}
	CHECK_EQUAL(-EIO, told(&target, 0));
	CHECK_EQUAL(SLK_REASON_FAILED, batch[0].reason); /* for the log */
	CHECK_EQUAL(EIO, batch[0].path_error);
	CHECK_EQUAL(harmless, batch[1].slot);
	CHECK_EQUAL(0, slk_answer_value(served.engine, harmless, 3));
	CHECK_EQUAL(3, told(&target, 1));
	end_target(&target);
	end_engine(&served);
}

int main(void)
{
	RUN(test_a_call_that_was_received_is_asked_again);
	RUN(test_one_that_is_in_no_slot_yet_is_not_lost);
	RUN(test_an_answer_that_was_prepared_is_sent);
	RUN(test_an_answer_that_was_sent_is_sent_to_nobody);
	RUN(test_what_was_being_done_comes_first_and_with_its_note);
	RUN(test_a_call_whose_caller_was_killed_is_given_up);
	RUN(test_a_call_that_three_died_of_is_refused);
	return 0;
}
