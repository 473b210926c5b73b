/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whether everybody stands still in a pause, and who does not (holding.c).
 *
 * Whoever wakes for a moment only is hardly ever found in state R. But its process has used something then, and so has it:
 * the CPU clock of the process is one call (clock_getcpuclockid(3)), and what each thread has run stands in its schedstat
 * (Documentation/scheduler/sched-stats.rst). Both are kept from search to search.
 *
 * And somebody new is made only by somebody who runs. So when in a whole pass nobody is new and nobody has run since the
 * pass before, all are known, and as long as no clock of theirs moves nothing else is to be looked at: no listing, no file.
 * (Of a thread that runs just now the clock is as of the last tick: it shows the next time.)
 */
#define _GNU_SOURCE
#include "throttle.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#define NS_PER_S UINT64_C(1000000000)

struct stillness {
	uint64_t *clock_ns; /* of each process, by its number, as of the last pass; 0: it was not there */
	uint64_t *ran_ns;   /* of each thread */
	pid_t *pids;        /* who was there in the last pass */
	uint32_t count;
	int has_moved; /* in it */
	int scoped;
	int cannot_be_held;
};

static struct stillness still;

#define ROOM_BYTES (SLK_TIDS_END * (2 * sizeof(uint64_t) + sizeof(pid_t)))

/* The wall that forbids an ordinary user to trace who hides its memory, or is another's, forbids this as well (proc(5)). */
static void note_who_cannot_be_held(void *unused, pid_t pid)
{
	char path[32], target[8];

	(void)unused;
	snprintf(path, sizeof(path), "/proc/%d/exe", (int)pid);
	if (slk_is_inside(still.scoped, pid) && readlink(path, target, sizeof(target)) < 0 && errno == EACCES)
		still.cannot_be_held = 1;
}

int slk_still_begin(int scoped)
{
	void *room;

	still = (struct stillness){.scoped = scoped};
	slk_each_number("/proc", note_who_cannot_be_held, NULL);
	if (still.cannot_be_held)
		return -EPERM;
	room = mmap(NULL, ROOM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (room == MAP_FAILED)
		return -errno;
	still.clock_ns = room;
	still.ran_ns = still.clock_ns + SLK_TIDS_END;
	still.pids = (pid_t *)(still.ran_ns + SLK_TIDS_END);
	return 0;
}

void slk_still_end(void)
{
	munmap(still.clock_ns, ROOM_BYTES);
	still.clock_ns = NULL;
}

/* 0: it is gone. */
static uint64_t clock_of(pid_t pid)
{
	clockid_t clock = (clockid_t)(~(unsigned)pid << 3 | 2u); /* CPUCLOCK_SCHED */
	struct timespec used;

	return clock_gettime(clock, &used) < 0 ? 0 : (uint64_t)used.tv_sec * NS_PER_S + (uint64_t)used.tv_nsec + 1;
}

void slk_still_begin_pass(void)
{
	still.count = 0;
	still.has_moved = 0;
}

int slk_still_look(pid_t pid)
{
	uint64_t now = clock_of(pid);
	int has_run;

	if (!now || (uint32_t)pid >= SLK_TIDS_END)
		return 1;
	has_run = now != still.clock_ns[pid];
	still.clock_ns[pid] = now;
	still.pids[still.count++] = pid;
	still.has_moved |= has_run;
	return has_run;
}

int slk_still_has_run(pid_t tid, const char *directory, int process_has_run)
{
	uint64_t now, before = still.ran_ns[tid];
	char path[64], text[128];

	snprintf(path, sizeof(path), "%s/schedstat", directory);
	if (slk_read_text(path, text, sizeof(text)) <= 0 || sscanf(text, "%" SCNu64, &now) != 1)
		now = 0; /* the kernel keeps no account */
	still.ran_ns[tid] = now + 1;
	if (now == 0)
		return before && process_has_run;
	return before && before != now + 1;
}

int slk_still_is_so(void)
{
	if (still.has_moved)
		return 0;
	for (uint32_t i = 0; i < still.count; i++)
		if (clock_of(still.pids[i]) != still.clock_ns[still.pids[i]])
			return 0;
	return 1;
}
