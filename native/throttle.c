/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A share of the processors (limits.cpu), where no cgroup keeps it: whoever computes is held while all together have had
 * their share.
 *
 * The account is a bucket: so much time of processors comes in with time, at most QUOTA_MS' worth is saved up, and what all
 * processes have used (cputime.c) goes out. Who took too much has a debt, and all are held until it is paid; so the share is
 * kept on average however late a look comes, and only how long the turns are depends on that. Below its share a sandbox
 * costs a look now and then, and nobody is touched.
 *
 * Held is who wants a processor at that moment (state R): a thread that waits in the kernel is left alone. It is seized and
 * told to stop (PTRACE_SEIZE, PTRACE_INTERRUPT; ptrace(2)), which is no stop of job control: no parent is told, no signal is
 * sent, and SIGCONT does not end it. When the time has come it is detached, and is as if nothing had been. New ones that want
 * a processor meanwhile are looked for until there are none; those that are missed add to the debt.
 */
#define _GNU_SOURCE
#include "throttle.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <unistd.h>

#define QUOTA_MS 100u
#define NS_PER_MS UINT64_C(1000000)
#define QUOTA_MIN_NS (5 * NS_PER_MS)
#define LOOK_MIN_NS (2 * NS_PER_MS)
#define LOOK_MAX_NS (250 * NS_PER_MS)
#define LOOK_SHARE 25 /* what a look uses itself is that much less than the time to the next one */
#define SEARCH_MIN_NS (2 * NS_PER_MS)
#define SEARCH_MAX_NS (16 * NS_PER_MS)
#define PASSES_MAX 4
#define UNHELD_MAX 3 /* in so many searches somebody was seen to compute that cannot be held */
#define SEIZE_TRIES_MAX 4

/* Of a thread. */
#define IS_OURS 1u  /* seized for this, and to be detached; else init traces it anyway */
#define IS_ASKED 2u /* to stop */
#define IS_HELD 4u
#define MAKES_CALL 8u /* for the rest of one that it came out of */
#define IS_LISTED 16u /* in tids */

/* The one of init: where a thread stops, there is no other way to it. */
static struct slk_throttle *throttle;

void slk_throttle_begin(struct slk_throttle *one, uint32_t percent, int scoped)
{
	long processors = sysconf(_SC_NPROCESSORS_CONF);
	uint64_t now = slk_now_ns();
	void *room;

	*one = (struct slk_throttle){.percent = percent, .scoped = scoped,
				     .processors = processors > 0 ? (uint32_t)processors : 1};
	if (!percent || percent >= 100 * one->processors)
		return; /* more than there is */
	room = mmap(NULL, SLK_TIDS_END * (1 + sizeof(pid_t)), PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (room == MAP_FAILED) {
		one->cannot_hold = 1;
		return;
	}
	one->flags = room;
	one->tids = (pid_t *)((char *)room + SLK_TIDS_END);
	one->quota_ns = percent * QUOTA_MS * NS_PER_MS / 100;
	if (one->quota_ns < QUOTA_MIN_NS)
		one->quota_ns = QUOTA_MIN_NS;
	one->allowed_ns = one->quota_ns;
	one->counted_ns = now;
	if (getrandom(&one->random, sizeof(one->random), GRND_NONBLOCK) < 0 || !one->random)
		one->random = now | 1;
	slk_cputime_begin(&one->cpu, scoped);
	one->due_ns = now + LOOK_MIN_NS;
	throttle = one;
}

/* ---- who is held */

static uint8_t *flags_of(pid_t tid)
{
	return throttle && tid > 0 && (uint32_t)tid < SLK_TIDS_END ? &throttle->flags[tid] : NULL;
}

static void note(pid_t tid, uint8_t flags)
{
	if (!(throttle->flags[tid] & IS_LISTED))
		throttle->tids[throttle->tid_count++] = tid;
	throttle->flags[tid] |= (uint8_t)(IS_LISTED | flags);
}

/* Its place in the list goes with the next release. */
static void forget(pid_t tid)
{
	throttle->flags[tid] &= IS_LISTED;
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
	uint8_t *flags = &throttle->flags[tid];

	ptrace(*flags & IS_OURS ? PTRACE_DETACH : PTRACE_CONT, tid, 0, number); /* or it was killed, and goes by itself */
	forget(tid);
}

static void let_go_or_make_its_call(pid_t tid)
{
	uint8_t *flags = &throttle->flags[tid];

	*flags &= (uint8_t)~IS_HELD;
	if (*flags & MAKES_CALL)
		ptrace(PTRACE_SYSCALL, tid, 0, 0);
	else
		let_go(tid, 0);
}

/* It was told to stop, and has. */
static void stopped(pid_t tid)
{
	if (throttle->holds)
		throttle->flags[tid] |= IS_HELD;
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
		throttle->flags[tid] &= (uint8_t)~IS_ASKED;
		stopped(tid);
		return;
	case SLK_HELD_CALL_IS_OVER:
		let_go(tid, status >> 16 || SLK_IS_CALL_STOP(status) ? 0 : WSTOPSIG(status));
	}
}

int slk_throttle_takes_stop(pid_t tid, int status)
{
	uint8_t *flags = flags_of(tid);
	int is_job_control = status >> 16 == PTRACE_EVENT_STOP && slk_is_job_control(WSTOPSIG(status));

	if (!flags || !(*flags & ~IS_LISTED))
		return 0;
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
	throttle->has_unheld = 1;
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

	if (!(throttle->flags[tid] & ~IS_LISTED))
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
		throttle->found++;
}

