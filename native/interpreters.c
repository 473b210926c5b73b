/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a file that is executed names to be executed in its place, or to be loaded first, where processes outside of the
 * sandbox do not exist for the program: of `#!/proc/1234/exe` the kernel would tell whether there is such a number.
 *
 * Here it is told of nearly all files that they name nothing of that kind. The rest, and what is not understood, Python looks
 * at (handlers/private/executing.py).
 */
#define _GNU_SOURCE
#include "slk.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define HEAD_BYTES 4096
#define LINE_BYTES 256    /* BINPRM_BUF_SIZE (linux/binfmts.h) */
#define SCRIPTS_MAX 5     /* exec_binprm of fs/exec.c */

/* 1: by way of what depends on who asks, or it cannot be told. */
static int name_is_askers(struct slk_engine *engine, const char *name, size_t length)
{
	struct slk_walk walk;
	uint64_t until_ns = slk_judged_until();

	if (length == 0 || name[0] != '/' || !slk_is_plain(name, (uint32_t)length) ||
	    slk_walk_set(&walk, "", 0, name, (uint32_t)length) < 0)
		return 1;
	if (slk_judged_find(engine, &walk, walk.count, SLK_NEED_AS_INTERPRETER, 1))
		return 0;
	if (slk_way_is_askers(engine, "", 0, name, (uint32_t)length))
		return 1;
	slk_judged_now(engine, &walk, walk.count, SLK_NEED_AS_INTERPRETER, 1, until_ns);
	return 0;
}

static int names_askers(struct slk_engine *engine, int object_fd, int depth, int *ret_is_script);

static int script_names_askers(struct slk_engine *engine, const char *head, size_t size, int depth)
{
	char name[LINE_BYTES + 1];
	size_t end = size < LINE_BYTES ? size : LINE_BYTES, first = 2, length = 0;
	int fd, result, ignored;

	while (first < end && (head[first] == ' ' || head[first] == '\t'))
		first++;
	while (first + length < end && !strchr(" \t\n", head[first + length])) /* a NUL is found as well */
		length++;
	if (first + length == LINE_BYTES)
		return 1;
	memcpy(name, head + first, length);
	name[length] = '\0';
	if (name_is_askers(engine, name, length))
		return 1;
	fd = slk_open_path(engine, name, 0, 0);
	if (fd < 0)
		return slk_is_ours(fd);
	result = names_askers(engine, fd, depth + 1, &ignored);
	close(fd);
	return result;
}

static int program_names_askers(struct slk_engine *engine, int fd, const char *head, size_t size)
{
	char name[SLK_PATH_MAX];
	Elf64_Ehdr header;
	Elf64_Phdr segment;

	if (size < sizeof(header))
		return 0;
	memcpy(&header, head, sizeof(header));
	if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_phentsize != sizeof(segment) ||
	    header.e_phoff > size || (size - header.e_phoff) / sizeof(segment) < header.e_phnum)
		return 1;
	for (int i = 0; i < header.e_phnum; i++) {
		memcpy(&segment, head + header.e_phoff + (size_t)i * sizeof(segment), sizeof(segment));
		if (segment.p_type != PT_INTERP)
			continue;
		if (segment.p_filesz < 2 || segment.p_filesz > sizeof(name) || segment.p_offset > INT64_MAX ||
		    pread(fd, name, segment.p_filesz, (off_t)segment.p_offset) != (ssize_t)segment.p_filesz)
			return 1;
		name[segment.p_filesz - 1] = '\0';
		return name_is_askers(engine, name, strlen(name));
	}
	return 0;
}

static int names_askers(struct slk_engine *engine, int object_fd, int depth, int *ret_is_script)
{
	char head[HEAD_BYTES], link[64];
	struct stat status;
	ssize_t size;
	int fd, result = 0;

	if (depth == SCRIPTS_MAX)
		return 1;
	if (slk_lookups_may_wait(engine) && !slk_is_on_local_mount(engine, object_fd))
		return 0; /* no server is asked for what the kernel asks it for anyway */
	if (fstat(object_fd, &status) < 0)
		return 1;
	if (!S_ISREG(status.st_mode))
		return 0; /* nor does the kernel execute it */
	snprintf(link, sizeof(link), "/proc/self/fd/%d", object_fd);
	fd = open(link, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return 1;
	size = pread(fd, head, sizeof(head), 0);
	*ret_is_script = size >= 2 && memcmp(head, "#!", 2) == 0;
	if (*ret_is_script)
		result = script_names_askers(engine, head, (size_t)size, depth);
	else if (size >= SELFMAG && memcmp(head, ELFMAG, SELFMAG) == 0)
		result = program_names_askers(engine, fd, head, (size_t)size);
	close(fd);
	return size < 0 || result;
}

/* The object itself lies where the program can write nothing, nor anybody on its behalf. */
static int is_read_only(const struct slk_engine *engine, int object_fd)
{
	char link[64], text[SLK_PATH_MAX];
	const struct slk_zone *zone;
	struct slk_walk walk;
	ssize_t length;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", object_fd);
	length = readlink(link, text, sizeof(text));
	if (length <= 0 || length == (ssize_t)sizeof(text) || text[0] != '/' ||
	    slk_walk_set(&walk, "", 0, text, (uint32_t)length) < 0)
		return 0;
	zone = slk_zones_find(engine->zones, &walk);
	return zone && !(zone->rights & LANDLOCK_ACCESS_FS_WRITE_FILE) &&
	       !(zone->flags & (SLK_ZONE_SLOW | SLK_ZONE_TREE));
}

int slk_execution_names_askers(struct slk_engine *engine, const struct slk_walk *walk)
{
	uint64_t until_ns = slk_judged_until();
	int fd, result, is_script = 1;

	if (slk_judged_find(engine, walk, walk->count, SLK_NEED_AS_EXECUTED, 1))
		return 0;
	fd = slk_open_path(engine, walk->text, 0, 0);
	if (fd < 0)
		return slk_is_ours(fd); /* the kernel finds the same, or only a server could tell */
	result = names_askers(engine, fd, 0, &is_script);
	/* A script's interpreter may be one that the program can change. */
	if (result == 0 && !is_script && is_read_only(engine, fd))
		slk_judged_now(engine, walk, walk->count, SLK_NEED_AS_EXECUTED, 1, until_ns);
	close(fd);
	return result;
}
