/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Single operations, timed by the process that makes them.
 *
 *     ops DIRECTORY FORBIDDEN
 *
 * DIRECTORY: absolute; holds lower.txt, unlinked0 and so on, written0 and so on.
 * Says "ready", then reads lines "NAME COUNT" and answers each with "NAME COUNT NANOSECONDS FAILURES ERRNO": the time
 * of one operation, how many failed, and why the last one did. A fast wrong answer is no answer, so failures are
 * always counted. One process lives through a whole round, and whoever drives it can interleave several of them.
 *
 * Only what a row is called after is timed: files that it needs are made before and removed after.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MAPPED_BYTES 65536
#define LARGE_BYTES (2u << 20)
#define IDLE_US 2000
#define LOOK_EVERY_US 250
#define BIG_FILES 3
#define NAME_BYTES 32

static const char *forbidden; /* outside of every grant; bare, anybody may read it */

struct operation {
	const char *name;
	int (*once)(long number);     /* 0, or -1 with errno */
	int (*before)(long count);    /* 0, or -1 with errno: then nothing is timed. May be NULL, as after */
	void (*after)(long count);
	/* Idle before each one. MEDIAN, because an idle machine now and then sleeps long; SLOWEST: of 100 the last but one,
	 * looked at more often, so that it takes many to decide. */
	enum { TOGETHER = 0, MEDIAN, SLOWEST } isolated;
	int (*beside)(void); /* what another process does meanwhile, until which ends there is measured. 0, or -1 */
};

struct outcome {
	double each_ns;
	long failures;
	int error; /* of the last failure */
};

static double now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

/* ---- operations ---- */

static int parent_id(long number)
{
	(void)number;
	return syscall(SYS_getppid) < 0 ? -1 : 0;
}

static int open_and_close(const char *path, int flags)
{
	int fd = open(path, flags | O_CLOEXEC, 0644);

	return fd < 0 ? -1 : close(fd);
}

static int open_absolute(long number)
{
	(void)number;
	return open_and_close("/usr/bin/env", O_RDONLY);
}

static int open_relative(long number)
{
	(void)number;
	return open_and_close("here.txt", O_RDONLY);
}

static int open_refused(long number)
{
	(void)number;
	return open_and_close(forbidden, O_RDONLY);
}

static int open_served(long number)
{
	(void)number;
	return open_and_close("/proc/self/stat", O_RDONLY);
}

static int stat_relative(long number)
{
	struct stat found;

	(void)number;
	return stat("here.txt", &found);
}

static int access_relative(long number)
{
	(void)number;
	return access("here.txt", R_OK);
}

/* ---- in a copy-on-write tree: what was there before, and what was written since ---- */

static char lower_path[PATH_MAX], upper_path[PATH_MAX]; /* absolute */

static int open_lower(long number)
{
	(void)number;
	return open_and_close(lower_path, O_RDONLY);
}

static int open_upper(long number)
{
	(void)number;
	return open_and_close(upper_path, O_RDONLY);
}

static int stat_lower(long number)
{
	struct stat found;

	(void)number;
	return stat(lower_path, &found);
}

static int stat_upper(long number)
{
	struct stat found;

	(void)number;
	return stat(upper_path, &found);
}

static int access_lower(long number)
{
	(void)number;
	return access(lower_path, R_OK);
}

static int access_upper(long number)
{
	(void)number;
	return access(upper_path, R_OK);
}

static const char *named(const char *letters, long number)
{
	static char name[NAME_BYTES];

	snprintf(name, sizeof(name), "%s%ld", letters, number);
	return name;
}

static const char *numbered(long number)
{
	return named("n", number);
}

/* Each file serves once: they were made before the program began, and lie one after the other. */
static int unlink_lower(long number)
{
	static long next;

	(void)number;
	return unlink(named("unlinked", next++));
}

static int first_write(long number)
{
	static long next;

	(void)number;
	return open_and_close(named("written", next++), O_WRONLY);
}

