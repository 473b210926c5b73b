/* SPDX-License-Identifier: Apache-2.0 */
/* Refusals at the limit of processes: the first at once, those that follow put off, each given once, and none to who is gone. */
#include "forks.h"
#include "target.h"

#define WORKERS 3

static struct target target;
static struct served served;

/* The target is taken for init, its workers for the program's processes: as many as there may be. SLOW_NR is a fork. */
static struct slk_forks *begin(uint32_t refusals_at_once)
{
	target = start_target(WORKERS, SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV);
	served = start_engine(&target, NULL, 0);
	served.engine->calls[SLOW_NR].treatment = SLK_CALL_COUNT;
	CHECK_EQUAL(0, slk_engine_limit_processes(served.engine, WORKERS, 16 * WORKERS, refusals_at_once, target.pid, -1));
	slk_look_at_descendants(served.engine->forks); /* they were not let through by us */
	return served.engine->forks;
}

static void end(void)
{
	CHECK_EQUAL(0, slk_engine_holds_forks(served.engine));
	end_engine(&served);
	end_target(&target);
}

/* Until nothing is held any more. How many refusals there were to tell of. */
static uint32_t pump_all(void)
{
	uint32_t told_of = 0;

	while (slk_engine_holds_forks(served.engine)) {
		uint32_t count = 0;
		int32_t other;

		CHECK(slk_pump(served.engine, -1, PATIENCE_MS * 1000, batch, SLK_BATCH_MAX, &count, &other) >= 0);
		told_of += count;
	}
	return told_of;
}

static void hold(const struct slk_forks *forks, int worker)
{
	uint32_t before = forks->held_count;

	ASK(&target, worker, SLOW_NR);
	CHECK_EQUAL(0, drain_once(&served));
	CHECK_EQUAL(before + 1, forks->held_count);
}

static void test_the_first_refusals_are_at_once_and_the_next_is_put_off(void)
{
	const struct slk_forks *forks = begin(3);

	for (int i = 0; i < 3; i++) {
		ASK(&target, i, SLOW_NR);
		CHECK_EQUAL(1, drain_once(&served));
		CHECK_EQUAL(SLK_REASON_CROWDED, batch[0].reason);
		CHECK_EQUAL(-EAGAIN, told(&target, i));
	}
	hold(forks, 0);
	CHECK_EQUAL(1, pump_all());
	CHECK_EQUAL(SLK_REASON_CROWDED, batch[0].reason);
	CHECK_EQUAL(-EAGAIN, told(&target, 0));
	CHECK_EQUAL(4, counts_of(&served).refused);
	end();
}

static void test_refusals_that_are_put_off_come_one_after_the_other(void)
{
	const struct slk_forks *forks = begin(0);
	uint64_t until_ns[WORKERS];

	for (int i = 0; i < WORKERS; i++) {
		hold(forks, i);
		until_ns[i] = forks->held[i].until_ns;
	}
	CHECK(until_ns[0] < until_ns[1] && until_ns[1] < until_ns[2]);
	CHECK_EQUAL(WORKERS, pump_all());
	for (int i = 0; i < WORKERS; i++)
		CHECK_EQUAL(-EAGAIN, told(&target, i));
	CHECK_EQUAL(WORKERS, counts_of(&served).refused);
	end();
}

static void test_who_was_killed_meanwhile_gives_his_slot_back(void)
{
	const struct slk_forks *forks = begin(0);

	hold(forks, 0);
	hold(forks, 1);
	CHECK_EQUAL(2, slots_in_use(&served));
	kill(target.pids[0], SIGKILL);
	/* Its number may be seen until the target has waited for it. */
	CHECK(COMES_TRUE(slk_notif_id_valid(target.listener, forks->held[0].notif_id) != 1));
	pump_all();
	CHECK_EQUAL(0, slots_in_use(&served));
	CHECK_EQUAL(1, counts_of(&served).vanished);
	/* The other one has room now, or is refused if it was his time before init had reaped. */
	CHECK_EQUAL(1, counts_of(&served).refused + counts_of(&served).continued);
	told(&target, 1);
	end();
}

static void test_when_room_comes_who_is_held_goes_on(void)
{
	struct slk_forks *forks = begin(0);

	hold(forks, 0);
	forks->held[0].until_ns = UINT64_MAX; /* however long it takes until the other one is gone */
	kill(target.pids[1], SIGKILL);
	CHECK_EQUAL(0, pump_all());
	CHECK_EQUAL(target.pid, told(&target, 0));
	CHECK_EQUAL(0, counts_of(&served).refused);
	CHECK_EQUAL(1, counts_of(&served).continued);
	end();
}

static void test_no_more_are_held_than_leave_slots_for_others(void)
{
	struct slk_forks *forks = begin(0);

	CHECK(SLK_HELD_FORKS_MAX <= SLK_SLOTS_MAX / 2);
	forks->held_count = SLK_HELD_FORKS_MAX;
	ASK(&target, 0, SLOW_NR);
	forks->again_ns = UINT64_MAX; /* those are none */
	CHECK_EQUAL(1, drain_once(&served));
	CHECK_EQUAL(-EAGAIN, told(&target, 0));
	forks->held_count = 0;
	end();
}

int main(void)
{
	RUN(test_the_first_refusals_are_at_once_and_the_next_is_put_off);
	RUN(test_refusals_that_are_put_off_come_one_after_the_other);
	RUN(test_who_was_killed_meanwhile_gives_his_slot_back);
	RUN(test_when_room_comes_who_is_held_goes_on);
	RUN(test_no_more_are_held_than_leave_slots_for_others);
	return 0;
}
