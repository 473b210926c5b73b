/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whether anybody still has a file: whether it is open for writing somewhere, whether one without a name is still there.
 *
 * A lease is granted only where nobody has the file open in the way that it is against (fcntl(2), Leases): mappings, and
 * descriptors that are on their way through a socket, count as well. O_PATH descriptors do not. A watch tells when an
 * object that has lost its name is gone, that is when its space is free; but of a file that had several names it tells so
 * when the first of them that was used to open it is let go (dentry_unlink_inode of fs/dcache.c).
 */
#define _GNU_SOURCE
#include "slk.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

#define FDINFO_BYTES 65536

static void self_link(int fd, char text[32])
{
	snprintf(text, 32, "/proc/self/fd/%d", fd);
}

static int open_for_lease(int fd)
{
	char path[32];
	int opened;

	self_link(fd, path);
	opened = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOATIME);
	return opened < 0 && errno == EPERM ? open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC) : opened;
}

static int is_granted(int opened, int lease)
{
	/* Whoever opens it in this very moment breaks the lease: by default the signal would end us. */
	int granted = fcntl(opened, F_SETSIG, SIGURG) == 0 && fcntl(opened, F_SETLEASE, lease) == 0;

	if (granted)
		fcntl(opened, F_SETLEASE, F_UNLCK);
	return granted;
}

int slk_in_use(int fd, int by_readers)
{
	int opened = open_for_lease(fd);
	int granted;

	if (opened < 0)
		return 1;
	granted = is_granted(opened, by_readers ? F_WRLCK : F_RDLCK);
	close(opened);
	return !granted;
}

int slk_is_shared(int opened)
{
	return !is_granted(opened, F_WRLCK);
}

int slk_is_written(int opened)
{
	return !is_granted(opened, F_RDLCK);
}

int slk_watch_gone(int inotify_fd, int dirfd, const char *path, int of_writers)
{
	char text[64 + SLK_PATH_MAX];
	uint32_t mask = IN_DELETE_SELF | IN_DONT_FOLLOW | (of_writers ? IN_CLOSE_WRITE : 0);
	int number;

	if (*path)
		snprintf(text, sizeof(text), "/proc/self/fd/%d/%s", dirfd, path);
	else
		self_link(dirfd, text);
	number = inotify_add_watch(inotify_fd, text, *path ? mask : mask & ~(uint32_t)IN_DONT_FOLLOW);
	return number < 0 ? -errno : number;
}

/* "inotify wd:1f ino:...": proc_pid_fdinfo(5), in hexadecimal. */
int slk_watches_left(int inotify_fd, void (*left)(void *, int), void *context)
{
	char path[48], *text, *line;
	size_t length = 0, capacity = FDINFO_BYTES;
	ssize_t got;
	int fd;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", inotify_fd);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	text = malloc(capacity + 1);
	while (fd >= 0 && text && (got = read(fd, text + length, capacity - length)) > 0) {
		length += (size_t)got;
		if (length == capacity) {
			char *larger = realloc(text, 2 * capacity + 1);

			if (!larger) {
				free(text);
				text = NULL;
				break;
			}
			capacity *= 2;
			text = larger;
		}
	}
	if (fd >= 0)
		close(fd);
	if (fd < 0 || !text) {
		free(text);
		return fd < 0 ? -EBADF : -ENOMEM;
	}
	text[length] = '\0';
	for (line = text; (line = strstr(line, "inotify wd:")); line++)
		left(context, (int)strtol(line + strlen("inotify wd:"), NULL, 16));
	free(text);
	return 0;
}
