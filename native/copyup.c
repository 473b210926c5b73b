/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Copying one object to another that is already open: the data in slices, then everything else at once.
 *
 * The source may change, shrink or grow while it is read. What is copied then is what was there when each part was
 * read, never more than the size at the beginning, and each slice ends: no loop waits for bytes that are gone.
 */
#define _GNU_SOURCE
#include "slk.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#define BLOCK 65536
#define LONGEST_LIST 65536  /* XATTR_LIST_MAX */
#define LONGEST_VALUE 65536 /* XATTR_SIZE_MAX */

enum method { BY_RANGE, BY_READING };

static uint64_t smaller(uint64_t one, uint64_t other)
{
	return one < other ? one : other;
}

int slk_copy_begin(int from_fd, int to_fd, uint64_t limit_bytes, struct slk_copy *ret_copy)
{
	struct slk_copy copy = {.from_fd = from_fd, .to_fd = to_fd, .method = BY_RANGE};
	struct stat status;

	if (fstat(from_fd, &status) < 0)
		return -errno;
	copy.end = smaller((uint64_t)status.st_size, limit_bytes);
	/* A clone shares the blocks, holes included; it is refused wherever that cannot be. */
	if (copy.end > 0 && ioctl(to_fd, FICLONE, from_fd) == 0)
		copy.offset = copy.end;
	*ret_copy = copy;
	return 0;
}

/* The end: as long as the source is, up to where we go. A hole at the end comes from this. */
static int finish(struct slk_copy *copy)
{
	struct stat status;

	if (fstat(copy->from_fd, &status) < 0)
		return -errno;
	copy->end = smaller(copy->end, (uint64_t)status.st_size);
	copy->offset = copy->end;
	return ftruncate(copy->to_fd, (off_t)copy->end) < 0 ? -errno : 0;
}

static int write_all(int fd, const char *data, size_t size, off_t offset)
{
	while (size > 0) {
		ssize_t put = pwrite(fd, data, size, offset);

		if (put < 0 && errno == EINTR)
			continue;
		if (put <= 0)
			return put < 0 ? -errno : -EIO;
		data += put;
		size -= (size_t)put;
		offset += put;
	}
	return 0;
}

/* Up to a block: how much, 0 at the end of the file. */
static int64_t by_reading(const struct slk_copy *copy, uint64_t size)
{
	char data[BLOCK];
	ssize_t got;
	int result;

	do
		got = pread(copy->from_fd, data, smaller(size, sizeof(data)), (off_t)copy->offset);
	while (got < 0 && errno == EINTR);
	if (got < 0)
		return -errno;
	result = write_all(copy->to_fd, data, (size_t)got, (off_t)copy->offset);
	return result < 0 ? result : got;
}

static int64_t by_range(struct slk_copy *copy, uint64_t size)
{
	loff_t from = (loff_t)copy->offset, to = from;
	ssize_t got;

	do
		got = copy_file_range(copy->from_fd, &from, copy->to_fd, &to, size, 0);
	while (got < 0 && errno == EINTR);
	if (got > 0)
		return got;
	if (got < 0 && (errno == ENOSPC || errno == EDQUOT || errno == EFBIG || errno == EIO))
		return -errno;
	/* Between file systems, or one that cannot, or that claims an end where there is none (copy_file_range(2)). */
	copy->method = BY_READING;
	return by_reading(copy, size);
}

/* From the offset on: where data begins and ends. 0: there is none. */
static int find_data(struct slk_copy *copy, uint64_t *ret_end)
{
	off_t start = lseek(copy->from_fd, (off_t)copy->offset, SEEK_DATA);
	off_t hole;

	if (start < 0 && errno == ENXIO)
		return 0;
	if (start < 0) { /* a file system without: all is data */
		*ret_end = copy->end;
		return errno == EINVAL || errno == EOPNOTSUPP ? 1 : -errno;
	}
	if ((uint64_t)start >= copy->end)
		return 0;
	hole = lseek(copy->from_fd, start, SEEK_HOLE);
	copy->offset = (uint64_t)start;
	*ret_end = hole > start ? smaller((uint64_t)hole, copy->end) : copy->end;
	return 1;
}

