/* SPDX-License-Identifier: Apache-2.0 */
/* Closing every inherited descriptor, between fork and exec: raw calls only, no allocation. */
#define _GNU_SOURCE
#include "slk.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

static int by_close_range(int first)
{
	return syscall(SYS_close_range, (unsigned)first, ~0U, 0) < 0 ? -errno : 0;
}

static int number_of(const char *name)
{
	int number = 0;

	for (; *name; name++) {
		if (*name < '0' || *name > '9' || number > INT_MAX / 10 - 10)
			return -1;
		number = number * 10 + (*name - '0');
	}
	return number;
}

static int read_some(int fd, char *buffer, unsigned size)
{
	long got;

	do
		got = syscall(SYS_getdents64, fd, buffer, size);
	while (got < 0 && errno == EINTR); /* EINTR is "again", never "done" */
	return got < 0 ? -errno : (int)got;
}

/* Closing while listing may make procfs skip entries: list again until a pass closes nothing. */
static int close_one_pass(int dir, int first)
{
	_Alignas(struct slk_dirent) char buffer[4096];
	int closed = 0;
	int got;

	while ((got = read_some(dir, buffer, sizeof(buffer))) > 0) {
		for (int at = 0; at < got;) {
			const struct slk_dirent *entry = (const void *)(buffer + at);
			int fd = number_of(entry->name);

			at += entry->length;
			if (fd >= first && fd != dir) {
				close(fd);
				closed++;
			}
		}
	}
	return got < 0 ? got : closed;
}

static int by_listing(int first)
{
	int dir = open("/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int closed;

	if (dir < 0)
		return -errno;
	do {
		closed = close_one_pass(dir, first);
		if (closed > 0 && lseek(dir, 0, SEEK_SET) < 0)
			closed = -errno;
	} while (closed > 0);
	close(dir);
	return closed;
}

/* Up to the hard limit: the soft one may have been lowered below descriptors that are open. */
static int by_force(int first)
{
	struct rlimit limit;
	rlim_t end;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return -errno;
	end = limit.rlim_max == RLIM_INFINITY ? 1 << 20 : limit.rlim_max;
	for (rlim_t fd = (rlim_t)first; fd < end; fd++)
		close((int)fd);
	return 0;
}

int slk_close_from(int first, int method)
{
	int result;

	if (method == 1)
		return by_close_range(first);
	if (method == 2)
		return by_listing(first);
	if (method == 3)
		return by_force(first);
	result = by_close_range(first);
	if (result < 0)
		result = by_listing(first);
	if (result < 0)
		result = by_force(first);
	return result;
}
