/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Device and inode number of an object as a program is told them.
 *
 * A program compares them to know a file again, so a copy keeps those of its original: vim would not write, git would
 * not clone, tar would take two names of one file for two files. Everything in the upper directory is known here by its
 * own inode number, whatever names it has and whatever becomes of them. What is not a copy is told by its own number
 * and the device of the tree, unless that could be somebody else's: of another file system, or the number of an
 * original that is gone by now and has a copy that still bears it. Then a bit is set that no file system's numbers
 * reach (overlayfs does likewise: xino, Documentation/filesystems/overlayfs.rst).
 *
 * What is said of a number stays until it is known that a new object has it: a copy whose names are all gone may still
 * be open. So whoever makes an object in the upper tells it here. As in layers.c, workers tell while the loop asks.
 */
#define _GNU_SOURCE
#include "slk.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#define BUCKETS_FIRST 256u
#define RECORD_START_BYTES 128 /* version, kind, device and inode */

struct entry {
	struct entry *next_copy, *next_origin; /* in their buckets */
	uint64_t copy;
	struct slk_number origin;
};

struct slk_numbers {
	pthread_mutex_t lock;
	uint64_t lower_device, upper_device;
	uint64_t lower_root, upper_root; /* inodes; the root bears no record */
	struct entry **copies, **origins;
	uint64_t mask;
	uint64_t count;
};

static uint64_t mixed(uint64_t number)
{
	number = (number ^ number >> 33) * UINT64_C(0xff51afd7ed558ccd);
	return number ^ number >> 33;
}

static struct entry **copy_bucket(const struct slk_numbers *numbers, uint64_t copy)
{
	return &numbers->copies[mixed(copy) & numbers->mask];
}

static struct entry **origin_bucket(const struct slk_numbers *numbers, struct slk_number origin)
{
	return &numbers->origins[mixed(origin.inode ^ mixed(origin.device)) & numbers->mask];
}

int slk_numbers_create(int lower_fd, int upper_fd, struct slk_numbers **ret_numbers)
{
	struct slk_numbers *numbers;
	struct stat lower, upper;

	if (fstat(lower_fd, &lower) < 0 || fstat(upper_fd, &upper) < 0)
		return -errno;
	numbers = calloc(1, sizeof(*numbers));
	if (!numbers)
		return -ENOMEM;
	numbers->lower_device = lower.st_dev;
	numbers->upper_device = upper.st_dev;
	numbers->lower_root = lower.st_ino;
	numbers->upper_root = upper.st_ino;
	numbers->mask = BUCKETS_FIRST - 1;
	numbers->copies = calloc(BUCKETS_FIRST, sizeof(struct entry *));
	numbers->origins = calloc(BUCKETS_FIRST, sizeof(struct entry *));
	if (!numbers->copies || !numbers->origins) {
		free(numbers->copies);
		free(numbers->origins);
		free(numbers);
		return -ENOMEM;
	}
	pthread_mutex_init(&numbers->lock, NULL);
	*ret_numbers = numbers;
	return 0;
}

void slk_numbers_destroy(struct slk_numbers *numbers)
{
	if (!numbers)
		return;
	for (uint64_t i = 0; i <= numbers->mask; i++) {
		struct entry *entry = numbers->copies[i];

		while (entry) {
			struct entry *after = entry->next_copy;

			free(entry);
			entry = after;
		}
	}
	free(numbers->copies);
	free(numbers->origins);
	pthread_mutex_destroy(&numbers->lock);
	free(numbers);
}

static void enter(struct slk_numbers *numbers, struct entry *entry)
{
	struct entry **copies = copy_bucket(numbers, entry->copy), **origins = origin_bucket(numbers, entry->origin);

	entry->next_copy = *copies;
	*copies = entry;
	entry->next_origin = *origins;
	*origins = entry;
}

/* Without room for more buckets the chains grow. */
static void grow(struct slk_numbers *numbers)
{
	uint64_t old_size = numbers->mask + 1, size = old_size * 4;
	struct entry **old = numbers->copies, **copies, **origins;

	if (numbers->count <= old_size * 2)
		return;
	copies = calloc(size, sizeof(struct entry *));
	origins = calloc(size, sizeof(struct entry *));
	if (!copies || !origins) {
		free(copies);
		free(origins);
		return;
	}
	free(numbers->origins);
	numbers->copies = copies;
	numbers->origins = origins;
	numbers->mask = size - 1;
	for (uint64_t i = 0; i < old_size; i++) {
		struct entry *entry = old[i];

		while (entry) {
			struct entry *after = entry->next_copy;

			enter(numbers, entry);
			entry = after;
		}
	}
	free(old);
}

