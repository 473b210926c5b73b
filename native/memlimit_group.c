/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The limit of memory where the kernel keeps it, by a cgroup that all of the sandbox is in (kernel/cgroups.py makes it). It
 * counts all that any of them takes, and nobody can take more: who would have to gets SIGKILL from the kernel, and then the
 * watcher ends the others (memlimit_watcher.c), so that it comes to the same as where we count ourselves.
 *
 * Files that the kernel keeps in memory count as well, and are let go of when somebody needs the room: so they are no use of it,
 * and whoever asks for more is judged without them.
 */
#define _GNU_SOURCE
#include "memlimit.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define STAT_BYTES 16384
#define SLACK_BYTES (UINT64_C(1) << 20) /* what may have been missing when the kernel gave up */

void slk_memory_keep_by_group(struct slk_memory *memory, const struct slk_memory_group *group)
{
	memory->group = *group;
	memory->is_by_group = 1;
}

int slk_memory_is_by_group(const struct slk_memory *memory)
{
	return memory->is_by_group;
}

void slk_group_forget(struct slk_memory *memory)
{
	const struct slk_memory_group *group = &memory->group;
	int fds[] = {group->usage_fd, group->peak_fd, group->stat_fd, group->events_fd, group->event_fd};

	if (!memory->is_by_group)
		return;
	for (size_t i = 0; i < sizeof(fds) / sizeof(*fds); i++)
		if (fds[i] >= 0)
			close(fds[i]);
	memory->is_by_group = 0;
}

/* A NUL behind it; empty where it cannot be read. */
static void read_text(int fd, char *ret_text, size_t size)
{
	ssize_t got;

	do
		got = pread(fd, ret_text, size - 1, 0);
	while (got < 0 && errno == EINTR);
	ret_text[got > 0 ? got : 0] = '\0';
}

static uint64_t number_in(int fd)
{
	char text[32];

	if (fd < 0)
		return 0;
	read_text(fd, text, sizeof(text));
	return strtoull(text, NULL, 10);
}

/* Lines of "name number"; name: with the newline before it. */
static uint64_t named(const char *text, const char *name)
{
	size_t length = strlen(name);

	for (const char *at = strstr(text, name); at; at = strstr(at + length, name))
		if (at[length] == ' ')
			return strtoull(at + length, NULL, 10);
	return 0;
}

static int is_version_1(const struct slk_memory *memory)
{
	return memory->group.event_fd >= 0;
}

uint64_t slk_group_look(const struct slk_memory *memory, uint64_t enough_bytes)
{
	uint64_t used = number_in(memory->group.usage_fd), files;
	char text[STAT_BYTES];

	if (used <= enough_bytes)
		return used;
	read_text(memory->group.stat_fd, text, sizeof(text));
	/* Not those of a tmpfs, nor what mlock(2) holds. */
	if (is_version_1(memory))
		files = named(text, "\ntotal_inactive_file") + named(text, "\ntotal_active_file");
	else
		files = named(text, "\ninactive_file") + named(text, "\nactive_file");
	return used > files ? used - files : 0;
}

uint64_t slk_group_peak(const struct slk_memory *memory)
{
	return number_in(memory->group.peak_fd);
}

/*
 * Version 1 tells of an ancestor that ran out as well (mem_cgroup_oom_notify of mm/memcontrol-v1.c), and of who is killed for
 * that; which is none of our limit, unless it was reached, too.
 */
int slk_group_is_over(const struct slk_memory *memory)
{
	int is_1 = is_version_1(memory), is_told = __atomic_load_n(&memory->ran_out, __ATOMIC_RELAXED);
	char text[256];

	read_text(memory->group.events_fd, text, sizeof(text));
	if (!is_1)
		return named(text, "\noom") > 0; /* of our own limit; oom_kill is of any */
	return (is_told || named(text, "\noom_kill")) && slk_group_peak(memory) + SLACK_BYTES >= memory->limit;
}

void slk_group_wait(struct slk_memory *memory)
{
	int is_1 = is_version_1(memory);
	struct pollfd waiting[2] = {
		{memory->wake_fd, POLLIN, 0},
		{is_1 ? memory->group.event_fd : memory->group.events_fd, is_1 ? POLLIN : POLLPRI, 0},
	};

	uint64_t count;

	pthread_mutex_unlock(&memory->lock);
	if (poll(waiting, 2, -1) > 0 && waiting[0].revents && read(memory->wake_fd, &count, sizeof(count)) < 0)
		count = 0; /* somebody was faster */
	pthread_mutex_lock(&memory->lock);
	/* The kernel says so before it kills anybody. */
	if (is_1 && read(memory->group.event_fd, &count, sizeof(count)) > 0)
		__atomic_store_n(&memory->ran_out, 1, __ATOMIC_RELAXED);
}
