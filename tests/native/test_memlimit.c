/* SPDX-License-Identifier: Apache-2.0 */
/* What processes and objects hold is counted as the kernel has it, each page once, and its limit holds. */
#include "check.h"
#include "memlimit.h"
#include "slk.h"

#include <pthread.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>

#define MEGA (UINT64_C(1) << 20)
#define LIMIT (64 * MEGA)

/* In the place of init: it forks, and whoever it forks does what is told. */
struct family {
	struct slk_memory *memory;
	pid_t init;
	int go[2], done[2]; /* pipes */
};

static char *taken(uint64_t bytes)
{
	char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(memory != MAP_FAILED);
	memset(memory, 1, bytes);
	return memory;
}

static void say(int fd)
{
	CHECK_EQUAL(1, write(fd, "x", 1));
}

static void hear(int fd)
{
	char byte;

	CHECK_EQUAL(1, read(fd, &byte, 1));
}

static struct family begin(void (*member)(struct family *))
{
	struct family family;

	CHECK_EQUAL(0, slk_memory_create(LIMIT, &family.memory));
	CHECK_EQUAL(0, pipe2(family.go, O_CLOEXEC));
	CHECK_EQUAL(0, pipe2(family.done, O_CLOEXEC));
	family.init = fork();
	CHECK(family.init >= 0);
	if (family.init == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
		prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
		if (fork() == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
			prctl(PR_SET_NAME, "member", 0, 0, 0);
			member(&family);
			_exit(0);
		}
		close(family.go[1]); /* which ends when the test closes it */
		while (waitpid(-1, NULL, 0) > 0)
			;
		_exit(0);
	}
	family.memory->init = family.init;
	hear(family.done[0]);
	return family;
}

static void end(struct family *family)
{
	close(family->go[1]);
	CHECK_EQUAL(family->init, waitpid(family->init, NULL, 0));
	close(family->go[0]);
	close(family->done[0]);
	close(family->done[1]);
	slk_memory_destroy(family->memory);
}

static uint64_t used(struct family *family)
{
	slk_memory_look_exactly(family->memory);
	return family->memory->used;
}

static void until_let_go(struct family *family)
{
	/* Not by reading: what is said is for who still waits to hear it. */
	struct pollfd waiting = {family->go[0], 0, 0};

	close(family->go[1]);
	CHECK_EQUAL(1, poll(&waiting, 1, -1));
}

static void takes_20(struct family *family)
{
	taken(20 * MEGA);
	say(family->done[1]);
	until_let_go(family);
}

static void what_a_process_has_touched_counts(void)
{
	struct family family = begin(takes_20);
	uint64_t found = used(&family);

	CHECK(found >= 20 * MEGA && found < 30 * MEGA);
	CHECK_EQUAL(1, family.memory->member_count);
	CHECK_EQUAL(1, slk_memory_asks(family.memory, 20 * MEGA));
	CHECK_EQUAL(0, slk_memory_asks(family.memory, 45 * MEGA));
	CHECK_EQUAL(1, slk_memory_asks_exactly(family.memory, 20 * MEGA));
	CHECK_EQUAL(0, slk_memory_asks_exactly(family.memory, 45 * MEGA));
	CHECK_EQUAL(0, slk_memory_asks(family.memory, UINT64_MAX));
	end(&family);
}