int slk_copy_slice(struct slk_copy *copy, uint64_t slice_bytes)
{
	uint64_t left = slice_bytes;

	while (left > 0 && copy->offset < copy->end) {
		uint64_t data_end;
		int found = find_data(copy, &data_end);

		if (found <= 0)
			return found < 0 ? found : finish(copy);
		while (left > 0 && copy->offset < data_end) {
			uint64_t size = smaller(left, data_end - copy->offset);
			int64_t got = copy->method == BY_RANGE ? by_range(copy, size) : by_reading(copy, size);

			if (got < 0)
				return (int)got;
			if (got == 0) /* it has become shorter */
				return finish(copy);
			copy->offset += (uint64_t)got;
			left -= (uint64_t)got;
		}
	}
	return copy->offset < copy->end ? 1 : finish(copy);
}

/* ---- owner, attributes, mode, times */

static int starts_with(const char *text, const char *start)
{
	return strncmp(text, start, strlen(start)) == 0;
}

int slk_copy_wants_attribute(const char *name)
{
	/* The layers' own marks say what the copy is, not what the original was. */
	if (starts_with(name, "user.overlay.") || starts_with(name, "user.sandlockd."))
		return 0;
	if (starts_with(name, "user.") || starts_with(name, "system.posix_acl_"))
		return 1;
	return strcmp(name, "security.capability") == 0 && geteuid() == 0;
}

static void magic_link(int fd, char text[32])
{
	snprintf(text, 32, "/proc/self/fd/%d", fd); /* for O_PATH descriptors, whose attributes f*xattr refuses */
}

/* 1: copied; 0: the target cannot have it. */
static int copy_attribute(const char *from, const char *to, const char *name)
{
	char value[LONGEST_VALUE];
	ssize_t size = getxattr(from, name, value, sizeof(value));

	if (size < 0)
		return errno == ENODATA ? 1 : -errno; /* removed meanwhile */
	if (setxattr(to, name, value, (size_t)size, 0) == 0)
		return 1;
	return errno == EOPNOTSUPP || errno == EPERM ? 0 : -errno;
}

/* Attributes that could not be kept: 0 or SLK_LOST_ATTRIBUTES. */
static int copy_attributes(int from_fd, int to_fd)
{
	char names[LONGEST_LIST], from[32], to[32];
	ssize_t size;
	int lost = 0;

	magic_link(from_fd, from);
	magic_link(to_fd, to);
	size = listxattr(from, names, sizeof(names));
	if (size < 0)
		return errno == EOPNOTSUPP ? 0 : -errno;
	for (const char *name = names; name < names + size; name += strlen(name) + 1) {
		int result = slk_copy_wants_attribute(name) ? copy_attribute(from, to, name) : 1;

		if (result < 0)
			return result;
		if (result == 0)
			lost = SLK_LOST_ATTRIBUTES;
	}
	return lost;
}

/* 0 or SLK_LOST_OWNER: an ordinary user gives nothing away. */
static int copy_owner(int to_fd, const struct stat *from, const struct stat *to)
{
	if (from->st_uid == to->st_uid && from->st_gid == to->st_gid)
		return 0;
	if (fchownat(to_fd, "", from->st_uid, from->st_gid, AT_EMPTY_PATH) == 0)
		return 0;
	if (errno != EPERM && errno != EINVAL) /* EINVAL: an id that our user namespace has no word for */
		return -errno;
	/* The group alone may be one of ours. */
	if (fchownat(to_fd, "", (uid_t)-1, from->st_gid, AT_EMPTY_PATH) == 0 && from->st_uid == to->st_uid)
		return 0;
	return SLK_LOST_OWNER;
}

