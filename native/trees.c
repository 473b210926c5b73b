/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The calls in copy-on-write trees that C answers by itself.
 *
 * What a path means is asked of the index of the upper directory (layers.c). Then
 * - what only the lower tree has, and no symbolic link is on the way: the kernel finds the same, so it may go on;
 *   what it may do there is Landlock's, which grants reading and executing only;
 * - what is gone: ENOENT;
 * - a file or directory of the upper: told, or opened and handed over;
 * - what is one step in the upper: made, moved or removed (changes.c).
 * Everything else is Python's. So is every call of a program that changed its ids, where we are root: what is done here
 * is done as ourselves.
 */
#define _GNU_SOURCE
#include "slk.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* What is mounted in a tree may belong to a server that does not answer: Python knows. */
#define CONFINED (RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV)
/* Flags of open(2) that mean the same when we open it. */
#define PLAIN_FLAGS                                                                                                    \
	(O_ACCMODE | O_CREAT | O_EXCL | O_TRUNC | O_APPEND | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY |          \
	 O_LARGEFILE | O_DSYNC | O_SYNC | O_NOATIME | O_DIRECTORY)
#define LARGEFILE 0100000 /* glibc's O_LARGEFILE is 0 where it is implied */
#define PYTHON (SLK_REASON_ZONE + 1)

int slk_engine_add_tree(struct slk_engine *engine, const struct slk_tree_config *config)
{
	struct slk_tree *tree = &engine->trees[engine->tree_count];
	struct stat upper;

	if (engine->tree_count == SLK_TREES_MAX)
		return -ENOSPC;
	if (config->root_length >= SLK_PATH_MAX || config->upper_length >= SLK_PATH_MAX)
		return -ENAMETOOLONG;
	if (fstat(config->upper_fd, &upper) < 0)
		return -errno;
	memcpy(tree->root, config->root, config->root_length);
	memcpy(tree->upper, config->upper, config->upper_length);
	tree->root_length = config->root_length;
	tree->upper_length = config->upper_length;
	for (uint32_t i = 0; i < config->root_length; i++)
		tree->root_components += config->root[i] == '/';
	tree->layers = config->layers;
	tree->numbers = config->numbers;
	tree->lower_fd = config->lower_fd;
	tree->upper_fd = config->upper_fd;
	tree->work_fd = config->work_fd;
	tree->upper_device = upper.st_dev;
	tree->touched = !slk_tree_begins_untouched(engine, tree);
	engine->tree_count++;
	return 0;
}

void slk_engine_set_disk(struct slk_engine *engine, struct slk_disk *disk)
{
	engine->disk = disk;
}

void slk_engine_tree_moved(struct slk_engine *engine, uint32_t number)
{
	if (number < engine->tree_count)
		engine->trees[number].has_moved = 1;
}

int slk_is_below(const char *path, uint32_t length, const char *top, uint32_t top_length)
{
	return length >= top_length && memcmp(path, top, top_length) == 0 &&
	       (length == top_length || path[top_length] == '/');
}

/* The tree that a normalised path is in, by its letters: the innermost, since that comes first. */
struct slk_tree *slk_tree_at(struct slk_engine *engine, const char *path, uint32_t length)
{
	for (uint32_t i = 0; i < engine->tree_count; i++)
		if (slk_is_below(path, length, engine->trees[i].root, engine->trees[i].root_length))
			return &engine->trees[i];
	return NULL;
}

struct slk_tree *slk_tree_of(struct slk_engine *engine, const struct slk_walk *walk)
{
	struct slk_tree *tree = slk_tree_at(engine, walk->text, walk->length);
	const struct slk_zone *zone = tree ? slk_zones_find(engine->zones, walk) : NULL;

	return zone && zone->flags & SLK_ZONE_WHOLE && zone->length == tree->root_length ? tree : NULL;
}

/* By its letters, the name at which something that is granted is to be seen in a tree: a mount point to the program. */
int slk_tree_is_passage(struct slk_engine *engine, const struct slk_walk *walk)
{
	const struct slk_zone *zone = slk_zones_find(engine->zones, walk);

	return zone && zone->length == walk->length && slk_tree_at(engine, walk->text, walk->length);
}

