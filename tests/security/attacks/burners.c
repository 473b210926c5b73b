/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Using processors, each in its own way, for as long as WALL_MS; then it ends with 0.
 *
 *     burners WAY WALL_MS BURN_MS
 *
 * BURN_MS: how much one process, or thread, uses.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int64_t end_ns;
static int burn_ms;

static int64_t now_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static int is_over(void)
{
	return now_ns(CLOCK_MONOTONIC) >= end_ns;
}

static void *burn(void *unused)
{
	int64_t until = now_ns(CLOCK_THREAD_CPUTIME_ID) + burn_ms * INT64_C(1000000);

	while (now_ns(CLOCK_THREAD_CPUTIME_ID) < until && !is_over())
		;
	return unused;
}

static void child(void)
{
	if (fork() == 0) {
		burn(NULL);
		_exit(0);
	}
}

static void children(void)
{
	while (!is_over()) {
		child();
		wait(NULL);
	}
}

/* At most two live at a time: the other end of the pipe is theirs. */
static void unwaited(void)
{
	while (!is_over()) {
		int ends[2];
		char byte;

		if (pipe(ends) < 0)
			_exit(3);
		child();
		child();
		close(ends[1]);
		while (read(ends[0], &byte, 1) > 0)
			;
		close(ends[0]);
	}
}

static void orphans(void)
{
	while (!is_over()) {
		int ends[2];
		char byte;

		if (pipe(ends) < 0)
			_exit(3);
		if (fork() == 0) {
			setsid();
			child();
			_exit(0);
		}
		wait(NULL);
		close(ends[1]);
		while (read(ends[0], &byte, 1) > 0)
			;
		close(ends[0]);
	}
}

static void threads(void)
{
	while (!is_over()) {
		pthread_t thread;

		if (pthread_create(&thread, NULL, burn, NULL) != 0)
			_exit(3);
		pthread_join(thread, NULL);
	}
}

static void sleepers(void)
{
	while (!is_over()) {
		if (fork() == 0) {
			usleep(20000);
			_exit(0);
		}
		usleep(20000);
	}
}

int main(int argc, char **argv)
{
	const char *way = argc == 4 ? argv[1] : "";
	struct sigaction quiet = {.sa_handler = SIG_DFL, .sa_flags = SA_NOCLDWAIT};

	if (argc != 4)
		return 2;
	end_ns = now_ns(CLOCK_MONOTONIC) + atoi(argv[2]) * INT64_C(1000000);
	burn_ms = atoi(argv[3]);
	signal(SIGXCPU, SIG_IGN);
	if (!strcmp(way, "alone")) {
		while (!is_over())
			burn(NULL);
	} else if (!strcmp(way, "threads")) {
		threads();
	} else if (!strcmp(way, "children")) {
		children();
	} else if (!strcmp(way, "ignored")) {
		signal(SIGCHLD, SIG_IGN);
		unwaited();
	} else if (!strcmp(way, "no-zombies")) {
		sigaction(SIGCHLD, &quiet, NULL);
		unwaited();
	} else if (!strcmp(way, "orphans")) {
		orphans();
	} else if (!strcmp(way, "sleepers")) {
		signal(SIGCHLD, SIG_IGN);
		sleepers();
	} else {
		return 2;
	}
	return 0;
}
