/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Races between the judging of a call and its execution.
 *
 *     races KIND MILLISECONDS ALLOWED DENIED SCRATCH
 *
 * One thread (or process) swaps what the call is about between the allowed and the denied file, as fast as it can,
 * while another makes the call in a loop, CALLS_MIN times at least. SCRATCH is a directory that may be written. Says how
 * many calls were made and how many gave a secret away (a file that begins with "the-canary", or an attribute).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#define CALLS_MIN 11 /* a process for each, with execve: few in a while */

struct shared {
	atomic_int stop;
	char path[4096];
};

static struct shared *shared;
static const char *kind, *allowed, *denied, *scratch;
static char link_path[4096], directory_path[4096], other_path[4096], through[4200];
static int swapped_fd = 100, allowed_fd, denied_fd;
static unsigned long calls, leaks;

static int is(const char *name)
{
	return strcmp(kind, name) == 0;
}

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void swap_link(int turn)
{
	unlink(other_path);
	if (symlink(turn & 1 ? denied : allowed, other_path) == 0)
		rename(other_path, link_path);
}

static void swap_once(int turn)
{
	if (is("symlink") || is("symlink-chmod"))
		swap_link(turn);
	else if (is("directory"))
		syscall(SYS_renameat2, AT_FDCWD, directory_path, AT_FDCWD, other_path, 2);
	else if (is("dup2"))
		dup2(turn & 1 ? denied_fd : allowed_fd, swapped_fd);
	else
		strcpy(shared->path, turn & 1 ? denied : allowed);
}

static void *swap(void *unused)
{
	for (int turn = 0; !shared->stop; turn++)
		swap_once(turn);
	return unused;
}

static void look(int fd)
{
	char text[64] = "";

	if (fd < 0)
		return;
	if (pread(fd, text, sizeof(text) - 1, 0) > 0 && strstr(text, "the-canary"))
		leaks++;
	if (fgetxattr(fd, "user.canary", text, sizeof(text)) > 0 && strstr(text, "the-canary"))
		leaks++;
	close(fd);
}

static void execute(void)
{
	char *const argv[] = {"x", NULL};
	int ends[2];
	char text[64] = "";
	pid_t child;

	if (pipe(ends) < 0)
		exit(70);
	child = fork();
	if (child == 0) {
		dup2(ends[1], 1);
		execv(shared->path, argv);
		_exit(126);
	}
	close(ends[1]);
	if (read(ends[0], text, sizeof(text) - 1) > 0 && strstr(text, "the-canary"))
		leaks++;
	close(ends[0]);
	waitpid(child, NULL, 0);
}

static void call_once(void)
{
	struct open_how how = {.flags = O_RDONLY};
	struct timespec times[2] = {{7, 7}, {9, 9}};

	if (is("open") || is("shared-memory"))
		look((int)syscall(SYS_open, shared->path, O_RDONLY));
	else if (is("openat"))
		look((int)syscall(SYS_openat, AT_FDCWD, shared->path, O_RDWR));
	else if (is("openat2"))
		look((int)syscall(SYS_openat2, AT_FDCWD, shared->path, &how, sizeof(how)));
	else if (is("access-mode-three"))
		look((int)syscall(SYS_open, shared->path, 3));
	else if (is("chmod"))
		syscall(SYS_chmod, shared->path, 0604);
	else if (is("utimensat"))
		syscall(SYS_utimensat, AT_FDCWD, shared->path, times, 0);
	else if (is("setxattr"))
		syscall(SYS_setxattr, shared->path, "user.raced", "x", 1, 0);
	else if (is("getxattr")) {
		char text[64] = "";

		if (syscall(SYS_getxattr, shared->path, "user.canary", text, sizeof(text) - 1) > 0 && strstr(text, "the-canary"))
			leaks++;
	} else if (is("truncate"))
		syscall(SYS_truncate, shared->path, 3);
	else if (is("execve"))
		execute();
	else if (is("rename")) {
		syscall(SYS_rename, shared->path, other_path);
		look(open(other_path, O_RDONLY));
		syscall(SYS_rename, other_path, allowed);
	} else if (is("link")) {
		syscall(SYS_link, shared->path, other_path);
		look(open(other_path, O_RDONLY));
		unlink(other_path);
	} else if (is("unlink")) {
		syscall(SYS_unlink, shared->path);
		close(open(allowed, O_WRONLY | O_CREAT, 0644));
	} else if (is("symlink"))
		look(open(link_path, O_RDWR));
	else if (is("symlink-chmod"))
		chmod(link_path, 0604);
	else if (is("directory")) {
		look(open(through, O_RDWR));
		chmod(through, 0604);
	} else if (is("dup2")) {
		fchmod(swapped_fd, 0604);
		fsetxattr(swapped_fd, "user.raced", "x", 1, 0);
		futimens(swapped_fd, times);
	}
	calls++;
}

static void prepare(void)
{
	char target[4096];

	snprintf(link_path, sizeof(link_path), "%.4000s/link", scratch);
	snprintf(other_path, sizeof(other_path), "%.4000s/other", scratch);
	snprintf(directory_path, sizeof(directory_path), "%.4000s/directory", scratch);
	strcpy(shared->path, allowed);
	if (is("directory")) {
		/* A directory with a harmless file, and a link to the directory of the denied one. */
		snprintf(through, sizeof(through), "%s/%s", directory_path, strrchr(denied, '/') + 1);
		mkdir(directory_path, 0755);
		close(open(through, O_WRONLY | O_CREAT, 0644));
		snprintf(target, sizeof(target), "%.*s", (int)(strrchr(denied, '/') - denied), denied);
		if (symlink(target, other_path) < 0)
			exit(73);
	}
	if (is("dup2")) {
		allowed_fd = open(allowed, O_RDWR);
		denied_fd = open(denied, O_RDONLY);
		if (denied_fd < 0)
			denied_fd = open(denied, O_PATH);
		dup2(allowed_fd, swapped_fd);
	}
}

int main(int argc, char **argv)
{
	pthread_t thread;
	pid_t child = 0;
	double end;

	if (argc != 6)
		return 74;
	kind = argv[1];
	allowed = argv[3];
	denied = argv[4];
	scratch = argv[5];
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	prepare();
	if (is("shared-memory")) {
		child = fork();
		if (child == 0) {
			swap(NULL);
			_exit(0);
		}
	} else {
		pthread_create(&thread, NULL, swap, NULL);
	}
	end = now() + atof(argv[2]) / 1000;
	while (now() < end || calls < CALLS_MIN)
		call_once();
	shared->stop = 1;
	if (child)
		waitpid(child, NULL, 0);
	else
		pthread_join(thread, NULL);
	printf("%lu %lu\n", calls, leaks);
	return 0;
}
