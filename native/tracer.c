/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Signals must not make a call fail that they do not make fail bare.
 *
 * A signal with a handler withdraws a notification that has not been received yet: the kernel gives up the call with
 * ERESTARTSYS (kernel/seccomp.c, seccomp_do_user_notification), and without SA_RESTART the program sees EINTR from an
 * open that bare cannot be interrupted. Nobody else can mend that than a tracer: it sees the thread stopped before the
 * handler runs, while the result is still in its register, and makes it ERESTARTNOINTR, which restarts the call
 * whatever the handler's flags. A stop per signal is too much for every process; it is right for those that have
 * signals sent to themselves at a pace, by a timer.
 *
 * init is the tracer: it is the ancestor of all (which Yama asks for), sleeps in waitpid's stead anyway, and does not
 * die with the supervisor.
 *
 * A call that was received, let go on and waits in the kernel as it would bare (for the other end of a FIFO) must fail
 * as bare: the engine notes these calls, and they are left alone.
 */
#define _GNU_SOURCE
#include "slk.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SEIZE_LOOK_US 1000
#define LOOKS_MAX 2
#define LATE_MAX 64 /* the oldest gives way */

/* ---- the supervisor's side */

static int futex(uint32_t *word, int operation, uint32_t value, const struct timespec *limit)
{
	return (int)syscall(SYS_futex, word, operation, value, limit, NULL, 0);
}

/* Everything judged before was not asked whether it may wait. */
static void begin(struct slk_engine *engine)
{
	if (engine->shared->tracing)
		return;
	engine->shared->tracing = 1;
	engine->generation++;
}

static int give_order(struct slk_engine *engine, int control_fd, struct slk_order *order, int32_t timeout_ms)
{
	uint32_t *word = &engine->shared->acknowledged;
	uint64_t end_ns = slk_now_ns() + (uint64_t)timeout_ms * 1000000u;
	int result;

	order->serial = ++engine->shared->orders;
	result = slk_order_send(control_fd, order);
	if (result < 0)
		return result;
	for (;;) {
		uint32_t now = __atomic_load_n(word, __ATOMIC_ACQUIRE);
		uint64_t now_ns = slk_now_ns();
		struct timespec left;

		if (now == order->serial)
			return engine->shared->done;
		if (now_ns >= end_ns)
			return 0;
		left.tv_sec = (time_t)((end_ns - now_ns) / 1000000000u);
		left.tv_nsec = (long)((end_ns - now_ns) % 1000000000u);
		futex(word, FUTEX_WAIT, now, &left);
	}
}

int slk_order_init(struct slk_engine *engine, int control_fd, int kind, int32_t tid, int32_t timeout_ms)
{
	struct slk_order order = {.kind = kind, .number = tid};

	begin(engine);
	return give_order(engine, control_fd, &order, timeout_ms);
}

int slk_order_restart(struct slk_engine *engine, int control_fd, const struct slk_rewrite *rewrite, int32_t timeout_ms)
{
	struct slk_order order = {.kind = SLK_ORDER_RESTART, .number = rewrite->tid, .rewrite = *rewrite};

	return give_order(engine, control_fd, &order, timeout_ms);
}

/* ---- init's side */

int slk_is_own_child(pid_t pid)
{
	char text[1024];

	slk_read_status(pid, text, sizeof(text));
	return slk_status_number(text, "\nTgid:") == pid && slk_status_number(text, "\nPPid:") == getpid();
}

int slk_is_traced(pid_t tid)
{
	char text[1024];

	slk_read_status(tid, text, sizeof(text));
	return slk_status_number(text, "\nTracerPid:") == getpid();
}

void slk_acknowledge(struct slk_shared *shared, uint32_t serial, int done)
{
	shared->done = done;
	__atomic_store_n(&shared->acknowledged, serial, __ATOMIC_RELEASE);
	futex(&shared->acknowledged, FUTEX_WAKE, INT_MAX, NULL);
}

static sigjmp_buf look_again;

static void end_look(int number)
{
	(void)number;
	siglongjmp(look_again, 1);
}

