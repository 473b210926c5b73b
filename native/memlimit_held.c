/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What memory one process holds (memlimit_members.c finds which there are). It is read from /proc/<pid>/status, or where that
 * was read a moment ago from statm, which is less work; of files that stay open, because opening them is most of the work. Its
 * first thread may have ended before the others: then that line of the kernel's is silent about memory, and another thread is
 * asked.
 */
#define _GNU_SOURCE
#include "memlimit.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define KEPT_MAX 1024u /* of how many the files stay open */
#define KEPT_PART 32u /* of the descriptors that we may have, so many processes at most: each has four */
#define STATUS_FOR_NS 16000000u /* what changes slowly is read as seldom: swap, page tables */
#define TASK_LINKS 2 /* of /proc/<pid>/task, besides one for each thread (proc_task_getattr of fs/proc/base.c) */
#define INIT_NAME "Name:\tsandlockd-init\n"
#define FORKED_ONLY 0x40u /* PF_FORKNOEXEC of the flags in /proc/<pid>/stat (include/linux/sched.h) */

/* ---- its files */

void slk_member_close_files(struct slk_memory *memory, struct slk_member *member)
{
	memory->kept_count -= member->fds[SLK_FILE_STATUS] >= 0;
	for (int i = 0; i < SLK_FILES; i++) {
		if (member->fds[i] >= 0)
			close(member->fds[i]);
		member->fds[i] = -1;
	}
	member->least = UINT64_MAX; /* the next one that has its number */
}

/* Who is gone holds nothing. What cannot be seen for another reason may hold anything. */
void slk_member_not_seen(struct slk_memory *memory, pid_t pid, int error)
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

ssize_t slk_read_of(pid_t pid, pid_t thread, const char *name, char *ret_text, size_t size)
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
	member->fds[SLK_FILE_STATUS] = open_of(member->pid, member->pid, "status");
	if (member->fds[SLK_FILE_STATUS] < 0)
		return -errno;
	memory->kept_count++;
	member->fds[SLK_FILE_STATM] = open_of(member->pid, member->pid, "statm");
	snprintf(path, sizeof(path), "/proc/%d/task", (int)member->pid);
	member->fds[SLK_FILE_TASK] = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	snprintf(path, sizeof(path), "%d/children", (int)member->pid);
	member->fds[SLK_FILE_CHILDREN] = openat(member->fds[SLK_FILE_TASK], path, O_RDONLY | O_CLOEXEC);
	for (int i = 0; i < SLK_FILES; i++)
		if (member->fds[i] < 0) {
			slk_member_close_files(memory, member);
			return -ESRCH;
		}
	return 0;
}

static ssize_t read_status(struct slk_memory *memory, struct slk_member *member, char *ret_text, size_t size)
{
	ssize_t got;

	if (member->fds[SLK_FILE_STATUS] >= 0) {
		got = read_at_start(member->fds[SLK_FILE_STATUS], ret_text, size);
		if (got > 0)
			return got;
		slk_member_close_files(memory, member); /* its number may be another one's by now */
	}
	if (open_files(memory, member) == 0)
		return read_at_start(member->fds[SLK_FILE_STATUS], ret_text, size);
	return slk_read_of(member->pid, member->pid, "status", ret_text, size);
}

uint64_t slk_kilobytes(const char *text, const char *name)
{
	long number = slk_status_number(text, name);

	return number > 0 ? (uint64_t)number * 1024u : 0;
}

static void take_sizes(struct slk_member *member, const char *text)
{
	member->unswapped = slk_kilobytes(text, "\nVmPTE:") + slk_kilobytes(text, "\nHugetlbPages:");
	member->beside = member->unswapped + slk_kilobytes(text, "\nVmSwap:");
	member->bytes = slk_kilobytes(text, "\nRssAnon:") + member->beside;
	member->mapped = slk_kilobytes(text, "\nVmSize:");
}

/* ---- its threads */

void slk_member_each_thread(struct slk_memory *memory, pid_t pid, void (*act)(void *, pid_t), void *context)
{
	_Alignas(struct slk_dirent) char buffer[4096];
	char path[32];
	int dir;
	long got;

	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0) {
		slk_member_not_seen(memory, pid, errno);
		return;
	}
	while ((got = syscall(SYS_getdents64, dir, buffer, sizeof(buffer))) > 0)
		for (long at = 0; at < got;) {
			const struct slk_dirent *entry = (const void *)(buffer + at);

			at += entry->length;
			if (entry->name[0] >= '1' && entry->name[0] <= '9')
				act(context, (pid_t)atoi(entry->name));
		}
	close(dir);
}

/* ---- what it holds */

/* Its first thread has none any more, others may. */
static void memory_of_thread(void *context, pid_t thread)
{
	struct slk_member *member = context;
	char status[SLK_STATUS_BYTES_MAX];

	if (member->thread || slk_read_of(member->pid, thread, "status", status, sizeof(status)) <= 0 ||
	    !strstr(status, "\nRssAnon:"))
		return;
	member->thread = thread;
	take_sizes(member, status);
}

/* "size resident shared ...", in pages (proc_pid_statm(5)). 0: it cannot be told so, or has not been read for long. */
static int look_briefly(struct slk_member *member, uint64_t now_ns, long *ret_threads)
{
	unsigned long size, resident, shared;
	uint64_t page_bytes = (uint64_t)sysconf(_SC_PAGESIZE);
	char text[128];
	struct stat status;

	if (member->thread != member->pid || member->fds[SLK_FILE_STATM] < 0 ||
	    now_ns - member->read_ns > STATUS_FOR_NS || fstat(member->fds[SLK_FILE_TASK], &status) < 0 ||
	    read_at_start(member->fds[SLK_FILE_STATM], text, sizeof(text)) <= 0 ||
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
	if (strncmp(status, INIT_NAME, strlen(INIT_NAME)) != 0 || slk_read_of(pid, pid, "stat", text, sizeof(text)) <= 0)
		return 0;
	name_end = strrchr(text, ')');
	if (!name_end || sscanf(name_end + 1, " %*c %*d %*d %*d %*d %*d %u", &flags) != 1 || !(flags & FORKED_ONLY))
		return 0;
	memory->has_executed = 0;
	return 1;
}

static int look_closely(struct slk_memory *memory, struct slk_member *member, uint64_t now_ns, long *ret_threads)
{
	char status[SLK_STATUS_BYTES_MAX];
	ssize_t got = read_status(memory, member, status, sizeof(status));

	member->bytes = member->mapped = member->beside = 0;
	member->thread = 0;
	if (got <= 0)
		slk_member_not_seen(memory, member->pid, got < 0 ? (int)-got : ESRCH);
	if (got <= 0 || will_be_the_program(memory, member->pid, status))
		return 0;
	member->read_ns = now_ns;
	if (strstr(status, "\nRssAnon:")) {
		member->thread = member->pid;
		take_sizes(member, status);
	}
	*ret_threads = slk_status_number(status, "\nThreads:");
	return 1;
}

void slk_member_look(struct slk_memory *memory, struct slk_member *member, uint64_t now_ns)
{
	long threads = 0;

	if (!look_briefly(member, now_ns, &threads) && !look_closely(memory, member, now_ns, &threads)) {
		member->threads = 0;
		return;
	}
	member->threads = threads > 1 ? threads : 1;
	if (threads > 1 && !member->thread)
		slk_member_each_thread(memory, member->pid, memory_of_thread, member);
}
