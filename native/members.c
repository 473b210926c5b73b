/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who belongs to a sandbox, asked of the kernel: forks are not trapped, and a process may never have asked anything.
 *
 * A number belongs to it if the way up from its process comes to init, one parent after the other. All of them are
 * found the other way: by the lists of children that the kernel keeps per thread, from init down. Orphans move while we look,
 * from a list that is still to be read to one that was: to another thread of their parent, or up to an ancestor. Whoever is
 * an ancestor of somebody who is there all the while had a child when it was read, so only the lists of such are read
 * again, until nobody new is found. (descendants.c counts, exactly, while it holds forks back. Here it is enough to find
 * whoever is there all the while.)
 */
#define _GNU_SOURCE
#include "slk.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define DEPTH_MAX 4096
#define LOOKS_MAX 4
#define LOOKS_UP_MAX 32
#define LINKS_BESIDE_THREADS 2 /* of /proc/<pid>/task (fs/proc/base.c, proc_task_getattr) */

/* ---- up ---- */

struct ancestry {
	int32_t leader;
	int is_below; /* it comes to init */
	int is_torn;  /* somebody on the way has ended: whoever was below is somebody else's child by now */
	uint64_t sum; /* of the numbers on the way */
};

/* 0, or -errno: it is gone, or we lacked something. */
static int ancestry_of(int32_t tid, int32_t init_pid, struct ancestry *ret_found)
{
	struct ancestry found = {0};
	int32_t at = tid;

	for (int depth = 0; depth < DEPTH_MAX; depth++) {
		char text[SLK_STATUS_BYTES_MAX];
		int result = slk_read_status(at, text, sizeof(text));

		if (result < 0 && (at == tid || slk_is_ours(result)))
			return result;
		if (result < 0) {
			found.is_torn = 1;
			break;
		}
		if (at == tid)
			found.leader = (int32_t)slk_status_number(text, "\nTgid:");
		at = (int32_t)slk_status_number(text, "\nPPid:");
		found.sum = found.sum * 31 + (uint32_t)at;
		found.is_below = at == init_pid;
		if (at <= 1 || at == init_pid)
			break;
	}
	*ret_found = found;
	return 0;
}

int slk_member_leader(int32_t tid, int32_t init_pid)
{
	struct ancestry before = {.is_torn = 1};

	if (tid <= 0)
		return 0;
	/* Whoever ends hands his children over, at any place on the way. So nobody is outside who was found there once only. */
	for (int looks = 0; looks < LOOKS_UP_MAX; looks++) {
		struct ancestry now;
		int result = ancestry_of(tid, init_pid, &now);

		if (result < 0)
			return slk_is_ours(result) ? result : 0;
		if (now.leader == init_pid)
			return 0;
		if (now.is_below)
			return now.leader;
		if (!before.is_torn && !now.is_torn && before.sum == now.sum)
			return 0;
		before = now;
	}
	return 0;
}

/* ---- down ---- */

struct found {
	int32_t *numbers; /* in the order in which they were found */
	uint8_t *may_adopt; /* of each: it had children, or several threads */
	uint32_t count, capacity, most;
	int32_t *places; /* open addressing; 0: free */
	uint32_t mask;
};

static int32_t *place_of(struct found *found, int32_t pid)
{
	uint32_t at = (uint32_t)pid * 2654435761u;

	while (found->places[at & found->mask] && found->places[at & found->mask] != pid)
		at++;
	return &found->places[at & found->mask];
}

static int grow(struct found *found)
{
	uint32_t capacity = found->capacity ? 2 * found->capacity : 64;
	int32_t *numbers = realloc(found->numbers, capacity * sizeof(*numbers));
	uint8_t *may_adopt = realloc(found->may_adopt, capacity);
	int32_t *places = calloc(4 * (size_t)capacity, sizeof(*places));

	found->numbers = numbers ? numbers : found->numbers;
	found->may_adopt = may_adopt ? may_adopt : found->may_adopt;
	if (!numbers || !may_adopt || !places) {
		free(places);
		return -ENOMEM;
	}
	free(found->places);
	found->places = places;
	found->mask = 4 * capacity - 1;
	found->capacity = capacity;
	for (uint32_t i = 0; i < found->count; i++)
		*place_of(found, numbers[i]) = numbers[i];
	return 0;
}

