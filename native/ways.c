/* SPDX-License-Identifier: Apache-2.0 */
/*
 * By which way a path leads to what it leads to, where processes outside of the sandbox do not exist for the program.
 *
 * `/proc/1234/../version` is a file that everybody may see, but for a number that is free it is none: so it does not do to
 * know where a path ends. Here it is asked whether its way comes by what depends on who asks (/proc, and the links that lead
 * there by name) at all; those ways Python walks, name by name (handlers/private/walk.py).
 *
 * What is not there is no way: the kernel finds the same.
 */
#define _GNU_SOURCE
#include "slk.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LINKS_MAX 40 /* path_resolution(7) */

struct way {
	struct slk_walk at;          /* where it has come to */
	char todo[2 * SLK_PATH_MAX]; /* what is left of it */
};

/* Is a link on it, as it is written? Most paths have none. 1 also where only a server could tell. */
static int has_links(const char *text, int may_wait)
{
	struct open_how how = {.flags = O_PATH | O_CLOEXEC,
			       .resolve = RESOLVE_NO_SYMLINKS | (may_wait ? RESOLVE_CACHED : 0)};
	long fd = syscall(SYS_openat2, AT_FDCWD, text, &how, sizeof(how));

	if (fd >= 0)
		close((int)fd);
	return fd < 0 && errno != ENOENT && errno != ENOTDIR && errno != EACCES;
}

/* Its length; 0: no link; -EAGAIN: only a server could tell. */
static ssize_t read_link(struct slk_engine *engine, const char *text, int may_wait, char *ret_target, size_t size)
{
	struct stat status;
	ssize_t length = -EAGAIN;
	int fd;

	if (!may_wait) {
		length = readlink(text, ret_target, size);
		return length >= 0 ? length : errno == EINVAL ? 0 : -errno;
	}
	fd = slk_open_path(engine, text, O_NOFOLLOW, 0);
	if (fd < 0)
		return fd;
	if (slk_is_on_local_mount(engine, fd) && fstat(fd, &status) == 0)
		length = S_ISLNK(status.st_mode) ? readlinkat(fd, "", ret_target, size) : 0;
	close(fd);
	return length;
}

/* Put what a link says before what is left. -ENAMETOOLONG: the kernel will find that, too. */
static int follow(struct way *way, const char *rest, const char *target, size_t length)
{
	char left[sizeof(way->todo)];
	size_t rest_length = strlen(rest);

	if (length + 1 + rest_length >= sizeof(left))
		return -ENAMETOOLONG;
	memcpy(left, target, length);
	left[length] = '/';
	memcpy(left + length + 1, rest, rest_length + 1);
	memcpy(way->todo, left, length + 1 + rest_length + 1);
	way->at.count = target[0] == '/' ? 0 : way->at.count - 1;
	return 0;
}

#define DELETED " (deleted)"

/* A directory that was removed is nowhere, but what is above it is still there. */
static int may_be_removed(const char *base, uint32_t length)
{
	size_t end = strlen(DELETED);

	return length >= end && memcmp(base + length - end, DELETED, end) == 0;
}

static int is_askers(const struct slk_engine *engine, struct slk_walk *at)
{
	const struct slk_zone *zone;

	at->length = at->count ? at->ends[at->count - 1] : 0;
	at->text[at->length] = '\0';
	zone = slk_zones_find(engine->zones, at);
	return zone && zone->flags & SLK_ZONE_ASKER;
}

/* One name on. 1: it is the asker's; 0: go on; -errno: there is no way, as the kernel will find. */
static int step(struct slk_engine *engine, struct way *way, char *name, char *rest, int look, int may_wait, int *links)
{
	char target[SLK_PATH_MAX];
	ssize_t length;

	if (strcmp(name, "..") == 0) {
		way->at.count -= way->at.count > 0;
	} else if (slk_walk_push(&way->at, name, (uint32_t)strlen(name)) < 0) {
		return 1;
	} else if (is_askers(engine, &way->at)) {
		return 1;
	} else if (look) {
		length = read_link(engine, way->at.text, may_wait, target, sizeof(target));
		if (length == (ssize_t)sizeof(target))
			return 1;
		if (length < 0)
			return length == -ENOENT || length == -ENOTDIR || length == -EACCES ? (int)length : 1;
		if (length > 0)
			return ++*links > LINKS_MAX ? -ELOOP : follow(way, rest, target, (size_t)length);
	}
	memmove(way->todo, rest, strlen(rest) + 1);
	return 0;
}

int slk_way_is_askers(struct slk_engine *engine, const char *base, uint32_t base_length, const char *path,
		      uint32_t length)
{
	struct way way; /* not cleared: it is large */
	int links = 0, look, may_wait;

	if (length && path[0] == '/')
		base_length = 0;
	way.at.count = 0;
	if (base_length + 1 + length >= sizeof(way.todo) || may_be_removed(base, base_length))
		return 1;
	may_wait = slk_lookups_may_wait(engine);
	memcpy(way.todo, base, base_length);
	way.todo[base_length] = '/';
	memcpy(way.todo + base_length + 1, path, length);
	way.todo[base_length + 1 + length] = '\0';
	look = has_links(way.todo, may_wait);
	for (;;) {
		char *name = way.todo + strspn(way.todo, "/");
		char *rest = name + strcspn(name, "/");
		int result;

		if (!*name)
			return 0;
		if (*rest)
			*rest++ = '\0';
		if (strcmp(name, ".") == 0) {
			memmove(way.todo, rest, strlen(rest) + 1);
			continue;
		}
		result = step(engine, &way, name, rest, look, may_wait, &links);
		if (result)
			return result > 0;
	}
}

/* Of getdents: is it a directory that is read of which Python tells what is there? */
int slk_lists_told(struct slk_engine *engine, const struct slk_request *request)
{
	char text[SLK_PATH_MAX];
	struct slk_walk walk;
	const struct slk_zone *zone;
	ssize_t length = slk_read_link(engine, request->tid, (int32_t)request->args[0], text, sizeof(text));

	if (length <= 0)
		return length == -ENAMETOOLONG; /* EBADF is the kernel's to find */
	if (length >= (ssize_t)sizeof(text) || slk_walk_set(&walk, "", 0, text, (uint32_t)length) < 0)
		return 1;
	zone = slk_zones_find(engine->zones, &walk);
	return text[0] == '/' && zone && zone->flags & (SLK_ZONE_ASKER | SLK_ZONE_TOLD);
}
