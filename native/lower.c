/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Nothing of the upper is under a name: does the kernel find in the lower tree what the program is to see?
 *
 * It does where no symbolic link and no mount is on the way. Of many files in one directory only the last name is new: that
 * directory was found so a moment ago, and is not walked to again; what is found so is kept no longer than it.
 */
#define _GNU_SOURCE
#include "slk.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef STATX_ATTR_MOUNT_ROOT
#define STATX_ATTR_MOUNT_ROOT 0x2000 /* Linux 5.8 */
#endif
#define PYTHON (SLK_REASON_ZONE + 1)

/* 0, or -errno. Without a close and an fstat, which cost as much again. -EXDEV: it cannot be told so. */
static int look_in_directory(const struct slk_tree *tree, const char *path, int follow, struct stat *ret_status)
{
	struct statx found;

	/* It is no server that would have to be asked: see slk_lookups_may_wait(). */
	if (statx(tree->lower_fd, path, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC,
		  STATX_TYPE | STATX_NLINK, &found) < 0)
		return errno == ENOENT ? -ENOENT : -EXDEV;
	if (!(found.stx_attributes_mask & STATX_ATTR_MOUNT_ROOT) || found.stx_attributes & STATX_ATTR_MOUNT_ROOT ||
	    (S_ISLNK(found.stx_mode) && follow))
		return -EXDEV;
	ret_status->st_mode = found.stx_mode;
	ret_status->st_nlink = found.stx_nlink;
	return 0;
}

static int look_all_the_way(const struct slk_tree *tree, const char *path, int follow, struct stat *ret_status)
{
	int fd = slk_open_confined(tree->lower_fd, path, O_PATH | (follow ? 0 : O_NOFOLLOW), 0);
	int result;

	if (fd < 0)
		return fd;
	result = fstat(fd, ret_status) < 0 ? -EXDEV : 0;
	close(fd);
	return result;
}

/* ret_until_ns: how long it holds. */
static int look(struct slk_engine *engine, const struct slk_tree *tree, const struct slk_walk *walk, int follow,
		struct stat *ret_status, uint64_t *ret_until_ns)
{
	const char *path = slk_tree_relative(tree, walk);
	uint32_t above = walk->count - 1;
	int is_below = walk->count > tree->root_components;
	uint64_t until_ns = is_below ? slk_judged_before(engine, walk, above, SLK_NEED_DIRECTORY, 0) : 0;
	int result = -EXDEV;

	if (until_ns && !slk_lookups_may_wait(engine))
		result = look_in_directory(tree, path, follow, ret_status);
	*ret_until_ns = until_ns;
	if (result != -EXDEV)
		return result;
	*ret_until_ns = slk_judged_until();
	result = look_all_the_way(tree, path, follow, ret_status);
	if (result == 0 && is_below) /* of what is not there, the directory may be missing */
		slk_judged_now(engine, walk, above, SLK_NEED_DIRECTORY, 0, *ret_until_ns);
	return result;
}

int slk_lower_only(struct slk_engine *engine, const struct slk_tree *tree, const struct slk_walk *walk, int follow,
		   enum slk_look for_what)
{
	uint32_t need = SLK_NEED_IN_TREE | (uint32_t)for_what;
	struct stat status;
	uint64_t until_ns;
	int result;

	if (slk_judged_before(engine, walk, walk->count, need, follow))
		return 0;
	result = look(engine, tree, walk, follow, &status, &until_ns);
	if (result == 0) {
		/* Opening anything else may wait for somebody. */
		if (for_what == SLK_LOOK_OPEN && !S_ISREG(status.st_mode) && !S_ISDIR(status.st_mode))
			return PYTHON;
		if (for_what == SLK_LOOK_STAT && !S_ISDIR(status.st_mode) && status.st_nlink != 1 &&
		    slk_layers_links_lost(tree->layers))
			return PYTHON;
	}
	if (result == 0 || result == -ENOENT) /* nor can the program make it there */
		slk_judged_now(engine, walk, walk->count, need, follow, until_ns);
	return result == 0 || result == -ENOENT || result == -ENOTDIR || result == -EACCES ? 0 : PYTHON;
}
