/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where a relative path of a thread starts, as the kernel spells it.
 *
 * Who asks again is likely to go on asking: its /proc/<tid>/cwd stays open then (O_PATH, of the link itself), which saves
 * the way there, a third of what the question costs. Such a descriptor is one of that very thread and never of a later one
 * with its number: when the thread is gone, it says ESRCH.
 */
#define _GNU_SOURCE
#include "slk.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

void slk_bases_forget(struct slk_engine *engine, int32_t tid)
{
	struct slk_base *known = &engine->bases[(uint32_t)tid % SLK_BASES_MAX];

	if (known->tid != tid)
		return;
	if (known->fd >= 0)
		close(known->fd);
	*known = (struct slk_base){0, -1};
}

void slk_bases_create(struct slk_engine *engine)
{
	for (int i = 0; i < SLK_BASES_MAX; i++)
		engine->bases[i] = (struct slk_base){0, -1};
}

void slk_bases_destroy(struct slk_engine *engine)
{
	for (int i = 0; i < SLK_BASES_MAX; i++)
		slk_bases_forget(engine, engine->bases[i].tid);
}

static ssize_t read_cwd(struct slk_engine *engine, int32_t tid, char *ret_path)
{
	struct slk_base *known = &engine->bases[(uint32_t)tid % SLK_BASES_MAX];
	char link[64];
	ssize_t length;

	if (known->tid == tid && known->fd >= 0) {
		length = readlinkat(known->fd, "", ret_path, SLK_PATH_MAX);
		if (length >= 0)
			return length;
		slk_bases_forget(engine, tid);
	}
	snprintf(link, sizeof(link), "/proc/%d/cwd", tid);
	if (known->tid == tid) {
		known->fd = open(link, O_PATH | O_NOFOLLOW | O_CLOEXEC); /* none: as before */
	} else {
		slk_bases_forget(engine, known->tid);
		*known = (struct slk_base){tid, -1};
	}
	return readlink(link, ret_path, SLK_PATH_MAX);
}

int slk_read_base(struct slk_engine *engine, int32_t tid, int dirfd, char *ret_path, uint32_t *ret_length)
{
	char link[64];
	ssize_t length;

	if (dirfd == AT_FDCWD) {
		length = read_cwd(engine, tid, ret_path);
	} else {
		snprintf(link, sizeof(link), "/proc/%d/fd/%d", tid, dirfd);
		length = readlink(link, ret_path, SLK_PATH_MAX);
	}
	if (length <= 0 || length >= SLK_PATH_MAX || ret_path[0] != '/')
		return -EINVAL;
	*ret_length = (uint32_t)length;
	return 0;
}
