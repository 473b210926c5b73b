/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Holding whoever computes: for a share of the processors (throttle.c), and while a sandbox is paused.
 *
 * Held is who wants a processor at that moment (state R): a thread that waits in the kernel is left alone. It is seized and
 * told to stop (PTRACE_SEIZE, PTRACE_INTERRUPT; ptrace(2)), which is no stop of job control: no parent is told, no signal is
 * sent, and SIGCONT does not end it. When it is let go it is detached, and is as if nothing had been. New ones that want
 * a processor meanwhile are looked for again and again. In a pause nobody has a turn, however short: there held is also who
 * waits and has run since the last search (stillness.c).
 */
#define _GNU_SOURCE
#include "throttle.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <unistd.h>

#define SEARCH_MIN_NS (2 * SLK_NS_PER_MS)
#define PASSES_MAX 4
#define SEIZE_TRIES_MAX 4

/* Of a thread. */
#define IS_OURS 1u  /* seized for this, and to be detached; else init traces it anyway */
#define IS_ASKED 2u /* to stop */
#define IS_HELD 4u
#define MAKES_CALL 8u /* for the rest of one that it came out of */
#define IS_LISTED 16u /* in tids */
#define STAYS_SEIZED 32u /* it is not ours any more, and is to be told so when it stops */

/* The one of init: where a thread stops, there is no other way to it. */
static struct slk_holding *holding;