/* From where the kernel has an object to what the program calls it. 1: it is in an upper directory. */
int slk_tree_rename_base(const struct slk_engine *engine, char *base, uint32_t *length)
{
	for (uint32_t i = 0; i < engine->tree_count; i++) {
		const struct slk_tree *tree = &engine->trees[i];
		uint32_t rest;

		if (!slk_is_below(base, *length, tree->upper, tree->upper_length))
			continue;
		rest = *length - tree->upper_length;
		if (tree->root_length + rest >= SLK_PATH_MAX)
			return -ENAMETOOLONG;
		memmove(base + tree->root_length, base + tree->upper_length, rest);
		memcpy(base, tree->root, tree->root_length);
		*length = tree->root_length + rest;
		base[*length] = '\0';
		return 1;
	}
	return 0;
}

/* May this lower directory be another one to the program than its letters say? Where `..` leads from it is Python's. */
int slk_tree_may_have_moved(const struct slk_engine *engine, const char *base, uint32_t length)
{
	for (uint32_t i = 0; i < engine->tree_count; i++) {
		const struct slk_tree *tree = &engine->trees[i];

		if (tree->has_moved && slk_is_below(base, length, tree->root, tree->root_length))
			return 1;
	}
	return 0;
}

/* Is a directory made anew where the kernel has this lower one, which was removed then? Who is in it is in neither. */
int slk_tree_has_anew(const struct slk_engine *engine, const char *base, uint32_t length)
{
	char path[SLK_PATH_MAX];

	for (uint32_t i = 0; i < engine->tree_count; i++) {
		const struct slk_tree *tree = &engine->trees[i];
		int found;

		if (length <= tree->root_length || length >= SLK_PATH_MAX ||
		    !slk_is_below(base, length, tree->root, tree->root_length))
			continue;
		memcpy(path, base + tree->root_length + 1, length - tree->root_length - 1);
		path[length - tree->root_length - 1] = '\0';
		found = slk_layers_find(tree->layers, path);
		if (found > 0 && (found & 0xff) == SLK_LAYER_DIRECTORY && !(found >> 8 & SLK_LAYER_MERGED))
			return 1;
	}
	return 0;
}

/* Names only: what `.` and `..` behind a name mean, and a slash at the end, is Python's. */
int slk_is_plain(const char *path, uint32_t length)
{
	uint32_t at = 0;
	int named = 0;

	while (at < length) {
		uint32_t end = at;

		while (end < length && path[end] != '/')
			end++;
		if (end - at == 2 && path[at] == '.' && path[at + 1] == '.') {
			if (named || path[0] == '/')
				return 0;
		} else if (end > at && !(end - at == 1 && path[at] == '.')) {
			if (end - at > 255)
				return 0;
			named = 1;
		} else if (named && end == length) {
			return 0;
		}
		at = end + 1;
	}
	return !(named && path[length - 1] == '/');
}

/* ---- small things */

const char *slk_tree_relative(const struct slk_tree *tree, const struct slk_walk *walk)
{
	return walk->length > tree->root_length ? walk->text + tree->root_length + 1 : "";
}

int slk_open_confined(int fd, const char *path, uint64_t flags, uint64_t mode)
{
	struct open_how how = {.flags = flags | O_CLOEXEC, .mode = mode, .resolve = CONFINED};
	long opened = syscall(SYS_openat2, fd, *path ? path : ".", &how, sizeof(how));

	return opened < 0 ? -errno : (int)opened;
}

int slk_stat_confined(int fd, const char *path, struct stat *ret_status)
{
	int opened = slk_open_confined(fd, path, O_PATH | O_NOFOLLOW, 0);
	int result;

	if (opened < 0)
		return opened;
	result = fstat(opened, ret_status) < 0 ? -errno : 0;
	close(opened);
	return result;
}

int slk_answer_call(struct slk_engine *engine, struct slk_request *request, int64_t value, int error)
{
	slk_answer(engine, request->slot, value, -error, 0);
	return SLK_ANSWERED;
}