static int create_and_write(long number)
{
	int fd = open(numbered(number), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	int result;

	if (fd < 0)
		return -1;
	result = write(fd, "x", 1) == 1 ? 0 : -1;
	close(fd);
	return result;
}

static int rename_to_and_fro(long number)
{
	return number % 2 ? rename("there.txt", "moving.txt") : rename("moving.txt", "there.txt");
}

static int unlink_numbered(long number)
{
	return unlink(numbered(number));
}

static int mkdir_numbered(long number)
{
	return mkdir(numbered(number), 0755);
}

static int map_and_unmap(long number)
{
	void *mapped = mmap(NULL, MAPPED_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	(void)number;
	return mapped == MAP_FAILED ? -1 : munmap(mapped, MAPPED_BYTES);
}

static int map_and_unmap_large(long number)
{
	void *mapped = mmap(NULL, LARGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	(void)number;
	return mapped == MAP_FAILED ? -1 : munmap(mapped, LARGE_BYTES);
}

static int wait_for(pid_t pid)
{
	int status;

	if (pid < 0 || waitpid(pid, &status, 0) < 0)
		return -1;
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return 0;
	errno = ECHILD;
	return -1;
}

static int fork_and_exit(long number)
{
	pid_t pid = fork();

	(void)number;
	if (pid == 0)
		_exit(0);
	return wait_for(pid);
}

static int spawn_true(long number)
{
	pid_t pid = vfork();

	(void)number;
	if (pid == 0) {
		execl("/bin/true", "true", (char *)NULL);
		_exit(127);
	}
	return wait_for(pid);
}

/* What another program of the same sandbox may ask for at any time. */
static int open_and_look(long number)
{
	if (open_lower(number) < 0 || stat_lower(number) < 0 || access_lower(number) < 0)
		return -1;
	return stat_upper(number);
}

/* ---- what goes on beside them ---- */

/* One after the other, so that it goes on for long enough: each is copied within the page cache. */
static int with_each_big(int (*once)(const char *big))
{
	char big[NAME_BYTES];

	for (int number = 0; number < BIG_FILES; number++) {
		snprintf(big, sizeof(big), "big%d", number);
		if (once(big) < 0)
			return -1;
	}
	return 0;
}

static int open_to_write(const char *big)
{
	return open_and_close(big, O_RDWR);
}

static int copy(const char *big)
{
	int from = open(big, O_RDONLY | O_CLOEXEC);
	int to = open("big.copy", O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
	ssize_t copied = from < 0 || to < 0 ? -1 : 1;

	while (copied > 0)
		copied = copy_file_range(from, NULL, to, NULL, 1 << 30, 0);
	close(from);
	close(to);
	unlink("big.copy");
	return copied < 0 ? -1 : 0;
}

/* In a copy-on-write tree each whole file is copied for this. */
static int write_to_big(void)
{
	return with_each_big(open_to_write);
}

/* Without one: as much work for the disk. */
static int copy_big(void)
{
	return with_each_big(copy);
}

/* ---- what they need ---- */

static int make_here(long count)
{
	(void)count;
	return open_and_close("here.txt", O_WRONLY | O_CREAT);
}

/* Written, so that it is the program's own even where it was there before. */
static int make_upper(long count)
{
	int fd = open(upper_path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
	int result;

	(void)count;
	if (fd < 0)
		return -1;
	result = write(fd, "x", 1) == 1 ? 0 : -1;
	close(fd);
	return result;
}

static int make_moving(long count)
{
	(void)count;
	return open_and_close("moving.txt", O_WRONLY | O_CREAT);
}

static void remove_moving(long count)
{
	(void)count;
	unlink("moving.txt");
	unlink("there.txt");
}

static int make_numbered(long count)
{
	for (long number = 0; number < count; number++)
		if (create_and_write(number) < 0)
			return -1;
	return 0;
}

static void unlink_all(long count)
{
	for (long number = 0; number < count; number++)
		unlink(numbered(number));
}

static void rmdir_all(long count)
{
	for (long number = 0; number < count; number++)
		rmdir(numbered(number));
}

/* What is served must be right, too: the first word of the file is our number. */
static int check_served(long count)
{
	FILE *file = fopen("/proc/self/stat", "re");
	int pid = 0;
	int fields;

	(void)count;
	if (!file)
		return -1;
	fields = fscanf(file, "%d", &pid);
	fclose(file);
	if (fields == 1 && pid == (int)getpid())
		return 0;
	errno = EBADMSG;
	return -1;
}

static const struct operation operations[] = {
	{"getppid", parent_id, NULL, NULL, TOGETHER, NULL},
	{"stat", stat_relative, make_here, NULL, TOGETHER, NULL},
	{"access", access_relative, make_here, NULL, TOGETHER, NULL},
	{"mmap", map_and_unmap, NULL, NULL, TOGETHER, NULL},
	{"mmap_large", map_and_unmap_large, NULL, NULL, TOGETHER, NULL},
	{"open_absolute", open_absolute, NULL, NULL, TOGETHER, NULL},
	{"open_relative", open_relative, make_here, NULL, TOGETHER, NULL},
	{"open_lower", open_lower, NULL, NULL, TOGETHER, NULL},
	{"open_upper", open_upper, make_upper, NULL, TOGETHER, NULL},
	{"stat_lower", stat_lower, NULL, NULL, TOGETHER, NULL},
	{"stat_upper", stat_upper, make_upper, NULL, TOGETHER, NULL},
	{"access_lower", access_lower, NULL, NULL, TOGETHER, NULL},
	{"access_upper", access_upper, make_upper, NULL, TOGETHER, NULL},
	{"unlink_lower", unlink_lower, NULL, NULL, TOGETHER, NULL},
	{"first_write", first_write, NULL, NULL, TOGETHER, NULL},
	{"open_isolated", open_absolute, NULL, NULL, MEDIAN, NULL},
	{"open_refused", open_refused, NULL, NULL, TOGETHER, NULL},
	{"open_served", open_served, check_served, NULL, TOGETHER, NULL},
	{"create", create_and_write, NULL, unlink_all, TOGETHER, NULL},
	{"rename", rename_to_and_fro, make_moving, remove_moving, TOGETHER, NULL},
	{"unlink", unlink_numbered, make_numbered, unlink_all, TOGETHER, NULL},
	{"mkdir", mkdir_numbered, NULL, rmdir_all, TOGETHER, NULL},
	{"fork_exit", fork_and_exit, NULL, NULL, TOGETHER, NULL},
	{"spawn", spawn_true, NULL, NULL, TOGETHER, NULL},
	{"look_idle", open_and_look, make_upper, NULL, SLOWEST, NULL},
	{"look_beside_first_write", open_and_look, make_upper, NULL, SLOWEST, write_to_big},
	{"look_beside_copy", open_and_look, make_upper, NULL, SLOWEST, copy_big},
};

/* ---- timing ---- */

static void note_failure(struct outcome *outcome)
{
	outcome->failures++;
	outcome->error = errno;
}

static void time_together(const struct operation *operation, long count, struct outcome *outcome)
{
	double start = now_ns();

	for (long number = 0; number < count; number++)
		if (operation->once(number) < 0)
			note_failure(outcome);
	outcome->each_ns = (now_ns() - start) / (double)count;
}

static int compare(const void *left, const void *right)
{
	double a = *(const double *)left, b = *(const double *)right;

	return (a > b) - (a < b);
}

/* The other process has ended: 1. How: into the outcome. */
static int is_over(pid_t other, struct outcome *outcome)
{
	int status;
	pid_t ended = waitpid(other, &status, WNOHANG);

	if (ended == 0)
		return 0;
	errno = ECHILD;
	if (ended < 0 || !WIFEXITED(status) || WEXITSTATUS(status) != 0)
		note_failure(outcome);
	return 1;
}

static pid_t start_beside(const struct operation *operation)
{
	pid_t pid = fork();

	if (pid == 0)
		_exit(operation->beside() < 0);
	return pid;
}

/* How many were measured: count, or fewer where what goes on beside them has ended. */
static long measure_each(const struct operation *operation, long count, double *each_ns, struct outcome *outcome)
{
	pid_t other = operation->beside ? start_beside(operation) : 0;
	long number = 0;

	if (other < 0)
		note_failure(outcome);
	while (number < count && (number == 0 || other <= 0 || !is_over(other, outcome))) {
		double start;

		usleep(operation->isolated == SLOWEST ? LOOK_EVERY_US : IDLE_US);
		start = now_ns();
		if (operation->once(number) < 0)
			note_failure(outcome);
		each_ns[number++] = now_ns() - start;
	}
	if (other > 0 && number == count && wait_for(other) < 0)
		note_failure(outcome);
	return number;
}

static void time_isolated(const struct operation *operation, long count, struct outcome *outcome)
{
	double *each_ns = calloc((size_t)count, sizeof(*each_ns));

	if (!each_ns) {
		note_failure(outcome);
		return;
	}
	count = measure_each(operation, count, each_ns, outcome);
	qsort(each_ns, (size_t)count, sizeof(*each_ns), compare);
	outcome->each_ns = each_ns[operation->isolated == SLOWEST ? count * 99 / 100 : count / 2];
	free(each_ns);
}

static struct outcome run(const struct operation *operation, long count)
{
	struct outcome outcome = {0, 0, 0};

	if (operation->before && operation->before(count) < 0) {
		outcome.failures = count;
		outcome.error = errno;
	} else if (operation->isolated) {
		time_isolated(operation, count, &outcome);
	} else {
		time_together(operation, count, &outcome);
	}
	if (operation->after)
		operation->after(count);
	return outcome;
}

static const struct operation *find(const char *name)
{
	for (size_t i = 0; i < sizeof(operations) / sizeof(*operations); i++)
		if (strcmp(operations[i].name, name) == 0)
			return &operations[i];
	return NULL;
}

int main(int argc, char **argv)
{
	char line[128], name[64];
	long count;

	if (argc != 3 || chdir(argv[1]) < 0) {
		fprintf(stderr, "ops: usage: ops DIRECTORY FORBIDDEN\n");
		return 2;
	}
	snprintf(lower_path, sizeof(lower_path), "%s/lower.txt", argv[1]);
	snprintf(upper_path, sizeof(upper_path), "%s/upper.txt", argv[1]);
	forbidden = argv[2];
	puts("ready");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		const struct operation *operation;
		struct outcome outcome;

		if (sscanf(line, "%63s %ld", name, &count) != 2 || count < 1 || !(operation = find(name))) {
			fprintf(stderr, "ops: no such operation: %s", line);
			return 2;
		}
		outcome = run(operation, count);
		printf("%s %ld %.1f %ld %d\n", name, count, outcome.each_ns, outcome.failures, outcome.error);
		fflush(stdout);
	}
	return 0;
}
