/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The objects that count, by device and inode number, with what each held when it was last looked at; which of them are
 * open, which have a watch, and which have lost their last name (disk.c).
 */
#define _GNU_SOURCE
#include "disk.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

struct slk_held **slk_held_place(const struct slk_disk *disk, uint64_t device, uint64_t inode)
{
	uint64_t key = (inode ^ device << 40 ^ device >> 24) * UINT64_C(0x9e3779b97f4a7c15);
	struct slk_held **at = &disk->buckets[(key >> 32) & disk->mask];

	while (*at && ((*at)->inode != inode || (*at)->device != device))
		at = &(*at)->chain;
	return at;
}

static void grow(struct slk_disk *disk)
{
	uint64_t old = disk->mask + 1;
	struct slk_held **buckets = disk->buckets, **larger = calloc(4 * old, sizeof(struct slk_held *));

	if (!larger)
		return; /* then it is slower */
	disk->buckets = larger;
	disk->mask = 4 * old - 1;
	for (uint64_t i = 0; i < old; i++) {
		for (struct slk_held *next, *held = buckets[i]; held; held = next) {
			next = held->chain;
			held->chain = NULL;
			*slk_held_place(disk, held->device, held->inode) = held;
		}
	}
	free(buckets);
}

struct slk_held *slk_held_entry(struct slk_disk *disk, const struct stat *status)
{
	struct slk_held **at = slk_held_place(disk, status->st_dev, status->st_ino), *held = *at;

	if (held)
		return held;
	held = calloc(1, sizeof(*held));
	if (!held)
		return NULL;
	held->device = status->st_dev;
	held->inode = status->st_ino;
	held->fd = held->watch = -1;
	*at = held;
	if (++disk->count > 2 * disk->mask)
		grow(disk);
	return held;
}

uint64_t slk_disk_above_limit(const struct slk_disk *disk)
{
	return disk->total > disk->limit ? disk->total - disk->limit : 0;
}

static void trim_excess(struct slk_disk *disk)
{
	if (disk->excess > slk_disk_above_limit(disk))
		disk->excess = slk_disk_above_limit(disk);
}

uint64_t slk_disk_ahead_block(const struct slk_disk *disk, uint64_t device)
{
	for (uint32_t i = 0; i < disk->upper_count; i++)
		if (disk->uppers[i].device == device)
			return disk->uppers[i].ahead_block;
	return 0;
}

/* What a file takes at most: blocks up to its end, its attributes, and where the file system notes all that (16 bytes for
 * each run of blocks, in a tree that is at least half full). */
static uint64_t without_ahead(const struct slk_held *held, const struct stat *status, uint64_t block)
{
	uint64_t blocks = ((uint64_t)status->st_size + block - 1) / block;

	return blocks * (block + 32) + held->attribute_bytes + block;
}

void slk_held_set_bytes(struct slk_disk *disk, struct slk_held *held, const struct stat *status)
{
	uint64_t bytes = (uint64_t)status->st_blocks * 512u, block = slk_disk_ahead_block(disk, status->st_dev);

	if (block && S_ISREG(status->st_mode) && !held->is_reserved && bytes > without_ahead(held, status, block))
		bytes = without_ahead(held, status, block);
	disk->total += bytes - held->bytes;
	held->bytes = bytes;
	if (held->is_unlinked && status->st_nlink > 0) { /* it was given a name: the kernel has two of it from now on */
		held->is_unlinked = 0;
		held->had_names = !S_ISDIR(status->st_mode);
		disk->unlinked_open -= held->fd >= 0;
	}
	if (status->st_nlink > 1 && !S_ISDIR(status->st_mode))
		held->had_names = 1;
	trim_excess(disk);
}

/* ---- watches */

static struct slk_held **watch_bucket(const struct slk_disk *disk, int watch)
{
	return &disk->by_watch[(uint32_t)watch % SLK_DISK_BUCKETS];
}

void slk_held_set_watch(struct slk_disk *disk, struct slk_held *held, int watch)
{
	struct slk_held **at;

	if (held->watch == watch)
		return;
	if (held->watch >= 0) {
		at = watch_bucket(disk, held->watch);
		while (*at && *at != held)
			at = &(*at)->watched;
		if (*at)
			*at = held->watched;
	}
	held->watch = watch;
	if (watch >= 0) {
		at = watch_bucket(disk, watch);
		held->watched = *at;
		*at = held;
	}
}

struct slk_held *slk_held_of_watch(const struct slk_disk *disk, int watch)
{
	struct slk_held *held = *watch_bucket(disk, watch);

	while (held && held->watch != watch)
		held = held->watched;
	return held;
}

int slk_held_is_told(const struct slk_held *held)
{
	return held->watch >= 0 && !held->had_names;
}

/* ---- the open ones */

int slk_held_keep_open(struct slk_disk *disk, struct slk_held *held, int dirfd, const char *path)
{
	if (held->fd >= 0)
		return 0;
	if (disk->open_count == disk->open_capacity) {
		uint32_t capacity = disk->open_capacity ? 2 * disk->open_capacity : 64;
		struct slk_held **larger = realloc(disk->open, capacity * sizeof(*larger));

		if (!larger)
			return -ENOMEM;
		disk->open = larger;
		disk->open_capacity = capacity;
	}
	held->fd = openat(dirfd, path, O_PATH | O_CLOEXEC | (*path == '/' ? 0 : O_NOFOLLOW));
	if (held->fd < 0)
		return -errno;
	held->position = disk->open_count;
	held->changed_ns = -1;
	disk->unlinked_open += held->is_unlinked;
	disk->open[disk->open_count++] = held;
	return 0;
}

void slk_held_close(struct slk_disk *disk, struct slk_held *held)
{
	struct slk_held *last;

	if (held->fd < 0)
		return;
	last = disk->open[--disk->open_count];
	disk->open[held->position] = last;
	last->position = held->position;
	disk->unlinked_open -= held->is_unlinked;
	close(held->fd);
	held->fd = -1;
}

void slk_held_now_unlinked(struct slk_disk *disk, struct slk_held *held)
{
	if (held->is_unlinked)
		return;
	held->is_unlinked = 1;
	disk->unlinked_open += held->fd >= 0;
}

void slk_held_forget(struct slk_disk *disk, struct slk_held *held)
{
	struct slk_held **at;

	slk_held_close(disk, held);
	slk_held_set_watch(disk, held, -1);
	disk->total -= held->bytes;
	trim_excess(disk);
	at = slk_held_place(disk, held->device, held->inode);
	*at = held->chain;
	disk->count--;
	free(held);
}