int slk_tree_alive(const struct slk_engine *engine, const struct slk_request *request)
{
	return slk_request_alive(engine, request);
}

static uint64_t arg(const struct slk_request *request, int position)
{
	return position < 0 ? 0 : request->args[position];
}

/* ---- what is only looked at */

static int is_merged(const struct slk_layered *found)
{
	return found->kind == SLK_LAYER_DIRECTORY && found->flags & SLK_LAYER_MERGED;
}

/* By the directories of the upper: those of the lower tree may have other modes. That it may is kept as what was judged,
 * until a name or a right may have changed (engine->generation). */
int slk_tree_may_search_above(struct slk_engine *engine, const struct slk_tree *tree, const struct slk_walk *walk,
			      const struct slk_layered *found)
{
	uint32_t depth = found->is_whole || found->kind != SLK_LAYER_DIRECTORY ? found->depth - 1 : found->depth;
	char above[SLK_PATH_MAX] = ".";

	if (depth < tree->root_components || slk_judged_before(engine, walk, depth, SLK_NEED_TO_SEARCH, 0))
		return 1;
	if (depth > tree->root_components) {
		uint32_t start = tree->root_length + 1, length = walk->ends[depth - 1] - start;

		memcpy(above, walk->text + start, length);
		above[length] = '\0';
	}
	if (syscall(SYS_faccessat, tree->upper_fd, above, X_OK) < 0)
		return 0;
	slk_judged_now(engine, walk, depth, SLK_NEED_TO_SEARCH, 0, slk_judged_until());
	return 1;
}

static int tell_access(struct slk_engine *engine, struct slk_request *request, const struct slk_tree *tree,
		       const struct slk_walk *walk, const struct slk_layered *found)
{
	const struct slk_call *row = &engine->calls[request->nr];
	const char *path = slk_tree_relative(tree, walk);
	uint64_t mode = (uint32_t)arg(request, row->mode);

	if (mode & ~(uint64_t)7 || (row->flags >= 0 && (uint32_t)arg(request, row->flags)))
		return PYTHON;
	if (mode && syscall(SYS_faccessat2, tree->upper_fd, path, (int)mode, AT_EMPTY_PATH) < 0)
		return errno == EACCES ? slk_answer_call(engine, request, 0, EACCES) : PYTHON;
	return slk_answer_call(engine, request, 0, mode || slk_tree_may_search_above(engine, tree, walk, found) ? 0 : EACCES);
}

uint32_t slk_tree_open_flags_of(const struct slk_engine *engine, const struct slk_request *request)
{
	const struct slk_call *row = &engine->calls[request->nr];

	return request->nr == engine->creat_nr ? O_CREAT | O_WRONLY | O_TRUNC : (uint32_t)arg(request, row->flags);
}

int slk_tree_hand_over(struct slk_engine *engine, struct slk_request *request, int fd, uint32_t flags)
{
	slk_hand_over_fd(engine, request->slot, fd, (flags & O_CLOEXEC) != 0);
	return SLK_ANSWERED;
}

/* What the upper has. O_NONBLOCK is only for us: the holder of a lease must not keep us waiting. */
int slk_tree_open_upper(struct slk_engine *engine, struct slk_request *request, const struct slk_tree *tree,
		      const char *path, uint32_t flags)
{
	uint32_t kept = flags & ~(uint32_t)(O_CREAT | O_EXCL | O_CLOEXEC);
	int writes = (flags & O_ACCMODE) != O_RDONLY || flags & O_TRUNC;
	int fd;

	if (writes && engine->disk && !slk_disk_has_room(engine->disk, SLK_DISK_BLOCK, 0))
		return PYTHON;
	if (flags & O_TRUNC && slk_tree_takes_long(engine, tree, path))
		return PYTHON;
	if (!slk_tree_alive(engine, request))
		return PYTHON;
	fd = slk_open_confined(tree->upper_fd, path, kept | O_NONBLOCK, 0);
	if (fd == -EAGAIN || fd == -EXDEV || fd == -ELOOP)
		return PYTHON;
	if (fd < 0)
		return slk_answer_call(engine, request, 0, -fd);
	if (!(flags & O_NONBLOCK) && fcntl(fd, F_SETFL, kept & ~(uint32_t)(O_TRUNC | O_NONBLOCK)) < 0) {
		close(fd);
		return PYTHON;
	}
	if (flags & O_TRUNC && engine->disk)
		slk_disk_note(engine->disk, fd, "");
	return slk_tree_hand_over(engine, request, fd, flags);
}