static struct entry *of_copy(const struct slk_numbers *numbers, uint64_t copy)
{
	struct entry *entry = *copy_bucket(numbers, copy);

	while (entry && entry->copy != copy)
		entry = entry->next_copy;
	return entry;
}

static struct entry *of_origin(const struct slk_numbers *numbers, struct slk_number origin)
{
	struct entry *entry = *origin_bucket(numbers, origin);

	while (entry && (entry->origin.inode != origin.inode || entry->origin.device != origin.device))
		entry = entry->next_origin;
	return entry;
}

static void forget(struct slk_numbers *numbers, uint64_t copy)
{
	struct entry *entry = of_copy(numbers, copy);
	struct entry **at;

	if (!entry)
		return;
	for (at = copy_bucket(numbers, copy); *at != entry;)
		at = &(*at)->next_copy;
	*at = entry->next_copy;
	for (at = origin_bucket(numbers, entry->origin); *at != entry;)
		at = &(*at)->next_origin;
	*at = entry->next_origin;
	free(entry);
	__atomic_fetch_sub(&numbers->count, 1, __ATOMIC_RELAXED);
}

int slk_numbers_copied(struct slk_numbers *numbers, uint64_t copy, uint64_t origin_device, uint64_t origin_inode)
{
	struct slk_number origin = {origin_device, origin_inode};
	struct entry *entry;
	int result = 0;

	pthread_mutex_lock(&numbers->lock);
	forget(numbers, copy);
	if (!of_origin(numbers, origin)) { /* two files are never one */
		entry = calloc(1, sizeof(*entry));
		result = entry ? 1 : -ENOMEM;
		if (entry) {
			entry->copy = copy;
			entry->origin = origin;
			enter(numbers, entry);
			__atomic_fetch_add(&numbers->count, 1, __ATOMIC_RELAXED);
			grow(numbers);
		}
	}
	pthread_mutex_unlock(&numbers->lock);
	return result;
}

void slk_numbers_made(struct slk_numbers *numbers, uint64_t inode)
{
	if (__atomic_load_n(&numbers->count, __ATOMIC_RELAXED) == 0)
		return;
	pthread_mutex_lock(&numbers->lock);
	forget(numbers, inode);
	pthread_mutex_unlock(&numbers->lock);
}

int slk_numbers_are_own(const struct slk_numbers *numbers)
{
	return __atomic_load_n(&numbers->count, __ATOMIC_RELAXED) == 0 &&
	       numbers->upper_device == numbers->lower_device;
}

void slk_numbers_told(struct slk_numbers *numbers, uint64_t inode, struct slk_number *ret_told)
{
	struct slk_number told = {numbers->lower_device, inode};
	const struct entry *entry;

	pthread_mutex_lock(&numbers->lock);
	entry = of_copy(numbers, inode);
	if (entry)
		told = entry->origin;
	else if (inode == numbers->upper_root)
		told.inode = numbers->lower_root;
	else if (numbers->upper_device != numbers->lower_device || of_origin(numbers, told))
		told.inode |= SLK_NUMBER_FOREIGN;
	pthread_mutex_unlock(&numbers->lock);
	*ret_told = told;
}

int slk_read_origin(int dirfd, const char *name, struct slk_number *ret_origin)
{
	char path[SLK_PATH_MAX], record[RECORD_START_BYTES + SLK_PATH_MAX];
	unsigned long long device, inode;
	ssize_t size;

	if (snprintf(path, sizeof(path), "/proc/self/fd/%d/%s", dirfd, name) >= (int)sizeof(path))
		return -ENAMETOOLONG;
	size = lgetxattr(path, SLK_ORIGIN_ATTRIBUTE, record, sizeof(record) - 1);
	if (size < 0)
		return errno == ENODATA || errno == EOPNOTSUPP ? 0 : -errno;
	record[size] = '\0';
	if (sscanf(record, "1 %*c %llu %llu ", &device, &inode) != 2)
		return 0;
	*ret_origin = (struct slk_number){device, inode};
	return 1;
}
