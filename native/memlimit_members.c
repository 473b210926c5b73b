/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who is in the sandbox, and what memory each holds (memlimit.c). All descend from init: the kernel lists the children of
 * each thread (proc_pid_children of fs/proc/array.c). Somebody whose parent ends in the middle of a look is missed where the
 * list that has it then was read before. So all lists are read once more, and who is new is looked at at once: a memory that
 * is passed on from process to process, each for microseconds, is met by some look all the same.
 *
 * A process is read from /proc/<pid>/status. Its first thread may have ended before the others: then that line of the
 * kernel's is silent about memory, and another thread is asked. Where two have one memory (vfork), it counts once.
 */
#define _GNU_SOURCE
#include "memlimit.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define KEPT_MAX 1024u /* of how many the files stay open */
#define KEPT_PART 32u /* of the descriptors that we may have, so many processes at most: each has four */
#define PASSES_MAX 4  /* for who came meanwhile */
#define STATUS_FOR_NS 16000000u /* what changes slowly is read as seldom: swap, page tables */
#define CHILDREN_BYTES 65536
#define LARGE_PART 32 /* of the limit: who holds more than that */
#define TASK_LINKS 2 /* of /proc/<pid>/task, besides one for each thread (proc_task_getattr of fs/proc/base.c) */
#define INIT_NAME "Name:\tsandlockd-init\n"
#define FORKED_ONLY 0x40u /* PF_FORKNOEXEC of the flags in /proc/<pid>/stat (include/linux/sched.h) */

enum slk_file { STATUS, STATM, CHILDREN, TASK, FILES };

/* ---- the table */

static struct slk_member **bucket_of(struct slk_memory *memory, pid_t pid)
{
	return &memory->buckets[(uint32_t)pid % SLK_MEMBER_BUCKETS];
}