static int open_in_tree(struct slk_engine *engine, struct slk_request *request, const struct slk_tree *tree,
			const struct slk_walk *walk, const struct slk_layered *found, int from_upper)
{
	const char *path = slk_tree_relative(tree, walk);
	uint32_t flags = slk_tree_open_flags_of(engine, request);
	int writes = (flags & O_ACCMODE) != O_RDONLY || flags & (O_TRUNC | O_CREAT);

	if (flags & ~(uint32_t)(PLAIN_FLAGS | LARGEFILE) || (flags & O_ACCMODE) == O_ACCMODE ||
	    (flags & (O_CREAT | O_DIRECTORY)) == (O_CREAT | O_DIRECTORY))
		return PYTHON;
	if (found->is_whole && found->kind == SLK_LAYER_FILE) {
		if ((flags & (O_CREAT | O_EXCL)) == (O_CREAT | O_EXCL))
			return slk_answer_call(engine, request, 0,
					       slk_tree_may_search_above(engine, tree, walk, found) ? EEXIST : EACCES);
		return flags & O_DIRECTORY ? PYTHON : slk_tree_open_upper(engine, request, tree, path, flags);
	}
	if (writes)
		return slk_tree_open_to_change(engine, request, tree, path, found, flags);
	if (found->is_whole && found->kind == SLK_LAYER_DIRECTORY && !is_merged(found))
		return slk_tree_open_upper(engine, request, tree, path, flags);
	if (found->is_whole ? !is_merged(found) : !(found->flags & SLK_LAYER_MERGED))
		return PYTHON;
	if (from_upper)
		return PYTHON;
	if (!slk_tree_may_search_above(engine, tree, walk, found))
		return PYTHON;
	/* The kernel asks the lower directory; what the program made of its mode is the upper's. */
	if (found->is_whole && syscall(SYS_faccessat2, tree->upper_fd, path, R_OK, AT_EMPTY_PATH | AT_EACCESS) < 0)
		return errno == EACCES ? slk_answer_call(engine, request, 0, EACCES) : PYTHON;
	return slk_lower_only(engine, tree, walk, !(flags & O_NOFOLLOW), SLK_LOOK_OPEN);
}

static int look_in_tree(struct slk_engine *engine, struct slk_request *request, const struct slk_tree *tree,
			const struct slk_walk *walk, const struct slk_layered *found, int from_upper)
{
	const struct slk_call *row = &engine->calls[request->nr];
	const char *path = slk_tree_relative(tree, walk);
	int follow = row->act != SLK_ACT_READLINK;
	int stats = row->act == SLK_ACT_STAT || row->act == SLK_ACT_LSTAT || row->act == SLK_ACT_STATX;

	if (row->act == SLK_ACT_LSTAT ||
	    (row->act != SLK_ACT_READLINK && row->flags >= 0 && arg(request, row->flags) & AT_SYMLINK_NOFOLLOW))
		follow = 0;
	if (found->is_whole && (found->kind == SLK_LAYER_FILE || found->kind == SLK_LAYER_DIRECTORY)) {
		if (stats)
			return slk_tell_path(engine, request, tree, path, found);
		if (row->act == SLK_ACT_ACCESS)
			return tell_access(engine, request, tree, walk, found);
		if (row->act == SLK_ACT_READLINK && slk_tree_may_search_above(engine, tree, walk, found))
			return slk_answer_call(engine, request, 0, EINVAL);
		if (row->act == SLK_ACT_CHDIR && is_merged(found) && !from_upper)
			return slk_lower_only(engine, tree, walk, 1, SLK_LOOK);
		return PYTHON;
	}
	if (found->is_whole || found->kind != SLK_LAYER_DIRECTORY || from_upper)
		return PYTHON;
	if (!(found->flags & SLK_LAYER_MERGED) || !slk_tree_may_search_above(engine, tree, walk, found))
		return PYTHON;
	return slk_lower_only(engine, tree, walk, follow, stats ? SLK_LOOK_STAT : SLK_LOOK);
}

