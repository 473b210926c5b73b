/* SPDX-License-Identifier: Apache-2.0 */
/*
 * As many processes as there can be, and never more than CAP successful forks.
 *
 *     forks HOW CAP
 *
 * The first process only watches. It says "full" when FULL_AFTER have been refused (or CAP is used up), and when its input ends it
 * ends the others and says "MOST MADE REFUSED ERRNO". MOST: how many were alive at once, it among them, as they count it
 * themselves: each when it begins, and once more before it ends. So it is never too high.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define STACK (1 << 16)
#define CHAIN_MAX 64
#define FULL_AFTER 50

static struct shared {
	atomic_int alive, most, left, made, refused, error, stop, full;
} *shared;
static const char *how;

static int is(const char *word)
{
	return !strcmp(how, word);
}

static void begin(void)
{
	int now = atomic_fetch_add(&shared->alive, 1) + 1;
	int most = atomic_load(&shared->most);

	while (now > most && !atomic_compare_exchange_weak(&shared->most, &most, now))
		;
}

static void end(void)
{
	atomic_fetch_sub(&shared->alive, 1);
}

/* One of CAP. */
static int may_try(void)
{
	if (atomic_fetch_sub(&shared->left, 1) > 0)
		return 1;
	atomic_fetch_add(&shared->left, 1);
	atomic_store(&shared->full, 1);
	usleep(1000);
	return 0;
}

static void made(long result)
{
	if (result >= 0) {
		atomic_fetch_add(&shared->made, 1);
		return;
	}
	atomic_store(&shared->error, errno);
	atomic_fetch_add(&shared->left, 1);
	if (atomic_fetch_add(&shared->refused, 1) >= FULL_AFTER)
		atomic_store(&shared->full, 1);
	usleep(200);
}

static int stopped(void)
{
	return atomic_load(&shared->stop);
}

static _Noreturn void finish(void)
{
	end();
	_exit(0);
}

static pid_t try_fork(void)
{
	pid_t pid;

	if (!may_try())
		return -1;
	pid = fork();
	if (pid == 0)
		begin();
	else
		made(pid);
	return pid;
}

/* Each forks for ever, and so do its children. */
static void bomb(void)
{
	while (!stopped())
		try_fork();
}

/* A child in the middle ends at once; whoever lives on has lost its parent, and its session. */
static void double_bomb(void)
{
	while (!stopped()) {
		pid_t pid = try_fork();

		if (pid == 0) {
			if (try_fork() != 0)
				finish();
			setsid();
		} else if (pid > 0) {
			waitpid(pid, NULL, 0);
		}
	}
}

/* Each waits in vfork for the next. */
static void vfork_bomb(int depth)
{
	pid_t pid;

	while (!stopped() && depth < CHAIN_MAX) {
		if (!may_try())
			continue;
		pid = vfork();
		if (pid == 0) {
			begin();
			vfork_bomb(depth + 1);
			finish();
		}
		made(pid);
	}
}

static void *thread(void *unused)
{
	(void)unused;
	begin();
	while (!stopped())
		usleep(1000);
	end();
	return NULL;
}

static void thread_bomb(void)
{
	pthread_attr_t attributes;

	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, STACK);
	pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	while (!stopped()) {
		pthread_t ignored;
		int error;

		if (!may_try())
			continue;
		error = pthread_create(&ignored, &attributes, thread, NULL);
		errno = error;
		made(error ? -1 : 0);
	}
	while (atomic_load(&shared->alive) > 2)
		usleep(1000);
}

/* Nobody waits for them. */
static void zombie_bomb(void)
{
	while (!stopped())
		if (try_fork() == 0)
			finish();
}

/* They come and go, and some of them are killed. */
static void churn(void)
{
	unsigned seed = (unsigned)getpid();

	while (!stopped()) {
		pid_t pid = try_fork();

		if (pid == 0) {
			seed = (unsigned)getpid();
			if (rand_r(&seed) % 3)
				finish();
			continue;
		}
		if (pid > 0 && rand_r(&seed) % 4 == 0)
			waitpid(pid, NULL, 0);
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
	}
}

/* Siblings, not children. */
static void sibling_bomb(void)
{
	while (!stopped()) {
		pid_t pid;

		if (!may_try())
			continue;
		pid = (pid_t)syscall(SYS_clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0);
		if (pid == 0)
			begin();
		else
			made(pid);
	}
}

static void *forking_thread(void *unused)
{
	(void)unused;
	for (int i = 0; i < 4 && !stopped(); i++)
		if (try_fork() == 0) {
			bomb();
			finish();
		}
	return NULL;
}

/* From threads that end, so that their children move; and where the orphans gather changes. */
static void moving_bomb(void)
{
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	while (!stopped()) {
		pthread_t one;

		if (pthread_create(&one, NULL, forking_thread, NULL) == 0)
			pthread_join(one, NULL);
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
	}
}

static void run(void)
{
	if (is("ignored"))
		signal(SIGCHLD, SIG_IGN);
	if (is("fork"))
		bomb();
	else if (is("double"))
		double_bomb();
	else if (is("vfork"))
		vfork_bomb(0);
	else if (is("thread"))
		thread_bomb();
	else if (is("zombie"))
		zombie_bomb();
	else if (is("churn") || is("ignored"))
		churn();
	else if (is("sibling"))
		sibling_bomb();
	else if (is("moving"))
		moving_bomb();
	finish();
}

int main(int argc, char **argv)
{
	char byte;

	if (argc != 3)
		return 2;
	how = argv[1];
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED)
		return 2;
	atomic_store(&shared->left, atoi(argv[2]));
	begin();
	prctl(PR_SET_CHILD_SUBREAPER, 0);
	if (fork() == 0) {
		begin();
		run();
	}
	while (!atomic_load(&shared->full))
		usleep(1000);
	printf("full\n");
	fflush(stdout);
	while (read(0, &byte, 1) > 0)
		;
	atomic_store(&shared->stop, 1);
	while (atomic_load(&shared->alive) > 1)
		usleep(1000);
	printf("%d %d %d %s\n", shared->most, shared->made, shared->refused, strerrorname_np(shared->error));
	return 0;
}
