/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The calls that C lets the kernel judge by itself.
 *
 * The fast path only ever says "continue", and only where Landlock is the one that decides: it cannot grant anything.
 * What it must get right is which calls Python wants to see: those below /proc (answered with opened objects), on the
 * spine of a hole, and those that Landlock is going to refuse (they belong in the audit log). So it may keep what it
 * judged for a moment, by a hash of the path: a stale or colliding entry can only let the kernel decide.
 */
#define _GNU_SOURCE
#include "slk.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <linux/openat2.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#ifndef LANDLOCK_ACCESS_FS_TRUNCATE
#define LANDLOCK_ACCESS_FS_TRUNCATE (1ULL << 14)
#endif

#define MAKES                                                                                                          \
	(LANDLOCK_ACCESS_FS_MAKE_CHAR | LANDLOCK_ACCESS_FS_MAKE_DIR | LANDLOCK_ACCESS_FS_MAKE_REG |                    \
	 LANDLOCK_ACCESS_FS_MAKE_SOCK | LANDLOCK_ACCESS_FS_MAKE_FIFO | LANDLOCK_ACCESS_FS_MAKE_BLOCK |                 \
	 LANDLOCK_ACCESS_FS_MAKE_SYM | LANDLOCK_ACCESS_FS_REFER)

#define ABSENT 2 /* beside 1, settled: there is nothing, and the program cannot make it */

/* Does the mount table hold a file system whose lookups wait for a server? Asked before the lookup, after the call was
 * received: what the program saw mounted before it asked is known. */
int slk_lookups_may_wait(struct slk_engine *engine)
{
	struct pollfd mounts = {engine->mounts_fd, POLLPRI, 0};

	/* Whatever it was that changed; Python reads the table, and may take this back. */
	if (engine->mounts_fd >= 0 && poll(&mounts, 1, 0) != 0) {
		engine->slow_lookups = 1;
		engine->local_count = 0;
	}
	return engine->slow_lookups;
}

static int open_how(int dirfd, const char *path, uint64_t flags, uint64_t resolve)
{
	struct open_how how = {.flags = O_PATH | O_CLOEXEC | flags, .resolve = resolve};
	long fd = syscall(SYS_openat2, dirfd, path, &how, sizeof(how));

	return fd < 0 ? -errno : (int)fd;
}

int slk_is_on_local_mount(const struct slk_engine *engine, int fd)
{
	int mount = engine->local_count ? slk_mount_id(fd) : -1;

	for (uint32_t i = 0; i < engine->local_count; i++)
		if (engine->local_mounts[i] == mount)
			return 1;
	return 0;
}

/* The caches know the directory, and it is on a local mount that the last name does not lead out of. Else -EAGAIN. */
static int open_in_local_directory(const struct slk_engine *engine, const char *path, uint64_t flags, uint64_t resolve)
{
	const char *slash = strrchr(path, '/');
	char directory[2 * SLK_PATH_MAX];
	int base, fd = -EAGAIN;

	if (!slash || !slash[1])
		return -EAGAIN;
	memcpy(directory, path, (size_t)(slash - path) + 1);
	directory[slash - path + 1] = '\0';
	base = open_how(AT_FDCWD, directory, O_DIRECTORY, RESOLVE_CACHED);
	if (base < 0)
		return -EAGAIN;
	if (slk_is_on_local_mount(engine, base))
		fd = open_how(base, slash + 1, flags, resolve | RESOLVE_NO_XDEV);
	close(base);
	return fd == -EXDEV ? -EAGAIN : fd;
}

int slk_open_path(struct slk_engine *engine, const char *path, uint64_t flags, uint64_t resolve)
{
	int fd;

	if (!*path)
		path = "/";
	fd = open_how(AT_FDCWD, path, flags, resolve | RESOLVE_CACHED);
	if (fd != -EAGAIN)
		return fd;
	if (slk_lookups_may_wait(engine))
		return open_in_local_directory(engine, path, flags, resolve);
	return open_how(AT_FDCWD, path, flags, resolve);
}

void slk_engine_set_mounts(struct slk_engine *engine, int slow_lookups, const int32_t *local_mounts, uint32_t count)
{
	engine->slow_lookups = slow_lookups;
	engine->local_count = count < SLK_LOCAL_MOUNTS_MAX ? count : SLK_LOCAL_MOUNTS_MAX;
	memcpy(engine->local_mounts, local_mounts, engine->local_count * sizeof(*local_mounts));
}

