/* SPDX-License-Identifier: Apache-2.0 */
/* Who belongs to a sandbox: members.c. This program is a subreaper, as init is, and so stands for it. */
#include "check.h"

#include <pthread.h>
#include <sys/mman.h>
#include <sys/resource.h>

#define PIDS_MAX 4096

static int32_t pids[PIDS_MAX];

static int has(int count, pid_t pid)
{
	for (int i = 0; i < count; i++)
		if (pids[i] == pid)
			return 1;
	return 0;
}

static int members(void)
{
	int count = slk_members(getpid(), 0, pids, PIDS_MAX);

	CHECK(count >= 0 && count <= PIDS_MAX);
	for (int i = 1; i < count; i++)
		CHECK(pids[i - 1] < pids[i]);
	return count;
}

static int sleep_on(void *ignored)
{
	(void)ignored;
	pause();
	return 0;
}

static void end(pid_t pid)
{
	CHECK_EQUAL(0, kill(pid, SIGKILL));
	CHECK_EQUAL(1000 + SIGKILL, exit_of(pid));
}

struct line {
	pid_t volatile pids[3];
	pid_t volatile of_thread, thread;
};

static void *fork_in_thread(void *argument)
{
	struct line *line = argument;

	line->thread = (pid_t)syscall(SYS_gettid);
	line->of_thread = in_child(sleep_on, NULL);
	pause();
	return NULL;
}

static int be_parents(void *argument)
{
	struct line *line = argument;
	pthread_t thread;
	pid_t zombie;

	line->pids[0] = getpid();
	line->pids[1] = in_child(sleep_on, NULL);
	zombie = fork();
	if (zombie == 0)
		_exit(0); /* nobody waits for it */
	line->pids[2] = zombie;
	pthread_create(&thread, NULL, fork_in_thread, line);
	pause();
	return 0;
}

