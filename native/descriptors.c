/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Calls on a descriptor, or on the working directory, of a program that has copy-on-write trees: what is behind it, and does
 * the kernel tell of it what the program is to be told?
 */
#define _GNU_SOURCE
#include "slk.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PYTHON (SLK_REASON_ZONE + 1)

void slk_descriptor_link(const struct slk_request *request, int fd, char *ret_link, size_t size)
{
	if (fd == AT_FDCWD)
		snprintf(ret_link, size, "/proc/%d/cwd", request->tid);
	else
		snprintf(ret_link, size, "/proc/%d/fd/%d", request->tid, fd);
}

/* A directory that nothing of the lower tree shows through holds no whiteouts. */
static int descriptor_in_upper(struct slk_engine *engine, struct slk_request *request, const struct slk_tree *tree,
			       int act, const char *path, uint32_t length)
{
	int found;

	if (act == SLK_ACT_FSTAT)
		return slk_tell_descriptor(engine, request, tree);
	if (act != SLK_ACT_GETDENTS || length <= tree->upper_length)
		return PYTHON;
	if (slk_trees_parked(engine))
		return PYTHON; /* whoever reads a directory needs its lock */
	path += tree->upper_length + 1;
	found = slk_layers_find(tree->layers, path);
	if ((found & 0xff) != SLK_LAYER_DIRECTORY || found >> 8 & SLK_LAYER_MERGED)
		return PYTHON;
	return slk_tell_listing(engine, request, tree, path);
}

/* Of a file with several names the kernel may count some that are gone. */
static int counts_right(const struct slk_request *request, const struct slk_tree *tree)
{
	char link[64];
	struct stat status;

	if (!slk_layers_links_lost(tree->layers))
		return 1;
	slk_descriptor_link(request, (int)(int32_t)request->args[0], link, sizeof(link));
	return syscall(SYS_newfstatat, AT_FDCWD, link, &status, 0) == 0 &&
	       (S_ISDIR(status.st_mode) || status.st_nlink == 1);
}

static int descriptor_in_lower(struct slk_engine *engine, struct slk_request *request, const struct slk_tree *tree,
			       int act, const char *path, uint32_t length)
{
	struct slk_layered found;
	struct slk_walk walk;

	if (tree->has_moved || slk_walk_set(&walk, "", 0, path, length) < 0)
		return PYTHON;
	slk_layers_walk(tree->layers, walk.text, walk.ends, tree->root_components, walk.count, &found);
	if (found.kind != SLK_LAYER_DIRECTORY || !(found.flags & SLK_LAYER_MERGED))
		return PYTHON;
	if (act == SLK_ACT_FSTAT && found.is_whole)
		return slk_tell_merged(engine, request, tree, slk_tree_relative(tree, &walk));
	if (act == SLK_ACT_FSTAT && !counts_right(request, tree))
		return PYTHON;
	/* A directory with something in the upper is listed by Python. */
	return act == SLK_ACT_GETCWD || !found.is_whole ? 0 : PYTHON;
}

/* A call on a descriptor, or on the working directory: 0: nothing of a tree is behind it that the kernel does not know;
 * SLK_ANSWERED, or reason + 1. */
int slk_tree_descriptor(struct slk_engine *engine, struct slk_request *request)
{
	int act = engine->calls[request->nr].act;
	char text[SLK_PATH_MAX];
	struct slk_tree *tree;
	ssize_t length;

	if (act == SLK_ACT_STAT || act == SLK_ACT_STATX)
		act = SLK_ACT_FSTAT; /* with an empty path */
	if (act == SLK_ACT_FSTAT && slk_all_is_as_open(engine))
		return 0;
	length = slk_read_link(engine, request->tid, act == SLK_ACT_GETCWD ? AT_FDCWD : (int)(int32_t)request->args[0],
			       text, sizeof(text) - 1);
	if (length == -ENAMETOOLONG)
		return PYTHON;
	if (length > 0)
		text[length] = '\0';
	if (length <= 0 || length == (ssize_t)sizeof(text) - 1)
		return length > 0 ? PYTHON : 0; /* EBADF is the kernel's to find */
	for (uint32_t i = 0; i < engine->tree_count; i++)
		if (slk_is_below(text, (uint32_t)length, engine->trees[i].upper, engine->trees[i].upper_length))
			return descriptor_in_upper(engine, request, &engine->trees[i], act, text, (uint32_t)length);
	tree = slk_tree_at(engine, text, (uint32_t)length);
	/* Without a lower tree, only the upper is the tree's. */
	return tree && tree->lower_fd >= 0 ? descriptor_in_lower(engine, request, tree, act, text, (uint32_t)length) : 0;
}
