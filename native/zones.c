/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which grant covers a path, by its letters: a hash table of zone paths, asked from the deepest prefix up.
 *
 * Nothing here decides about security. The answer is a guess about what Landlock will say, used to choose between
 * "let the kernel judge" and "ask Python"; a wrong guess costs an audit record or a served file, never an access.
 */
#define _GNU_SOURCE
#include "slk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define FNV_BASIS 14695981039346656037ull
#define FNV_PRIME 1099511628211ull

struct slk_zone_table {
	uint32_t mask;
	uint32_t count;
	char *text;
	struct slk_zone *zones;
	uint64_t *hashes;
	uint32_t *index; /* zone number + 1, 0: empty */
};

static uint64_t hash_bytes(uint64_t hash, const char *bytes, uint32_t length)
{
	for (uint32_t i = 0; i < length; i++)
		hash = (hash ^ (unsigned char)bytes[i]) * FNV_PRIME;
	return hash;
}

int slk_walk_push(struct slk_walk *walk, const char *name, uint32_t length)
{
	uint64_t before = walk->count ? walk->hashes[walk->count - 1] : FNV_BASIS;
	uint32_t start = walk->count ? walk->ends[walk->count - 1] : 0;

	if (walk->count == SLK_COMPONENTS_MAX || start + 1 + length >= sizeof(walk->text))
		return -ENAMETOOLONG;
	walk->text[start] = '/';
	memcpy(walk->text + start + 1, name, length);
	walk->ends[walk->count] = start + 1 + length;
	walk->hashes[walk->count] = hash_bytes(before, walk->text + start, 1 + length);
	walk->count++;
	return 0;
}

static int append(struct slk_walk *walk, const char *path, uint32_t length)
{
	uint32_t at = 0;

	while (at < length) {
		uint32_t end = at;

		while (end < length && path[end] != '/')
			end++;
		if (end - at == 2 && path[at] == '.' && path[at + 1] == '.') {
			if (walk->count)
				walk->count--;
		} else if (end > at && !(end - at == 1 && path[at] == '.')) {
			int result = slk_walk_push(walk, path + at, end - at);

			if (result < 0)
				return result;
		}
		at = end + 1;
	}
	return 0;
}

int slk_walk_set(struct slk_walk *walk, const char *base, uint32_t base_length, const char *path, uint32_t length)
{
	int result;

	walk->count = 0;
	if (length == 0 || path[0] != '/') {
		result = append(walk, base, base_length);
		if (result < 0)
			return result;
	}
	result = append(walk, path, length);
	if (result < 0)
		return result;
	walk->length = walk->count ? walk->ends[walk->count - 1] : 0;
	walk->text[walk->length] = '\0';
	return 0;
}

static int copy_zones(struct slk_zone_table *table, const struct slk_zone *zones, uint32_t count)
{
	size_t bytes = 0;
	char *text;

	for (uint32_t i = 0; i < count; i++)
		bytes += (size_t)zones[i].length + 1;
	table->text = text = malloc(bytes + 1);
	table->zones = calloc((size_t)count + 1, sizeof(*table->zones));
	table->hashes = calloc((size_t)count + 1, sizeof(*table->hashes));
	table->index = calloc((size_t)table->mask + 1, sizeof(*table->index));
	if (!table->text || !table->zones || !table->hashes || !table->index)
		return -ENOMEM;
	for (uint32_t i = 0; i < count; i++) {
		memcpy(text, zones[i].path, zones[i].length);
		text[zones[i].length] = '\0';
		table->zones[i] = zones[i];
		table->zones[i].path = text;
		table->hashes[i] = hash_bytes(FNV_BASIS, text, zones[i].length);
		text += zones[i].length + 1;
	}
	return 0;
}

int slk_zones_create(const struct slk_zone *zones, uint32_t count, struct slk_zone_table **ret_table)
{
	struct slk_zone_table *table = calloc(1, sizeof(*table));
	int result;

	if (!table)
		return -ENOMEM;
	table->count = count;
	table->mask = 63;
	while (table->mask < count * 4)
		table->mask = table->mask * 2 + 1;
	result = copy_zones(table, zones, count);
	if (result < 0) {
		slk_zones_destroy(table);
		return result;
	}
	for (uint32_t i = 0; i < count; i++) {
		uint32_t at = (uint32_t)table->hashes[i] & table->mask;

		while (table->index[at])
			at = (at + 1) & table->mask;
		table->index[at] = i + 1;
	}
	*ret_table = table;
	return 0;
}

void slk_zones_destroy(struct slk_zone_table *table)
{
	if (!table)
		return;
	free(table->text);
	free(table->zones);
	free(table->hashes);
	free(table->index);
	free(table);
}

static const struct slk_zone *find_exact(const struct slk_zone_table *table, uint64_t hash, const char *text,
					 uint32_t length)
{
	uint32_t at = (uint32_t)hash & table->mask;

	for (; table->index[at]; at = (at + 1) & table->mask) {
		uint32_t i = table->index[at] - 1;

		if (table->hashes[i] == hash && table->zones[i].length == length &&
		    memcmp(table->zones[i].path, text, length) == 0)
			return &table->zones[i];
	}
	return NULL;
}

const struct slk_zone *slk_zones_find(const struct slk_zone_table *table, const struct slk_walk *walk)
{
	for (uint32_t depth = walk->count; depth > 0; depth--) {
		const struct slk_zone *zone =
			find_exact(table, walk->hashes[depth - 1], walk->text, walk->ends[depth - 1]);

		if (zone)
			return zone;
	}
	return find_exact(table, FNV_BASIS, "", 0);
}