/* The grant was given to an object; a new one that took over its name has none. 0 or reason + 1. */
static int judge_identity(struct slk_engine *engine, const struct slk_zone *zone)
{
	struct statx now;
	int fd, result;

	if (!(zone->flags & SLK_ZONE_IDENTITY))
		return 0;
	fd = slk_open_path(engine, zone->path, 0, 0);
	if (fd < 0)
		return (fd == -EAGAIN ? SLK_REASON_LOOKUP : SLK_REASON_ZONE) + 1;
	/* Its identity cannot have changed while we hold it: no server need be asked (statx(2), AT_STATX_DONT_SYNC). */
	result = statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_INO, &now);
	close(fd);
	if (result < 0 || makedev(now.stx_dev_major, now.stx_dev_minor) != zone->device || now.stx_ino != zone->inode)
		return SLK_REASON_ZONE + 1;
	return 0;
}

/* 0 or reason + 1. */
static int judge_text(struct slk_engine *engine, const struct slk_walk *walk, uint32_t need,
		      const struct slk_zone **ret_zone)
{
	const struct slk_zone *zone = slk_zones_find(engine->zones, walk);

	*ret_zone = zone && zone->flags & SLK_ZONE_IDENTITY ? zone : NULL;

	if (need == SLK_NEED_TO_SEE)
		return zone && zone->flags & (SLK_ZONE_TREE | SLK_ZONE_ASKER) ? SLK_REASON_ZONE + 1 : 0;
	if (!zone)
		return SLK_REASON_NOT_GRANTED + 1;
	if (zone->flags & SLK_ZONE_SLOW)
		return SLK_REASON_ZONE + 1;
	if (zone->length == walk->length) /* it exists, so O_CREAT makes nothing: `> /dev/null` */
		need &= ~(uint32_t)LANDLOCK_ACCESS_FS_MAKE_REG;
	if ((zone->rights & need) != need)
		return SLK_REASON_NOT_GRANTED + 1;
	return judge_identity(engine, zone);
}

#define MEMORY_DEVICES 1 /* MEM_MAJOR: /dev/null and its like */

/* Opening it may wait for somebody: a FIFO, a device. Asked only where somebody is traced: see tracer.c. */
static int may_wait(const struct slk_engine *engine, int fd)
{
	struct stat opened;

	if (!engine->shared->tracing || fstat(fd, &opened) < 0 || S_ISREG(opened.st_mode) || S_ISDIR(opened.st_mode))
		return 0;
	return !S_ISCHR(opened.st_mode) || major(opened.st_rdev) != MEMORY_DEVICES;
}

/* The path as the kernel sees it now, through every symbolic link. */
static int canonical(struct slk_engine *engine, const struct slk_walk *walk, int follow,
		     struct slk_walk *ret_walk, int *ret_may_wait)
{
	char link[64], text[SLK_PATH_MAX];
	ssize_t length;
	int fd = slk_open_path(engine, walk->text, follow ? 0 : O_NOFOLLOW, 0);

	if (fd < 0)
		return fd;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	length = readlink(link, text, sizeof(text));
	*ret_may_wait = may_wait(engine, fd);
	close(fd);
	if (length <= 0 || length == (ssize_t)sizeof(text) || text[0] != '/')
		return -EINVAL; /* a pipe, a socket: Python's */
	return slk_walk_set(ret_walk, "", 0, text, (uint32_t)length);
}

/* The path is not there as the kernel sees it. Where is the deepest directory on the way that is, and what misses there?
 * 0: outside of all trees, and nothing. */
static int may_lead_into_tree(struct slk_engine *engine, const struct slk_walk *walk)
{
	struct slk_walk above = *walk;
	struct slk_walk real;
	const struct slk_zone *zone;
	int ignored, fd, result = -ENOENT;
	char name[SLK_PATH_MAX];

	while (above.count > 1 && result < 0) {
		above.count--;
		above.length = above.ends[above.count - 1];
		above.text[above.length] = '\0';
		result = canonical(engine, &above, 1, &real, &ignored);
		if (result < 0 && result != -ENOENT)
			return 1;
	}
	if (result < 0)
		return 1;
	zone = slk_zones_find(engine->zones, &real);
	if (zone && zone->flags & (SLK_ZONE_TREE | SLK_ZONE_ASKER))
		return 1;
	/* A link to what is not there is what the kernel cannot see through. */
	if (real.length + 1 + walk->ends[above.count] - above.length >= sizeof(name))
		return 1;
	memcpy(name, real.text, real.length);
	memcpy(name + real.length, walk->text + above.length, walk->ends[above.count] - above.length);
	name[real.length + walk->ends[above.count] - above.length] = '\0';
	fd = slk_open_path(engine, name, O_NOFOLLOW, RESOLVE_NO_SYMLINKS);
	if (fd >= 0)
		close(fd);
	return fd != -ENOENT;
}

