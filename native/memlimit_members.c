/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who is in the sandbox, and what all hold together (memlimit.c). All descend from init: the kernel lists the children of
 * each thread (proc_pid_children of fs/proc/array.c). Somebody whose parent ends in the middle of a look is missed where the
 * list that has it then was read before. So all lists are read once more, and who is new is looked at at once: a memory that
 * is passed on from process to process, each for microseconds, is met by some look all the same.
 * What one holds is read by memlimit_held.c.
 * Where two have one memory (vfork), it counts once.
 */
#define _GNU_SOURCE
#include "memlimit.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PASSES_MAX 4 /* for who came meanwhile */
#define CHILDREN_BYTES 65536

/* ---- the table */

static struct slk_member **bucket_of(struct slk_memory *memory, pid_t pid)
{
	return &memory->buckets[(uint32_t)pid % SLK_MEMBER_BUCKETS];
}

static struct slk_member *member_of(struct slk_memory *memory, pid_t pid)
{
	struct slk_member **bucket = bucket_of(memory, pid), *member = *bucket;

	while (member && member->pid != pid)
		member = member->chain;
	if (member)
		return member;
	member = calloc(1, sizeof(*member));
	if (!member)
		return NULL;
	member->pid = pid;
	member->least = UINT64_MAX;
	for (int i = 0; i < SLK_FILES; i++)
		member->fds[i] = -1;
	member->chain = *bucket;
	*bucket = member;
	return member;
}

/* Those that this look has not met. */
static void drop_gone(struct slk_memory *memory)
{
	for (uint32_t i = 0; i < SLK_MEMBER_BUCKETS; i++) {
		struct slk_member **at = &memory->buckets[i];

		while (*at) {
			struct slk_member *member = *at;

			if (member->seen == memory->serial) {
				at = &member->chain;
				continue;
			}
			*at = member->chain;
			slk_member_close_files(memory, member);
			free(member);
		}
	}
}

void slk_members_forget(struct slk_memory *memory)
{
	memory->serial++;
	drop_gone(memory);
	memory->first = memory->last = NULL;
	memory->member_count = 0;
}

/* ---- threads and children */

struct walk {
	struct slk_memory *memory;
	struct slk_member *member;
	struct slk_member *looked_at; /* the last one */
	char *text; /* of CHILDREN_BYTES */
	uint64_t now_ns;
	uint64_t total;
};

static void enter_children(struct walk *walk)
{
	struct slk_memory *memory = walk->memory;

	for (char *at = walk->text; *at;) {
		char *end;
		pid_t pid = (pid_t)strtol(at, &end, 10);
		struct slk_member *child = end == at ? NULL : member_of(memory, pid);

		if (!child) {
			memory->blind_error = end == at ? memory->blind_error : ENOMEM;
			return;
		}
		at = end + (*end == ' ');
		if (!memory->program)
			memory->program = pid; /* init had no child before, and has it to the end */
		if (child->seen == memory->serial)
			continue;
		child->seen = memory->serial;
		child->parent = walk->member ? walk->member->pid : memory->init;
		child->next = NULL;
		if (memory->last)
			memory->last->next = child;
		else
			memory->first = child;
		memory->last = child;
	}
}

/* More than fit: read on where the file goes on. */
static void read_children(struct walk *walk, int fd)
{
	size_t kept = 0;
	off_t offset = 0;
	ssize_t got;

	while ((got = pread(fd, walk->text + kept, CHILDREN_BYTES - 1 - kept, offset)) > 0) {
		char *cut;

		offset += got;
		walk->text[kept + (size_t)got] = '\0';
		cut = strrchr(walk->text, ' ');
		if (!cut)
			return;
		*cut = '\0';
		enter_children(walk);
		kept = strlen(cut + 1);
		memmove(walk->text, cut + 1, kept + 1);
	}
}

static void children_of_thread(void *context, pid_t thread)
{
	struct walk *walk = context;
	char name[64];
	int fd;

	snprintf(name, sizeof(name), "/proc/%d/task/%d/children", (int)walk->member->pid, (int)thread);
	fd = open(name, O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		slk_member_not_seen(walk->memory, thread, errno);
		return;
	}
	read_children(walk, fd);
	close(fd);
}

