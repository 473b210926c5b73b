/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whose lock may be held for long. The kernel holds a file's lock (i_rwsem) for as long as one write(2) to it takes, which
 * may be gigabytes, and whoever changes its mode, its length or one of its names waits for it (chmod_common and do_truncate
 * of fs/open.c, vfs_unlink and vfs_rename of fs/namei.c). Only who has it open can hold it so, and what lies in an upper
 * directory nobody has but by a descriptor that the program was given. So those files are remembered, by their inode
 * numbers: more than are open, but none too few. Of one that is remembered a lease tells whether it still is.
 *
 * And which are so large that it takes long to free what they hold: that is not done on the loop either.
 */
#define _GNU_SOURCE
#include "slk.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Of 512 bytes: 16 MiB. Pages and blocks are freed within 0.1 ms a MiB, while whoever makes the call waits. */
#define LARGE_BLOCKS 32768

static uint64_t *word_of(struct slk_engine *engine, uint64_t inode, uint64_t *ret_bit)
{
	uint64_t place = (inode ^ inode >> 32) % SLK_GIVEN_BITS;

	*ret_bit = 1ull << place % 64;
	return &engine->given[place / 64];
}

void slk_note_given(struct slk_engine *engine, int fd)
{
	struct stat status;
	uint64_t bit, *word;

	if (!engine->tree_count || fstat(fd, &status) < 0 || !S_ISREG(status.st_mode))
		return;
	word = word_of(engine, status.st_ino, &bit);
	*word |= bit;
}

static int was_given(struct slk_engine *engine, const struct stat *status)
{
	uint64_t bit, *word = word_of(engine, status->st_ino, &bit);

	return S_ISREG(status->st_mode) && *word & bit;
}

void slk_engine_watched(struct slk_engine *engine)
{
	engine->has_watches = 1;
}

int slk_engine_may_be_locked(struct slk_engine *engine, int32_t fd)
{
	struct stat status;

	if (fstat(fd, &status) < 0)
		return 1;
	if (!was_given(engine, &status))
		return 0;
	/* Who watches it would be told that we open it. */
	return engine->has_watches || slk_in_use(fd, 1);
}

static int holds_much(const struct stat *status)
{
	return S_ISREG(status->st_mode) && status->st_blocks > LARGE_BLOCKS;
}

int slk_is_large(int32_t fd)
{
	struct stat status;

	return fstat(fd, &status) < 0 || holds_much(&status);
}

int slk_tree_takes_long(struct slk_engine *engine, const struct slk_tree *tree, const char *path)
{
	struct stat status;
	int opened, result;

	if (syscall(SYS_newfstatat, tree->upper_fd, path, &status, AT_SYMLINK_NOFOLLOW) < 0)
		return 1;
	if (holds_much(&status))
		return 1;
	if (!was_given(engine, &status))
		return 0;
	if (engine->has_watches)
		return 1;
	opened = slk_open_confined(tree->upper_fd, path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOATIME, 0);
	result = opened < 0 || slk_is_shared(opened);
	if (opened >= 0)
		close(opened);
	return result;
}

void slk_engine_park_trees(struct slk_engine *engine, int32_t parked)
{
	__atomic_store_n(&engine->trees_parked, parked, __ATOMIC_RELEASE);
}

int slk_trees_parked(const struct slk_engine *engine)
{
	return __atomic_load_n(&engine->trees_parked, __ATOMIC_ACQUIRE);
}
