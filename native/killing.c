/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How init makes an end of everything in its sandbox, and of nothing else.
 *
 * Before forking it enters a Landlock domain of its own that does nothing but scope signals (LANDLOCK_SCOPE_SIGNAL):
 * from then on it can signal only itself and what descends from it. kill(-1, SIGKILL) is then exactly "everything in the
 * sandbox", and atomic: the kernel walks all processes under tasklist_lock, and a fork that is under way fails on the
 * pending SIGKILL (kernel/fork.c, copy_process). No fork storm, setsid or double fork escapes it. The program lives in a
 * domain nested in this one, so it cannot signal init.
 * Where the kernel has no such scope, init walks its tree again and again instead.
 */
#define _GNU_SOURCE
#include "slk.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Who is deeper below us than that is not found, where the kernel has no scope. */
#define ANCESTORS_MAX 4096

/* Linking and renaming between directories is the one right that every domain takes away unless a rule gives it, also
 * one that handles no files (landlock(7), LANDLOCK_ACCESS_FS_REFER); and the program's domain is nested in ours. */
static int allow_refer(int ruleset)
{
	int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	int result;

	if (root < 0)
		return -errno;
	result = slk_landlock_add_path(ruleset, root, LANDLOCK_ACCESS_FS_REFER);
	close(root);
	return result;
}

/* The proof that kill(-1) is safe: what we could signal before, we can no longer. */
int slk_scope_signals(void)
{
	int ruleset = slk_landlock_create(LANDLOCK_ACCESS_FS_REFER, 0, SLK_LANDLOCK_SCOPE_SIGNAL);
	int result;

	if (ruleset < 0)
		return ruleset;
	result = allow_refer(ruleset);
	if (result == 0 && kill(getppid(), 0) < 0)
		result = -errno; /* then the test after it would prove nothing */
	if (result == 0)
		result = slk_landlock_restrict(ruleset);
	close(ruleset);
	if (result < 0)
		return result;
	if (kill(getppid(), 0) == 0 || errno != EPERM)
		return -ENOTRECOVERABLE;
	return 0;
}

/* The parent of a process, from /proc/<pid>/stat: the second field after the last ')'. */
static pid_t parent_of(pid_t pid)
{
	char path[64], text[512];
	const char *after;
	ssize_t got;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	got = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (got <= 0)
		return -1;
	text[got] = '\0';
	after = strrchr(text, ')');
	return after && strlen(after) > 4 ? (pid_t)atoi(after + 4) : -1;
}

void slk_each_number(const char *directory, void (*visit)(void *, pid_t), void *context)
{
	_Alignas(struct slk_dirent) char buffer[8192];
	int dir = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	long got;

	if (dir < 0)
		return;
	while ((got = syscall(SYS_getdents64, dir, buffer, sizeof(buffer))) > 0) {
		for (long at = 0; at < got;) {
			const struct slk_dirent *entry = (const void *)(buffer + at);

			at += entry->length;
			if (entry->name[0] >= '1' && entry->name[0] <= '9')
				visit(context, (pid_t)atoi(entry->name));
		}
	}
	close(dir);
}

static void kill_child(void *self, pid_t pid)
{
	if (parent_of(pid) == *(pid_t *)self)
		kill(pid, SIGKILL);
}

/* One pass: SIGKILL every child of ours. Orphans become our children, so passes reach every depth. The caller tries again
 * as long as there are children. */
void slk_kill_children_once(void)
{
	pid_t self = getpid();

	slk_each_number("/proc", kill_child, &self);
}

/* Landlock refuses a signal to anybody else, also the one that is none (security/landlock/task.c, hook_task_kill). */
int slk_is_inside(int scoped, pid_t pid)
{
	pid_t self = getpid();

	if (pid <= 1 || pid == self)
		return 0;
	if (scoped)
		return kill(pid, 0) == 0;
	for (int depth = 0; depth < ANCESTORS_MAX && pid > 1; depth++) {
		pid = parent_of(pid);
		if (pid == self)
			return 1;
	}
	return 0;
}

static void signal_one(void *number, pid_t pid)
{
	if (slk_is_inside(0, pid))
		kill(pid, *(int *)number);
}

void slk_signal_all(int scoped, int number)
{
	if (scoped)
		kill(-1, number);
	else
		slk_each_number("/proc", signal_one, &number);
}
