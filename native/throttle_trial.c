/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whether whoever computes can be held here as throttle.c holds it: found out with a child. Init asks before the program is
 * started whether it may; the doctor, whether it does what it should.
 */
#define _GNU_SOURCE
#include "slk.h"

#include <errno.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PATIENCE_NS UINT64_C(5000000000) /* until a child that wants a processor has had one, on a busy machine */
#define GLANCE_NS 1000000

static pid_t begin_child(int computes)
{
	pid_t parent = getpid(), child = slk_fork();

	if (child != 0)
		return child < 0 ? -errno : child;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	while (getppid() == parent)
		if (!computes)
			pause();
	_exit(0);
}

static void end_child(pid_t child)
{
	kill(child, SIGKILL);
	waitpid(child, NULL, __WALL);
}

static int hold(pid_t child)
{
	int status;

	if (ptrace(PTRACE_SEIZE, child, 0, PTRACE_O_EXITKILL) < 0 || ptrace(PTRACE_INTERRUPT, child, 0, 0) < 0)
		return -errno;
	return waitpid(child, &status, __WALL) == child && WIFSTOPPED(status) ? 0 : -EPERM;
}

int slk_throttle_possible(void)
{
	pid_t child = begin_child(0);
	int result;

	if (child < 0)
		return child;
	result = hold(child);
	end_child(child);
	return result;
}

static void sleep_ns(uint64_t ns)
{
	struct timespec left = {(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};

	while (nanosleep(&left, &left) < 0 && errno == EINTR)
		;
}

static uint64_t used_by(clockid_t clock)
{
	struct timespec used;

	return clock_gettime(clock, &used) < 0 ? 0 : (uint64_t)used.tv_sec * 1000000000u + (uint64_t)used.tv_nsec;
}

/* Until it has used more than that. How much more, or 0: it has not. */
static uint64_t wait_until_used(clockid_t clock, uint64_t before)
{
	for (uint64_t end = slk_now_ns() + PATIENCE_NS; slk_now_ns() < end; sleep_ns(GLANCE_NS))
		if (used_by(clock) > before)
			return used_by(clock) - before;
	return 0;
}

static int try_with(pid_t child, uint64_t for_ns, uint64_t *ret_held_ns, uint64_t *ret_free_ns)
{
	uint64_t before;
	clockid_t clock;
	int result = -clock_getcpuclockid(child, &clock);

	if (result < 0)
		return result;
	if (!wait_until_used(clock, 0))
		return -ETIMEDOUT;
	result = hold(child);
	if (result < 0)
		return result;
	before = used_by(clock);
	sleep_ns(for_ns);
	*ret_held_ns = used_by(clock) - before;
	if (ptrace(PTRACE_DETACH, child, 0, 0) < 0)
		return -errno;
	*ret_free_ns = wait_until_used(clock, before + *ret_held_ns);
	return 0;
}

int slk_throttle_try(uint64_t for_ns, uint64_t *ret_held_ns, uint64_t *ret_free_ns)
{
	pid_t child = begin_child(1);
	int result;

	if (child < 0)
		return child;
	result = try_with(child, for_ns, ret_held_ns, ret_free_ns);
	end_child(child);
	return result;
}
