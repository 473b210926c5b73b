/* SPDX-License-Identifier: Apache-2.0 */
/* Who lives below init is found, all of them, whoever dies meanwhile; and forks in flight count. */
#include "check.h"
#include "forks.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>

#define CHAINS 8
#define DEPTH 5 /* of a chain, its last one included, which does not die */
#define ROUNDS 10

/* Each process of the tree enters itself. */
static struct tree {
	atomic_int entered, go, dead;
	int32_t pids[CHAINS * DEPTH];
	int32_t lasting[CHAINS];
} *tree;

static struct slk_engine *engine;

static void enter(int chain, int depth)
{
	tree->pids[chain * DEPTH + depth] = (int32_t)getpid();
	if (depth == DEPTH - 1)
		tree->lasting[chain] = (int32_t)getpid();
	atomic_fetch_add(&tree->entered, 1);
	while (!atomic_load(&tree->go))
		usleep(100);
}

static void *die_as_a_thread(void *unused)
{
	usleep((useconds_t)(intptr_t)unused);
	return NULL;
}

/* Most of them gather the orphans of those below them; they die in whatever order. */
static _Noreturn void chain_process(int chain, int depth)
{
	unsigned seed = (unsigned)getpid();
	pthread_t thread;

	if (depth < DEPTH - 1) {
		if (rand_r(&seed) % 4)
			prctl(PR_SET_CHILD_SUBREAPER, 1);
		if (fork() == 0)
			chain_process(chain, depth + 1);
	}
	alarm(60); /* whatever becomes of the test */
	enter(chain, depth);
	if (depth == DEPTH - 1)
		for (;;)
			pause();
	if (rand_r(&seed) % 2)
		pthread_create(&thread, NULL, die_as_a_thread, (void *)(intptr_t)(rand_r(&seed) % 3000));
	usleep((useconds_t)(rand_r(&seed) % 3000));
	atomic_fetch_add(&tree->dead, 1);
	_exit(0);
}

static _Noreturn void init(void)
{
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (int chain = 0; chain < CHAINS; chain++)
		if (fork() == 0)
			chain_process(chain, 0);
	for (;;) {
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
		usleep(500);
	}
}

static struct slk_forks *limited(pid_t init_pid)
{
	engine = calloc(1, sizeof(*engine));
	CHECK(engine);
	CHECK_EQUAL(0, slk_engine_limit_processes(engine, 1000, 16000, 100, init_pid, -1));
	return engine->forks;
}

static void end_all(pid_t init_pid)
{
	struct slk_forks *forks = engine->forks;

	slk_look_at_descendants(forks);
	for (uint32_t i = 0; i < forks->order.count; i++)
		kill(forks->order.numbers[i], SIGKILL);
	do {
		usleep(1000);
		slk_look_at_descendants(forks);
	} while (forks->processes);
	kill(init_pid, SIGKILL);
	waitpid(init_pid, NULL, 0);
	slk_forks_destroy(forks);
	free(engine);
	munmap(tree, sizeof(*tree));
}

static pid_t plant(void)
{
	pid_t pid;

	tree = mmap(NULL, sizeof(*tree), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(tree != MAP_FAILED);
	pid = fork();
	if (pid == 0)
		init();
	while (atomic_load(&tree->entered) < CHAINS * DEPTH)
		usleep(100);
	return pid;
}

/* As if each had asked. */
static void let_all_fork(struct slk_forks *forks)
{
	for (int i = 0; i < CHAINS * DEPTH; i++) {
		slk_forks_seen(forks, tree->pids[i]);
		forks->flags[tree->pids[i]] |= SLK_TID_CLONES;
	}
}

static void who_lives_is_found_while_those_above_it_die(void)
{
	for (int round = 0; round < ROUNDS; round++) {
		pid_t init_pid = plant();
		struct slk_forks *forks = limited(init_pid);

		let_all_fork(forks);
		slk_look_at_descendants(forks);
		CHECK_EQUAL(CHAINS * DEPTH, forks->processes);
		CHECK(!forks->is_blind);
		atomic_store(&tree->go, 1);
		while (atomic_load(&tree->dead) < CHAINS * (DEPTH - 1)) {
			if (round % 2) /* as if all were new */
				for (uint32_t i = 0; i < forks->order.count; i++)
					forks->flags[forks->order.numbers[i]] &= (uint8_t) ~(SLK_TID_KNOWN | SLK_TID_FOUND);
			if (round % 2)
				forks->order.count = 0;
			slk_look_at_descendants(forks);
			for (int chain = 0; chain < CHAINS; chain++)
				CHECK(forks->flags[tree->lasting[chain]] & SLK_TID_FOUND);
		}
		end_all(init_pid);
	}
}

static void who_has_never_forked_is_not_looked_at(void)
{
	pid_t init_pid = plant();
	struct slk_forks *forks = limited(init_pid);

	for (int i = 0; i < CHAINS * DEPTH; i++)
		slk_forks_seen(forks, tree->pids[i]);
	slk_look_at_descendants(forks);
	CHECK_EQUAL(CHAINS, forks->processes); /* what init has; a program that was let fork has the flag */
	let_all_fork(forks);
	end_all(init_pid);
}

static void a_birth_settles_one_fork_and_no_more(void)
{
	pid_t init_pid = plant();
	struct slk_forks *forks = limited(init_pid);

	let_all_fork(forks);
	slk_look_at_descendants(forks);
	CHECK_EQUAL(0, forks->new_processes); /* nobody makes anything */
	/* Three forks that may be under way, of which one has been seen. */
	forks->new_processes = forks->new_tasks = 3;
	forks->births = 1;
	for (int i = 0; i < 3; i++) {
		forks->flags[tree->pids[i]] |= SLK_TID_MAKES_PROCESS | SLK_TID_LISTED;
		CHECK_EQUAL(0, slk_tids_push(&forks->makers, tree->pids[i]));
		forks->making_processes++;
	}
	slk_look_at_descendants(forks);
	CHECK_EQUAL(2, forks->new_processes);
	CHECK_EQUAL(CHAINS * DEPTH, forks->processes);
	/* Two of their threads ask for something else. */
	slk_forks_seen(forks, tree->pids[0]);
	slk_forks_seen(forks, tree->pids[1]);
	slk_look_at_descendants(forks);
	CHECK_EQUAL(1, forks->new_processes);
	end_all(init_pid);
}

static void an_init_that_is_gone_is_no_empty_sandbox(void)
{
	pid_t init_pid = plant();
	struct slk_forks *forks = limited(init_pid);

	let_all_fork(forks);
	slk_look_at_descendants(forks);
	forks->init_pid = 0x3ffffe; /* nobody's */
	slk_look_at_descendants(forks);
	CHECK(forks->is_blind);
	CHECK_EQUAL(CHAINS * DEPTH, forks->processes);
	forks->init_pid = init_pid;
	end_all(init_pid);
}

int main(void)
{
	prctl(PR_SET_CHILD_SUBREAPER, 0);
	RUN(who_lives_is_found_while_those_above_it_die);
	RUN(who_has_never_forked_is_not_looked_at);
	RUN(a_birth_settles_one_fork_and_no_more);
	RUN(an_init_that_is_gone_is_no_empty_sandbox);
	return 0;
}
