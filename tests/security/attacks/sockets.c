/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Races for the target of connect and bind.
 *
 *     sockets KIND MILLISECONDS OUTSIDE
 *
 * In the working directory, a tree, it listens on own/s. OUTSIDE is a directory with somebody else's listener s (or, for
 * the kind `abstract`, the abstract name of one). One thread swaps what the call is about between own and OUTSIDE as fast
 * as it can, while another connects (the kinds that begin with `bind`: binds) in a loop. Says how many calls were made,
 * and how many succeeded.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define SWAPPED 100
#define CALLS_MIN 40
#define PATIENCE_S 15

static const char *kind, *outside;
static atomic_int stop;
static struct sockaddr_un address = {.sun_family = AF_UNIX}, own, other;
static socklen_t own_length, other_length, length;
static int own_fd, outside_fd;
static unsigned long calls, done;

static int is(const char *name)
{
	return strcmp(kind, name) == 0;
}

static int binds(void)
{
	return strncmp(kind, "bind", 4) == 0;
}

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void must(int result, const char *what)
{
	if (result < 0) {
		perror(what);
		exit(70);
	}
}

static socklen_t set(struct sockaddr_un *to, const char *path)
{
	to->sun_family = AF_UNIX;
	memset(to->sun_path, 0, sizeof(to->sun_path));
	memcpy(to->sun_path, path, strlen(path));
	return (socklen_t)(sizeof(sa_family_t) + strlen(path) + 1);
}

static void swap_link(const char *target, const char *name)
{
	unlink("next");
	if (symlink(target, "next") == 0)
		rename("next", name);
}

static void swap_once(int turn)
{
	char path[256];

	snprintf(path, sizeof(path), "%s/s", outside);
	if (is("link"))
		swap_link(turn & 1 ? path : "own/s", "name");
	else if (is("directory-link") || is("bind-directory-link"))
		swap_link(turn & 1 ? outside : "own", "name");
	else if (is("directory") || is("bind-directory"))
		syscall(SYS_renameat2, AT_FDCWD, "own", AT_FDCWD, "lead", 2); /* RENAME_EXCHANGE */
	else if (is("descriptor") || is("bind-descriptor"))
		dup2(turn & 1 ? outside_fd : own_fd, SWAPPED);
	else if (is("working-directory") || is("bind-working-directory"))
		(void)!fchdir(turn & 1 ? outside_fd : own_fd);
	else
		memcpy(&address, turn & 1 ? &other : &own, sizeof(address));
}

static void *swap(void *unused)
{
	for (int turn = 0; !stop; turn++)
		swap_once(turn);
	return unused;
}

static void *accept_all(void *listener)
{
	for (;;)
		close(accept(*(int *)listener, NULL, NULL));
	return NULL;
}

static int listen_at(const char *path)
{
	struct sockaddr_un at;
	socklen_t bytes = set(&at, path);
	int listener = socket(AF_UNIX, SOCK_STREAM, 0);

	if (strcmp(path, "@own") == 0)
		at.sun_path[0] = '\0';
	must(bind(listener, (struct sockaddr *)&at, bytes), "bind");
	must(listen(listener, 100), "listen");
	return listener;
}

static void prepare(void)
{
	char path[256];
	const char *used = "own/s";

	if (mkdir("own", 0777) < 0 && errno != EEXIST)
		must(-1, "mkdir");
	must(symlink(outside, "lead"), "symlink");
	own_fd = open("own", O_RDONLY | O_DIRECTORY);
	outside_fd = open(outside, O_PATH); /* needs no right */
	swap_link(is("link") ? "own/s" : "own", "name");
	if (is("link"))
		used = "name";
	else if (is("directory-link"))
		used = "name/s";
	else if (is("descriptor"))
		used = "/proc/self/fd/100/s";
	else if (is("working-directory"))
		used = "s";
	else if (is("bind-directory-link"))
		used = "name/new";
	else if (is("bind-directory"))
		used = "own/new";
	else if (is("bind-descriptor"))
		used = "/proc/self/fd/100/new";
	else if (is("bind-working-directory"))
		used = "new";
	else if (is("bind-address"))
		used = "own/new";
	snprintf(path, sizeof(path), "%s/%s", outside, binds() ? "new" : "s");
	own_length = set(&own, used);
	other_length = set(&other, path);
	if (is("abstract")) {
		other_length = set(&other, outside) - 1;
		other.sun_path[0] = '\0';
	}
	length = own_length > other_length ? own_length : other_length;
	if (is("abstract")) { /* what is behind the name counts as well */
		length = other_length;
		memset(&own, 0, sizeof(own));
		set(&own, "own/s");
	}
	address = own;
}

static void call_once(void)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0), result;

	must(fd, "socket");
	if (binds())
		result = bind(fd, (struct sockaddr *)&address, length);
	else
		result = connect(fd, (struct sockaddr *)&address, length);
	calls++;
	done += result == 0;
	close(fd);
	if (binds()) { /* wherever it is */
		unlink("own/new");
		unlink("name/new");
		unlink("lead/new");
		unlinkat(own_fd, "new", 0);
	}
}

int main(int argc, char **argv)
{
	double end = now() + atof(argv[2]) / 1000;
	pthread_t thread;
	int listener;

	if (argc != 4)
		return 64;
	kind = argv[1];
	outside = argv[3];
	prepare();
	listener = listen_at("own/s");
	pthread_create(&thread, NULL, accept_all, &listener);
	pthread_create(&thread, NULL, swap, NULL);
	while (now() < end || (calls < CALLS_MIN && now() < end + PATIENCE_S))
		call_once();
	stop = 1;
	printf("%lu %lu\n", calls, done);
	return 0;
}
