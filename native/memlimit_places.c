/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files on a tmpfs that the program may write: they lie in memory, and are nobody's who has ended (memlimit.c).
 *
 * What a whole tmpfs holds more than at the start is one cheap question, and no less than what the program has put there:
 * files without a name and those that only a descriptor on its way leads to are in it. A file that holds nothing takes
 * memory as well: a tmpfs itself counts 1 KiB for each. What others have put there meanwhile is in it, too. So where that would be above the limit, what lies in the granted directories is added up, and what members have
 * open or mapped that has no name any more.
 */
#define _GNU_SOURCE
#include "memlimit.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define DEPTH_MAX 64
#define NAMELESS_MAX 4096
#define NAMELESS_END " (deleted)"
#define INODE_BYTES 1024u /* BOGO_INODE_SIZE of mm/shmem.c */

static uint64_t full_bytes(int fd)
{
	struct statfs system;

	if (fstatfs(fd, &system) < 0)
		return 0;
	return (uint64_t)(system.f_blocks - system.f_bfree) * (uint64_t)system.f_bsize +
	       (uint64_t)(system.f_files - system.f_ffree) * INODE_BYTES;
}

static uint64_t bytes_of(const struct statx *status)
{
	return status->stx_blocks * 512u + INODE_BYTES;
}

/* What is mounted there may be a server's, who answers when he likes: that is not asked. */
static int status_of(int fd, const char *name, int flags, struct statx *ret_status)
{
	return statx(fd, name, flags | AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT,
		     STATX_TYPE | STATX_NLINK | STATX_INO | STATX_BLOCKS, ret_status);
}

/* Takes the descriptor. A file with several names counts a part for each. */
static uint64_t held_below(int fd, uint64_t device, int depth)
{
	DIR *directory = fdopendir(fd);
	const struct dirent *entry;
	uint64_t total = 0;

	if (!directory) {
		close(fd);
		return 0;
	}
	while ((entry = readdir(directory))) {
		struct statx status;
		int below;

		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0 ||
		    status_of(fd, entry->d_name, AT_SYMLINK_NOFOLLOW, &status) < 0 ||
		    makedev(status.stx_dev_major, status.stx_dev_minor) != device)
			continue;
		if (!S_ISDIR(status.stx_mode)) {
			total += bytes_of(&status) / (status.stx_nlink ? status.stx_nlink : 1);
			continue;
		}
		total += bytes_of(&status);
		if (depth == DEPTH_MAX)
			continue;
		below = openat(fd, entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (below >= 0)
			total += held_below(below, device, depth + 1);
	}
	closedir(directory);
	return total;
}