/* Symbolic links lead elsewhere: judge the place. */
static int judge_canonical(struct slk_engine *engine, const struct slk_walk *walk, uint32_t need, int follow,
			   int *ret_settled, int *ret_may_wait, const struct slk_zone **ret_zone)
{
	struct slk_walk real;
	int result;

	if (engine->own_pids && slk_way_is_askers(engine, "", 0, walk->text, walk->length))
		return SLK_REASON_ZONE + 1;
	result = canonical(engine, walk, follow, &real, ret_may_wait);
	if (result == -EAGAIN)
		return SLK_REASON_LOOKUP + 1;
	if (result == -EINVAL)
		return SLK_REASON_ZONE + 1;
	/* Where a link leads into a tree, what the kernel does not find may be there all the same. */
	if (result < 0 && engine->has_trees && may_lead_into_tree(engine, walk))
		return SLK_REASON_ZONE + 1;
	if (result < 0)
		return 0; /* the kernel will find the same error */
	*ret_settled = 1;
	return judge_text(engine, &real, need, ret_zone);
}

/* The program cannot make a name there, a link into a tree least of all: so that nothing is there stays so, as far as
 * anything does that others may change. Where the supervisor makes names for it (on the spine of a hole), it can, although
 * the kernel grants it nothing.
 *
 * Somebody outside may make one, and is not seen for as long as this is remembered. That is harmless: the call goes on, and
 * the kernel finds what is there. Only if it is a link into a tree, that leads to the real file for so long, which the program
 * may see and read anyway; Landlock lets nothing be written there. */
static int is_unchanging(const struct slk_engine *engine, const struct slk_walk *walk)
{
	const struct slk_zone *zone = slk_zones_find(engine->zones, walk);

	return !zone || !(zone->flags & SLK_ZONE_SLOW || zone->rights & MAKES);
}

/* The letters say granted: look whether a symbolic link leads the path elsewhere. */
static int judge_object(struct slk_engine *engine, const struct slk_walk *walk, uint32_t need, int follow,
			int *ret_settled, int *ret_may_wait, const struct slk_zone **ret_zone)
{
	int fd = slk_open_path(engine, walk->text, follow ? 0 : O_NOFOLLOW, RESOLVE_NO_SYMLINKS);

	if (fd == -EAGAIN)
		return SLK_REASON_LOOKUP + 1;
	if (fd == -ELOOP)
		return judge_canonical(engine, walk, need, follow, ret_settled, ret_may_wait, ret_zone);
	if (fd < 0) { /* the kernel will find the same error */
		*ret_settled = fd == -ENOENT && is_unchanging(engine, walk) ? ABSENT : 0;
		return 0;
	}
	*ret_may_wait = may_wait(engine, fd);
	close(fd);
	*ret_settled = 1;
	return 0;
}

int slk_fast_judge(struct slk_engine *engine, const struct slk_walk *walk, uint32_t need, int follow,
		   int *ret_may_wait)
{
	const struct slk_judged *judged = slk_judged_find(engine, walk, walk->count, need, follow);
	const struct slk_zone *zone = NULL;
	uint64_t until_ns = slk_judged_until(); /* by what was so before it was looked at */
	int settled = 0;
	int result;

	*ret_may_wait = 0;
	if (judged && (!judged->object || judge_identity(engine, judged->object) == 0)) {
		*ret_may_wait = judged->may_wait;
		return 0;
	}
	result = judge_text(engine, walk, need, &zone);
	if (result == 0) {
		result = judge_object(engine, walk, need, follow, &settled, ret_may_wait, &zone);
	} else if (result == SLK_REASON_NOT_GRANTED + 1) { /* /bin/sh, where /bin is a link to usr/bin */
		result = judge_canonical(engine, walk, need, follow, &settled, ret_may_wait, &zone);
		/* Not there: the kernel finds so before Landlock is asked, unless it is to be made. */
		if (result == 0 && !settled && need & MAKES)
			result = SLK_REASON_NOT_GRANTED + 1;
	}
	if (result == 0 && settled)
		slk_judged_keep(engine, walk, walk->count, need, follow,
				&(struct slk_judged){0, until_ns, zone, *ret_may_wait});
	return result;
}