int slk_copy_metadata(int from_fd, int to_fd)
{
	struct stat from, to;
	mode_t mode;
	int lost, result;
	char path[32];

	if (fstat(from_fd, &from) < 0 || fstat(to_fd, &to) < 0)
		return -errno;
	lost = copy_owner(to_fd, &from, &to);
	if (lost < 0)
		return lost;
	/* After the owner, whose change takes security.capability away; before the mode, which may forbid it. */
	result = S_ISLNK(from.st_mode) ? 0 : copy_attributes(from_fd, to_fd);
	if (result < 0)
		return result;
	lost |= result;
	mode = from.st_mode & 07777;
	if (lost & SLK_LOST_OWNER)
		mode &= (mode_t)~(S_ISUID | S_ISGID); /* they would lend another's rights than they did */
	magic_link(to_fd, path);
	if (!S_ISLNK(from.st_mode) && chmod(path, mode) < 0)
		return -errno;
	result = slk_utimensat(to_fd, "", from.st_atim.tv_sec, from.st_atim.tv_nsec, from.st_mtim.tv_sec,
			       from.st_mtim.tv_nsec, AT_EMPTY_PATH);
	return result < 0 ? result : lost;
}

/* ---- what one layer says of one name */

#ifndef SYS_getxattrat
#define SYS_getxattrat 464 /* Linux 6.13, all architectures that we know */
#endif

struct slk_xattr_args { /* struct xattr_args */
	uint64_t value __attribute__((aligned(8)));
	uint32_t size;
	uint32_t flags;
};

/* Of a directory. */
static int64_t get_attribute(int fd, const char *name, char *value, uint32_t size)
{
	struct slk_xattr_args args = {.value = (uint64_t)(uintptr_t)value, .size = size};
	/* Not AT_EMPTY_PATH, which refuses O_PATH descriptors here. */
	long got = syscall(SYS_getxattrat, fd, ".", 0, name, &args, sizeof(args));
	char path[32];

	if (got < 0 && (errno == ENOSYS || errno == EACCES)) { /* EACCES: a directory that we may not search */
		magic_link(fd, path);
		got = getxattr(path, name, value, size);
	}
	return got < 0 ? -errno : got;
}

static int is_opaque(int fd)
{
	char value[2];
	int64_t size = get_attribute(fd, "user.overlay.opaque", value, sizeof(value));

	if (size < 0) /* ERANGE: a value that is none of the kernel's either */
		return size == -ENODATA || size == -EOPNOTSUPP || size == -ERANGE ? 0 : (int)size;
	return size == 1 && value[0] == 'y';
}

int slk_layer_entry(int dirfd, const char *path, int with_opaque, const struct slk_identity *identity,
		    struct slk_layer_entry *ret_entry)
{
	int fd = dirfd, result = 0;
	struct stat status;

	if (*path) {
		fd = slk_openat2(dirfd, path, O_PATH | O_NOFOLLOW | O_CLOEXEC, 0, SLK_RESOLVE_CONFINED, identity);
		if (fd < 0)
			return fd;
	}
	if (fstat(fd, &status) < 0)
		result = -errno;
	else if (with_opaque && S_ISDIR(status.st_mode))
		result = is_opaque(fd);
	if (*path)
		close(fd);
	if (result < 0)
		return result;
	*ret_entry = (struct slk_layer_entry){
		.mode = status.st_mode,
		.is_opaque = (uint32_t)result,
		.device = status.st_dev,
		.inode = status.st_ino,
		.links = status.st_nlink,
		.special = status.st_rdev,
		.uid = status.st_uid,
		.gid = status.st_gid,
	};
	return 0;
}

int slk_may_access(int fd, uint32_t mode)
{
	/* AT_EACCESS: the file system identity of this thread, whatever its real one (faccessat2(2)). */
	return syscall(SYS_faccessat2, fd, "", mode, AT_EMPTY_PATH | AT_EACCESS) < 0 ? -errno : 0;
}

#define CHECK_ONLY 0x10000 /* AT_EXECVE_CHECK */

int slk_may_execute(int fd)
{
	char *const none[] = {NULL};

	return syscall(SYS_execveat, fd, "", none, none, AT_EMPTY_PATH | CHECK_ONLY) < 0 ? -errno : 0;
}
