/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What processes hold, each page once; and whose descriptors they have (memlimit.c). Of those that a look has met
 * (memlimit_members.c): a list of them is made, and nothing else is needed, so this waits for whom it likes.
 */
#define _GNU_SOURCE
#include "memlimit.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LARGE_PART 32 /* of the limit: who holds more than that */

void slk_each_descriptor(pid_t pid, void (*look)(void *context, int directory_fd, const char *number), void *context)
{
	char path[32];
	DIR *directory;
	const struct dirent *entry;

	snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
	directory = opendir(path);
	if (!directory)
		return;
	while ((entry = readdir(directory)))
		if (entry->d_name[0] != '.')
			look(context, dirfd(directory), entry->d_name);
	closedir(directory);
}

/* ---- each page once */

int slk_members_list(const struct slk_memory *memory, struct slk_counting *walk)
{
	uint32_t count = 0;

	if (memory->member_count > walk->capacity) {
		struct slk_walked *larger = realloc(walk->members, 2 * memory->member_count * sizeof(*larger));

		if (!larger)
			return -ENOMEM;
		walk->members = larger;
		walk->capacity = 2 * memory->member_count;
	}
	for (struct slk_member *member = memory->first; member; member = member->next) {
		const struct slk_member *parent = slk_parent_of(memory, member);

		walk->members[count++] = (struct slk_walked){.pid = member->pid,
							     .parent = parent ? parent->pid : 0,
							     .thread = member->thread,
							     .bytes = member->bytes,
							     .unswapped = member->unswapped};
	}
	walk->count = count;
	return 0;
}

uint64_t slk_members_at_least(const struct slk_memory *memory)
{
	return memory->largest > memory->grown ? memory->largest : memory->grown;
}

static uint64_t exactly(const struct slk_walked *member, uint64_t *ret_shared)
{
	char rollup[4096];
	ssize_t got;

	/* Its threads may have mapped something between the two looks at their sizes. */
	if (!member->bytes || (member->parent && slk_have_one_memory(member->pid, member->parent)))
		return 0;
	got = slk_read_of(member->pid, member->thread, "smaps_rollup", rollup, sizeof(rollup));
	if (got == -ESRCH || got == -ENOENT || got == 0)
		return 0; /* it has ended */
	if (got < 0 || !strstr(rollup, "\nPss_Anon:"))
		return member->bytes; /* it hides its memory */
	*ret_shared += slk_kilobytes(rollup, "\nPss_Shmem:");
	/* Of what is swapped out, only its share counts here. */
	return slk_kilobytes(rollup, "\nPss_Anon:") + slk_kilobytes(rollup, "\nSwapPss:") + member->unswapped;
}

/* The largest come first: where they alone are too much, the others need not be walked. */
uint64_t slk_members_exactly(const struct slk_counting *walk, uint64_t *ret_shared)
{
	uint64_t total = 0;

	*ret_shared = 0;
	/* Who shares with nobody is told exactly already; to walk its tables would wait for what its threads map. */
	if (walk->count == 1 && !walk->counts_mapped)
		return walk->members[0].bytes;
	for (int is_large = 1; is_large >= 0; is_large--)
		for (uint32_t i = 0; i < walk->count && total <= walk->limit; i++)
			if ((walk->members[i].bytes > walk->limit / LARGE_PART) == is_large)
				total += exactly(&walk->members[i], ret_shared);
	return total;
}