/* What Landlock asks for, from the flags of open(2). O_PATH asks for nothing (landlock(7)). */
static uint32_t open_rights(uint64_t flags)
{
	uint32_t rights = 0;
	uint64_t mode = flags & O_ACCMODE;

	if (flags & O_PATH)
		return 0;
	/* The fourth mode gives neither (open(2), "flags 3"), but opens the device or FIFO all the same. */
	if (mode != O_WRONLY)
		rights |= LANDLOCK_ACCESS_FS_READ_FILE;
	if (mode != O_RDONLY)
		rights |= LANDLOCK_ACCESS_FS_WRITE_FILE;
	if (flags & O_CREAT)
		rights |= LANDLOCK_ACCESS_FS_MAKE_REG;
	if ((flags & (O_DIRECTORY | O_TMPFILE)) == O_DIRECTORY)
		rights = LANDLOCK_ACCESS_FS_READ_DIR;
	return rights;
}

/* 0, or reason + 1. ret_from_upper: what it starts from is in an upper directory, and the program does not know. */
static int walk_of(struct slk_engine *engine, struct slk_request *request, int dirfd_argument, const char *path,
		   uint32_t length, struct slk_walk *ret_walk, int *ret_from_upper)
{
	char base[SLK_PATH_MAX];
	uint32_t base_length = 0;

	*ret_from_upper = 0;
	if (length == 0)
		return SLK_REASON_ZONE + 1; /* ENOENT or AT_EMPTY_PATH: rare */
	if (path[0] != '/') {
		int dirfd = dirfd_argument < 0 ? AT_FDCWD : (int)(int32_t)request->args[dirfd_argument];

		if (slk_read_base(engine, request->tid, dirfd, base, &base_length) < 0)
			return SLK_REASON_ZONE + 1;
		if (engine->tree_count)
			*ret_from_upper = slk_tree_rename_base(engine, base, &base_length);
		if (*ret_from_upper < 0 ||
		    (!*ret_from_upper && (slk_tree_may_have_moved(engine, base, base_length) ||
					  slk_tree_has_anew(engine, base, base_length))))
			return SLK_REASON_ZONE + 1;
	}
	/* What is plain is judged by its letters, or where those have links, by its way (judge_canonical). */
	if (engine->own_pids && !slk_is_plain(path, length) &&
	    slk_way_is_askers(engine, base, base_length, path, length))
		return SLK_REASON_ZONE + 1;
	return slk_walk_set(ret_walk, base, base_length, path, length) < 0 ? SLK_REASON_ZONE + 1 : 0;
}

/* A slash behind a name asks for a directory, and so do the flags: the same without it (opendir(3) of `name/`). */
static uint32_t without_slashes(const struct slk_request *request, uint64_t flags)
{
	uint32_t length = request->path_length;

	if ((flags & (O_DIRECTORY | O_NOFOLLOW | O_CREAT)) != O_DIRECTORY)
		return length;
	while (length > 1 && request->path[length - 1] == '/')
		length--;
	return length;
}

/* By `.` and `..` from a descriptor: is it one of a directory? That is Python's to find. */
static int may_start_at_file(const struct slk_request *request, int dirfd_argument, const char *path)
{
	return path[0] == '.' && dirfd_argument >= 0 && (int)(int32_t)request->args[dirfd_argument] != AT_FDCWD &&
	       (path[1] == '\0' || path[1] == '/' || path[1] == '.');
}

static int removes(const struct slk_engine *engine, const struct slk_request *request)
{
	int act = engine->calls[request->nr].act;

	return act == SLK_ACT_UNLINK || act == SLK_ACT_RMDIR;
}

static int judge_path(struct slk_engine *engine, struct slk_request *request, int dirfd_argument,
		      const char *path, uint32_t length, uint32_t need, int follow)
{
	struct slk_walk walk;
	struct slk_tree *tree;
	int from_upper;
	int result = walk_of(engine, request, dirfd_argument, path, length, &walk, &from_upper);

	if (result)
		return result;
	if (engine->tree_count && slk_is_plain(path, length) && (tree = slk_tree_of(engine, &walk)))
		result = may_start_at_file(request, dirfd_argument, path) ? SLK_REASON_ZONE + 1 :
				slk_tree_call(engine, request, tree, &walk, from_upper);
	else if (from_upper)
		return SLK_REASON_ZONE + 1; /* the kernel would start elsewhere */
	else if (engine->tree_count && removes(engine, request) && slk_tree_is_passage(engine, &walk))
		return SLK_REASON_ZONE + 1; /* the kernel would see no mount point */
	else
		result = slk_fast_judge(engine, &walk, need, follow, &request->may_wait);
	if (result == 0 && need & LANDLOCK_ACCESS_FS_EXECUTE && engine->own_pids &&
	    (!slk_is_plain(path, length) || slk_execution_names_askers(engine, &walk)))
		return SLK_REASON_ZONE + 1;
	return result;
}