static void close_files(struct slk_memory *memory, struct slk_member *member)
{
	memory->kept_count -= member->fds[STATUS] >= 0;
	for (int i = 0; i < FILES; i++) {
		if (member->fds[i] >= 0)
			close(member->fds[i]);
		member->fds[i] = -1;
	}
	member->least = UINT64_MAX; /* the next one that has its number */
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
	for (int i = 0; i < FILES; i++)
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
			close_files(memory, member);
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

/* ---- reading */

/* Who is gone holds nothing. What cannot be seen for another reason may hold anything. */
static void not_seen(struct slk_memory *memory, pid_t pid, int error)
{
	if (error == ESRCH || (error == ENOENT && kill(pid, 0) < 0))
		return;
	memory->blind_error = error; /* ENOENT: /proc hides it (hidepid) */
}

static int open_of(pid_t pid, pid_t thread, const char *name)
{
	char path[64];

	if (thread == pid)
		snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
	else
		snprintf(path, sizeof(path), "/proc/%d/task/%d/%s", (int)pid, (int)thread, name);
	return open(path, O_RDONLY | O_CLOEXEC);
}

static ssize_t read_at_start(int fd, char *ret_text, size_t size)
{
	ssize_t got;

	do
		got = pread(fd, ret_text, size - 1, 0);
	while (got < 0 && errno == EINTR);
	ret_text[got > 0 ? got : 0] = '\0';
	return got < 0 ? -errno : got;
}

static ssize_t read_of(pid_t pid, pid_t thread, const char *name, char *ret_text, size_t size)
{
	int fd = open_of(pid, thread, name);
	ssize_t got;

	ret_text[0] = '\0';
	if (fd < 0)
		return -errno;
	got = read_at_start(fd, ret_text, size);
	close(fd);
	return got;
}

/* Their numbers lead to this process and no other, as long as they are open. -ESRCH: it has ended. */
static int open_files(struct slk_memory *memory, struct slk_member *member)
{
	char path[64];

	if (memory->kept_count >= KEPT_MAX || memory->kept_count >= memory->descriptors / KEPT_PART)
		return -EMFILE;
	member->read_ns = 0;
	member->fds[STATUS] = open_of(member->pid, member->pid, "status");
	if (member->fds[STATUS] < 0)
		return -errno;
	memory->kept_count++;
	member->fds[STATM] = open_of(member->pid, member->pid, "statm");
	snprintf(path, sizeof(path), "/proc/%d/task", (int)member->pid);
	member->fds[TASK] = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	snprintf(path, sizeof(path), "%d/children", (int)member->pid);
	member->fds[CHILDREN] = openat(member->fds[TASK], path, O_RDONLY | O_CLOEXEC);
	for (int i = 0; i < FILES; i++)
		if (member->fds[i] < 0) {
			close_files(memory, member);
			return -ESRCH;
		}
	return 0;
}

static ssize_t read_status(struct slk_memory *memory, struct slk_member *member, char *ret_text, size_t size)
{
	ssize_t got;

	if (member->fds[STATUS] >= 0) {
		got = read_at_start(member->fds[STATUS], ret_text, size);
		if (got > 0)
			return got;
		close_files(memory, member); /* its number may be another one's by now */
	}
	if (open_files(memory, member) == 0)
		return read_at_start(member->fds[STATUS], ret_text, size);
	return read_of(member->pid, member->pid, "status", ret_text, size);
}

static uint64_t kilobytes(const char *text, const char *name)
{
	long number = slk_status_number(text, name);

	return number > 0 ? (uint64_t)number * 1024u : 0;
}

static void take_sizes(struct slk_member *member, const char *text)
{
	member->unswapped = kilobytes(text, "\nVmPTE:") + kilobytes(text, "\nHugetlbPages:");
	member->beside = member->unswapped + kilobytes(text, "\nVmSwap:");
	member->bytes = kilobytes(text, "\nRssAnon:") + member->beside;
	member->mapped = kilobytes(text, "\nVmSize:");
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

static void each_thread(struct walk *walk, void (*act)(struct walk *, pid_t))
{
	_Alignas(struct slk_dirent) char buffer[4096];
	char path[32];
	int dir;
	long got;

	snprintf(path, sizeof(path), "/proc/%d/task", (int)walk->member->pid);
	dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0) {
		not_seen(walk->memory, walk->member->pid, errno);
		return;
	}
	while ((got = syscall(SYS_getdents64, dir, buffer, sizeof(buffer))) > 0)
		for (long at = 0; at < got;) {
			const struct slk_dirent *entry = (const void *)(buffer + at);

			at += entry->length;
			if (entry->name[0] >= '1' && entry->name[0] <= '9')
				act(walk, (pid_t)atoi(entry->name));
		}
	close(dir);
}

static void children_of_thread(struct walk *walk, pid_t thread)
{
	char name[64];
	int fd;

	snprintf(name, sizeof(name), "/proc/%d/task/%d/children", (int)walk->member->pid, (int)thread);
	fd = open(name, O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		not_seen(walk->memory, thread, errno);
		return;
	}
	read_children(walk, fd);
	close(fd);
}

static void children_of_one(struct walk *walk)
{
	if (walk->member->fds[CHILDREN] >= 0)
		read_children(walk, walk->member->fds[CHILDREN]);
	else
		children_of_thread(walk, walk->member->pid);
}

/* Its first thread has none any more, others may. */
static void memory_of_thread(struct walk *walk, pid_t thread)
{
	char status[SLK_STATUS_BYTES_MAX];

	if (walk->member->thread || read_of(walk->member->pid, thread, "status", status, sizeof(status)) <= 0 ||
	    !strstr(status, "\nRssAnon:"))
		return;
	walk->member->thread = thread;
	take_sizes(walk->member, status);
}

/* "size resident shared ...", in pages (proc_pid_statm(5)). 0: it cannot be told so, or has not been read for long. */
static int look_briefly(struct walk *walk, long *ret_threads)
{
	struct slk_member *member = walk->member;
	unsigned long size, resident, shared;
	uint64_t page_bytes = (uint64_t)sysconf(_SC_PAGESIZE);
	char text[128];
	struct stat status;

	if (member->thread != member->pid || member->fds[STATM] < 0 ||
	    walk->now_ns - member->read_ns > STATUS_FOR_NS || fstat(member->fds[TASK], &status) < 0 ||
	    read_at_start(member->fds[STATM], text, sizeof(text)) <= 0 ||
	    sscanf(text, "%lu %lu %lu", &size, &resident, &shared) != 3 || resident < shared || !resident)
		return 0;
	*ret_threads = (long)status.st_nlink - TASK_LINKS;
	member->mapped = size * page_bytes;
	member->bytes = (resident - shared) * page_bytes + member->beside;
	return *ret_threads > 0;
}

/* The program before it executes is a copy of ourselves. Everybody may give himself that name, but who has executed is
 * none who was only forked for ever. */
static int will_be_the_program(struct slk_memory *memory, pid_t pid, const char *status)
{
	char text[512];
	const char *name_end;
	unsigned int flags;

	if (memory->has_executed || pid != memory->program)
		return 0;
	memory->has_executed = 1;
	if (strncmp(status, INIT_NAME, strlen(INIT_NAME)) != 0 || read_of(pid, pid, "stat", text, sizeof(text)) <= 0)
		return 0;
	name_end = strrchr(text, ')');
	if (!name_end || sscanf(name_end + 1, " %*c %*d %*d %*d %*d %*d %u", &flags) != 1 || !(flags & FORKED_ONLY))
		return 0;
	memory->has_executed = 0;
	return 1;
}

static int look_closely(struct walk *walk, long *ret_threads)
{
	struct slk_member *member = walk->member;
	char status[SLK_STATUS_BYTES_MAX];
	ssize_t got = read_status(walk->memory, member, status, sizeof(status));

	member->bytes = member->mapped = member->beside = 0;
	member->thread = 0;
	if (got <= 0)
		not_seen(walk->memory, member->pid, got < 0 ? (int)-got : ESRCH);
	if (got <= 0 || will_be_the_program(walk->memory, member->pid, status))
		return 0;
	member->read_ns = walk->now_ns;
	if (strstr(status, "\nRssAnon:")) {
		member->thread = member->pid;
		take_sizes(member, status);
	}
	*ret_threads = slk_status_number(status, "\nThreads:");
	return 1;
}

static void children_of(struct walk *walk)
{
	if (walk->member->threads == 1)
		children_of_one(walk);
	else if (walk->member->threads > 1)
		each_thread(walk, children_of_thread);
}

static void look_at(struct walk *walk)
{
	long threads = 0;

	if (!look_briefly(walk, &threads) && !look_closely(walk, &threads)) {
		walk->member->threads = 0;
		return;
	}
	walk->member->threads = threads > 1 ? threads : 1;
	if (threads > 1 && !walk->member->thread)
		each_thread(walk, memory_of_thread);
}

/* ---- one memory of two processes */

static int has_memory_of(pid_t one, pid_t other)
{
	return syscall(SYS_kcmp, one, other, KCMP_VM, 0, 0) == 0;
}

static const struct slk_member *parent_of(const struct slk_memory *memory, const struct slk_member *member)
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

	if (!bytes || member->fds[STATUS] < 0)
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
		look_at(walk);
		memory->member_count++;
		parent = parent_of(memory, member);
		is_anothers = member->bytes && parent && parent->mapped == member->mapped &&
			      has_memory_of(member->pid, parent->pid);
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
		not_seen(walk->memory, walk->memory->init, errno);
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

/* ---- each page once */

int slk_members_list(const struct slk_memory *memory, struct slk_counting *walk)
{
	uint32_t count = 0;

	if (memory->member_count > walk->capacity) {
		struct slk_walked *larger = realloc(walk->members, 2 * memory->member_count * sizeof(*larger));

		if (!larger)
			return -ENOMEM;
		walk->members = larger;
		walk->capacity = 2 * memory->member_count;
	}
	for (struct slk_member *member = memory->first; member; member = member->next) {
		const struct slk_member *parent = parent_of(memory, member);

		walk->members[count++] = (struct slk_walked){.pid = member->pid,
							     .parent = parent ? parent->pid : 0,
							     .thread = member->thread,
							     .bytes = member->bytes,
							     .unswapped = member->unswapped};
	}
	walk->count = count;
	return 0;
}

uint64_t slk_members_at_least(const struct slk_memory *memory)
{
	return memory->largest > memory->grown ? memory->largest : memory->grown;
}

static uint64_t exactly(const struct slk_walked *member, uint64_t *ret_shared)
{
	char rollup[4096];
	ssize_t got;

	/* Its threads may have mapped something between the two looks at their sizes. */
	if (!member->bytes || (member->parent && has_memory_of(member->pid, member->parent)))
		return 0;
	got = read_of(member->pid, member->thread, "smaps_rollup", rollup, sizeof(rollup));
	if (got == -ESRCH || got == -ENOENT || got == 0)
		return 0; /* it has ended */
	if (got < 0 || !strstr(rollup, "\nPss_Anon:"))
		return member->bytes; /* it hides its memory */
	*ret_shared += kilobytes(rollup, "\nPss_Shmem:");
	/* Of what is swapped out, only its share counts here. */
	return kilobytes(rollup, "\nPss_Anon:") + kilobytes(rollup, "\nSwapPss:") + member->unswapped;
}

/* The largest come first: where they alone are too much, the others need not be walked. */
uint64_t slk_members_exactly(const struct slk_counting *walk, uint64_t *ret_shared)
{
	uint64_t total = 0;

	*ret_shared = 0;
	/* Who shares with nobody is told exactly already; to walk its tables would wait for what its threads map. */
	if (walk->count == 1 && !walk->counts_mapped)
		return walk->members[0].bytes;
	for (int is_large = 1; is_large >= 0; is_large--)
		for (uint32_t i = 0; i < walk->count && total <= walk->limit; i++)
			if ((walk->members[i].bytes > walk->limit / LARGE_PART) == is_large)
				total += exactly(&walk->members[i], ret_shared);
	return total;
}