static uint64_t held_in(const struct slk_place *place)
{
	int fd = openat(place->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct stat status;

	if (fd < 0 && errno == ENOTDIR && fstat(place->fd, &status) == 0)
		return (uint64_t)status.st_blocks * 512u + INODE_BYTES;
	return fd < 0 ? 0 : held_below(fd, place->device, 0);
}

int slk_memory_add_place(struct slk_memory *memory, int fd)
{
	struct slk_place *place = &memory->places[memory->place_count];
	struct statfs system;
	struct stat status;

	if (fstatfs(fd, &system) < 0 || fstat(fd, &status) < 0)
		return -errno;
	if (system.f_type != TMPFS_MAGIC || (!S_ISDIR(status.st_mode) && !S_ISREG(status.st_mode)))
		return 0;
	if (memory->place_count == SLK_PLACES_MAX)
		return -ENOSPC;
	place->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	if (place->fd < 0)
		return -errno;
	place->device = status.st_dev;
	place->full_bytes = full_bytes(fd);
	place->held_bytes = held_in(place);
	memory->place_count++;
	return 1;
}

void slk_places_forget(struct slk_memory *memory)
{
	while (memory->place_count)
		close(memory->places[--memory->place_count].fd);
}

static int is_first_of_device(const struct slk_memory *memory, uint32_t number)
{
	for (uint32_t i = 0; i < number; i++)
		if (memory->places[i].device == memory->places[number].device)
			return 0;
	return 1;
}

static uint64_t more(uint64_t now, uint64_t before)
{
	return now > before ? now - before : 0;
}

uint64_t slk_places_look(const struct slk_memory *memory)
{
	uint64_t total = 0;

	for (uint32_t i = 0; i < memory->place_count; i++)
		if (is_first_of_device(memory, i))
			total += more(full_bytes(memory->places[i].fd), memory->places[i].full_bytes);
	return total;
}

/* ---- what has no name */

struct nameless {
	uint64_t device;
	uint32_t count;
	uint64_t total;
	uint64_t inodes[NAMELESS_MAX];
};

static void add_nameless(struct nameless *found, uint64_t inode, uint64_t bytes)
{
	for (uint32_t i = 0; i < found->count; i++)
		if (found->inodes[i] == inode)
			return;
	if (found->count < NAMELESS_MAX)
		found->inodes[found->count++] = inode;
	found->total += bytes;
}

/* As /proc/<pid>/fd shows it: nobody need be asked for that. */
static int leads_to_nameless(int directory_fd, const char *number)
{
	char text[4096];
	ssize_t got = readlinkat(directory_fd, number, text, sizeof(text));
	size_t end = sizeof(NAMELESS_END) - 1;

	return got == (ssize_t)sizeof(text) ||
	       (got >= (ssize_t)end && memcmp(text + got - end, NAMELESS_END, end) == 0);
}

static void add_open(struct nameless *found, pid_t pid)
{
	char path[32];
	DIR *directory;
	const struct dirent *entry;
	struct statx status;

	snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
	directory = opendir(path);
	if (!directory)
		return;
	while ((entry = readdir(directory)))
		if (leads_to_nameless(dirfd(directory), entry->d_name) &&
		    status_of(dirfd(directory), entry->d_name, 0, &status) == 0 &&
		    makedev(status.stx_dev_major, status.stx_dev_minor) == found->device && status.stx_nlink == 0)
			add_nameless(found, status.stx_ino, bytes_of(&status));
	closedir(directory);
}

/* Of what is mapped and not open the kernel tells no size: as much as is mapped. */
static void add_mapped(struct nameless *found, pid_t pid)
{
	char path[32], line[8192];
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid);
	file = fopen(path, "re");
	if (!file)
		return;
	while (fgets(line, sizeof(line), file)) {
		unsigned long long start, end, inode;
		unsigned int high, low;

		if (sscanf(line, "%llx-%llx %*s %*s %x:%x %llu", &start, &end, &high, &low, &inode) == 5 &&
		    makedev(high, low) == found->device && strstr(line, " (deleted)\n"))
			add_nameless(found, inode, end - start);
	}
	fclose(file);
}

static uint64_t nameless_of(const struct slk_counting *walk, uint64_t device)
{
	struct nameless *found = calloc(1, sizeof(*found));
	uint64_t total;

	if (!found)
		return UINT64_MAX;
	found->device = device;
	for (uint32_t i = 0; i < walk->count; i++)
		add_open(found, walk->members[i].pid);
	for (uint32_t i = 0; i < walk->count; i++)
		add_mapped(found, walk->members[i].pid);
	total = found->total;
	free(found);
	return total;
}

uint64_t slk_places_exactly(const struct slk_memory *memory, const struct slk_counting *walk)
{
	uint64_t total = 0;

	for (uint32_t i = 0; i < memory->place_count; i++) {
		uint64_t device = memory->places[i].device, grown, held = 0, nameless;

		if (!is_first_of_device(memory, i))
			continue;
		grown = more(full_bytes(memory->places[i].fd), memory->places[i].full_bytes);
		if (!grown)
			continue;
		for (uint32_t j = i; j < memory->place_count; j++)
			if (memory->places[j].device == device)
				held += more(held_in(&memory->places[j]), memory->places[j].held_bytes);
		nameless = nameless_of(walk, device);
		held = nameless < UINT64_MAX - held ? held + nameless : UINT64_MAX;
		total += held < grown ? held : grown;
	}
	return total;
}