/*
 * PTRACE_SEIZE waits for a thread of the process that is in execve, also if we trace the process already; and that one
 * waits until its dead siblings are reaped (fs/exec.c, de_thread, with cred_guard_mutex held), by their tracer: by us.
 * So it is given up after a moment, which restarting would not be: the handler must not return. Not at the first look:
 * where we had to wait for our CPU, that came before we asked at all.
 * 0, or -EAGAIN: reap, and try again; or -errno.
 */
int slk_trace_seize(pid_t tid, int options)
{
	struct sigaction action = {.sa_handler = end_look}, before;
	struct itimerval never = {0}, soon = {{0, SEIZE_LOOK_US}, {0, SEIZE_LOOK_US}};
	volatile int result = -EAGAIN, looks = 0;
	sigset_t alarm_set;

	sigemptyset(&alarm_set);
	sigaddset(&alarm_set, SIGALRM);
	sigaction(SIGALRM, &action, &before);
	setitimer(ITIMER_REAL, &soon, NULL);
	if (sigsetjmp(look_again, 1) != 0) /* comes back with the mask of now: SIGALRM blocked */
		looks++;
	if (result == -EAGAIN && looks < LOOKS_MAX) {
		sigprocmask(SIG_UNBLOCK, &alarm_set, NULL);
		result = ptrace(PTRACE_SEIZE, tid, 0, options) < 0 ? -errno : 0;
		sigprocmask(SIG_BLOCK, &alarm_set, NULL);
	}
	setitimer(ITIMER_REAL, &never, NULL);
	sigaction(SIGALRM, &before, NULL);
	return result;
}

/* How many threads were seized that were not before, or -EAGAIN. */
static int seize_threads(pid_t tid)
{
	_Alignas(struct slk_dirent) char buffer[8192];
	char path[64];
	int seized = 0;
	long got;
	int dir;

	snprintf(path, sizeof(path), "/proc/%d/task", tid);
	dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		return 0; /* it is gone */
	while (seized >= 0 && (got = syscall(SYS_getdents64, dir, buffer, sizeof(buffer))) > 0) {
		for (long at = 0; at < got && seized >= 0;) {
			const struct slk_dirent *entry = (const void *)(buffer + at);
			int result;

			at += entry->length;
			if (entry->name[0] < '1' || entry->name[0] > '9')
				continue;
			result = slk_trace_seize((pid_t)atoi(entry->name), SLK_TRACE_OPTIONS);
			if (result == -EPERM)
				slk_throttle_leave_seized((pid_t)atoi(entry->name));
			seized = result == -EAGAIN ? result : seized + (result == 0);
		}
	}
	close(dir);
	return seized;
}

/* A thread that is not seized yet may make another meanwhile; those of one that is come seized. */
int slk_trace_process(pid_t tid)
{
	int seized;

	do
		seized = seize_threads(tid);
	while (seized > 0);
	return seized;
}

static pid_t late[LATE_MAX];
static uint32_t late_count;

void slk_trace_later(pid_t tid)
{
	if (late_count == LATE_MAX)
		memmove(late, late + 1, --late_count * sizeof(*late));
	late[late_count++] = tid;
}

int slk_trace_late(void)
{
	pid_t tid = late[0];

	if (!late_count)
		return 0;
	memmove(late, late + 1, --late_count * sizeof(*late));
	if (slk_trace_process(tid) < 0)
		slk_trace_later(tid);
	return late_count != 0;
}

int slk_trace_interrupt(pid_t tid)
{
	return ptrace(PTRACE_INTERRUPT, tid, 0, 0) == 0; /* else somebody else traces it, or it is not ours to trace */
}

#if defined(__x86_64__)
/* Was it let go on, and waits as it would bare? */
static int may_wait(const struct slk_engine_view *engine, pid_t tid, const struct user_regs_struct *registers)
{
	const struct slk_waiting_call *call = &engine->shared->waiting[(uint32_t)tid % SLK_WAITING_MAX];

	return __atomic_load_n(&call->tid, __ATOMIC_ACQUIRE) == tid && call->nr == (int32_t)registers->orig_rax &&
	       call->instruction_pointer == registers->rip && call->args[0] == registers->rdi &&
	       call->args[1] == registers->rsi;
}

