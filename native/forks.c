/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The limit of processes, by counting.
 *
 * A fork is asked for, and nobody is told whether or when it happens, nor when somebody ends. So the number is an upper
 * bound: those alive at the last look, and the forks let through since. As long as that is below the limit, a fork costs a
 * round trip and nothing more. When it comes to the limit, we look (descendants.c).
 *
 * A fork that was let through and has not happened yet is found by no look, and must count. It has happened, or failed, or
 * never will, when its thread asks for something else, waits in another call, or is gone; and every task that shows up
 * for the first time is what came of one of them. So what may still come is at most those threads of which none of this is known,
 * and at most the forks since the last look less the births since then: that no child of the ones may be taken for one of
 * the others, the lesser of both numbers is added and no more is claimed. Where that makes the difference, the caller is
 * held, and all is looked at again until it is known: some 100 us (forks_held.c).
 *
 * Threads are bounded by the same account, with all tasks in the place of processes.
 *
 * Letting a fork go on is harmless whatever happens meanwhile: its arguments are registers, which nobody can change.
 */
#define _GNU_SOURCE
#include "forks.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NEW_NAMESPACES                                                                                                 \
	(CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET)

static int can_list_children(int32_t pid)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", (int)pid, (int)pid);
	return access(path, R_OK) == 0 ? 1 : -errno;
}

