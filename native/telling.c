/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What stat and statx tell of objects in copy-on-write trees: by the name (of what the upper has), by a descriptor.
 *
 * A merged directory is the lower object, with what is told of the upper one, and with as many links as it shows
 * subdirectories. Everything else of the upper is itself, but for its device and inode number (numbers.c).
 */
#define _GNU_SOURCE
#include "slk.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define PYTHON (SLK_REASON_ZONE + 1)
#define STATX_SYNC_TYPE 0x6000
#define STATX_MOUNT_IDS 0x5000 /* STATX_MNT_ID and, of Linux 6.8, STATX_MNT_ID_UNIQUE */

/* In the one form or the other, as the call wants it. */
struct told {
	int is_statx;
	union {
		struct stat status;
		struct statx statx;
	} as;
};

static uint64_t arg(const struct slk_request *request, int position)
{
	return position < 0 ? 0 : request->args[position];
}

static int asks_plainly(const struct slk_call *row, const struct slk_request *request, uint32_t more)
{
	uint32_t known = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | more;

	if (row->act == SLK_ACT_STATX)
		known |= STATX_SYNC_TYPE;
	if (row->act == SLK_ACT_STATX && (arg(request, row->flags) & STATX_SYNC_TYPE) == STATX_SYNC_TYPE)
		return 0;
	return !((uint32_t)arg(request, row->flags) & ~known);
}

static int look(const struct slk_call *row, const struct slk_request *request, int dirfd, const char *path, int flags,
		struct told *ret_told)
{
	ret_told->is_statx = row->act == SLK_ACT_STATX;
	if (!ret_told->is_statx)
		return syscall(SYS_newfstatat, dirfd, path, &ret_told->as.status, flags) < 0 ? -errno : 0;
	flags |= (int)(arg(request, row->flags) & STATX_SYNC_TYPE) | AT_NO_AUTOMOUNT;
	return syscall(SYS_statx, dirfd, path, flags, (unsigned)arg(request, row->mode), &ret_told->as.statx) < 0 ?
		       -errno :
		       0;
}

static struct slk_number number_of(const struct told *told)
{
	const struct statx *statx = &told->as.statx;

	if (!told->is_statx)
		return (struct slk_number){told->as.status.st_dev, told->as.status.st_ino};
	return (struct slk_number){gnu_dev_makedev(statx->stx_dev_major, statx->stx_dev_minor), statx->stx_ino};
}

static void set_number(struct told *told, struct slk_number number)
{
	if (told->is_statx) {
		told->as.statx.stx_ino = number.inode;
		told->as.statx.stx_dev_major = gnu_dev_major(number.device);
		told->as.statx.stx_dev_minor = gnu_dev_minor(number.device);
	} else {
		told->as.status.st_ino = number.inode;
		told->as.status.st_dev = number.device;
	}
}

/* One tree is on one mount, too. */
static void set_mount(const struct slk_tree *tree, struct told *told)
{
	unsigned asked = told->is_statx ? told->as.statx.stx_mask & STATX_MOUNT_IDS : 0;
	struct statx lower;

	if (asked && syscall(SYS_statx, tree->lower_fd, "", AT_EMPTY_PATH, asked, &lower) == 0)
		told->as.statx.stx_mnt_id = lower.stx_mnt_id;
}

static int merge(const struct slk_tree *tree, const char *path, struct told *told)
{
	struct stat lower;
	uint32_t links;
	int more = 0;

	if (slk_stat_confined(tree->lower_fd, path, &lower) < 0 || lower.st_nlink < 2 || slk_layers_links(tree->layers, path, tree->lower_fd, &more) < 0)
		return -1;
	set_number(told, (struct slk_number){lower.st_dev, lower.st_ino});
	links = (uint32_t)lower.st_nlink + (uint32_t)more;
	if (told->is_statx)
		told->as.statx.stx_nlink = links;
	else
		told->as.status.st_nlink = links;
	return 0;
}

static int tell(struct slk_engine *engine, struct slk_request *request, const struct slk_tree *tree, struct told *told)
{
	size_t size = told->is_statx ? sizeof(told->as.statx) : sizeof(told->as.status);

	set_mount(tree, told);
	if (!slk_tree_alive(engine, request))
		return PYTHON;
	if (slk_write_memory(request->tid, arg(request, engine->calls[request->nr].buffer), (uint32_t)size,
			     &told->as) < 0)
		return slk_answer_call(engine, request, 0, EFAULT);
	return slk_answer_call(engine, request, 0, 0);
}

/* No link is on the way: layers.c would have said so. */
int slk_tell_path(struct slk_engine *engine, struct slk_request *request, const struct slk_tree *tree, const char *path,
		  const struct slk_layered *found)
{
	const struct slk_call *row = &engine->calls[request->nr];
	struct slk_number number;
	struct told told;

	if (!asks_plainly(row, request, 0) ||
	    look(row, request, tree->upper_fd, path, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH, &told) < 0)
		return PYTHON;
	if (found->kind == SLK_LAYER_DIRECTORY && found->flags & SLK_LAYER_MERGED) {
		if (merge(tree, path, &told) < 0)
			return PYTHON;
	} else {
		slk_numbers_told(tree->numbers, number_of(&told).inode, &number);
		set_number(&told, number);
	}
	return tell(engine, request, tree, &told);
}

/* What is open is in the upper, or was. */
int slk_tell_descriptor(struct slk_engine *engine, struct slk_request *request, const struct slk_tree *tree)
{
	const struct slk_call *row = &engine->calls[request->nr];
	struct slk_number own, number;
	struct told told;
	char link[64];

	if (slk_numbers_are_own(tree->numbers))
		return 0;
	slk_descriptor_link(request, (int)(int32_t)request->args[0], link, sizeof(link));
	if (engine->tell_granted || !asks_plainly(row, request, AT_EMPTY_PATH) ||
	    look(row, request, AT_FDCWD, link, 0, &told) < 0)
		return PYTHON;
	own = number_of(&told);
	if (own.device != tree->upper_device)
		return PYTHON; /* another of its threads has put something else there */
	slk_numbers_told(tree->numbers, own.inode, &number);
	if (number.inode == own.inode && number.device == own.device)
		return 0;
	set_number(&told, number);
	return tell(engine, request, tree, &told);
}

/* What is open is the lower directory, by its path. */
int slk_tell_merged(struct slk_engine *engine, struct slk_request *request, const struct slk_tree *tree,
		    const char *path)
{
	const struct slk_call *row = &engine->calls[request->nr];
	struct slk_number number;
	struct stat opened;
	struct told told;
	char link[64];

	slk_descriptor_link(request, (int)(int32_t)request->args[0], link, sizeof(link));
	if (engine->tell_granted || !asks_plainly(row, request, AT_EMPTY_PATH) ||
	    look(row, request, tree->upper_fd, path, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH, &told) < 0 ||
	    merge(tree, path, &told) < 0 || syscall(SYS_newfstatat, AT_FDCWD, link, &opened, 0) < 0)
		return PYTHON;
	number = number_of(&told);
	if (opened.st_ino != number.inode || opened.st_dev != number.device)
		return PYTHON;
	return tell(engine, request, tree, &told);
}
