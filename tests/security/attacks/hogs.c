/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Taking processors for WALL_MS, each in its own way.
 *
 *     hogs WAY WALL_MS
 *
 * Writes what it has got in microseconds, by its own clocks and by those of its children.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int64_t end_ns;

static int64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static int is_over(void)
{
	return now_ns() >= end_ns;
}

static void *burn(void *unused)
{
	while (!is_over())
		;
	return unused;
}

static void threads(int count)
{
	pthread_t all[256];

	for (int i = 0; i < count; i++)
		if (pthread_create(&all[i], NULL, burn, NULL) != 0)
			_exit(3);
	for (int i = 0; i < count; i++)
		pthread_join(all[i], NULL);
}

/* Threads that make threads, and compute meanwhile. */
static void *bomb(void *unused)
{
	pthread_t next;

	while (!is_over()) {
		if (pthread_create(&next, NULL, bomb, NULL) == 0)
			pthread_detach(next);
		for (int64_t until = now_ns() + 20000000; now_ns() < until;)
			;
	}
	return unused;
}

/* Many short processes. */
static void forks(void)
{
	while (!is_over()) {
		if (vfork() == 0) {
			execl("/bin/true", "true", NULL);
			_exit(3);
		}
		wait(NULL);
	}
}

/* Children that compute, and are replaced by new ones all the time: who is held is killed. */
static void relay(void)
{
	while (!is_over()) {
		pid_t pid = fork();

		if (pid == 0) {
			for (int64_t until = now_ns() + 3000000; now_ns() < until;)
				;
			_exit(0);
		}
		usleep(4000);
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
	}
}

/* Hardly ever found computing: each for half a millisecond. */
static void turns(void)
{
	for (int i = 0; i < 20; i++) {
		if (fork() != 0)
			continue;
		while (!is_over()) {
			for (int64_t until = now_ns() + 500000; now_ns() < until;)
				;
			usleep(2000);
		}
		_exit(0);
	}
	while (wait(NULL) > 0)
		;
}

/* All that is stopped is told to go on, all the time. */
static void waker(void)
{
	pid_t group = getpgrp();

	for (int i = 0; i < 3; i++)
		if (fork() == 0) {
			while (!is_over()) {
				kill(-group, SIGCONT);
				for (int64_t until = now_ns() + 300000; now_ns() < until;)
					;
			}
			_exit(0);
		}
	while (wait(NULL) > 0)
		;
}

/* In the kernel, and not in a call that waits. */
static void calls(void)
{
	char buffer[65536];
	int fd = open("/dev/urandom", O_RDONLY);

	while (!is_over())
		if (read(fd, buffer, sizeof(buffer)) != sizeof(buffer))
			_exit(4);
}

/* Two of a program that nobody may look into, where it is an ordinary user's. */
static void unreadable(const char *self)
{
	char copy[] = "./hogXXXXXX", buffer[65536];
	int from = open(self, O_RDONLY), to = mkstemp(copy);
	char text[32];
	ssize_t got;

	while ((got = read(from, buffer, sizeof(buffer))) > 0)
		if (write(to, buffer, (size_t)got) != got)
			_exit(5);
	fchmod(to, 0111);
	close(to);
	snprintf(text, sizeof(text), "%lld", (long long)((end_ns - now_ns()) / 1000000));
	for (int i = 0; i < 2; i++)
		if (fork() == 0) {
			execl(copy, "hog", "alone", text, NULL);
			_exit(6);
		}
	while (wait(NULL) > 0)
		;
}

static void ignore(int number)
{
	(void)number;
}

/* From anywhere, as its threads share where they are. */
static void *enter_half_of_the_time(void *path)
{
	int64_t half_ns = now_ns() + (end_ns - now_ns()) / 2;

	while (now_ns() < half_ns)
		if (chdir(path) < 0)
			_exit(7);
	return burn(NULL);
}

/* Calls that are made otherwise for them, by who stops them for that; and then they go on alone. With a timer that is
 * init, which traces them for it (native/tracer.c). */
static void enters(int has_timer)
{
	struct itimerval often = {{0, 20000}, {0, 20000}};
	struct sigaction action = {.sa_handler = ignore, .sa_flags = SA_RESTART};
	pthread_t all[4];
	char path[4096];

	mkdir("made", 0755);
	if (!realpath("made", path))
		_exit(7);
	sigaction(SIGALRM, &action, NULL);
	if (has_timer)
		setitimer(ITIMER_REAL, &often, NULL);
	for (int i = 0; i < 4; i++)
		if (pthread_create(&all[i], NULL, enter_half_of_the_time, path) != 0)
			_exit(3);
	for (int i = 0; i < 4; i++)
		pthread_join(all[i], NULL);
}

int main(int argc, char **argv)
{
	const char *way = argc == 3 ? argv[1] : "";
	struct rusage self, children;

	if (argc != 3)
		return 2;
	signal(SIGCONT, SIG_IGN);
	end_ns = now_ns() + atoi(argv[2]) * INT64_C(1000000);
	if (!strcmp(way, "alone"))
		burn(NULL);
	else if (!strcmp(way, "four"))
		threads(4);
	else if (!strcmp(way, "hundred"))
		threads(100);
	else if (!strcmp(way, "bomb"))
		bomb(NULL);
	else if (!strcmp(way, "forks"))
		forks();
	else if (!strcmp(way, "relay"))
		relay();
	else if (!strcmp(way, "turns"))
		turns();
	else if (!strcmp(way, "waker"))
		waker();
	else if (!strcmp(way, "calls"))
		calls();
	else if (!strcmp(way, "enters"))
		enters(0);
	else if (!strcmp(way, "enters-with-timer"))
		enters(1);
	else if (!strcmp(way, "unreadable"))
		unreadable(argv[0]);
	else
		return 2;
	getrusage(RUSAGE_SELF, &self);
	getrusage(RUSAGE_CHILDREN, &children);
	printf("%lld\n", (long long)((self.ru_utime.tv_sec + self.ru_stime.tv_sec + children.ru_utime.tv_sec +
				      children.ru_stime.tv_sec) * 1000000LL +
				     self.ru_utime.tv_usec + self.ru_stime.tv_usec + children.ru_utime.tv_usec +
				     children.ru_stime.tv_usec));
	return 0;
}