static void reserves(struct family *family)
{
	CHECK(mmap(NULL, 64 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED);
	say(family->done[1]);
	until_let_go(family);
}

static void what_is_not_touched_counts_nothing(void)
{
	struct family family = begin(reserves);

	CHECK(used(&family) < 10 * MEGA);
	end(&family);
}

static void shares_with_four(struct family *family)
{
	taken(20 * MEGA);
	for (int i = 0; i < 4; i++)
		if (fork() == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
			until_let_go(family);
			_exit(0);
		}
	say(family->done[1]);
	until_let_go(family);
	while (waitpid(-1, NULL, 0) > 0)
		;
}

static void what_a_fork_shares_counts_once_near_the_limit(void)
{
	struct family family = begin(shares_with_four);
	uint64_t found = used(&family);

	CHECK_EQUAL(5, family.memory->member_count);
	CHECK(found >= 20 * MEGA && found < 40 * MEGA);
	end(&family);
}

static int same_memory(void *argument)
{
	struct family *family = argument;
	char byte;

	say(family->done[1]);
	return (int)read(family->go[0], &byte, 1);
}

/* Its share is small, as long as they are there. */
static void what_the_largest_holds_is_in_use_whoever_shares_it(void)
{
	struct family family = begin(shares_with_four);

	slk_memory_look(family.memory);
	CHECK(slk_memory_at_least(family.memory) >= 20 * MEGA);
	CHECK_EQUAL(0, slk_memory_begin_walk(family.memory));
	family.memory->walk.count = 1; /* as if the others had gone meanwhile */
	family.memory->walk.counts_mapped = 1;
	slk_memory_walk(family.memory, &family.memory->walk);
	CHECK(family.memory->walk.used < 10 * MEGA);
	slk_memory_end_walk(family.memory);
	CHECK(family.memory->used >= 20 * MEGA);
	end(&family);
}

static void four_take_5(struct family *family)
{
	taken(20 * MEGA);
	for (int i = 0; i < 4; i++)
		if (fork() == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
			say(family->done[1]);
			hear(family->go[0]);
			taken(5 * MEGA);
			say(family->done[1]);
			until_let_go(family);
			_exit(0);
		}
	close(family->go[1]);
	while (waitpid(-1, NULL, 0) > 0)
		;
}

/* Without counting each page: what they share is not in it. */
static void what_each_has_come_to_hold_is_in_use(void)
{
	struct family family = begin(four_take_5);

	for (int i = 1; i < 4; i++)
		hear(family.done[0]);
	slk_memory_look(family.memory);
	CHECK_EQUAL(5, family.memory->member_count);
	CHECK(slk_memory_at_least(family.memory) < 25 * MEGA);
	for (int i = 0; i < 4; i++)
		say(family.go[1]);
	for (int i = 0; i < 4; i++)
		hear(family.done[0]);
	slk_memory_look(family.memory);
	CHECK(family.memory->grown >= 20 * MEGA && family.memory->grown < 22 * MEGA);
	CHECK(family.memory->at_most >= 120 * MEGA);
	end(&family);
}

static void is_named_like_init(struct family *family)
{
	prctl(PR_SET_NAME, "sandlockd-init", 0, 0, 0);
	if (fork() > 0)
		_exit(0);
	takes_20(family);
}

/* Who has lost its parent is a child of init, and everybody may give himself a name. */
static void a_name_hides_nobody(void)
{
	struct family family = begin(is_named_like_init);

	family.memory->program = 1; /* it was met before */
	CHECK(used(&family) >= 20 * MEGA);
	end(&family);
}

static void without_descriptors_nobody_is_overlooked(void)
{
	struct family family = begin(takes_20);
	struct rlimit before, none;

	CHECK_EQUAL(0, getrlimit(RLIMIT_NOFILE, &before));
	none = (struct rlimit){3, before.rlim_max};
	CHECK_EQUAL(0, setrlimit(RLIMIT_NOFILE, &none));
	slk_memory_look(family.memory);
	CHECK_EQUAL(0, setrlimit(RLIMIT_NOFILE, &before));
	CHECK_EQUAL(EMFILE, family.memory->blind_error);
	CHECK_EQUAL(0, slk_memory_asks(family.memory, 1));
	CHECK(used(&family) >= 20 * MEGA);
	CHECK_EQUAL(0, family.memory->blind_error);
	end(&family);
}

static void has_one_memory_with_another(struct family *family)
{
	char *stack = taken(MEGA);

	taken(40 * MEGA);
	close(family->go[1]);
	CHECK(clone(same_memory, stack + MEGA, CLONE_VM | SIGCHLD, family) > 0);
	while (waitpid(-1, NULL, 0) > 0)
		;
}

static void one_memory_of_two_processes_counts_once(void)
{
	struct family family = begin(has_one_memory_with_another);
	uint64_t found = used(&family);

	CHECK_EQUAL(2, family.memory->member_count);
	CHECK(found >= 40 * MEGA && found < 60 * MEGA);
	end(&family);
}

static void *takes_20_in_a_thread(void *argument)
{
	takes_20(argument);
	_exit(0);
}

static void first_thread_ends(struct family *family)
{
	pthread_t thread;

	CHECK_EQUAL(0, pthread_create(&thread, NULL, takes_20_in_a_thread, family));
	syscall(SYS_exit, 0);
}

static void who_has_lost_its_first_thread_counts(void)
{
	struct family family = begin(first_thread_ends);

	CHECK(used(&family) >= 20 * MEGA);
	end(&family);
}

/* As the supervisor makes it: opened once more, so that somebody is known to write to it. */
static int object(void)
{
	int first = memfd_create("object", MFD_CLOEXEC), fd;
	char link[32];

	snprintf(link, sizeof(link), "/proc/self/fd/%d", first);
	fd = open(link, O_RDWR | O_CLOEXEC);
	CHECK(fd >= 0);
	close(first);
	return fd;
}

static void an_object_counts_until_nobody_has_it(void)
{
	struct family family = begin(reserves);
	uint64_t before = used(&family);
	int fd = object(), copy;

	CHECK_EQUAL(0, slk_memory_note(family.memory, fd));
	CHECK_EQUAL(0, posix_fallocate(fd, 0, 10 << 20));
	CHECK(used(&family) >= before + 10 * MEGA);
	copy = dup(fd);
	close(fd);
	for (int i = 0; i < 200; i++)
		CHECK(used(&family) >= before + 10 * MEGA);
	close(copy);
	for (int i = 0; i < 200 && used(&family) >= before + 10 * MEGA; i++)
		;
	CHECK(used(&family) < before + MEGA);
	end(&family);
}

static void takes_80(struct family *family)
{
	say(family->done[1]);
	taken(80 * MEGA);
	until_let_go(family);
}

static void above_the_limit_init_is_told(void)
{
	struct family family = begin(takes_80);
	struct slk_memory_state state;
	struct slk_order order;
	struct pollfd waiting;
	int control[2];

	CHECK_EQUAL(0, socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, control));
	CHECK_EQUAL(0, slk_memory_watch(family.memory, control[0], family.init));
	waiting = (struct pollfd){control[1], POLLIN, 0};
	CHECK_EQUAL(1, poll(&waiting, 1, PATIENCE_MS));
	CHECK_EQUAL(sizeof(order), recv(control[1], &order, sizeof(order), 0));
	CHECK_EQUAL(SLK_ORDER_KILL, order.kind);
	slk_memory_stop(family.memory);
	slk_memory_state(family.memory, &state);
	CHECK_EQUAL(1, state.is_over);
	CHECK(state.peak_bytes > LIMIT);
	close(control[0]);
	close(control[1]);
	end(&family);
}

int main(void)
{
	RUN(what_a_process_has_touched_counts);
	RUN(what_is_not_touched_counts_nothing);
	RUN(what_a_fork_shares_counts_once_near_the_limit);
	RUN(what_the_largest_holds_is_in_use_whoever_shares_it);
	RUN(what_each_has_come_to_hold_is_in_use);
	RUN(a_name_hides_nobody);
	RUN(without_descriptors_nobody_is_overlooked);
	RUN(one_memory_of_two_processes_counts_once);
	RUN(who_has_lost_its_first_thread_counts);
	RUN(an_object_counts_until_nobody_has_it);
	RUN(above_the_limit_init_is_told);
	return 0;
}
