/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One thread makes a call that hangs; the others go on.
 *
 *     hanging CALL PATH [OTHER]
 *
 * Says "asking", makes the call in a thread, reads a line, opens OPENS times what the supervisor serves and what the
 * kernel opens (and OTHER), says "went on MICROSECONDS" (the slowest of them), and when the thread is back "back RESULT ERRNO TEXT".
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define OPENS 200

static const char *call, *path;
static long result;
static int error;
static char text[64];

static long now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000L + now.tv_nsec / 1000;
}

static long run_it(void)
{
	pid_t child = fork();
	int status = 0;

	if (child == 0) {
		execl(path, path, (char *)NULL);
		_exit(errno);
	}
	waitpid(child, &status, 0);
	return status;
}

static void *hang(void *unused)
{
	(void)unused;
	if (!strcmp(call, "open")) {
		result = open(path, O_RDONLY);
		if (result >= 0) {
			if (read((int)result, text, sizeof(text) - 1) < 0)
				snprintf(text, sizeof(text), "unreadable");
			result = 0;
		}
	} else if (!strcmp(call, "create")) {
		result = open(path, O_WRONLY | O_CREAT | O_EXCL, 0644) < 0 ? -1 : 0;
	} else if (!strcmp(call, "chmod")) {
		result = chmod(path, 0600);
	} else if (!strcmp(call, "mkdir")) {
		result = mkdir(path, 0755);
	} else if (!strcmp(call, "unlink")) {
		result = unlink(path);
	} else if (!strcmp(call, "execute")) {
		result = run_it();
	} else {
		abort();
	}
	error = errno;
	return NULL;
}

int main(int argc, char **argv)
{
	const char *others[] = {"/proc/self/stat", "/etc/hostname", "/proc/self/status", "/dev/null", argv[3]};
	pthread_t thread;
	long slowest = 0;

	if (argc != 3 && argc != 4)
		return 2;
	call = argv[1];
	path = argv[2];
	setvbuf(stdout, NULL, _IOLBF, 0);
	puts("asking");
	if (pthread_create(&thread, NULL, hang, NULL))
		return 3;
	if (getchar() == EOF)
		return 4;
	for (int i = 0; i < OPENS; i++) {
		long start = now_us();
		int fd = open(others[i % (argc == 4 ? 5 : 4)], O_RDONLY);

		if (fd < 0)
			return 5;
		close(fd);
		if (now_us() - start > slowest)
			slowest = now_us() - start;
	}
	printf("went on %ld\n", slowest);
	pthread_join(thread, NULL);
	printf("back %ld %s %s\n", result, result ? strerrorname_np(error) : "0", text);
	return 0;
}