static int judge_rename(struct slk_engine *engine, struct slk_request *request)
{
	const struct slk_call *row = &engine->calls[request->nr];
	struct slk_walk from, to;
	struct slk_tree *tree;
	char path[SLK_PATH_MAX];
	int ignored, result, length;

	length = slk_read_string(request->tid, request->args[row->path2], SLK_PATH_MAX, path);
	if (length < 0 || !slk_is_plain(path, (uint32_t)length) || !slk_is_plain(request->path, request->path_length))
		return SLK_REASON_ZONE + 1;
	result = walk_of(engine, request, row->dirfd, request->path, request->path_length, &from, &ignored);
	if (result == 0)
		result = walk_of(engine, request, row->dirfd2, path, (uint32_t)length, &to, &ignored);
	if (result)
		return result;
	tree = slk_tree_of(engine, &from);
	if (!tree || slk_tree_of(engine, &to) != tree || tree->has_moved)
		return SLK_REASON_ZONE + 1;
	return slk_tree_rename(engine, request, tree, &from, &to);
}

static int open_flags(const struct slk_engine *engine, const struct slk_request *request, uint64_t *ret_flags)
{
	const struct slk_call *row = &engine->calls[request->nr];

	if (request->nr == engine->creat_nr)
		*ret_flags = O_CREAT | O_WRONLY | O_TRUNC;
	else if (request->nr == engine->openat2_nr)
		return slk_read_memory(request->tid, request->args[row->flags], sizeof(*ret_flags), ret_flags);
	else
		*ret_flags = (uint32_t)request->args[row->flags];
	return 0;
}

static int read_path(struct slk_request *request, int argument)
{
	int length = slk_read_string(request->tid, request->args[argument], SLK_PATH_MAX, request->path);

	if (length < 0) {
		request->path_error = (int16_t)-length;
		return SLK_REASON_UNREADABLE + 1;
	}
	request->path_length = (uint32_t)length;
	return 0;
}

static int makes_setuid(const struct slk_engine *engine, const struct slk_request *request, uint64_t flags)
{
	const struct slk_call *row = &engine->calls[request->nr];
	int mode = request->nr == engine->creat_nr ? row->path + 1 : row->flags + 1;

	return (flags & (O_CREAT | (O_TMPFILE & ~O_DIRECTORY))) && (request->args[mode] & (S_ISUID | S_ISGID));
}

static int judge_open(struct slk_engine *engine, struct slk_request *request)
{
	const struct slk_call *row = &engine->calls[request->nr];
	uint64_t flags = 0;
	int result = open_flags(engine, request, &flags);

	if (result < 0) {
		request->path_error = (int16_t)-result;
		return SLK_REASON_UNREADABLE + 1;
	}
	result = read_path(request, row->path);
	if (result || (flags & O_PATH && !engine->tree_count && !engine->own_pids))
		return result;
	if (flags & O_PATH)
		return judge_path(engine, request, row->dirfd, request->path, request->path_length, SLK_NEED_TO_SEE, 1);
	if ((flags & O_ACCMODE) == O_ACCMODE || makes_setuid(engine, request, flags))
		return SLK_REASON_SLOW + 1; /* Landlock has no rule for either */
	result = judge_path(engine, request, row->dirfd, request->path, without_slashes(request, flags),
			    open_rights(flags), !(flags & O_NOFOLLOW));
	if (flags & O_NONBLOCK)
		request->may_wait = 0;
	return result;
}

static int judge_second_outside(struct slk_engine *engine, struct slk_request *request, const char *path,
				uint32_t length)
{
	const struct slk_call *row = &engine->calls[request->nr];
	struct slk_walk walk;
	int from_upper;
	int result = walk_of(engine, request, row->dirfd2, path, length, &walk, &from_upper);

	if (result || from_upper || slk_tree_of(engine, &walk))
		return SLK_REASON_ZONE + 1;
	return slk_fast_judge(engine, &walk, row->need2, 0, &request->may_wait);
}