static int add(struct found *found, int32_t pid)
{
	int result = found->count == found->capacity ? grow(found) : 0;
	int32_t *place;

	if (result < 0)
		return result;
	place = place_of(found, pid);
	if (*place)
		return 0;
	if (found->most && found->count == found->most)
		return -E2BIG;
	*place = pid;
	found->may_adopt[found->count] = 0;
	found->numbers[found->count++] = pid;
	return 0;
}

/* ret_any: it has some. Where a thread has ended, it has none. */
static int add_children(struct found *found, int32_t pid, int32_t tid, uint8_t *ret_any)
{
	char path[64], text[4096];
	int32_t number = 0;
	int result = 0, fd;
	ssize_t got;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", pid, tid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return slk_is_ours(-errno) ? -errno : 0;
	while (result == 0 && (got = read(fd, text, sizeof(text))) > 0)
		for (ssize_t at = 0; at < got && result == 0; at++) {
			if (text[at] >= '0' && text[at] <= '9') {
				number = number * 10 + (text[at] - '0');
				continue;
			}
			if (number > 0) {
				result = add(found, number);
				*ret_any = 1;
			}
			number = 0;
		}
	close(fd);
	return result;
}

static int add_children_of_threads(struct found *found, int32_t pid, const char *directory)
{
	_Alignas(struct slk_dirent) char buffer[4096];
	int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int result = 0;
	uint8_t ignored;
	long got;

	if (fd < 0)
		return slk_is_ours(-errno) ? -errno : 0;
	while (result == 0 && (got = syscall(SYS_getdents64, fd, buffer, sizeof(buffer))) > 0)
		for (long at = 0; at < got && result == 0;) {
			const struct slk_dirent *entry = (const void *)(buffer + at);

			at += entry->length;
			if (entry->name[0] != '.')
				result = add_children(found, pid, (int32_t)atol(entry->name), &ignored);
		}
	close(fd);
	return result;
}

static int add_below(struct found *found, int32_t pid, uint8_t *ret_may_adopt)
{
	char path[32];
	struct stat status;

	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	if (stat(path, &status) < 0)
		return slk_is_ours(-errno) ? -errno : 0;
	if (status.st_nlink == LINKS_BESIDE_THREADS + 1)
		return add_children(found, pid, pid, ret_may_adopt);
	*ret_may_adopt = 1;
	return add_children_of_threads(found, pid, path);
}

/* From the first-th on, whoever it is. Who is found on the way is looked through as well: the list grows. */
static int look(struct found *found, int32_t init_pid, uint32_t first)
{
	uint8_t may_adopt = 0;
	int result = add_below(found, init_pid, &may_adopt);

	for (uint32_t i = 0; result == 0 && i < found->count; i++) {
		if (i < first && !found->may_adopt[i])
			continue;
		may_adopt = 0;
		result = add_below(found, found->numbers[i], &may_adopt);
		found->may_adopt[i] |= may_adopt;
	}
	return result;
}

static int by_number(const void *one, const void *other)
{
	int32_t left = *(const int32_t *)one, right = *(const int32_t *)other;

	return (left > right) - (left < right);
}

int slk_members(int32_t init_pid, uint32_t most, int32_t *ret_pids, uint32_t capacity)
{
	struct found found = {.most = most};
	uint32_t before = 0;
	int result = access("/proc/thread-self/children", F_OK) < 0 ? -EOPNOTSUPP : grow(&found);

	for (int looks = 0; result == 0 && looks < LOOKS_MAX; looks++) {
		before = found.count;
		result = look(&found, init_pid, before);
		if (looks > 0 && found.count == before)
			break;
	}
	if (result == 0) {
		qsort(found.numbers, found.count, sizeof(*found.numbers), by_number);
		memcpy(ret_pids, found.numbers, (found.count < capacity ? found.count : capacity) * sizeof(*ret_pids));
		result = (int)found.count;
	}
	free(found.numbers);
	free(found.may_adopt);
	free(found.places);
	return result;
}
