/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What init ends its sandbox for: time, and the time of processors.
 *
 * init and not the supervisor: so it holds whatever the loop does, while the supervisor is stopped with the program (^Z),
 * and without a thread or a timer of its own. The clock is CLOCK_MONOTONIC: it goes on while the program is stopped, and
 * stands still while the machine sleeps.
 *
 * A look at what processors were used for costs 10 us for each process, so the next one is made when it is needed: all
 * processors together need so long for what is left. But those that nobody waits for are found only while they live
 * (cputime.c), so it is never put off for long; and it comes at a random moment before it is needed, none more likely than
 * another, however long ago the last one was: who knew when it comes could be gone by then. (Everybody can see when we ran:
 * by our CPU clock.)
 */
#define _GNU_SOURCE
#include "slk.h"

#include <sys/random.h>
#include <unistd.h>

#define LOOK_MIN_NS 5000000u
#define LOOK_MAX_NS 250000000u
#define LOOKS_MIN 8          /* within the limit, if all processors are used for nothing else */
#define LOOK_SHARE 20        /* a look is that much shorter than the time to the next one */
#define STEPS 16       /* of the time to the next look, which comes after each of them by a chance of 1 in STEP_CHANCE */
#define STEP_CHANCE 8u
#define STEPS_ON_AVERAGE 6.61 /* the sum of (7/8)^n for n from 1 to 16, and half a step where it was not the last */
#define NS_PER_MS 1000000u

static uint64_t earlier(uint64_t first, uint64_t second)
{
	if (!first || !second)
		return first ? first : second;
	return first < second ? first : second;
}

static uint64_t at_most(uint64_t value, uint64_t most)
{
	return value < most ? value : most;
}

uint32_t slk_processors(void)
{
	static uint32_t processors;
	long count;

	if (!processors) {
		count = sysconf(_SC_NPROCESSORS_CONF);
		processors = count > 0 ? (uint32_t)count : 1;
	}
	return processors;
}

void slk_limits_begin(struct slk_limits *limits, const struct slk_launch_plan *plan, int scoped)
{
	uint64_t now = slk_now_ns();

	*limits = (struct slk_limits){
		.timeout_ns = plan->timeout_ns,
		.grace_ns = plan->grace_ns,
		.cpu_time_ns = plan->cpu_time_ns,
		.processors = slk_processors(),
	};
	if (limits->timeout_ns)
		limits->ask_ns = now + limits->timeout_ns;
	if (limits->cpu_time_ns) {
		slk_cputime_begin(&limits->cpu, scoped);
		if (getrandom(&limits->random, sizeof(limits->random), GRND_NONBLOCK) < 0 || !limits->random)
			limits->random = now | 1;
		limits->look_ns = now + LOOK_MIN_NS;
	}
}

int slk_limits_wait_ms(const struct slk_limits *limits)
{
	uint64_t due = earlier(earlier(limits->ask_ns, limits->end_ns), limits->look_ns);
	uint64_t now = slk_now_ns();

	if (!due)
		return -1;
	return due <= now ? 0 : (int)at_most((due - now + NS_PER_MS - 1) / NS_PER_MS, 1u << 30);
}

static int is_over(const struct slk_limits *limits)
{
	return limits->used_ns >= limits->cpu_time_ns;
}

/* Marsaglia, Xorshift RNGs (2003): enough for who sees only when we look. */
static uint32_t random_below(struct slk_limits *limits, uint32_t end)
{
	limits->random ^= limits->random << 13;
	limits->random ^= limits->random >> 7;
	limits->random ^= limits->random << 17;
	return (uint32_t)(limits->random >> 32) % end;
}

static void look_within(struct slk_limits *limits, uint64_t now, uint64_t period)
{
	uint64_t step = period / STEPS, wait = 0;
	int steps = 0;

	while (steps < STEPS && random_below(limits, STEP_CHANCE) != 0)
		steps++;
	wait = (uint64_t)steps * step;
	if (steps < STEPS)
		wait += random_below(limits, (uint32_t)step);
	limits->between_ns = (uint64_t)(STEPS_ON_AVERAGE * (double)step);
	limits->look_ns = now + wait;
}

/* Who is counted twice in one look, because its parent was looked at after it was waited for, is not so in the next. */
static int look(struct slk_limits *limits, uint64_t now)
{
	uint64_t left, period, ended, late = now - limits->look_ns;

	limits->used_ns = slk_cputime_look(&limits->cpu, limits->between_ns + late);
	if (is_over(limits))
		limits->used_ns = slk_cputime_look(&limits->cpu, 0);
	if (is_over(limits))
		return 1;
	ended = slk_now_ns();
	left = limits->cpu_time_ns - limits->used_ns;
	period = at_most(left, limits->cpu_time_ns / LOOKS_MIN) / limits->processors;
	period = at_most(period, LOOK_MAX_NS);
	if (period < LOOK_MIN_NS)
		period = LOOK_MIN_NS;
	if (period < (ended - now) * LOOK_SHARE)
		period = (ended - now) * LOOK_SHARE;
	look_within(limits, ended, period);
	return 0;
}

enum slk_due slk_limits_due(struct slk_limits *limits)
{
	uint64_t now;

	if (!limits->ask_ns && !limits->end_ns && !limits->look_ns)
		return SLK_DUE_NOTHING;
	now = slk_now_ns();
	if (limits->end_ns && now >= limits->end_ns)
		return SLK_DUE_END;
	if (limits->ask_ns && now >= limits->ask_ns) {
		limits->ask_ns = 0;
		limits->end_ns = now + limits->grace_ns;
		limits->reached = SLK_LIMIT_TIMEOUT;
		return SLK_DUE_ASK;
	}
	if (limits->look_ns && now >= limits->look_ns && look(limits, now)) {
		limits->look_ns = 0;
		if (!limits->reached)
			limits->reached = SLK_LIMIT_CPU_TIME;
		return SLK_DUE_END;
	}
	return SLK_DUE_NOTHING;
}

void slk_limits_ending(struct slk_limits *limits)
{
	if (limits->cpu_time_ns)
		slk_cputime_look(&limits->cpu, 0); /* who nobody waits for is looked at for the last time */
}

int slk_limits_ended(struct slk_limits *limits)
{
	uint64_t used_ns;

	if (!limits->cpu_time_ns)
		return 0;
	used_ns = slk_cputime_end(&limits->cpu);
	/* Of who died before a parent that waits for nobody, the last look knows more. */
	if (limits->used_ns < used_ns)
		limits->used_ns = used_ns;
	if (limits->reached || !is_over(limits))
		return 0;
	limits->reached = SLK_LIMIT_CPU_TIME;
	return 1;
}
