/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the uppers of a sandbox hold, in allocated bytes, and the limit of that.
 *
 * The account has one entry for each object, by device and inode number, with what it held when it was last looked at: so
 * whoever has changed a name or an object only says where, and saying it twice does no harm. Nothing but a file that
 * somebody may write to can change by itself. Those are *open*: every descriptor that is handed to the program passes
 * slk_disk_given. Of each we keep an O_PATH descriptor and look at it now and then, until nobody has it open for writing.
 *
 * An object that has lost its last name holds its space until nobody has it either (inuse.c), and counts until then.
 *
 * xfs allocates ahead of a file that grows, up to as much again as it holds, and gives that back later. A program does not
 * know of it, so it does not count, but for files beyond whose end the program itself has reserved space.
 *
 * A part of the limit is kept for writing: who meets the limit in making or opening something learns of it by an errno, who
 * meets it in writing can only be ended. So most programs are to meet it there first.
 *
 * Here is what others tell. The objects are in disk_held.c, looking at them in disk_looks.c, room in disk_room.c, and the
 * thread that ends who has written past the limit in disk_watcher.c.
 */
#define _GNU_SOURCE
#include "disk.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/limits.h>
#include <linux/magic.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#define RESERVE_PART 16 /* of the limit is for writing to what is open already, at most */
#define RESERVE_BYTES_MAX (UINT64_C(256) << 20)
#define ANY_AMOUNT (UINT64_C(1) << 62)

/* ---- its life */

static unsigned processors(void)
{
	cpu_set_t set;
	int count = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : (int)sysconf(_SC_NPROCESSORS_ONLN);

	return count > 0 ? (unsigned)count : 1;
}

int slk_disk_create(uint64_t limit_bytes, struct slk_disk **ret_disk)
{
	struct slk_disk *disk = calloc(1, sizeof(*disk));
	uint64_t reserve;
	int error;

	if (!disk)
		return -ENOMEM;
	disk->limit = limit_bytes;
	reserve = limit_bytes / RESERVE_PART;
	disk->opened_below = limit_bytes - (reserve < RESERVE_BYTES_MAX ? reserve : RESERVE_BYTES_MAX);
	disk->mask = SLK_DISK_BUCKETS - 1;
	disk->processors = processors();
	disk->due_ns = UINT64_MAX;
	disk->inotify_fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	error = disk->inotify_fd < 0 ? errno : 0;
	disk->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	error = !error && disk->wake_fd < 0 ? errno : error;
	disk->buckets = calloc(SLK_DISK_BUCKETS, sizeof(struct slk_held *));
	disk->by_watch = calloc(SLK_DISK_BUCKETS, sizeof(struct slk_held *));
	pthread_mutex_init(&disk->lock, NULL);
	if (error || !disk->buckets || !disk->by_watch) {
		slk_disk_destroy(disk);
		return error ? -error : -ENOMEM;
	}
	*ret_disk = disk;
	return 0;
}

void slk_disk_end(struct slk_disk *disk)
{
	slk_disk_stop(disk);
	pthread_mutex_lock(&disk->lock);
	while (disk->open_count)
		slk_held_close(disk, disk->open[disk->open_count - 1]);
	if (disk->inotify_fd >= 0)
		close(disk->inotify_fd);
	if (disk->wake_fd >= 0)
		close(disk->wake_fd);
	disk->inotify_fd = disk->wake_fd = -1;
	pthread_mutex_unlock(&disk->lock);
}

void slk_disk_destroy(struct slk_disk *disk)
{
	slk_disk_end(disk);
	for (uint64_t i = 0; disk->buckets && i <= disk->mask; i++) {
		for (struct slk_held *next, *held = disk->buckets[i]; held; held = next) {
			next = held->chain;
			free(held);
		}
	}
	free(disk->buckets);
	free(disk->by_watch);
	free(disk->open);
	pthread_mutex_destroy(&disk->lock);
	free(disk);
}

int slk_disk_add_upper(struct slk_disk *disk, int upper_fd, const char *path)
{
	struct slk_disk_upper *upper = &disk->uppers[disk->upper_count];
	size_t length = strlen(path);
	struct statfs file_system;
	struct stat status;

	if (disk->upper_count == SLK_DISK_UPPERS_MAX)
		return -ENOSPC;
	if (length >= SLK_PATH_MAX)
		return -ENAMETOOLONG;
	if (fstat(upper_fd, &status) < 0)
		return -errno;
	memcpy(upper->path, path, length);
	upper->length = (uint32_t)length;
	upper->device = status.st_dev;
	if (fstatfs(upper_fd, &file_system) == 0 && file_system.f_type == XFS_SUPER_MAGIC)
		upper->ahead_block = (uint64_t)file_system.f_bsize;
	disk->upper_count++;
	return 0;
}

