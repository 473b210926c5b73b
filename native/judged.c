/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What was judged a moment ago, by a hash of the path: kept for as long as a stale or colliding entry can only let the
 * kernel decide, and until a name or a right in a tree changes that we see change (engine->generation).
 */
#define _GNU_SOURCE
#include "slk.h"

#define JUDGED_FOR_NS 250000000u

static uint64_t key_of(const struct slk_engine *engine, const struct slk_walk *walk, uint32_t depth, uint32_t need,
		       int follow)
{
	uint64_t path = depth ? walk->hashes[depth - 1] : 1;

	path ^= engine->generation * UINT64_C(0xff51afd7ed558ccd);
	return (path ^ ((uint64_t)need << 1 | (uint64_t)(follow != 0))) * UINT64_C(0x9e3779b97f4a7c15) | 1;
}

static struct slk_judged *entry_of(struct slk_engine *engine, uint64_t key)
{
	return &engine->judged[(key >> 40) % SLK_JUDGED_MAX];
}

const struct slk_judged *slk_judged_find(struct slk_engine *engine, const struct slk_walk *walk, uint32_t depth,
					 uint32_t need, int follow)
{
	uint64_t key = key_of(engine, walk, depth, need, follow);
	const struct slk_judged *judged = entry_of(engine, key);

	return judged->key == key && judged->expires_ns > slk_now_ns() ? judged : NULL;
}

void slk_judged_keep(struct slk_engine *engine, const struct slk_walk *walk, uint32_t depth, uint32_t need, int follow,
		     const struct slk_judged *judged)
{
	uint64_t key = key_of(engine, walk, depth, need, follow);
	struct slk_judged *entry = entry_of(engine, key);

	*entry = *judged;
	entry->key = key;
}

uint64_t slk_judged_before(struct slk_engine *engine, const struct slk_walk *walk, uint32_t depth, uint32_t need,
			   int follow)
{
	const struct slk_judged *judged = slk_judged_find(engine, walk, depth, need, follow);

	return judged ? judged->expires_ns : 0;
}

uint64_t slk_judged_until(void)
{
	return slk_now_ns() + JUDGED_FOR_NS;
}

void slk_judged_now(struct slk_engine *engine, const struct slk_walk *walk, uint32_t depth, uint32_t need, int follow,
		    uint64_t until_ns)
{
	slk_judged_keep(engine, walk, depth, need, follow, &(struct slk_judged){.expires_ns = until_ns});
}