struct visit {
	pid_t pid;
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

static void hold_if_it_runs(void *context, pid_t tid)
{
	const struct visit *visit = context;
	const uint8_t *flags = flags_of(tid);
	char directory[48];

	if (!flags || (*flags & IS_HELD && is_still_held(tid)))
		return;
	snprintf(directory, sizeof(directory), "/proc/%d/task/%d", (int)visit->pid, (int)tid);
	if (state_of(directory) != 'R' || (*flags & IS_ASKED && is_still_asked(tid)))
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
	if (!slk_is_inside(throttle->scoped, pid))
		return;
	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	slk_each_number(path, hold_if_it_runs, &visit);
}

/* Who is found may have made others that were not looked at. */
static void search(void)
{
	uint64_t began = slk_cpu_ns(), took, pause = throttle->pause_ns * 2;

	throttle->has_unheld = 0;
	for (int passes = 0; passes < PASSES_MAX; passes++) {
		throttle->found = 0;
		slk_each_number("/proc", hold_of, NULL);
		if (!throttle->found)
			break;
		pause = SEARCH_MIN_NS;
	}
	throttle->unheld += (uint32_t)throttle->has_unheld;
	took = slk_cpu_ns() - began;
	if (pause > SEARCH_MAX_NS)
		pause = SEARCH_MAX_NS;
	throttle->pause_ns = pause;
	throttle->due_ns = slk_now_ns() + (pause > LOOK_SHARE * took ? pause : LOOK_SHARE * took);
}

static void release(void)
{
	uint32_t kept = 0;

	throttle->holds = 0;
	throttle->unheld = 0;
	for (uint32_t i = 0; i < throttle->tid_count; i++) {
		pid_t tid = throttle->tids[i];

		if (throttle->flags[tid] & IS_HELD)
			let_go_or_make_its_call(tid);
		if (throttle->flags[tid] & ~IS_LISTED)
			throttle->tids[kept++] = tid; /* it has not stopped yet, and is let go as soon as it does */
		else
			throttle->flags[tid] = 0;
	}
	throttle->tid_count = kept;
}

/* ---- the account */

static uint64_t share_of(uint64_t ns)
{
	return (uint64_t)((double)ns * throttle->percent / 100);
}

static uint64_t time_for(uint64_t ns)
{
	return (uint64_t)((double)ns * 100 / throttle->percent);
}

static void count(void)
{
	uint64_t now = slk_now_ns(), passed = now - throttle->counted_ns;
	uint64_t used = slk_cputime_look(&throttle->cpu, passed);

	throttle->counted_ns = now;
	if (used > throttle->used_ns)
		throttle->used_ns = used;
	throttle->allowed_ns += share_of(passed);
	if (throttle->allowed_ns > throttle->used_ns + throttle->quota_ns)
		throttle->allowed_ns = throttle->used_ns + throttle->quota_ns;
}

/* Marsaglia, Xorshift RNGs (2003). Looks come at moments that nobody knows. */
static uint64_t random_part(uint64_t of)
{
	throttle->random ^= throttle->random << 13;
	throttle->random ^= throttle->random >> 7;
	throttle->random ^= throttle->random << 17;
	return of / 2 + (throttle->random >> 11) % (of / 2 + 1);
}

static void begin_to_hold(uint64_t now)
{
	throttle->holds = 1;
	throttle->until_ns = now + time_for(throttle->used_ns + throttle->quota_ns - throttle->allowed_ns);
	throttle->pause_ns = SEARCH_MIN_NS / 2;
	search();
}

static void look(void)
{
	uint64_t wait, took, began = slk_cpu_ns();

	count();
	took = slk_cpu_ns() - began;
	if (throttle->used_ns >= throttle->allowed_ns) {
		begin_to_hold(slk_now_ns());
		return;
	}
	wait = random_part((throttle->allowed_ns - throttle->used_ns) / throttle->processors);
	if (wait > LOOK_MAX_NS)
		wait = LOOK_MAX_NS;
	if (wait < LOOK_MIN_NS)
		wait = LOOK_MIN_NS;
	if (wait < LOOK_SHARE * took)
		wait = LOOK_SHARE * took;
	throttle->due_ns = slk_now_ns() + wait;
}

/* Who was missed meanwhile has used something: then all wait for longer. */
static void look_whether_it_is_paid(uint64_t now)
{
	count();
	if (throttle->used_ns + throttle->quota_ns / 2 > throttle->allowed_ns) {
		throttle->until_ns = now + time_for(throttle->used_ns + throttle->quota_ns - throttle->allowed_ns);
		search();
		return;
	}
	release();
	look();
}

int64_t slk_throttle_due_ns(const struct slk_throttle *one)
{
	uint64_t due = one->due_ns;

	if (one->holds && one->until_ns < due)
		due = one->until_ns;
	return due ? (int64_t)due : -1;
}

int slk_throttle_due(struct slk_throttle *one)
{
	uint64_t now;

	if (one->cannot_hold)
		return 1;
	if (!one->due_ns || (now = slk_now_ns()) < (uint64_t)slk_throttle_due_ns(one))
		return 0;
	if (!one->holds)
		look();
	else if (now >= one->until_ns)
		look_whether_it_is_paid(now);
	else
		search();
	one->cannot_hold = one->unheld >= UNHELD_MAX;
	return one->cannot_hold;
}