/* ---- names and objects that others have changed */

/* What the attributes of a file take at most. */
static uint64_t attribute_bytes(int dirfd, const char *path)
{
	char file[SLK_PATH_MAX + 32], names[XATTR_LIST_MAX];
	uint64_t bytes = 0;
	ssize_t length, size;

	if ((size_t)snprintf(file, sizeof(file), "/proc/self/fd/%d/%s", dirfd, path) >= sizeof(file))
		return ANY_AMOUNT;
	if (*path == '\0')
		file[strlen(file) - 1] = '\0';
	length = listxattr(file, names, sizeof(names));
	if (length < 0)
		return ANY_AMOUNT;
	for (const char *name = names; name < names + length; name += strlen(name) + 1) {
		size = getxattr(file, name, NULL, 0);
		if (size < 0)
			size = XATTR_SIZE_MAX; /* of what its owner may not read */
		bytes += 2 * (strlen(name) + (uint64_t)size) + SLK_DISK_BLOCK;
	}
	return bytes;
}

static int note(struct slk_disk *disk, int dirfd, const char *path, int is_reserved)
{
	struct stat status;
	struct slk_held *held;
	uint64_t before;

	pthread_mutex_lock(&disk->lock);
	/* Looked at here: who looks in between and for the last time would be told what was before. */
	if (syscall(SYS_newfstatat, dirfd, path, &status, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) < 0) {
		int error = errno;

		pthread_mutex_unlock(&disk->lock);
		return -error;
	}
	slk_disk_settle(disk); /* its number may have been that of something that is gone */
	held = slk_held_entry(disk, &status);
	if (held) {
		if (is_reserved)
			held->is_reserved = 1;
		if (S_ISREG(status.st_mode) && slk_disk_ahead_block(disk, status.st_dev))
			held->attribute_bytes = attribute_bytes(dirfd, path);
		before = disk->total > disk->limit ? disk->total : disk->limit;
		slk_held_set_bytes(disk, held, &status);
		/* What an open file has taken was not by this call. */
		if (disk->total > before && held->fd < 0)
			disk->excess += disk->total - before;
		slk_disk_hurry(disk);
	}
	pthread_mutex_unlock(&disk->lock);
	return held ? 0 : -ENOMEM;
}

int slk_disk_note(struct slk_disk *disk, int dirfd, const char *path)
{
	return note(disk, dirfd, path, 0);
}

int slk_disk_note_reserved(struct slk_disk *disk, int fd)
{
	return note(disk, fd, "", 1);
}

static int may_hold(const struct slk_held *held, const struct stat *status)
{
	return held->bytes > 0 || held->fd >= 0 || S_ISDIR(status->st_mode);
}

void slk_disk_leaving(struct slk_disk *disk, int dirfd, const char *path)
{
	struct stat status;
	struct slk_held *held;
	int watch = -1;

	if (syscall(SYS_newfstatat, dirfd, path, &status, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) < 0 ||
	    (!S_ISDIR(status.st_mode) && status.st_nlink > 1))
		return;
	pthread_mutex_lock(&disk->lock);
	held = *slk_held_place(disk, status.st_dev, status.st_ino);
	if (held && !may_hold(held, &status)) {
		slk_held_forget(disk, held);
	} else if (held) {
		if (!held->had_names)
			watch = slk_watch_gone(disk->inotify_fd, dirfd, path, held->fd >= 0);
		if (watch >= 0)
			slk_held_set_watch(disk, held, watch);
		if (S_ISREG(status.st_mode)) {
			if (held->fd >= 0 && !slk_in_use(held->fd, 0)) {
				slk_disk_look_once(disk, held); /* what was written last */
				slk_held_close(disk, held);
			}
			if (!slk_held_is_told(held))
				slk_held_keep_open(disk, held, dirfd, path); /* without it, it counts to the end */
		} else if (S_ISLNK(status.st_mode) && !slk_held_is_told(held) && !disk->path_given) {
			slk_held_forget(disk, held);
		}
	}
	pthread_mutex_unlock(&disk->lock);
}

