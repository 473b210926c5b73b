/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whether a copy-on-write tree may be other than the kernel has it.
 *
 * Until a program has asked for the first change, the lower tree is all there is: what stat, readlink, getdents64 and their
 * like find in it is what is to be told, wherever a path may lead, so the path need not be read. What comes from the
 * program is seen before it is carried out; what others change in the lower tree the kernel finds by itself.
 *
 * It is not asked of the index alone: that the root itself has another mode now, say, is no name in it.
 */
#define _GNU_SOURCE
#include "slk.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/xattr.h>

static int same_time(struct timespec one, struct timespec other)
{
	return one.tv_sec == other.tv_sec && one.tv_nsec == other.tv_nsec;
}

/* As the storage makes it: with the mode, the owner and the time of the lower one, and without an ACL. */
static int root_is_as_made(const struct slk_tree *tree)
{
	struct stat lower, upper;
	char link[64];

	if (fstat(tree->lower_fd, &lower) < 0 || fstat(tree->upper_fd, &upper) < 0)
		return 0;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", tree->upper_fd);
	return lower.st_mode == upper.st_mode && lower.st_uid == upper.st_uid && lower.st_gid == upper.st_gid &&
	       same_time(lower.st_mtim, upper.st_mtim) &&
	       getxattr(link, "system.posix_acl_access", NULL, 0) < 0 && (errno == ENODATA || errno == ENOTSUP);
}

/* Nothing is denied in it, either. */
static int is_whole(const struct slk_engine *engine, const struct slk_tree *tree)
{
	struct slk_walk walk;
	const struct slk_zone *zone;

	if (slk_walk_set(&walk, "", 0, tree->root, tree->root_length) < 0)
		return 0;
	zone = slk_zones_find(engine->zones, &walk);
	return zone && zone->flags & SLK_ZONE_WHOLE && zone->length == tree->root_length;
}

int slk_tree_begins_untouched(const struct slk_engine *engine, const struct slk_tree *tree)
{
	return tree->lower_fd >= 0 && slk_layers_find(tree->layers, "") >> 8 == SLK_LAYER_MERGED &&
	       is_whole(engine, tree) && root_is_as_made(tree);
}

/* The flags of openat2 lie in memory: any of those may. */
int slk_may_touch(const struct slk_engine *engine, const struct slk_request *request)
{
	const struct slk_call *row = &engine->calls[request->nr];
	uint32_t flags;

	if (!row->may_touch || row->treatment != SLK_CALL_OPEN)
		return row->may_touch;
	flags = slk_tree_open_flags_of(engine, request);
	return (flags & O_ACCMODE) != O_RDONLY || flags & (O_CREAT | O_TRUNC | (O_TMPFILE & ~O_DIRECTORY));
}

void slk_touch_trees(struct slk_engine *engine)
{
	for (uint32_t i = 0; i < engine->tree_count; i++)
		engine->trees[i].touched = 1;
}

static int is_untouched(const struct slk_tree *tree)
{
	return !tree->touched && slk_layers_is_empty(tree->layers);
}

int slk_trees_are_untouched(const struct slk_engine *engine)
{
	for (uint32_t i = 0; i < engine->tree_count; i++)
		if (!is_untouched(&engine->trees[i]))
			return 0;
	return engine->tree_count > 0;
}

int slk_all_is_as_open(const struct slk_engine *engine)
{
	for (uint32_t i = 0; i < engine->tree_count; i++)
		if (!slk_numbers_are_own(engine->trees[i].numbers) ||
		    (engine->trees[i].lower_fd >= 0 && !is_untouched(&engine->trees[i])))
			return 0;
	return 1;
}
