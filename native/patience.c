/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Our own waits for a thread of the program, bounded: seizing it, and its stop (rewrite.c).
 *
 * ptrace(2) and waitpid(2) take no time limit. A timer interrupts them again and again, with a signal that goes to this
 * thread alone.
 */
#define _GNU_SOURCE
#include "rewrite.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* Of a wait for others, the interval of the looks at the clock. */
#define LOOK_EVERY_NS 1000000
/* PTRACE_SEIZE is given up after so many looks: a thread in execve holds it up until we are told of the end of its siblings.
 * Looks, not time: where we had to wait for our CPU, the first one may come before we asked. */
#define SEIZE_LOOKS_MAX 2

static _Thread_local sigjmp_buf seize_ends;
static _Thread_local volatile sig_atomic_t is_seizing;

static void patience_signal(int number)
{
	(void)number;
	if (is_seizing)
		siglongjmp(seize_ends, 1);
}

/* A timer whose signals go to this thread alone. One from before a fork is none any more. */
static int set_timer(struct slk_engine *engine)
{
	static const struct itimerspec times = {{0, LOOK_EVERY_NS}, {0, LOOK_EVERY_NS}};
	struct sigaction action = {.sa_handler = patience_signal, .sa_flags = SA_NODEFER}; /* it may not return */
	struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SLK_PATIENCE_SIGNAL};
	int32_t self = (int32_t)syscall(SYS_gettid);

	if (engine->patient_tid == self && timer_settime(engine->patience, 0, &times, NULL) == 0)
		return 0;
	event._sigev_un._tid = self; /* sigev_notify_thread_id, of which glibc has no name */
	if (sigaction(SLK_PATIENCE_SIGNAL, &action, NULL) < 0 ||
	    timer_create(CLOCK_MONOTONIC, &event, &engine->patience) < 0)
		return -errno;
	engine->patient_tid = self;
	return timer_settime(engine->patience, 0, &times, NULL) < 0 ? -errno : 0;
}

int slk_patience_begin(struct slk_engine *engine, int32_t timeout_ms, struct slk_patience *ret_patience)
{
	sigset_t all;
	int result;

	ret_patience->end_ns = slk_now_ns() + (uint64_t)timeout_ms * 1000000u;
	sigfillset(&all);
	sigdelset(&all, SLK_PATIENCE_SIGNAL);
	pthread_sigmask(SIG_SETMASK, &all, &ret_patience->before);
	result = set_timer(engine);
	if (result < 0)
		pthread_sigmask(SIG_SETMASK, &ret_patience->before, NULL);
	return result;
}

void slk_patience_end(struct slk_engine *engine, const struct slk_patience *patience)
{
	static const struct itimerspec never;

	timer_settime(engine->patience, 0, &never, NULL);
	pthread_sigmask(SIG_SETMASK, &patience->before, NULL);
}

/* The call would be begun anew after a handler that returns (ERESTARTNOINTR): so that one does not. It may have come
 * when the call was done; whether it was, PTRACE_INTERRUPT tells, which comes next anyway. The one in execve may have
 * killed our caller meanwhile, and have its number. */
int slk_seize(const struct slk_engine *engine, const struct slk_slot *slot)
{
	volatile int looks = 0;
	int result;

	if (sigsetjmp(seize_ends, 0) != 0) {
		is_seizing = 0;
		if (ptrace(PTRACE_INTERRUPT, slot->tid, 0, 0) == 0)
			return 0;
		if (!slk_slot_alive(engine, slot))
			return -EPERM;
		if (++looks == SEIZE_LOOKS_MAX)
			return -EAGAIN;
	}
	is_seizing = 1;
	result = ptrace(PTRACE_SEIZE, slot->tid, 0, PTRACE_O_TRACESYSGOOD) < 0 ? -errno : 0;
	is_seizing = 0;
	return result;
}

int slk_await_stop(pid_t tid, uint64_t end_ns, int options, int *ret_status)
{
	for (;;) {
		/* Of this thread's tracees, and of those this one: nobody else's child is taken. */
		pid_t found = waitpid(tid, ret_status, __WALL | __WNOTHREAD | options);

		if (found == tid)
			return WIFSTOPPED(*ret_status) ? 1 : -ENOENT;
		if (found < 0 && errno != EINTR)
			return -ENOENT;
		if (found == 0 || slk_now_ns() >= end_ns)
			return 0;
	}
}
