/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Calls that would change a copy-on-write tree and come to nothing: removing what is not there, making a directory that
 * is. Programs ask so all the time (`rm -f`, `mkdir -p`, git for its state files), and only the two layers need be looked
 * at for the answer.
 */
#define _GNU_SOURCE
#include "slk.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MISSING = 0, THERE = 1 };

/* Of a name that the index does not know: MISSING, THERE, or -errno where it takes more thought. */
static int look_in_lower(const struct slk_tree *tree, const char *path)
{
	struct stat status;
	int fd = slk_open_confined(tree->lower_fd, path, O_PATH | O_NOFOLLOW, 0);
	int result;

	if (fd < 0)
		return fd == -ENOENT ? MISSING : fd;
	/* A whiteout down there: the model knows. */
	result = fstat(fd, &status) < 0 || (S_ISCHR(status.st_mode) && status.st_rdev == 0) ? -EINVAL : THERE;
	close(fd);
	return result;
}

static int look(struct slk_engine *engine, const struct slk_tree *tree, const struct slk_walk *walk, const struct slk_layered *found)
{
	if (!slk_tree_may_search_above(engine, tree, walk, found))
		return -EACCES;
	if (found->is_whole)
		return found->kind == SLK_LAYER_WHITEOUT ? MISSING : THERE;
	if (found->kind != SLK_LAYER_DIRECTORY)
		return -ENOTDIR; /* or a link, which leads elsewhere */
	return found->flags & SLK_LAYER_MERGED ? look_in_lower(tree, slk_tree_relative(tree, walk)) : MISSING;
}

/* 0: it does not come to nothing, as far as this can tell. */
int slk_tree_unchanged(struct slk_engine *engine, struct slk_request *request, const struct slk_tree *tree,
		       const struct slk_walk *walk, const struct slk_layered *found)
{
	int is_there = look(engine, tree, walk, found);

	/* Before the kernel asks whether the directory may be written (fs/namei.c: filename_create, do_unlinkat). */
	if (engine->calls[request->nr].act == SLK_ACT_MKDIR)
		return is_there == THERE ? slk_answer_call(engine, request, 0, EEXIST) : 0;
	return is_there == MISSING ? slk_answer_call(engine, request, 0, ENOENT) : 0;
}