void slk_disk_left(struct slk_disk *disk)
{
	uint64_t one = 1;

	pthread_mutex_lock(&disk->lock);
	slk_disk_settle(disk);
	for (uint32_t i = disk->open_count; i-- > 0;) {
		struct slk_held *held = disk->open[i];

		if (held->is_unlinked || (held->watch < 0 && !held->had_names))
			continue;
		slk_disk_look_once(disk, held);
		if (!held->is_unlinked)
			continue;
		/* From now on the watcher waits for its being closed, too. */
		if (disk->unlinked_open == 1 && write(disk->wake_fd, &one, sizeof(one)) < 0)
			one = 1; /* full: it is awake */
		slk_disk_let_go(disk, held);
	}
	slk_disk_settle(disk);
	pthread_mutex_unlock(&disk->lock);
}

/* ---- descriptors that the program is given */

static int is_of_upper(const struct slk_disk *disk, const struct stat *status, const char *link)
{
	char path[SLK_PATH_MAX];
	ssize_t length = -1;

	for (uint32_t i = 0; i < disk->upper_count; i++) {
		const struct slk_disk_upper *upper = &disk->uppers[i];

		if (upper->device != status->st_dev)
			continue;
		if (length < 0)
			length = readlink(link, path, sizeof(path));
		/* One that is longer than what can be told: rather too much than too little. */
		if (length < 0 || length == (ssize_t)sizeof(path) ||
		    ((uint32_t)length > upper->length && path[upper->length] == '/' &&
		     memcmp(path, upper->path, upper->length) == 0))
			return 1;
	}
	return 0;
}

int slk_held_given(struct slk_disk *disk, const struct stat *status, const char *link)
{
	struct slk_held *held = slk_held_entry(disk, status);
	int result;

	if (!held)
		return -ENOMEM;
	slk_held_set_bytes(disk, held, status);
	result = slk_held_keep_open(disk, held, AT_FDCWD, link);
	if (result < 0)
		return result;
	held->changed_ns = -1;
	held->asked = held->rests = 0;
	if (status->st_nlink == 0) {
		slk_held_now_unlinked(disk, held);
		if (!held->had_names)
			slk_held_set_watch(disk, held, slk_watch_gone(disk->inotify_fd, held->fd, "", 1));
	}
	return 0;
}

static int given(struct slk_disk *disk, const struct stat *status, const char *link)
{
	slk_disk_settle(disk);
	if (!*slk_held_place(disk, status->st_dev, status->st_ino) && !is_of_upper(disk, status, link))
		return 0;
	return slk_held_given(disk, status, link);
}

int slk_disk_given(struct slk_disk *disk, int fd)
{
	int flags = fcntl(fd, F_GETFL), result;
	struct stat status;
	char link[32];

	if (flags < 0)
		return -errno;
	if ((flags & O_ACCMODE) == O_RDONLY || flags & O_PATH)
		return 0;
	if (fstat(fd, &status) < 0)
		return -errno;
	if (!S_ISREG(status.st_mode))
		return 0;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	pthread_mutex_lock(&disk->lock);
	result = given(disk, &status, link);
	slk_disk_look_if_crowded(disk);
	slk_disk_hurry(disk);
	pthread_mutex_unlock(&disk->lock);
	return result;
}

void slk_disk_path_given(struct slk_disk *disk)
{
	pthread_mutex_lock(&disk->lock);
	disk->path_given = 1;
	pthread_mutex_unlock(&disk->lock);
}

int slk_disk_holds(struct slk_disk *disk, int fd)
{
	struct stat status;
	int result;

	if (fstat(fd, &status) < 0)
		return -errno;
	pthread_mutex_lock(&disk->lock);
	result = *slk_held_place(disk, status.st_dev, status.st_ino) != NULL;
	pthread_mutex_unlock(&disk->lock);
	return result;
}

void slk_disk_state(struct slk_disk *disk, struct slk_disk_state *ret_state)
{
	pthread_mutex_lock(&disk->lock);
	slk_disk_look(disk);
	slk_disk_find_over(disk);
	ret_state->total_bytes = disk->total > disk->over_bytes ? disk->total : disk->over_bytes;
	ret_state->room_bytes = slk_disk_room(disk);
	ret_state->open_files = disk->open_count;
	ret_state->is_over = disk->is_over;
	pthread_mutex_unlock(&disk->lock);
}
