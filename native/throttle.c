/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A share of the processors (limits.cpu), where no cgroup keeps it: whoever computes is held (holding.c) while all together
 * have had their share. And a pause, in which whoever wants to compute is held until it is over.
 *
 * The account is a bucket: so much time of processors comes in with time, at most QUOTA_MS' worth is saved up, and what all
 * processes have used (cputime.c) goes out. Who took too much has a debt, and all are held until it is paid; so the share is
 * kept on average however late a look comes, and only how long the turns are depends on that. Below its share a sandbox
 * costs a look now and then, and nobody is touched. Those that are missed while all are held add to the debt.
 *
 * In a pause the account rests: nothing comes in. When nobody has run between two searches, the next ones only ask whether
 * somebody has (stillness.c).
 */
#define _GNU_SOURCE
#include "throttle.h"

#include <errno.h>
#include <stdio.h>
#include <sys/ptrace.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <unistd.h>

#define QUOTA_MS 100u
#define QUOTA_MIN_NS (5 * SLK_NS_PER_MS)
#define LOOK_MIN_NS (2 * SLK_NS_PER_MS)
#define LOOK_MAX_NS (250 * SLK_NS_PER_MS)
#define UNHELD_MAX 3 /* in so many searches somebody was seen to compute that cannot be held */

/* The one of init. */
static struct slk_throttle *throttle;

void slk_throttle_begin(struct slk_throttle *one, uint32_t percent, int scoped)
{
	uint64_t now = slk_now_ns();

	throttle = one;
	one->processors = slk_processors();
	if (!percent || percent >= 100 * one->processors)
		return; /* more than there is */
	if (slk_hold_begin(&one->holding, scoped) < 0) {
		one->cannot_hold = 1;
		return;
	}
	one->percent = percent;
	one->quota_ns = percent * QUOTA_MS * SLK_NS_PER_MS / 100;
	if (one->quota_ns < QUOTA_MIN_NS)
		one->quota_ns = QUOTA_MIN_NS;
	one->allowed_ns = one->quota_ns;
	one->counted_ns = now;
	if (getrandom(&one->random, sizeof(one->random), GRND_NONBLOCK) < 0 || !one->random)
		one->random = now | 1;
	slk_cputime_begin(&one->cpu, scoped);
	if (!one->is_paused)
		one->due_ns = now + LOOK_MIN_NS;
}

/* ---- the account */

static uint64_t share_of(uint64_t ns)
{
	return (uint64_t)((double)ns * throttle->percent / 100);
}

static uint64_t time_for(uint64_t ns)
{
	return (uint64_t)((double)ns * 100 / throttle->percent);
}

/* In the time that has passed, but for a pause. */
static void count(void)
{
	uint64_t now = slk_now_ns(), passed = throttle->is_paused ? 0 : now - throttle->counted_ns;
	uint64_t used = slk_cputime_look(&throttle->cpu, passed);

	throttle->counted_ns = now;
	if (used > throttle->used_ns)
		throttle->used_ns = used;
	throttle->allowed_ns += share_of(passed);
	if (throttle->allowed_ns > throttle->used_ns + throttle->quota_ns)
		throttle->allowed_ns = throttle->used_ns + throttle->quota_ns;
}

/* Marsaglia, Xorshift RNGs (2003). Looks come at moments that nobody knows. */
static uint64_t random_part(uint64_t of)
{
	throttle->random ^= throttle->random << 13;
	throttle->random ^= throttle->random >> 7;
	throttle->random ^= throttle->random << 17;
	return of / 2 + (throttle->random >> 11) % (of / 2 + 1);
}

static void begin_to_hold(uint64_t now)
{
	slk_hold_all();
	throttle->until_ns = now + time_for(throttle->used_ns + throttle->quota_ns - throttle->allowed_ns);
	throttle->due_ns = slk_hold_search();
}

static void look(void)
{
	uint64_t wait, took, began = slk_cpu_ns();

	count();
	took = slk_cpu_ns() - began;
	if (throttle->used_ns >= throttle->allowed_ns) {
		begin_to_hold(slk_now_ns());
		return;
	}
	wait = random_part((throttle->allowed_ns - throttle->used_ns) / throttle->processors);
	if (wait > LOOK_MAX_NS)
		wait = LOOK_MAX_NS;
	if (wait < LOOK_MIN_NS)
		wait = LOOK_MIN_NS;
	if (wait < SLK_LOOK_SHARE * took)
		wait = SLK_LOOK_SHARE * took;
	throttle->due_ns = slk_now_ns() + wait;
}

/* Who was missed meanwhile has used something: then all wait for longer. */
static void look_whether_it_is_paid(uint64_t now)
{
	count();
	if (throttle->used_ns + throttle->quota_ns / 2 > throttle->allowed_ns) {
		throttle->until_ns = now + time_for(throttle->used_ns + throttle->quota_ns - throttle->allowed_ns);
		throttle->due_ns = slk_hold_search();
		return;
	}
	slk_hold_release();
	look();
}

/* ---- a pause */

int slk_throttle_pause(struct slk_throttle *one, int scoped)
{
	int result = one->holding.flags ? 0 : slk_throttle_possible();

	if (one->is_paused)
		return 0;
	if (result == 0)
		result = slk_hold_begin(&one->holding, scoped);
	if (result == 0)
		result = slk_still_begin(scoped);
	if (result < 0)
		return result;
	throttle = one;
	if (one->percent)
		count();
	one->is_paused = one->holding.in_pause = 1;
	one->holding.unheld = 0;
	slk_hold_all();
	one->due_ns = slk_hold_search();
	return 0;
}

void slk_throttle_resume(struct slk_throttle *one)
{
	if (!one->is_paused)
		return;
	slk_still_end();
	one->holding.in_pause = 0;
	one->due_ns = 0;
	if (one->percent)
		count();
	one->is_paused = 0;
	if (one->percent && one->used_ns >= one->allowed_ns) {
		begin_to_hold(one->counted_ns); /* it is to be paid still */
		return;
	}
	slk_hold_release();
	if (one->percent)
		look();
}

static void look_at_pause(void)
{
	uint64_t took, began = slk_cpu_ns();

	if (!slk_still_is_so()) {
		throttle->due_ns = slk_hold_search();
		return;
	}
	took = slk_cpu_ns() - began;
	throttle->due_ns = slk_now_ns() + (SLK_SEARCH_MAX_NS > SLK_LOOK_SHARE * took ? SLK_SEARCH_MAX_NS : SLK_LOOK_SHARE * took);
}

/* ---- what is due */

int64_t slk_throttle_due_ns(const struct slk_throttle *one)
{
	uint64_t due = one->due_ns;

	if (one->holding.holds && !one->is_paused && one->until_ns < due)
		due = one->until_ns;
	return due ? (int64_t)due : -1;
}

int slk_throttle_due(struct slk_throttle *one)
{
	uint64_t now;

	if (one->cannot_hold)
		return 1;
	if (!one->due_ns || (now = slk_now_ns()) < (uint64_t)slk_throttle_due_ns(one))
		return 0;
	if (one->is_paused)
		look_at_pause();
	else if (!one->holding.holds)
		look();
	else if (now >= one->until_ns)
		look_whether_it_is_paid(now);
	else
		one->due_ns = slk_hold_search();
	one->cannot_hold = one->holding.unheld >= UNHELD_MAX;
	return one->cannot_hold;
}
