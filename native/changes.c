/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Calls that change a copy-on-write tree, where that is one step in the upper directory: new names in a directory that
 * it has, names that go, and small files that are written for the first time.
 *
 * As the executor of store does it (supervisor/sandlockd/store/executor.py): what is not one system call in the upper is
 * made in work and shown by one rename. Everything that takes more thought is Python's: directories that must hide a
 * lower one, hard links, sticky and set-group-ID directories, default ACLs, files that take long to copy.
 */
#define _GNU_SOURCE
#include "slk.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#define PYTHON (SLK_REASON_ZONE + 1)
#define COPY_BYTES_MAX (128u * 1024) /* what is more, a worker copies */
#define WHITEOUT "whiteout"          /* in work: further names of it cost no inode */
#define RENAME_WHITEOUT_FLAG 4
#ifndef RENAME_NOREPLACE
#define RENAME_NOREPLACE 1
#endif

/* A name in work that nobody else takes: Python's are numbers. */
static void work_name(char *name, size_t size)
{
	snprintf(name, size, "#c%d", gettid());
}

/* What was begun (slk_slot_acts) came to nothing, and is Python's. */
static int not_done(struct slk_engine *engine, const struct slk_request *request)
{
	slk_slot_acts_not(engine, request->slot);
	return PYTHON;
}

static uint64_t arg(const struct slk_request *request, int position)
{
	return position < 0 ? 0 : request->args[position];
}

static uint32_t mode_of(const struct slk_engine *engine, const struct slk_request *request)
{
	const struct slk_call *row = &engine->calls[request->nr];
	int position = row->act == SLK_ACT_MKDIR ? row->mode :
		       request->nr == engine->creat_nr ? row->path + 1 : row->flags + 1;

	return (uint32_t)arg(request, position) & 07777;
}