/* Of the calls that are trapped whatever their arguments none can be interrupted bare; of the others (ioctl of a terminal
 * in the background) what was not trapped may be. */
static int is_trapped(const struct slk_engine_view *engine, unsigned long long nr)
{
	return nr < SLK_CALLS_MAX && engine->is_always_trapped[nr];
}

static void restart_withdrawn_call(const struct slk_engine_view *engine, pid_t tid)
{
	struct user_regs_struct registers;

	if (!engine || ptrace(PTRACE_GETREGS, tid, 0, &registers) < 0)
		return; /* nothing is trapped; or killed meanwhile */
	if ((long long)registers.rax != -SLK_ERESTARTSYS || !is_trapped(engine, registers.orig_rax) ||
	    may_wait(engine, tid, &registers))
		return;
	registers.rax = (unsigned long long)-SLK_ERESTARTNOINTR;
	ptrace(PTRACE_SETREGS, tid, 0, &registers);
}
#else
/* arm64 has decided about EINTR before it lets a tracer look (arch/arm64/kernel/signal.c, do_signal). */
static void restart_withdrawn_call(const struct slk_engine_view *engine, pid_t tid)
{
	(void)engine;
	(void)tid;
}
#endif

/* Under way. */
static struct slk_rewrite rewrites[SLK_REWRITES_MAX];

static struct slk_rewrite *rewrite_of(pid_t tid)
{
	for (uint32_t at = 0; at < SLK_REWRITES_MAX; at++)
		if (rewrites[at].tid == tid)
			return &rewrites[at];
	return NULL;
}

static struct slk_rewrite *free_rewrite(void)
{
	for (uint32_t at = 0; at < SLK_REWRITES_MAX; at++)
		if (!rewrites[at].tid || getpgid(rewrites[at].tid) < 0) /* killed before its stop */
			return &rewrites[at];
	return NULL;
}

int slk_trace_restart(const struct slk_rewrite *ordered)
{
	struct slk_rewrite *rewrite = rewrite_of(ordered->tid);

	if (!rewrite)
		rewrite = free_rewrite();
	if (!rewrite)
		return 0;
	*rewrite = *ordered;
	if (slk_trace_interrupt(ordered->tid))
		return 1;
	rewrite->tid = 0;
	return 0;
}

/* 1: it goes on with what it was told to do. */
static int is_rewritten(const struct slk_engine_view *engine, pid_t tid, int status)
{
	struct slk_rewrite *rewrite = rewrite_of(tid);
	long number = 0;
	int request;

	if (!rewrite)
		return 0;
	request = slk_rewrite_step(engine ? engine->shared : NULL, rewrite, status, &number);
	if (request == 0) {
		rewrite->tid = 0;
		if (!SLK_IS_CALL_STOP(status))
			return 0; /* a stop like any other */
		request = PTRACE_CONT;
	}
	ptrace((enum __ptrace_request)request, tid, 0, number);
	return 1;
}

int slk_traced_stopped(const struct slk_engine_view *engine, pid_t tid, int status)
{
	int event = status >> 16;
	int number = WSTOPSIG(status);

	if (is_rewritten(engine, tid, status))
		return event == PTRACE_EVENT_STOP && slk_is_job_control(number) ? number : 0;
	if (event == PTRACE_EVENT_STOP)
		restart_withdrawn_call(engine, tid);
	if (slk_throttle_takes_stop(tid, status))
		return 0;
	if (event == PTRACE_EVENT_STOP && slk_is_job_control(number)) {
		ptrace(PTRACE_LISTEN, tid, 0, 0); /* stays stopped, until SIGCONT */
		return number;
	}
	if (event) { /* a new thread, or the end of a stop */
		ptrace(PTRACE_CONT, tid, 0, 0);
		return 0;
	}
	restart_withdrawn_call(engine, tid);
	ptrace(PTRACE_CONT, tid, 0, number);
	return 0;
}
