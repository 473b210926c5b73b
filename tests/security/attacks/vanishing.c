/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Callers that vanish while their call is judged: threads that exit or are replaced by exec, leaders that go first,
 * vfork children. Prints "over" when all that was meant to live has lived.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void open_and_close(const char *path)
{
	int fd = open(path, O_RDONLY);

	if (fd >= 0)
		close(fd);
}

static void *busy(void *unused)
{
	for (;;) {
		open_and_close("/proc/self/status");
		open_and_close("/etc/shadow.none");
		chmod("/etc/hostname", 0644);
	}
	return unused;
}

static void many_that_die(void)
{
	for (int i = 0; i < 100; i++) {
		pid_t child = fork();

		if (child == 0) {
			pthread_t thread;

			for (int j = 0; j < 3; j++)
				pthread_create(&thread, NULL, busy, NULL);
			open_and_close("/proc/self/stat");
			_exit(i & 0x3f);
		}
		if (i & 1)
			kill(child, SIGKILL);
		waitpid(child, NULL, 0);
	}
}

static void *execute(void *unused)
{
	char *const argv[] = {"sh", "-c", "cat /proc/self/comm; test -r /proc/$$/stat && echo over", NULL};

	execv("/bin/sh", argv);
	return unused;
}

static void exec_from_a_thread(void)
{
	pthread_t threads[4];

	for (int i = 0; i < 3; i++)
		pthread_create(&threads[i], NULL, busy, NULL);
	pthread_create(&threads[3], NULL, execute, NULL);
	for (;;)
		pause();
}

static void *after_the_leader(void *unused)
{
	char text[64] = "";
	int fd;

	for (int i = 0; i < 200; i++)
		open_and_close("/proc/self/status");
	fd = open("/proc/thread-self/comm", O_RDONLY);
	if (fd >= 0 && read(fd, text, sizeof(text) - 1) > 0)
		printf("%s", text);
	puts("over");
	fflush(stdout);
	_exit(0);
	return unused;
}

static void with_vfork(void)
{
	for (int i = 0; i < 50; i++) {
		pid_t child = vfork();

		if (child == 0) {
			execl("/bin/true", "true", NULL);
			_exit(1);
		}
		waitpid(child, NULL, 0);
	}
}

static void orphans(void)
{
	int ends[2];
	char byte;

	if (pipe(ends) < 0)
		exit(1);
	for (int i = 0; i < 20; i++) {
		if (fork() == 0) {
			if (fork() == 0) {
				close(ends[0]);
				for (int j = 0; j < 20; j++)
					open_and_close("/proc/self/stat");
			}
			_exit(0);
		}
	}
	close(ends[1]);
	while (read(ends[0], &byte, 1) > 0)
		;
	while (wait(NULL) > 0)
		;
}

int main(int argc, char **argv)
{
	const char *what = argc == 2 ? argv[1] : "";
	pthread_t thread;

	if (!strcmp(what, "thread-dies"))
		many_that_die();
	else if (!strcmp(what, "exec-from-a-thread"))
		exec_from_a_thread();
	else if (!strcmp(what, "vfork"))
		with_vfork();
	else if (!strcmp(what, "orphans"))
		orphans();
	else if (!strcmp(what, "leader-exits-first")) {
		pthread_create(&thread, NULL, after_the_leader, NULL);
		syscall(SYS_exit, 0);
	}
	puts("over");
	return 0;
}