/* Removed, or never there: below what shows nothing of the lower tree. */
static int is_gone(const struct slk_layered *found)
{
	if (found->kind == SLK_LAYER_WHITEOUT)
		return 1;
	return !found->is_whole && found->kind == SLK_LAYER_DIRECTORY && !(found->flags & SLK_LAYER_MERGED);
}

static int names_nothing(const struct slk_request *request)
{
	return request->path[0] == '.' && strspn(request->path, "./") == strlen(request->path);
}

/* Or opens what must be there already. */
static int only_looks(const struct slk_engine *engine, const struct slk_request *request)
{
	const struct slk_call *row = &engine->calls[request->nr];

	if (row->act == SLK_ACT_OPEN)
		return !(slk_tree_open_flags_of(engine, request) & (O_CREAT | (O_TMPFILE & ~O_DIRECTORY)));
	return row->act != SLK_ACT_NONE && row->act < SLK_ACT_MKDIR;
}

/* 0: continue; SLK_ANSWERED; else reason + 1. */
int slk_tree_call(struct slk_engine *engine, struct slk_request *request, struct slk_tree *tree,
		  const struct slk_walk *walk, int from_upper)
{
	const struct slk_call *row = &engine->calls[request->nr];
	const char *path = slk_tree_relative(tree, walk);
	struct slk_layered found;
	int result;

	/* From a working directory that is nearly as deep as a path can tell, more than one path can tell. */
	if (engine->shared->ids_changed || engine->tell_granted || slk_trees_parked(engine) || walk->length - tree->root_length > SLK_PATH_MAX)
		return PYTHON;
	tree->touched |= slk_may_touch(engine, request);
	slk_layers_walk(tree->layers, walk->text, walk->ends, tree->root_components, walk->count, &found);
	/* Where it is: which may have been removed, and still is there; or be closed to it, which the path does not show. */
	if (names_nothing(request) && (is_gone(&found) || (found.is_whole && geteuid() != 0)))
		return PYTHON;
	if (is_gone(&found) && only_looks(engine, request))
		return slk_answer_call(engine, request, 0, slk_tree_may_search_above(engine, tree, walk, &found) ? ENOENT : EACCES);
	switch (row->act) {
	case SLK_ACT_OPEN:
		return open_in_tree(engine, request, tree, walk, &found, from_upper);
	case SLK_ACT_STAT:
	case SLK_ACT_LSTAT:
	case SLK_ACT_STATX:
	case SLK_ACT_ACCESS:
	case SLK_ACT_READLINK:
	case SLK_ACT_CHDIR:
	case SLK_ACT_EXECUTE:
		return look_in_tree(engine, request, tree, walk, &found, from_upper);
	case SLK_ACT_MKDIR:
		result = slk_tree_unchanged(engine, request, tree, walk, &found);
		return result ? result : slk_tree_make_directory(engine, request, tree, path, &found);
	case SLK_ACT_UNLINK:
		if ((result = slk_tree_unchanged(engine, request, tree, walk, &found)))
			return result;
		if (row->flags >= 0 && (uint32_t)arg(request, row->flags) == AT_REMOVEDIR)
			return slk_tree_remove_directory(engine, request, tree, path, &found);
		if (row->flags >= 0 && (uint32_t)arg(request, row->flags))
			return PYTHON;
		return slk_tree_remove_file(engine, request, tree, path, &found);
	case SLK_ACT_RMDIR:
		result = slk_tree_unchanged(engine, request, tree, walk, &found);
		return result ? result : slk_tree_remove_directory(engine, request, tree, path, &found);
	default:
		return PYTHON;
	}
}
