/* SPDX-License-Identifier: Apache-2.0 */
/*
 * All that the native tests need of a framework.
 *
 * A test is a function without arguments; RUN runs it and checks that it left no descriptor and no process behind.
 * A failed CHECK ends the program. Children of a test leave through _exit: what exit does (sanitisers look for leaks)
 * belongs to the test itself.
 */
#ifndef CHECK_H
#define CHECK_H

#include "slk.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SKIPPED 77
#define PATIENCE_MS 20000 /* for what comes at once unless something is broken; never waited out otherwise */

static const char *check_running = "";

__attribute__((format(printf, 3, 4), noreturn, unused)) static void check_failed(const char *file, int line,
										 const char *format, ...)
{
	va_list arguments;

	fprintf(stderr, "%s:%d: in %s (pid %d): ", file, line, check_running, (int)getpid());
	va_start(arguments, format);
	vfprintf(stderr, format, arguments);
	va_end(arguments);
	fputc('\n', stderr);
	fflush(stderr);
	_exit(1);
}

#define CHECK(condition)                                                                                               \
	do {                                                                                                           \
		if (!(condition))                                                                                      \
			check_failed(__FILE__, __LINE__, "not so: %s (errno %d)", #condition, errno);                  \
	} while (0)

#define CHECK_EQUAL(expected, found)                                                                                   \
	do {                                                                                                           \
		long long expected_ = (long long)(expected);                                                           \
		long long found_ = (long long)(found);                                                                 \
		if (expected_ != found_)                                                                               \
			check_failed(__FILE__, __LINE__, "%s is %lld, not %s = %lld", #found, found_, #expected,       \
				     expected_);                                                                       \
	} while (0)

#define CHECK_TEXT(expected, found)                                                                                    \
	do {                                                                                                           \
		if (strcmp((expected), (found)) != 0)                                                                  \
			check_failed(__FILE__, __LINE__, "%s is \"%s\", not \"%s\"", #found, (found), (expected));     \
	} while (0)

__attribute__((unused)) static void skip_all(const char *reason)
{
	printf("skipped: %s\n", reason);
	fflush(stdout);
	_exit(SKIPPED);
}

__attribute__((unused)) static int open_descriptors(void)
{
	DIR *dir = opendir("/proc/self/fd");
	int count = 0;

	CHECK(dir);
	while (readdir(dir))
		count++;
	closedir(dir);
	return count;
}

/* The test program is a subreaper, so whatever a test forgot is its child now. */
__attribute__((unused)) static void check_no_process_left(void)
{
	siginfo_t info = {0};

	if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT | __WALL) == 0)
		check_failed(__FILE__, __LINE__, "a process was left behind (pid %d has ended)", (int)info.si_pid);
	CHECK_EQUAL(ECHILD, errno);
}

__attribute__((unused)) static void run_test(const char *name, void (*test)(void))
{
	int before = open_descriptors();

	check_running = name;
	fflush(stdout);
	test();
	CHECK_EQUAL(before, open_descriptors());
	check_no_process_left();
	printf("ok: %s\n", name);
}

#define RUN(test) run_test(#test, test)

__attribute__((unused)) static void begin_tests(void)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	CHECK_EQUAL(0, prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0));
	signal(SIGPIPE, SIG_IGN);
}

/* In a child: runs body, and the child's end is the body's result. The parent gets the pid. */
__attribute__((unused)) static pid_t in_child(int (*body)(void *), void *argument)
{
	pid_t pid;

	fflush(stdout);
	pid = fork();
	CHECK(pid >= 0);
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
		_exit(body(argument));
	}
	return pid;
}

__attribute__((unused)) static int exit_of(pid_t pid)
{
	int status = 0;
	pid_t got;

	do
		got = waitpid(pid, &status, 0);
	while (got < 0 && errno == EINTR);
	CHECK_EQUAL(pid, got);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

/* Waits for a state that comes by itself, looking again and again; false when it does not come. */
#define COMES_TRUE(condition)                                                                                          \
	({                                                                                                             \
		uint64_t end_ = slk_now_ns() + PATIENCE_MS * 1000000ull;                                               \
		int true_ = 0;                                                                                         \
		for (int tries_ = 0; !(true_ = (condition)) && slk_now_ns() < end_; tries_++)                           \
			if (tries_ < 1000)                                                                             \
				sched_yield();                                                                         \
			else                                                                                           \
				poll(NULL, 0, 1);                                                                      \
		true_;                                                                                                 \
	})

/* A new empty directory; rm_tree removes it with all that is in it. */
__attribute__((unused)) static void make_tree(char *ret_path, size_t size)
{
	snprintf(ret_path, size, "%s/slk-test-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
	CHECK(mkdtemp(ret_path));
}

__attribute__((unused)) static void rm_tree(const char *path)
{
	DIR *dir = opendir(path);
	struct dirent *entry;

	CHECK(dir);
	while ((entry = readdir(dir))) {
		if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
			continue;
		if (unlinkat(dirfd(dir), entry->d_name, 0) < 0) {
			char child[4096];

			CHECK(snprintf(child, sizeof(child), "%s/%s", path, entry->d_name) < (int)sizeof(child));
			rm_tree(child);
		}
	}
	closedir(dir);
	CHECK_EQUAL(0, rmdir(path));
}

__attribute__((unused)) static void make_file(const char *path)
{
	int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0644);

	CHECK(fd >= 0);
	close(fd);
}

/* xorshift: the same sequence everywhere. */
__attribute__((unused)) static uint32_t random_below(uint64_t *state, uint32_t bound)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return (uint32_t)((*state >> 11) % bound);
}

#endif