static void test_all_below_are_found_and_nobody_else(void)
{
	struct line *line = mmap(NULL, sizeof(*line), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t top = in_child(be_parents, line);
	int count;

	CHECK(COMES_TRUE(line->of_thread > 0));
	count = members();
	CHECK_EQUAL(4, count);
	for (int i = 0; i < 3; i++)
		CHECK(has(count, line->pids[i]));
	CHECK(has(count, line->of_thread));
	CHECK_EQUAL(4, slk_members(getpid(), 0, pids, 2)); /* tells how many there would be */
	CHECK_EQUAL(4, slk_members(getpid(), 4, pids, PIDS_MAX));
	CHECK_EQUAL(-E2BIG, slk_members(getpid(), 3, pids, PIDS_MAX));

	for (int i = 0; i < 3; i++)
		CHECK_EQUAL(line->pids[i], slk_member_leader(line->pids[i], getpid()));
	CHECK_EQUAL(top, slk_member_leader(line->thread, getpid()));
	CHECK_EQUAL(0, slk_member_leader(getpid(), getpid()));
	CHECK_EQUAL(0, slk_member_leader(getppid(), getpid()));
	CHECK_EQUAL(0, slk_member_leader(1, getpid()));
	CHECK_EQUAL(0, slk_member_leader(0, getpid()));
	CHECK_EQUAL(0, slk_member_leader(top, line->pids[1])); /* beside it, not below */
	kill(line->pids[1], SIGKILL);
	kill(line->of_thread, SIGKILL);
	end(top);
	CHECK_EQUAL(1000 + SIGKILL, exit_of(line->pids[1]));
	CHECK_EQUAL(0, exit_of(line->pids[2]));
	CHECK_EQUAL(1000 + SIGKILL, exit_of(line->of_thread));
	CHECK_EQUAL(0, slk_member_leader(top, getpid()));
	CHECK_EQUAL(0, members());
	munmap(line, sizeof(*line));
}

/* Of nobody it is said that he is not there. */
static void test_without_descriptors_nothing_is_told(void)
{
	struct rlimit before, none;
	pid_t top = fork();
	int32_t pid;

	if (top == 0)
		for (;;)
			pause();
	CHECK_EQUAL(0, getrlimit(RLIMIT_NOFILE, &before));
	none = (struct rlimit){0, before.rlim_max};
	CHECK_EQUAL(0, setrlimit(RLIMIT_NOFILE, &none));
	CHECK_EQUAL(-EMFILE, slk_member_leader(top, getpid()));
	CHECK_EQUAL(-EMFILE, slk_members(getpid(), 0, &pid, 1));
	CHECK_EQUAL(0, setrlimit(RLIMIT_NOFILE, &before));
	CHECK_EQUAL(top, slk_member_leader(top, getpid()));
	end(top);
}

/* ---- parents that end while we look ---- */

#define BESIDE 30 /* so that a look takes a while */
#define ROUNDS 150

static int orphan(void *argument)
{
	struct line *line = argument;
	pid_t parent = fork();

	if (parent == 0) {
		pid_t leaf = fork();

		if (leaf == 0)
			return sleep_on(NULL);
		line->pids[1] = leaf;
		usleep(200 + (useconds_t)(line->pids[0] % 10) * 100);
		_exit(0);
	}
	waitpid(parent, NULL, 0);
	line->thread = 1;
	pause();
	return 0;
}

static void test_who_is_there_all_the_while_is_found_while_parents_end(void)
{
	struct line *line = mmap(NULL, sizeof(*line), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t beside[BESIDE], top;

	for (int i = 0; i < BESIDE; i++)
		beside[i] = in_child(sleep_on, NULL);
	for (int round = 0; round < ROUNDS; round++) {
		pid_t leaf;

		line->pids[0] = round;
		line->pids[1] = line->thread = 0;
		top = in_child(orphan, line);
		while (!(leaf = line->pids[1]))
			sched_yield();
		for (int looks = 0; looks < 4; looks++) {
			int count = members();

			CHECK(has(count, top));
			CHECK(has(count, leaf));
			CHECK_EQUAL(leaf, slk_member_leader(leaf, getpid()));
		}
		CHECK(COMES_TRUE(line->thread)); /* the leaf is ours now */
		end(top);
		end(leaf);
	}
	for (int i = 0; i < BESIDE; i++)
		end(beside[i]);
	munmap(line, sizeof(*line));
}

/* ---- grandparents that end while we look up ---- */

#define GENERATIONS 300

static int grandparent(void *argument)
{
	struct line *line = argument;

	if (fork() == 0) {
		pid_t leaf = fork();

		if (leaf == 0)
			return sleep_on(NULL);
		line->pids[0] = getpid();
		line->pids[1] = leaf;
		return sleep_on(NULL);
	}
	while (!line->thread)
		;
	_exit(0);
}

/* Its number is free at once, since nobody waits for it: who has just read it as a parent's finds nobody. */
static void test_who_is_below_stays_so_when_a_grandparent_ends(void)
{
	struct line *line = mmap(NULL, sizeof(*line), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct sigaction before, none = {.sa_handler = SIG_DFL, .sa_flags = SA_NOCLDWAIT};

	for (int round = 0; round < GENERATIONS; round++) {
		pid_t leaf, top;

		memset(line, 0, sizeof(*line));
		CHECK_EQUAL(0, sigaction(SIGCHLD, &none, &before));
		top = in_child(grandparent, line);
		while (!(leaf = line->pids[1]))
			sched_yield();
		line->thread = 1;
		while (kill(top, 0) == 0)
			CHECK_EQUAL(leaf, slk_member_leader(leaf, getpid()));
		CHECK_EQUAL(leaf, slk_member_leader(leaf, getpid()));
		CHECK_EQUAL(0, sigaction(SIGCHLD, &before, NULL));
		end(line->pids[0]);
		end(leaf);
	}
	munmap(line, sizeof(*line));
}

int main(void)
{
	begin_tests();
	if (slk_members(getpid(), 0, pids, PIDS_MAX) == -EOPNOTSUPP)
		skip_all("this kernel does not tell children");
	RUN(test_all_below_are_found_and_nobody_else);
	RUN(test_without_descriptors_nothing_is_told);
	RUN(test_who_is_there_all_the_while_is_found_while_parents_end);
	RUN(test_who_is_below_stays_so_when_a_grandparent_ends);
	return 0;
}