int slk_engine_limit_processes(struct slk_engine *engine, uint32_t limit, uint32_t task_limit, uint32_t refusals_at_once,
			       int32_t init_pid, int control_fd)
{
	int result = can_list_children(init_pid);
	struct slk_forks *forks;

	if (result < 0)
		return result;
	forks = calloc(1, sizeof(*forks));
	if (!forks)
		return -ENOMEM;
	/* A page for each 4096 numbers that are in use. */
	forks->flags = mmap(NULL, SLK_TIDS_END, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (forks->flags == MAP_FAILED) {
		free(forks);
		return -ENOMEM;
	}
	forks->limit = limit;
	forks->task_limit = task_limit;
	forks->refusals_at_once = refusals_at_once;
	forks->init_pid = init_pid;
	forks->control_fd = control_fd;
	forks->new_processes = forks->new_tasks = 1; /* the program */
	forks->round = 1;
	engine->forks = forks;
	return 0;
}

void slk_forks_destroy(struct slk_forks *forks)
{
	if (!forks)
		return;
	munmap(forks->flags, SLK_TIDS_END);
	free(forks->order.numbers);
	free(forks->born.numbers);
	free(forks->makers.numbers);
	free(forks->found.numbers);
	free(forks->adopted.numbers);
	free(forks);
}

/* A look that comes before it is there forgets it; one that comes later finds it. */
void slk_forks_one_more(struct slk_forks *forks)
{
	forks->new_processes++;
	forks->new_tasks++;
}

void slk_makes_no_more(struct slk_forks *forks, int32_t tid)
{
	uint8_t *flags = &forks->flags[tid];

	forks->making_processes -= (*flags & SLK_TID_MAKES_PROCESS) != 0;
	forks->making_threads -= (*flags & SLK_TID_MAKES_THREAD) != 0;
	*flags &= (uint8_t)~SLK_TID_MAKES;
}

void slk_forks_seen(struct slk_forks *forks, int32_t tid)
{
	uint8_t *flags;

	if (tid <= 0 || tid >= (int32_t)SLK_TIDS_END)
		return;
	flags = &forks->flags[tid];
	if (*flags & SLK_TID_MAKES)
		slk_makes_no_more(forks, tid);
	slk_forks_born(forks, tid);
}

void slk_forks_next_round(struct slk_forks *forks)
{
	forks->round++;
}

/* ---- what may still be under way ---- */

/* It waits in a call that makes nothing, or is gone. "running" tells nothing (proc_pid_syscall(5)). */
static int is_elsewhere(int32_t tid)
{
	char path[32], text[32];
	ssize_t got;
	int fd;
	long nr;

	snprintf(path, sizeof(path), "/proc/%d/syscall", (int)tid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return !slk_tid_is_there(tid);
	got = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (got <= 0)
		return !slk_tid_is_there(tid);
	text[got] = '\0';
	if (text[0] == 'r')
		return 0;
	nr = atol(text);
#ifdef SYS_fork
	if (nr == SYS_fork || nr == SYS_vfork)
		return 0;
#endif
	return nr != SYS_clone;
}

/* Before a look: what has happened by now is found by it. */
static void settle_makers(struct slk_forks *forks)
{
	uint32_t kept = 0;

	for (uint32_t i = 0; i < forks->makers.count; i++) {
		int32_t tid = forks->makers.numbers[i];

		if (forks->flags[tid] & SLK_TID_MAKES && is_elsewhere(tid))
			slk_makes_no_more(forks, tid);
		if (forks->flags[tid] & SLK_TID_MAKES)
			forks->makers.numbers[kept++] = tid;
		else
			forks->flags[tid] &= (uint8_t)~SLK_TID_LISTED;
	}
	forks->makers.count = kept;
}

/* ---- deciding ---- */

static int is_forbidden(const struct slk_request *request)
{
	return request->nr == SYS_clone && (request->args[0] & NEW_NAMESPACES);
}

int slk_makes_thread(const struct slk_request *request)
{
	return request->nr == SYS_clone && (request->args[0] & CLONE_THREAD);
}

static int has_room(const struct slk_forks *forks, int is_thread)
{
	if (forks->tasks + forks->new_tasks >= forks->task_limit)
		return 0;
	return is_thread || forks->processes + forks->new_processes < forks->limit;
}

/* Whatever may still be under way: so many were alive at the look. */
static int is_full(const struct slk_forks *forks, int is_thread)
{
	return !forks->is_blind &&
	       (forks->tasks >= forks->task_limit || (!is_thread && forks->processes >= forks->limit));
}

/* Nobody but init can reap those, and it is about to. */
static int has_orphans_to_reap(const struct slk_forks *forks)
{
	for (uint32_t i = 0; i < forks->adopted.count; i++) {
		struct pollfd ended = {(int)syscall(SYS_pidfd_open, forks->adopted.numbers[i], 0), POLLIN, 0};
		int is_dead;

		if (ended.fd < 0) {
			if (errno == ESRCH)
				return 1;
			continue;
		}
		is_dead = poll(&ended, 1, 0) == 1;
		close(ended.fd);
		if (is_dead)
			return 1;
	}
	return 0;
}

static int let_through(struct slk_forks *forks, int32_t tid, int is_thread)
{
	uint8_t *flags = &forks->flags[tid];

	if (!(*flags & SLK_TID_LISTED)) {
		if (slk_tids_push(&forks->makers, tid) < 0)
			return 0;
		*flags |= SLK_TID_LISTED;
	}
	*flags |= SLK_TID_CLONES | (is_thread ? SLK_TID_MAKES_THREAD : SLK_TID_MAKES_PROCESS);
	forks->making_threads += (uint32_t)is_thread;
	forks->making_processes += (uint32_t)!is_thread;
	forks->new_tasks++;
	forks->new_processes += (uint32_t)!is_thread;
	return 1;
}

/* All that was received in this round was so before the look: who was reaped before any of it is not counted. */
static void look_once_a_round(struct slk_forks *forks)
{
	uint64_t before_ns;

	if (forks->looked_in == forks->round)
		return;
	forks->looked_in = forks->round;
	before_ns = slk_cpu_ns();
	slk_look_at_descendants(forks);
	forks->look_ns = slk_cpu_ns() - before_ns;
}

enum slk_fork_answer slk_forks_decide(struct slk_forks *forks, const struct slk_request *request,
				      enum slk_fork_asked asked)
{
	int is_thread = slk_makes_thread(request);

	if (!has_room(forks, is_thread)) {
		if (asked != SLK_FORK_ASKED && forks->looked_in != forks->round)
			settle_makers(forks);
		look_once_a_round(forks);
	}
	if (!has_room(forks, is_thread) && !is_full(forks, is_thread) && asked == SLK_FORK_ASKED &&
	    forks->settled_in != forks->round) {
		forks->settled_in = forks->round;
		settle_makers(forks);
		slk_look_at_descendants(forks);
	}
	if (has_room(forks, is_thread) && let_through(forks, request->tid, is_thread))
		return SLK_FORK_GOES_ON;
	if (is_full(forks, is_thread) && (asked == SLK_FORK_PUT_OFF || !has_orphans_to_reap(forks)))
		return SLK_FORK_REFUSED;
	return SLK_FORK_HELD;
}

int slk_engine_process_fits(struct slk_engine *engine)
{
	struct slk_forks *forks = engine->forks;

	if (!forks)
		return 1;
	slk_forks_next_round(forks);
	if (!has_room(forks, 0)) {
		settle_makers(forks);
		look_once_a_round(forks);
	}
	if (!has_room(forks, 0))
		return 0;
	slk_forks_one_more(forks);
	return 1;
}

#define TRACE_PATIENCE_MS 100 /* somebody may have stopped init; it needs 0.1 ms */

/*
 * Bare no signal makes a fork fail, but one that comes before we have received the call does (tracer.c), if its handler
 * lacks SA_RESTART: a shell's, at the end of each child. So whoever handles SIGCHLD is traced once it forks.
 */
void slk_trace_if_it_handles_children(struct slk_engine *engine, const struct slk_request *request)
{
	struct slk_forks *forks = engine->forks;
	int32_t tid = request->tid;
	char text[2048];
	const char *handled;

	if (slk_makes_thread(request) || forks->control_fd < 0 || forks->flags[tid] & SLK_TID_TRACED ||
	    slk_read_status(tid, text, sizeof(text)) < 0)
		return;
	handled = strstr(text, "\nSigCgt:");
	if (!handled || !(strtoull(handled + 8, NULL, 16) & 1u << (SIGCHLD - 1)))
		return;
	forks->flags[tid] |= SLK_TID_TRACED;
	slk_order_init(engine, forks->control_fd, SLK_ORDER_TRACE, tid, TRACE_PATIENCE_MS); /* or it is not to be had */
}

enum slk_fork_answer slk_forks_ask(struct slk_engine *engine, const struct slk_request *request)
{
	struct slk_forks *forks = engine->forks;
	enum slk_fork_answer answer;

	if (is_forbidden(request))
		return SLK_FORK_FORBIDDEN;
	if (!forks || request->tid >= (int32_t)SLK_TIDS_END)
		return SLK_FORK_REFUSED;
	/* A look for each is what they are not to have. */
	if (!has_room(forks, slk_makes_thread(request)) && slk_forks_insist(forks) && slk_forks_put_off(forks, request))
		return SLK_FORK_HELD;
	answer = slk_forks_decide(forks, request, SLK_FORK_ASKED);
	if (answer != SLK_FORK_REFUSED)
		slk_trace_if_it_handles_children(engine, request);
	if (answer == SLK_FORK_REFUSED && slk_forks_put_off(forks, request))
		return SLK_FORK_HELD;
	if (answer == SLK_FORK_HELD && !slk_forks_hold(forks, request))
		return SLK_FORK_REFUSED;
	return answer;
}
