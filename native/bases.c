/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where a relative path of a thread starts, and what a descriptor of it has open, as the kernel spells it.
 *
 * Who asks again is likely to go on asking: the link in /proc (/proc/<tid>/cwd, /proc/<tid>/fd/<number>) stays open then
 * (O_PATH, of the link itself), which saves the way there, a third to a half of what the question costs. It is no memory of
 * what was found: the link is read anew each time, and the kernel looks then what that thread has there now (fs/proc/fd.c,
 * proc_fd_link). It is one of that very thread and never of a later one with its number: when the thread is gone, it says
 * ESRCH.
 */
#define _GNU_SOURCE
#include "slk.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

static struct slk_base *place_of(struct slk_engine *engine, int32_t tid, int32_t number)
{
	uint32_t key = (uint32_t)tid * 31u + (number == AT_FDCWD ? 0u : (uint32_t)number + 1u);

	return &engine->bases[key % SLK_BASES_MAX];
}

static void forget(struct slk_base *known)
{
	if (known->tid && known->fd >= 0)
		close(known->fd);
	*known = (struct slk_base){0, 0, -1};
}

void slk_bases_forget(struct slk_engine *engine, int32_t tid)
{
	for (int i = 0; i < SLK_BASES_MAX; i++)
		if (engine->bases[i].tid == tid)
			forget(&engine->bases[i]);
}

void slk_bases_create(struct slk_engine *engine)
{
	for (int i = 0; i < SLK_BASES_MAX; i++)
		engine->bases[i] = (struct slk_base){0, 0, -1};
}

void slk_bases_destroy(struct slk_engine *engine)
{
	for (int i = 0; i < SLK_BASES_MAX; i++)
		forget(&engine->bases[i]);
}

static ssize_t read_anew(struct slk_base *known, int32_t tid, int32_t number, char *ret_text, size_t size)
{
	char link[64];
	ssize_t length;

	if (number == AT_FDCWD)
		snprintf(link, sizeof(link), "/proc/%d/cwd", tid);
	else
		snprintf(link, sizeof(link), "/proc/%d/fd/%d", tid, number);
	if (known->tid == tid && known->number == number) {
		known->fd = open(link, O_PATH | O_NOFOLLOW | O_CLOEXEC); /* none: as before */
	} else {
		forget(known);
		*known = (struct slk_base){tid, number, -1};
	}
	length = known->fd >= 0 ? readlinkat(known->fd, "", ret_text, size) : readlink(link, ret_text, size);
	return length < 0 ? -errno : length;
}

ssize_t slk_read_link(struct slk_engine *engine, int32_t tid, int32_t number, char *ret_text, size_t size)
{
	struct slk_base *known = place_of(engine, tid, number);

	if (known->tid == tid && known->number == number && known->fd >= 0) {
		ssize_t length = readlinkat(known->fd, "", ret_text, size);

		if (length >= 0)
			return length;
		forget(known);
	}
	return read_anew(known, tid, number, ret_text, size);
}

int slk_read_base(struct slk_engine *engine, int32_t tid, int dirfd, char *ret_path, uint32_t *ret_length)
{
	ssize_t length = slk_read_link(engine, tid, dirfd, ret_path, SLK_PATH_MAX);

	if (length <= 0 || length >= SLK_PATH_MAX || ret_path[0] != '/')
		return -EINVAL;
	*ret_length = (uint32_t)length;
	return 0;
}