int slk_hold_begin(struct slk_holding *one, int scoped)
{
	void *room;

	if (one->flags)
		return 0;
	room = mmap(NULL, SLK_TIDS_END * (1 + sizeof(pid_t)), PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (room == MAP_FAILED)
		return -errno;
	*one = (struct slk_holding){.scoped = scoped, .flags = room, .tids = (pid_t *)((char *)room + SLK_TIDS_END)};
	holding = one;
	return 0;
}

/* ---- who is held */

static uint8_t *flags_of(pid_t tid)
{
	return holding && tid > 0 && (uint32_t)tid < SLK_TIDS_END ? &holding->flags[tid] : NULL;
}

static void note(pid_t tid, uint8_t flags)
{
	if (!(holding->flags[tid] & IS_LISTED))
		holding->tids[holding->tid_count++] = tid;
	holding->flags[tid] |= (uint8_t)(IS_LISTED | flags);
}

/* Its place in the list goes with the next release. */
static void forget(pid_t tid)
{
	holding->flags[tid] &= IS_LISTED;
}

void slk_throttle_gone(pid_t tid)
{
	uint8_t *flags = flags_of(tid);

	if (!flags)
		return;
	if (*flags & MAKES_CALL)
		slk_throttle_forget_call(tid);
	forget(tid);
}

/* With a signal, or 0. */
static void let_go(pid_t tid, long number)
{
	uint8_t *flags = &holding->flags[tid];

	ptrace(*flags & IS_OURS ? PTRACE_DETACH : PTRACE_CONT, tid, 0, number); /* or it was killed, and goes by itself */
	forget(tid);
}

static void let_go_or_make_its_call(pid_t tid)
{
	uint8_t *flags = &holding->flags[tid];

	*flags &= (uint8_t)~IS_HELD;
	if (*flags & MAKES_CALL)
		ptrace(PTRACE_SYSCALL, tid, 0, 0);
	else
		let_go(tid, 0);
}

/* It was told to stop, and has. */
static void stopped(pid_t tid)
{
	if (holding->holds)
		holding->flags[tid] |= IS_HELD;
	else
		let_go_or_make_its_call(tid);
}

static void makes_its_call(pid_t tid, int status)
{
	switch (slk_throttle_call_step(tid, status)) {
	case SLK_HELD_CALL_GOES_ON:
		ptrace(PTRACE_SYSCALL, tid, 0, 0);
		return;
	case SLK_HELD_CALL_WAITS:
		holding->flags[tid] &= (uint8_t)~IS_ASKED;
		stopped(tid);
		return;
	case SLK_HELD_CALL_IS_OVER:
		let_go(tid, status >> 16 || SLK_IS_CALL_STOP(status) ? 0 : WSTOPSIG(status));
	}
}

static void stays_seized(pid_t tid)
{
	holding->flags[tid] &= (uint8_t)~STAYS_SEIZED;
	ptrace(PTRACE_SETOPTIONS, tid, 0, SLK_TRACE_OPTIONS); /* or it was killed */
}

int slk_throttle_takes_stop(pid_t tid, int status)
{
	uint8_t *flags = flags_of(tid);
	int is_job_control = status >> 16 == PTRACE_EVENT_STOP && slk_is_job_control(WSTOPSIG(status));

	if (!flags || !(*flags & ~IS_LISTED))
		return 0;
	if (*flags & STAYS_SEIZED)
		stays_seized(tid);
	if (*flags & MAKES_CALL && (*flags & IS_OURS || !is_job_control)) {
		makes_its_call(tid, status);
		return 1;
	}
	if (status >> 16 != PTRACE_EVENT_STOP)
		return 0;
	*flags &= (uint8_t)~IS_ASKED;
	if (is_job_control && !(*flags & IS_OURS)) {
		slk_throttle_call_step(tid, status);
		forget(tid);
		return 0; /* as any that init traces */
	}
	if (is_job_control) {
		let_go(tid, 0); /* and the kernel has it stop again, for that */
		return 1;
	}
	if (slk_throttle_mend(tid))
		*flags |= MAKES_CALL;
	stopped(tid);
	return 1;
}

int slk_throttle_has_seized(pid_t tid)
{
	const uint8_t *flags = flags_of(tid);

	return flags && *flags & IS_OURS;
}

/* Its signals come at a pace, perhaps, and would withdraw a call between our letting it go and seizing it again. */
void slk_throttle_leave_seized(pid_t tid)
{
	uint8_t *flags = flags_of(tid);

	if (!flags || !(*flags & IS_OURS))
		return;
	*flags &= (uint8_t)~IS_OURS;
	*flags |= STAYS_SEIZED;
	if (*flags & IS_HELD)
		stays_seized(tid);
}

/* ---- holding */

static char state_of(const char *directory)
{
	char path[64], text[512];
	const char *name_end;

	snprintf(path, sizeof(path), "%s/stat", directory);
	if (slk_read_text(path, text, sizeof(text)) <= 0 || !(name_end = strrchr(text, ')')))
		return 'Z';
	return name_end[2];
}

/* Somebody else traces it (the supervisor, for a moment), or it is about to end; or it is to be held by nobody. Not one and
 * the same each time: there may be several, that take turns. */
static void cannot_be_seized(pid_t tid, const char *directory)
{
	char text[1024];

	if (slk_read_status(tid, text, sizeof(text)) < 0 || slk_status_number(text, "\nTracerPid:") != 0 ||
	    state_of(directory) != 'R')
		return;
	holding->has_unheld = 1;
}

/* The supervisor, where it does that, is done in a moment. */
static int seize(pid_t tid)
{
	int result = -EPERM;

	for (int tries = 0; tries < SEIZE_TRIES_MAX && result == -EPERM; tries++) {
		result = slk_trace_seize(tid, PTRACE_O_EXITKILL | PTRACE_O_TRACESYSGOOD);
		if (result == -EPERM && slk_is_traced(tid))
			break;
	}
	return result;
}

static void hold(pid_t tid, const char *directory)
{
	uint8_t flags = IS_ASKED | IS_OURS;
	int result = 0;

	if (!(holding->flags[tid] & ~IS_LISTED))
		result = seize(tid);
	else
		flags = IS_ASKED; /* it makes its call */
	if (result == -EPERM && slk_is_traced(tid))
		flags = IS_ASKED;
	else if (result == -EPERM)
		cannot_be_seized(tid, directory);
	if (result < 0 && flags & IS_OURS)
		return; /* gone, or in execve */
	note(tid, flags);
	if (ptrace(PTRACE_INTERRUPT, tid, 0, 0) == 0)
		holding->found++;
}

struct visit {
	pid_t pid;
	int has_run; /* some thread of it, since the last search */
};

/* Another thread that executes a program takes the number of the first one, and this one's end is told to nobody
 * (fs/exec.c, de_thread). */
static int is_still_held(pid_t tid)
{
	unsigned long message;

	return ptrace(PTRACE_GETEVENTMSG, tid, 0, &message) == 0;
}

/* Or the stop that it was asked for was taken for something else (rewrite.c): so again. */
static int is_still_asked(pid_t tid)
{
	return ptrace(PTRACE_INTERRUPT, tid, 0, 0) == 0;
}

/* First what it has used, then its state: who waits again by now shows the next time. */
static int wants_processor(const struct visit *visit, pid_t tid, const char *directory)
{
	int has_run = holding->in_pause && slk_still_has_run(tid, directory, visit->has_run);
	char state = state_of(directory);

	return state == 'R' || (has_run && (state == 'S' || state == 'D'));
}

static void hold_if_it_runs(void *context, pid_t tid)
{
	const struct visit *visit = context;
	const uint8_t *flags = flags_of(tid);
	char directory[48];

	if (!flags || (*flags & IS_HELD && is_still_held(tid)))
		return;
	snprintf(directory, sizeof(directory), "/proc/%d/task/%d", (int)visit->pid, (int)tid);
	if (!wants_processor(visit, tid, directory) || (*flags & IS_ASKED && is_still_asked(tid)))
		return;
	if (*flags & (IS_ASKED | IS_HELD))
		slk_throttle_gone(tid); /* that was another one */
	hold(tid, directory);
}

static void hold_of(void *context, pid_t pid)
{
	struct visit visit = {.pid = pid};
	char path[32];

	(void)context;
	if (!slk_is_inside(holding->scoped, pid))
		return;
	if (holding->in_pause)
		visit.has_run = slk_still_look(pid);
	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	slk_each_number(path, hold_if_it_runs, &visit);
}

/* Who is found may have made others that were not looked at. */
uint64_t slk_hold_search(void)
{
	uint64_t began = slk_cpu_ns(), took, pause = holding->pause_ns * 2;

	holding->has_unheld = 0;
	for (int passes = 0; passes < PASSES_MAX; passes++) {
		holding->found = 0;
		slk_still_begin_pass();
		slk_each_number("/proc", hold_of, NULL);
		if (!holding->found)
			break;
		pause = SEARCH_MIN_NS;
	}
	if (holding->in_pause && !holding->has_unheld)
		holding->unheld = 0;
	holding->unheld += (uint32_t)holding->has_unheld;
	took = (slk_cpu_ns() - began) * (holding->in_pause ? SLK_PAUSE_SHARE : SLK_LOOK_SHARE);
	if (pause > SLK_SEARCH_MAX_NS)
		pause = SLK_SEARCH_MAX_NS;
	holding->pause_ns = pause;
	return slk_now_ns() + (pause > took ? pause : took);
}

void slk_hold_all(void)
{
	holding->holds = 1;
	holding->pause_ns = SEARCH_MIN_NS / 2;
}

void slk_hold_release(void)
{
	uint32_t kept = 0;

	holding->holds = 0;
	holding->unheld = 0;
	for (uint32_t i = 0; i < holding->tid_count; i++) {
		pid_t tid = holding->tids[i];

		if (holding->flags[tid] & IS_HELD)
			let_go_or_make_its_call(tid);
		else if (holding->flags[tid] & IS_ASKED)
			is_still_asked(tid); /* there may be no other search */
		if (holding->flags[tid] & ~IS_LISTED)
			holding->tids[kept++] = tid; /* it has not stopped yet, and is let go as soon as it does */
		else
			holding->flags[tid] = 0;
	}
	holding->tid_count = kept;
}
