/* SPDX-License-Identifier: Apache-2.0 */
/*
 * getdents64 of a directory that only the upper has: the kernel's listing, with the inode numbers that are told.
 *
 * It is read from the program's own open directory (pidfd_getfd(2)), whose position so moves as it does bare.
 */
#define _GNU_SOURCE
#include "slk.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PYTHON (SLK_REASON_ZONE + 1)
#define LISTING_BYTES_MAX 32768 /* of one answer; the program asks again */
#ifndef PIDFD_THREAD
#define PIDFD_THREAD O_EXCL /* Linux 6.9 */
#endif

static int duplicate_of(int32_t tid, int fd)
{
	long pidfd = syscall(SYS_pidfd_open, tid, PIDFD_THREAD);
	int stream;

	if (pidfd < 0)
		pidfd = syscall(SYS_pidfd_open, tid, 0); /* of a leader only */
	if (pidfd < 0)
		return -errno;
	stream = slk_pidfd_getfd((int)pidfd, fd);
	close((int)pidfd);
	return stream;
}

/* Of the directory above, which is the lower one where it is merged. 1: the kernel tells another one. */
static int number_above(const struct slk_tree *tree, const char *path, uint64_t *ret_inode)
{
	const char *slash = strrchr(path, '/');
	char above[SLK_PATH_MAX] = "";
	struct slk_number number;
	struct stat status;
	int is_merged;

	if (slash) {
		memcpy(above, path, (size_t)(slash - path));
		above[slash - path] = '\0';
	}
	is_merged = slk_layers_find(tree->layers, above) >> 8 & SLK_LAYER_MERGED;
	if (syscall(SYS_newfstatat, is_merged ? tree->lower_fd : tree->upper_fd, *above ? above : ".", &status,
		    AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	number.inode = status.st_ino;
	if (!is_merged)
		slk_numbers_told(tree->numbers, status.st_ino, &number);
	*ret_inode = number.inode;
	return is_merged != 0;
}

static void renumber(const struct slk_tree *tree, char *listing, int64_t size, uint64_t above)
{
	struct slk_number number;

	for (int64_t at = 0; at < size;) {
		struct slk_dirent *row = (struct slk_dirent *)(void *)(listing + at);

		slk_numbers_told(tree->numbers, row->inode, &number);
		row->inode = strcmp(row->name, "..") == 0 ? above : number.inode;
		at += row->length;
	}
}

int slk_tell_listing(struct slk_engine *engine, struct slk_request *request, const struct slk_tree *tree,
		     const char *path)
{
	_Alignas(8) char listing[LISTING_BYTES_MAX];
	uint32_t capacity = (uint32_t)request->args[2];
	uint64_t above = 0;
	int64_t size;
	off_t before;
	int differs = number_above(tree, path, &above), stream;

	if (differs == 0 && slk_numbers_are_own(tree->numbers))
		return 0;
	if (differs < 0 || request->nr != SYS_getdents64)
		return PYTHON;
	stream = duplicate_of(request->tid, (int)(int32_t)request->args[0]);
	if (stream < 0)
		return PYTHON;
	if (!slk_tree_alive(engine, request)) {
		close(stream);
		return PYTHON;
	}
	before = lseek(stream, 0, SEEK_CUR);
	size = syscall(SYS_getdents64, stream, listing, capacity < sizeof(listing) ? capacity : sizeof(listing));
	if (size < 0) {
		int error = errno;

		close(stream);
		return slk_answer_call(engine, request, 0, error);
	}
	renumber(tree, listing, size, above);
	if (size > 0 && slk_write_memory(request->tid, request->args[1], (uint32_t)size, listing) < 0) {
		lseek(stream, before, SEEK_SET);
		size = -EFAULT;
	}
	close(stream);
	return slk_answer_call(engine, request, size < 0 ? 0 : size, size < 0 ? EFAULT : 0);
}

/* ext4 lists them by the hashes of their names, as any others. */
int slk_dots_ahead(int fd)
{
	_Alignas(8) char listing[4096];
	int found = 0;

	for (;;) {
		long size = syscall(SYS_getdents64, fd, listing, sizeof(listing));

		if (size <= 0)
			return size < 0 ? -errno : found;
		for (long at = 0; at < size;) {
			const struct slk_dirent *row = (const struct slk_dirent *)(const void *)(listing + at);

			found |= strcmp(row->name, ".") == 0 ? 1 : strcmp(row->name, "..") == 0 ? 2 : 0;
			at += row->length;
		}
	}
}