static void children_of_one(struct walk *walk)
{
	if (walk->member->fds[SLK_FILE_CHILDREN] >= 0)
		read_children(walk, walk->member->fds[SLK_FILE_CHILDREN]);
	else
		children_of_thread(walk, walk->member->pid);
}

static void children_of(struct walk *walk)
{
	if (walk->member->threads == 1)
		children_of_one(walk);
	else if (walk->member->threads > 1)
		slk_member_each_thread(walk->memory, walk->member->pid, children_of_thread, walk);
}

/* ---- one memory of two processes */

int slk_have_one_memory(pid_t one, pid_t other)
{
	return syscall(SYS_kcmp, one, other, KCMP_VM, 0, 0) == 0;
}

const struct slk_member *slk_parent_of(const struct slk_memory *memory, const struct slk_member *member)
{
	const struct slk_member *parent = memory->buckets[(uint32_t)member->parent % SLK_MEMBER_BUCKETS];

	while (parent && parent->pid != member->parent)
		parent = parent->chain;
	return parent && parent->seen == memory->serial ? parent : NULL;
}

/*
 * What a process has of others it has from a fork, and it never gets more of that. So what it holds more than it ever did is its
 * own, and of that its children may have some, but not as something that they have come to hold since. Of whose files are not
 * kept open it is not known that it is the same one.
 */
static void note_growth(struct slk_memory *memory, struct slk_member *member, int is_anothers)
{
	uint64_t bytes = member->bytes;

	if (!bytes || member->fds[SLK_FILE_STATUS] < 0)
		return;
	if (bytes < member->least) {
		member->least = bytes;
		member->has_others = 0;
	}
	member->has_others |= is_anothers;
	if (!member->has_others)
		memory->grown += bytes - member->least;
}

/* And those below them. */
static void look_at_new(struct walk *walk)
{
	struct slk_memory *memory = walk->memory;
	struct slk_member *member;

	while ((member = walk->looked_at ? walk->looked_at->next : memory->first)) {
		const struct slk_member *parent;
		int is_anothers;

		walk->looked_at = walk->member = member;
		slk_member_look(memory, member, walk->now_ns);
		memory->member_count++;
		parent = slk_parent_of(memory, member);
		is_anothers = member->bytes && parent && parent->mapped == member->mapped &&
			      slk_have_one_memory(member->pid, parent->pid);
		note_growth(memory, member, is_anothers);
		if (is_anothers)
			member->bytes = 0;
		if (member->bytes > memory->largest)
			memory->largest = member->bytes;
		walk->total += member->bytes;
		children_of(walk);
	}
}

static void children_of_init(struct walk *walk)
{
	char path[64];
	int fd;

	walk->member = NULL;
	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", (int)walk->memory->init, (int)walk->memory->init);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		slk_member_not_seen(walk->memory, walk->memory->init, errno);
		return;
	}
	read_children(walk, fd);
	close(fd);
	look_at_new(walk);
}

/* 0: nobody came since the lists were read. */
static int look_once_more(struct walk *walk)
{
	const struct slk_member *last = walk->looked_at;
	struct slk_member *member = walk->memory->first;

	children_of_init(walk);
	for (int is_last = !member; !is_last; member = member->next) {
		is_last = member == last;
		walk->member = member;
		children_of(walk);
		look_at_new(walk);
	}
	return walk->looked_at != last;
}

uint64_t slk_members_look(struct slk_memory *memory)
{
	static _Thread_local char text[CHILDREN_BYTES];
	struct walk walk = {.memory = memory, .text = text, .now_ns = slk_now_ns()};

	memory->serial++;
	memory->first = memory->last = NULL;
	memory->member_count = 0;
	memory->blind_error = 0;
	memory->largest = memory->grown = 0;
	if (memory->init <= 0)
		return 0;
	children_of_init(&walk);
	for (int passes = 0; passes < PASSES_MAX && look_once_more(&walk); passes++)
		;
	drop_gone(memory);
	return walk.total;
}
