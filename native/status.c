/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What /proc/<tid>/status tells of a thread (proc_pid_status(5)): one read, and a text that the kernel wrote. Of what the
 * process itself put there, its name, no newline survives (fs/proc/array.c, proc_task_name), so a line is the kernel's.
 * Whoever asks makes sure afterwards that the thread is still the one that was meant.
 */
#define _GNU_SOURCE
#include "slk.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int slk_is_ours(int error)
{
	return error == -EMFILE || error == -ENFILE || error == -ENOMEM;
}

int slk_read_text(const char *path, char *ret_text, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t got;

	ret_text[0] = '\0';
	if (fd < 0)
		return -errno;
	do
		got = read(fd, ret_text, size - 1);
	while (got < 0 && errno == EINTR);
	if (got < 0)
		got = -errno;
	close(fd);
	ret_text[got > 0 ? got : 0] = '\0';
	return (int)got;
}

int slk_read_status(int32_t tid, char *ret_text, size_t size)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/status", tid);
	return slk_read_text(path, ret_text, size);
}

/* Behind the line's name, or NULL where no such line ends within the text. */
static const char *line_of(const char *text, const char *name)
{
	const char *at = strstr(text, name);

	return at && strchr(at + 1, '\n') ? at + strlen(name) : NULL;
}

long slk_status_number(const char *text, const char *name)
{
	const char *at = line_of(text, name);

	return at ? strtol(at, NULL, 10) : -1;
}

/* Numbers of one line, at most capacity: how many, or -E2BIG. */
static int numbers_of(const char *text, const char *name, uint32_t *ret_numbers, uint32_t capacity)
{
	const char *at = line_of(text, name);
	uint32_t count = 0;

	if (!at)
		return -E2BIG;
	for (;;) {
		while (*at == ' ' || *at == '\t')
			at++;
		if (*at < '0' || *at > '9')
			return (int)count;
		if (count == capacity)
			return -E2BIG;
		ret_numbers[count++] = (uint32_t)strtoul(at, (char **)(uintptr_t)&at, 10);
	}
}

int slk_status(int32_t tid, struct slk_status *ret_status)
{
	struct slk_status found = {0};
	char text[SLK_STATUS_BYTES_MAX];
	const char *mask, *capabilities;
	int result;

	if (tid <= 0)
		return -ESRCH;
	result = slk_read_status(tid, text, sizeof(text));
	if (result < 0)
		return result;
	capabilities = line_of(text, "\nCapEff:"); /* of what is asked for here, the last */
	if (!capabilities)
		return -E2BIG;
	found.tgid = (int32_t)slk_status_number(text, "\nTgid:");
	found.ppid = (int32_t)slk_status_number(text, "\nPPid:");
	if (numbers_of(text, "\nUid:", found.uids, 4) != 4 || numbers_of(text, "\nGid:", found.gids, 4) != 4)
		return -EPROTO;
	result = numbers_of(text, "\nGroups:", found.groups, SLK_STATUS_GROUPS_MAX);
	if (result < 0)
		return result;
	found.group_count = (uint32_t)result;
	mask = line_of(text, "\nUmask:");
	found.umask = mask ? (uint32_t)strtoul(mask, NULL, 8) : 022; /* none of a zombie */
	found.capabilities = strtoull(capabilities, NULL, 16);
	*ret_status = found;
	return 0;
}