static int judge_second(struct slk_engine *engine, struct slk_request *request)
{
	const struct slk_call *row = &engine->calls[request->nr];
	char path[SLK_PATH_MAX];
	int length = slk_read_string(request->tid, request->args[row->path2], SLK_PATH_MAX, path);

	if (length < 0) {
		request->path_error = (int16_t)-length;
		return SLK_REASON_UNREADABLE + 1;
	}
	if (engine->tree_count)
		return judge_second_outside(engine, request, path, (uint32_t)length);
	return judge_path(engine, request, row->dirfd2, path, (uint32_t)length, row->need2, 0);
}

/* mknod of a device, or of a file with a set-user-ID bit: never granted, and owed a record and an errno of ours. */
static int makes_special(uint64_t mode)
{
	return S_ISCHR(mode) || S_ISBLK(mode) || mode & (S_ISUID | S_ISGID);
}

/* Outside of all trees the kernel judges both; in one C may know what to do. */
static int judge_two_with_trees(struct slk_engine *engine, struct slk_request *request, int follow)
{
	const struct slk_call *row = &engine->calls[request->nr];
	struct slk_walk walk;
	int from_upper;
	int result = walk_of(engine, request, row->dirfd, request->path, request->path_length, &walk, &from_upper);

	if (result || from_upper || slk_tree_of(engine, &walk))
		return row->act == SLK_ACT_RENAME && !result ? judge_rename(engine, request) : SLK_REASON_ZONE + 1;
	result = slk_fast_judge(engine, &walk, row->need, follow, &request->may_wait);
	return result ? result : judge_second(engine, request);
}

static int judge_fixed(struct slk_engine *engine, struct slk_request *request)
{
	const struct slk_call *row = &engine->calls[request->nr];
	/* Names are made, moved and removed as they are; what is executed or truncated is what they lead to. */
	int follow = (row->need & (LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_TRUNCATE)) != 0;
	int result = read_path(request, row->path);

	if (result)
		return result;
	if (engine->tree_count && row->path2 >= 0)
		return judge_two_with_trees(engine, request, follow);
	if (row->need & LANDLOCK_ACCESS_FS_MAKE_REG && row->path2 < 0 && makes_special(request->args[row->path + 1]))
		return SLK_REASON_SLOW + 1;
	result = judge_path(engine, request, row->dirfd, request->path, request->path_length, row->need, follow);
	if (result || row->path2 < 0)
		return result;
	return judge_second(engine, request);
}

/* What stat, access, readlink and their like tell is no secret, but of a tree they must tell what the program sees. */
static int judge_see(struct slk_engine *engine, struct slk_request *request)
{
	const struct slk_call *row = &engine->calls[request->nr];
	int result;

	if (row->act != SLK_ACT_NONE && !engine->tell_granted && !engine->own_pids && slk_trees_are_untouched(engine))
		return 0;
	result = read_path(request, row->path);
	if (result)
		return result;
	if (request->path_length == 0) { /* ENOENT, or a descriptor */
		const struct slk_call *call = &engine->calls[request->nr];
		int stats = call->act == SLK_ACT_STAT || call->act == SLK_ACT_STATX;

		if (!engine->tree_count || call->flags < 0 || !(request->args[call->flags] & AT_EMPTY_PATH))
			return 0;
		if (call->act == SLK_ACT_NONE) /* name_to_handle_at */
			return SLK_REASON_ZONE + 1;
		return stats ? slk_tree_descriptor(engine, request) : 0;
	}
	return judge_path(engine, request, row->dirfd, request->path, request->path_length, SLK_NEED_TO_SEE, 1);
}

/* 0: continue; else request->reason is set and Python decides. */
int slk_fast_call(struct slk_engine *engine, struct slk_request *request)
{
	int result;

	if (engine->calls[request->nr].treatment == SLK_CALL_OPEN)
		result = judge_open(engine, request);
	else if (engine->calls[request->nr].treatment == SLK_CALL_SEE)
		result = judge_see(engine, request);
	else
		result = judge_fixed(engine, request);
	if (result > 0)
		request->reason = (int16_t)(result - 1);
	return result;
}

int slk_engine_judge(struct slk_engine *engine, const char *path, uint32_t need, int follow)
{
	struct slk_walk walk;
	int ignored;

	if (slk_walk_set(&walk, "", 0, path, (uint32_t)strlen(path)) < 0)
		return 0;
	return slk_fast_judge(engine, &walk, need, follow, &ignored) == 0;
}