/* The umask: that of the start, until somebody changes his own. */
static int umask_of(const struct slk_engine *engine, int32_t tid, uint32_t *ret_umask)
{
	char path[64], text[256];
	const char *at;
	ssize_t got;
	int fd;

	*ret_umask = engine->umask;
	if (!engine->shared->umask_changed)
		return 0;
	snprintf(path, sizeof(path), "/proc/%d/status", tid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	got = read(fd, text, sizeof(text) - 1);
	close(fd);
	text[got > 0 ? got : 0] = '\0';
	at = strstr(text, "\nUmask:\t");
	if (!at)
		return -EINVAL;
	*ret_umask = (uint32_t)strtoul(at + 8, NULL, 8);
	return 0;
}

/* ---- what is under a name in the lower tree, where names of it show */

enum beneath { NOTHING, A_FILE, A_DIRECTORY, UNKNOWN };

static enum beneath beneath(const struct slk_tree *tree, const char *path, uint8_t parent_flags, struct stat *ret_status)
{
	int result;

	if (!(parent_flags & SLK_LAYER_MERGED))
		return NOTHING;
	result = slk_stat_confined(tree->lower_fd, path, ret_status);
	if (result < 0)
		return result == -ENOENT ? NOTHING : UNKNOWN;
	if (S_ISCHR(ret_status->st_mode) && ret_status->st_rdev == 0)
		return UNKNOWN; /* a whiteout down there: the model knows */
	return S_ISDIR(ret_status->st_mode) ? A_DIRECTORY : A_FILE;
}

/* The directory that a name is in, as the index has it. */
static uint8_t parent_flags(const struct slk_layered *found)
{
	return found->is_whole ? found->parent_flags : found->flags;
}

static void parent_of(const char *path, char ret_parent[SLK_PATH_MAX])
{
	const char *slash = strrchr(path, '/');
	size_t length = slash ? (size_t)(slash - path) : 1;

	memcpy(ret_parent, slash ? path : ".", length);
	ret_parent[length] = '\0';
}

static int stat_parent(const struct slk_tree *tree, const char *path, struct stat *ret_status)
{
	char parent[SLK_PATH_MAX];

	parent_of(path, parent);
	return syscall(SYS_newfstatat, tree->upper_fd, parent, ret_status, AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
}

/* 1 also where it cannot be told. */
static int parent_has(const struct slk_tree *tree, const char *path, mode_t bits)
{
	struct stat status;

	return stat_parent(tree, path, &status) < 0 || status.st_mode & bits;
}

/* May something new be made here, in a directory that is in the upper and gives nothing to what is made in it? */
static int is_free(const struct slk_tree *tree, const char *path, const struct slk_layered *found)
{
	struct stat ignored;

	return !found->is_whole && found->is_last && found->kind == SLK_LAYER_DIRECTORY &&
	       !(found->flags & SLK_LAYER_ACL) && beneath(tree, path, found->flags, &ignored) == NOTHING;
}

static int is_removed(const struct slk_tree *tree, const char *path, const struct slk_layered *found)
{
	return found->is_whole && found->kind == SLK_LAYER_WHITEOUT && !(found->parent_flags & SLK_LAYER_ACL) &&
	       !parent_has(tree, path, S_ISGID);
}

/* ---- what the upper holds, where that is limited (disk.c) */

/* A new name, a block for it in its directory, and so much. Where there is not, Python says so. */
static int has_room(const struct slk_engine *engine, uint64_t bytes)
{
	return !engine->disk || slk_disk_has_room(engine->disk, 2u * SLK_DISK_BLOCK + bytes, 0);
}

static void leaving(const struct slk_engine *engine, const struct slk_tree *tree, const char *path)
{
	if (engine->disk)
		slk_disk_leaving(engine->disk, tree->upper_fd, path);
}

/* A name came or went. */
static void note_names(const struct slk_engine *engine, const struct slk_tree *tree, const char *path)
{
	char parent[SLK_PATH_MAX];

	if (!engine->disk)
		return;
	parent_of(path, parent);
	slk_disk_left(engine->disk);
	slk_disk_note(engine->disk, tree->upper_fd, parent);
}

static void note_new(const struct slk_engine *engine, const struct slk_tree *tree, const char *path)
{
	if (engine->disk)
		slk_disk_note(engine->disk, tree->upper_fd, path);
	note_names(engine, tree, path);
}

/* ---- made */

static void note_made(const struct slk_tree *tree, int dirfd, const char *path)
{
	struct stat status;

	if (syscall(SYS_newfstatat, dirfd, path, &status, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) == 0)
		slk_numbers_made(tree->numbers, status.st_ino);
}

/* In the place of a whiteout: in work first. */
static int create_aside(const struct slk_tree *tree, const char *path, uint32_t flags, uint32_t mode)
{
	char name[32] = "stage/";
	int error, fd;

	work_name(name + 6, sizeof(name) - 6);
	fd = slk_open_confined(tree->work_fd, name, flags, mode);
	if (fd < 0 || renameat(tree->work_fd, name, tree->upper_fd, path) == 0)
		return fd;
	error = -errno;
	close(fd);
	unlinkat(tree->work_fd, name, 0);
	return error;
}

/* A whiteout in the place of a file of the upper, in one step. */
static int white_out(const struct slk_tree *tree, const char *path)
{
	char name[32];
	int error;

	work_name(name, sizeof(name));
	if (linkat(tree->work_fd, WHITEOUT, tree->work_fd, name, 0) < 0)
		return -errno;
	if (renameat(tree->work_fd, name, tree->upper_fd, path) == 0)
		return 0;
	error = -errno;
	unlinkat(tree->work_fd, name, 0);
	return error;
}

/* The caller had no number left for the new file: as if it had been asked before. */
static int take_back(const struct slk_engine *engine, const struct slk_tree *tree, const char *path, int aside)
{
	leaving(engine, tree, path);
	return aside ? white_out(tree, path) : unlinkat(tree->upper_fd, path, 0);
}

static int create_file(struct slk_engine *engine, struct slk_request *request, const struct slk_tree *tree,
		       const char *path, const struct slk_layered *found, uint32_t flags)
{
	uint32_t kept = (flags & ~(uint32_t)(O_CLOEXEC | O_TRUNC | O_DIRECTORY)) | O_CREAT | O_EXCL;
	int aside = is_removed(tree, path, found);
	uint32_t mask, mode = mode_of(engine, request);
	int fd, number;

	if ((!aside && !is_free(tree, path, found)) || slk_layers_is_watched(tree->layers, path))
		return PYTHON;
	if (!has_room(engine, 0) || umask_of(engine, request->tid, &mask) < 0 || !slk_tree_alive(engine, request))
		return PYTHON;
	slk_slot_acts(engine, request->slot, 0);
	if (aside)
		fd = create_aside(tree, path, kept, mode & ~mask);
	else
		fd = slk_open_confined(tree->upper_fd, path, kept, mode & ~mask);
	if (fd < 0)
		return fd == -EEXIST || fd == -EXDEV || fd == -ELOOP ? not_done(engine, request) :
								       slk_answer_call(engine, request, 0, -fd);
	note_made(tree, fd, "");
	number = slk_give_fd(engine, request->slot, fd, (flags & O_CLOEXEC) != 0);
	close(fd);
	if (number != -EMFILE || take_back(engine, tree, path, aside) < 0)
		slk_layers_set(tree->layers, path, SLK_LAYER_FILE, 0);
	note_new(engine, tree, path);
	slk_answer_given(engine, request->slot, number);
	return SLK_ANSWERED;
}

int slk_tree_make_directory(struct slk_engine *engine, struct slk_request *request, const struct slk_tree *tree,
			    const char *path, const struct slk_layered *found)
{
	uint32_t mask, mode = mode_of(engine, request) & 01777;

	if (!is_free(tree, path, found) || slk_layers_is_watched(tree->layers, path) ||
	    !has_room(engine, SLK_DISK_BLOCK) ||
	    umask_of(engine, request->tid, &mask) < 0 || !slk_tree_alive(engine, request))
		return PYTHON;
	slk_slot_acts(engine, request->slot, 0);
	if (mkdirat(tree->upper_fd, path, mode & ~mask) < 0)
		return errno == EEXIST ? not_done(engine, request) : slk_answer_call(engine, request, 0, errno);
	note_made(tree, tree->upper_fd, path);
	note_new(engine, tree, path);
	slk_layers_set(tree->layers, path, SLK_LAYER_DIRECTORY, 0);
	return slk_answer_call(engine, request, 0, 0);
}

/* ---- written for the first time */

/* The record of where it comes from: overlay/identity.py. */
static int set_origin(int fd, const char *path, const struct stat *from)
{
	char value[SLK_PATH_MAX + 256];
	int length = snprintf(value, sizeof(value), "1 f %llu %llu %llu %lld %lld %o %s", (unsigned long long)from->st_dev,
			      (unsigned long long)from->st_ino, (unsigned long long)from->st_size,
			      (long long)from->st_mtim.tv_sec * 1000000000 + from->st_mtim.tv_nsec,
			      (long long)from->st_ctim.tv_sec * 1000000000 + from->st_ctim.tv_nsec,
			      from->st_mode & 07777, strlen(path) <= 1024 ? path : "");

	return fsetxattr(fd, SLK_ORIGIN_ATTRIBUTE, value, (size_t)length, 0) < 0 ? -errno : 0;
}

static int fill(int from, int to, const char *path, const struct stat *status, int truncated)
{
	struct slk_copy copy;
	int result = 0;

	if (!truncated) {
		result = slk_copy_begin(from, to, UINT64_MAX, &copy);
		while (result == 0 && (result = slk_copy_slice(&copy, COPY_BYTES_MAX)) == 1)
			result = 0;
	}
	if (result == 0)
		result = set_origin(to, path, status);
	return result == 0 ? slk_copy_metadata(from, to) : result;
}

/* Show it where it belongs, with the directory's times as they were. */
static int show(const struct slk_tree *tree, const char *name, const char *path)
{
	char parent[SLK_PATH_MAX];
	struct timespec times[2];
	struct stat before;

	if (stat_parent(tree, path, &before) < 0)
		return -errno;
	parent_of(path, parent);
	if (syscall(SYS_renameat2, tree->work_fd, name, tree->upper_fd, path, RENAME_NOREPLACE) < 0)
		return -errno;
	times[0] = before.st_atim;
	times[1] = before.st_mtim;
	utimensat(tree->upper_fd, parent, times, AT_SYMLINK_NOFOLLOW); /* only for looks */
	return 0;
}

/* Of a file with one name, small, that may be written. 0, or whatever is wrong: then Python finds it, and says so. */
static int copy_up(struct slk_engine *engine, const struct slk_tree *tree, const char *path, int truncated)
{
	char name[32];
	struct stat status, copy;
	int from, to, result = -EAGAIN;

	from = slk_open_confined(tree->lower_fd, path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOATIME, 0);
	if (from < 0)
		return from;
	/* A program may be running: Python looks. */
	if (fstat(from, &status) < 0 || !S_ISREG(status.st_mode) || status.st_nlink != 1 || status.st_mode & 0111 ||
	    (!truncated && (status.st_size > COPY_BYTES_MAX || slk_is_written(from))) ||
	    !has_room(engine, SLK_DISK_BLOCK + (truncated ? 0 : (uint64_t)status.st_size)) ||
	    syscall(SYS_faccessat2, from, "", W_OK, AT_EMPTY_PATH | AT_EACCESS) < 0) {
		close(from);
		return result;
	}
	work_name(name, sizeof(name));
	to = slk_open_confined(tree->work_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
	if (to < 0) {
		close(from);
		return to;
	}
	result = fill(from, to, path, &status, truncated);
	if (result == 0)
		result = fstat(to, &copy) < 0 ? -errno : show(tree, name, path);
	if (result == 0)
		slk_numbers_copied(tree->numbers, copy.st_ino, status.st_dev, status.st_ino);
	if (result == 0) {
		note_new(engine, tree, path);
		engine->shared->copied_bytes += (uint64_t)copy.st_size;
	}
	if (result != 0) /* what was lost (SLK_LOST_*), Python tells */
		unlinkat(tree->work_fd, name, 0);
	close(from);
	close(to);
	return result;
}

static int open_copy(struct slk_engine *engine, struct slk_request *request, const struct slk_tree *tree,
		     const char *path, uint32_t flags)
{
	if (slk_layers_is_watched(tree->layers, path) || !slk_tree_alive(engine, request) ||
	    copy_up(engine, tree, path, (flags & O_TRUNC) != 0) != 0)
		return PYTHON;
	slk_layers_set(tree->layers, path, SLK_LAYER_FILE, 0);
	return slk_tree_open_upper(engine, request, tree, path, flags);
}

/* An open that may make or change something, of what is no file of the upper yet. */
int slk_tree_open_to_change(struct slk_engine *engine, struct slk_request *request, const struct slk_tree *tree,
			    const char *path, const struct slk_layered *found, uint32_t flags)
{
	struct stat status;
	int writes = (flags & O_ACCMODE) != O_RDONLY || flags & O_TRUNC;

	if (flags & O_DIRECTORY)
		return PYTHON;
	if (!found->is_whole && found->is_last && found->kind == SLK_LAYER_DIRECTORY &&
	    beneath(tree, path, found->flags, &status) == A_FILE) {
		if ((flags & (O_CREAT | O_EXCL)) == (O_CREAT | O_EXCL))
			return slk_answer_call(engine, request, 0, EEXIST);
		return writes && S_ISREG(status.st_mode) ? open_copy(engine, request, tree, path, flags) : PYTHON;
	}
	return flags & O_CREAT ? create_file(engine, request, tree, path, found, flags) : PYTHON;
}

/* ---- removed, moved */

int slk_tree_remove_file(struct slk_engine *engine, struct slk_request *request, const struct slk_tree *tree,
			 const char *path, const struct slk_layered *found)
{
	int is_upper = found->is_whole && (found->kind == SLK_LAYER_FILE || found->kind == SLK_LAYER_SYMLINK);
	enum beneath lower;
	struct stat status;
	int result;

	if (slk_layers_is_watched(tree->layers, path))
		return PYTHON;
	if (!found->is_last || (!is_upper && (found->is_whole || found->kind != SLK_LAYER_DIRECTORY)))
		return PYTHON;
	lower = beneath(tree, path, parent_flags(found), &status);
	if (lower == UNKNOWN || (!is_upper && lower != A_FILE) || (lower != NOTHING && parent_has(tree, path, S_ISVTX)))
		return PYTHON;
	if (is_upper && slk_tree_takes_long(engine, tree, path))
		return PYTHON;
	if (!slk_tree_alive(engine, request))
		return PYTHON;
	leaving(engine, tree, path);
	slk_slot_acts(engine, request->slot, 0);
	if (lower == NOTHING)
		result = unlinkat(tree->upper_fd, path, 0) < 0 ? -errno : 0;
	else if (is_upper)
		result = white_out(tree, path);
	else
		result = linkat(tree->work_fd, WHITEOUT, tree->upper_fd, path, 0) < 0 ? -errno : 0;
	if (result < 0)
		return result == -ENOENT || result == -EMLINK || result == -EEXIST ?
			       not_done(engine, request) :
			       slk_answer_call(engine, request, 0, -result);
	note_names(engine, tree, path);
	if (lower != NOTHING && status.st_nlink > 1)
		slk_layers_lose_links(tree->layers);
	if (lower == NOTHING)
		slk_layers_drop(tree->layers, path);
	else
		slk_layers_set(tree->layers, path, SLK_LAYER_WHITEOUT, 0);
	return slk_answer_call(engine, request, 0, 0);
}

/* A directory that hides nothing. */
int slk_tree_remove_directory(struct slk_engine *engine, struct slk_request *request, const struct slk_tree *tree,
			      const char *path, const struct slk_layered *found)
{
	struct stat status;

	if (!found->is_whole || found->kind != SLK_LAYER_DIRECTORY || found->flags & SLK_LAYER_MERGED || !*path ||
	    beneath(tree, path, found->parent_flags, &status) != NOTHING ||
	    slk_layers_is_watched(tree->layers, path) || !slk_tree_alive(engine, request))
		return PYTHON;
	leaving(engine, tree, path);
	slk_slot_acts(engine, request->slot, 0);
	if (unlinkat(tree->upper_fd, path, AT_REMOVEDIR) < 0)
		return errno == ENOTEMPTY ? not_done(engine, request) : slk_answer_call(engine, request, 0, errno);
	note_names(engine, tree, path);
	slk_layers_drop(tree->layers, path);
	return slk_answer_call(engine, request, 0, 0);
}

/* Over nothing, a file, or what is gone. */
static int may_be_replaced(const struct slk_tree *tree, const char *path, const struct slk_layered *target)
{
	enum beneath lower;
	struct stat status;

	if (!target->is_last || (target->is_whole && target->kind != SLK_LAYER_FILE &&
				 target->kind != SLK_LAYER_SYMLINK && target->kind != SLK_LAYER_WHITEOUT))
		return 0;
	if (!target->is_whole && target->kind != SLK_LAYER_DIRECTORY)
		return 0;
	lower = target->is_whole && target->kind == SLK_LAYER_WHITEOUT ?
			NOTHING :
			beneath(tree, path, parent_flags(target), &status);
	if (lower == UNKNOWN || lower == A_DIRECTORY)
		return 0;
	/* Where there is no original, the kernel asks whose it is. */
	return lower == NOTHING || !parent_has(tree, path, S_ISVTX);
}

/* A file of the upper. */
int slk_tree_rename(struct slk_engine *engine, struct slk_request *request, struct slk_tree *tree,
		    const struct slk_walk *from, const struct slk_walk *to)
{
	const struct slk_call *row = &engine->calls[request->nr];
	const char *old = slk_tree_relative(tree, from), *new = slk_tree_relative(tree, to);
	struct slk_layered source, target;
	struct stat one, other;
	enum beneath lower;

	if (from->length - tree->root_length > SLK_PATH_MAX || to->length - tree->root_length > SLK_PATH_MAX)
		return PYTHON;
	if (engine->shared->ids_changed || engine->tell_granted || slk_trees_parked(engine) || (row->flags >= 0 && (uint32_t)arg(request, row->flags)) ||
	    slk_layers_is_watched(tree->layers, old) || slk_layers_is_watched(tree->layers, new))
		return PYTHON;
	slk_layers_walk(tree->layers, from->text, from->ends, tree->root_components, from->count, &source);
	slk_layers_walk(tree->layers, to->text, to->ends, tree->root_components, to->count, &target);
	if (!source.is_whole || (source.kind != SLK_LAYER_FILE && source.kind != SLK_LAYER_SYMLINK))
		return PYTHON;
	lower = beneath(tree, old, source.parent_flags, &one);
	if (lower == UNKNOWN || (lower != NOTHING && parent_has(tree, old, S_ISVTX)) || !may_be_replaced(tree, new, &target))
		return PYTHON;
	/* Two names of one file: nothing happens, and a whiteout would be wrong. */
	if (target.is_whole && target.kind == SLK_LAYER_FILE &&
	    (syscall(SYS_newfstatat, tree->upper_fd, old, &one, AT_SYMLINK_NOFOLLOW) < 0 ||
	     syscall(SYS_newfstatat, tree->upper_fd, new, &other, AT_SYMLINK_NOFOLLOW) < 0 || one.st_ino == other.st_ino))
		return PYTHON;
	if (slk_tree_takes_long(engine, tree, old) ||
	    (target.is_whole && target.kind == SLK_LAYER_FILE && slk_tree_takes_long(engine, tree, new)))
		return PYTHON;
	/* One that takes the place of another needs no room: so a program that is at its limit gets on. */
	if ((!target.is_whole && !has_room(engine, 0)) || !slk_tree_alive(engine, request))
		return PYTHON;
	leaving(engine, tree, new);
	slk_slot_acts(engine, request->slot, 0);
	if (syscall(SYS_renameat2, tree->upper_fd, old, tree->upper_fd, new,
		    lower == NOTHING ? 0 : RENAME_WHITEOUT_FLAG) < 0)
		return slk_answer_call(engine, request, 0, errno);
	note_names(engine, tree, old);
	note_names(engine, tree, new);
	slk_layers_lose_links(tree->layers);
	slk_layers_move(tree->layers, old, new);
	if (lower != NOTHING)
		slk_layers_set(tree->layers, old, SLK_LAYER_WHITEOUT, 0);
	engine->generation++;
	return slk_answer_call(engine, request, 0, 0);
}
