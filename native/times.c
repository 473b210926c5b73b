/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How long calls wait for their answer, by their number, and by who gave it: C or Python.
 *
 * A count for each eighth of a power of two, so nothing is remembered of a single call, and a percentile is known to 12.5
 * percent. Taking the time twice must not cost what is measured: it is the processor's own counter, 10 ns each, and becomes
 * nanoseconds only when it is told, by what the counter and the clock have gone in the meantime.
 */
#define _GNU_SOURCE
#include "slk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PARTS_BITS 3 /* of a power of two */
#define PARTS (1u << PARTS_BITS)
#define BUCKETS ((64 - PARTS_BITS + 1) * PARTS)

struct histogram {
	uint32_t counts[BUCKETS];
};

struct slk_timing {
	uint64_t began_ticks;
	uint64_t began_ns;
	uint64_t began[SLK_SLOTS_MAX];
	uint8_t is_pythons[SLK_SLOTS_MAX];
	uint32_t counts[2][SLK_CALLS_MAX];
	struct histogram histograms[2][SLK_CALLS_MAX]; /* of those not in use there are no pages */
};

static inline uint64_t ticks(void)
{
#if defined(__x86_64__)
	return __builtin_ia32_rdtsc();
#elif defined(__aarch64__)
	uint64_t value;

	__asm__ volatile("mrs %0, cntvct_el0" : "=r"(value));
	return value;
#else
	return slk_now_ns();
#endif
}

struct slk_timing *slk_timing_create(void)
{
	struct slk_timing *timing = calloc(1, sizeof(*timing));

	if (!timing)
		return NULL;
	timing->began_ticks = ticks();
	timing->began_ns = slk_now_ns();
	return timing;
}

void slk_timing_destroy(struct slk_timing *timing)
{
	free(timing);
}

static uint32_t bucket_of(uint64_t value)
{
	uint32_t exponent;

	if (value < PARTS)
		return (uint32_t)value;
	exponent = 63u - (uint32_t)__builtin_clzll(value);
	return ((exponent - PARTS_BITS + 1) << PARTS_BITS) + (uint32_t)(value >> (exponent - PARTS_BITS) & (PARTS - 1));
}

/* The first value that is in no bucket up to this one. */
static double end_of(uint32_t bucket)
{
	uint32_t exponent = bucket >> PARTS_BITS;
	uint32_t part = bucket & (PARTS - 1);

	if (exponent == 0)
		return part + 1;
	return (double)(PARTS + part + 1) * (double)(UINT64_C(1) << (exponent - 1));
}

void slk_timing_begin(struct slk_timing *timing, uint32_t slot)
{
	if (!timing)
		return;
	timing->is_pythons[slot] = 0;
	timing->began[slot] = ticks();
}

void slk_timing_by_python(struct slk_timing *timing, uint32_t slot)
{
	if (timing && slot < SLK_SLOTS_MAX)
		timing->is_pythons[slot] = 1;
}

void slk_timing_end(struct slk_timing *timing, uint32_t slot, int32_t nr)
{
	uint64_t now = ticks(), began;
	int by;

	if (!timing || nr < 0 || nr >= SLK_CALLS_MAX)
		return;
	began = timing->began[slot];
	by = timing->is_pythons[slot];
	timing->counts[by][nr]++;
	/* Counters of two processors may differ a little. */
	timing->histograms[by][nr].counts[bucket_of(now > began ? now - began : 0)]++;
}

/* Of `count` calls, the longest of the shortest `part` of them. */
static double percentile(const struct histogram *histogram, uint32_t count, double part)
{
	uint64_t wanted = (uint64_t)((double)count * part + 0.999999), seen = 0;
	uint32_t bucket = 0;

	for (; bucket < BUCKETS - 1; bucket++) {
		seen += histogram->counts[bucket];
		if (seen >= wanted)
			break;
	}
	return end_of(bucket);
}

static double ns_per_tick_of(const struct slk_timing *timing)
{
	return (double)(slk_now_ns() - timing->began_ns) / (double)(ticks() - timing->began_ticks);
}

int slk_engine_latencies(const struct slk_engine *engine, const uint64_t *bounds_ns, uint32_t bound_count,
			 uint64_t *ret_counts)
{
	const struct slk_timing *timing = engine->timing;
	double ns_per_tick;

	if (!timing)
		return -ENOMEM;
	ns_per_tick = ns_per_tick_of(timing);
	memset(ret_counts, 0, 2 * (bound_count + 1) * sizeof(*ret_counts));
	for (int nr = 0; nr < SLK_CALLS_MAX; nr++) {
		for (int by = 0; by < 2; by++) {
			uint64_t *counts = ret_counts + (uint32_t)by * (bound_count + 1);
			uint32_t bound = 0;

			if (!timing->counts[by][nr])
				continue;
			for (uint32_t bucket = 0; bucket < BUCKETS; bucket++) {
				while (bound < bound_count && end_of(bucket) * ns_per_tick > (double)bounds_ns[bound])
					bound++;
				counts[bound] += timing->histograms[by][nr].counts[bucket];
			}
		}
	}
	return 0;
}

int slk_engine_times(const struct slk_engine *engine, struct slk_times *ret_times, uint32_t capacity)
{
	const struct slk_timing *timing = engine->timing;
	uint32_t found = 0;
	double ns_per_tick;

	if (!timing)
		return -ENOMEM;
	ns_per_tick = ns_per_tick_of(timing);
	for (int nr = 0; nr < SLK_CALLS_MAX; nr++) {
		for (int by = 0; by < 2 && found < capacity; by++) {
			const struct histogram *histogram = &timing->histograms[by][nr];
			uint32_t count = timing->counts[by][nr];

			if (!count)
				continue;
			ret_times[found++] = (struct slk_times){
				.nr = nr,
				.is_by_python = by,
				.count = count,
				.p50_ns = (uint64_t)(percentile(histogram, count, 0.5) * ns_per_tick),
				.p99_ns = (uint64_t)(percentile(histogram, count, 0.99) * ns_per_tick),
			};
		}
	}
	return (int)found;
}
