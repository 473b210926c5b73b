/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Being there when it matters: threads of ours that run for microseconds, and are to run when they are due, however many
 * threads of the program want to. Who asks for a short slice comes first (sched_setattr(2), Linux 6.12); root may ask for
 * more weight as well. Where neither is to be had, it is later.
 *
 * Weight counts among the threads of one session only, where the kernel makes a group of each (sched(7), autogroup): a program
 * whose processes have sessions of their own has many shares, and we have one. Who never takes more than a part of a
 * processor, whatever the program does, may come before all others instead.
 */
#define _GNU_SOURCE
#include "slk.h"

#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SLICE_NS 100000u /* the shortest that there is (kernel/sched/syscalls.c) */
#define NICE_MIN (-20)

/* struct sched_attr, linux/sched/types.h */
struct attributes {
	uint32_t size, policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime_ns, deadline_ns, period_ns;
};

void slk_be_prompt(void)
{
	struct attributes mine = {.size = sizeof(mine), .nice = NICE_MIN, .runtime_ns = SLICE_NS};

	prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0);
	if (syscall(SYS_sched_setattr, 0, &mine, 0) == 0)
		return;
	mine.nice = getpriority(PRIO_PROCESS, 0);
	syscall(SYS_sched_setattr, 0, &mine, 0);
}

struct slk_promptness slk_own_promptness(void)
{
	return (struct slk_promptness){getpriority(PRIO_PROCESS, 0), prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0)};
}

void slk_be_as_prompt_as(const struct slk_promptness *before)
{
	struct attributes mine = {.size = sizeof(mine), .nice = before->nice};

	prctl(PR_SET_TIMERSLACK, before->slack_ns, 0, 0, 0);
	syscall(SYS_sched_setattr, 0, &mine, 0); /* no slice: the kernel's own */
}

void slk_let_be_first(pid_t pid)
{
	struct sched_param lowest = {.sched_priority = sched_get_priority_min(SCHED_RR)};

	sched_setscheduler(pid, SCHED_RR | SCHED_RESET_ON_FORK, &lowest); /* root may */
}

void slk_be_first(void)
{
	slk_be_prompt();
	slk_let_be_first(0);
}

uint64_t slk_cpu_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}
