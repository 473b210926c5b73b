/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Another call in the place of one that is trapped: fchdir for chdir, execveat of a descriptor for execve.
 *
 * The caller is seized, told to stop (PTRACE_INTERRUPT), and answered with ERESTARTNOINTR, which no program sees: on its
 * way back it stops, in get_signal (kernel/signal.c), before a signal is taken and before the kernel acts upon the
 * number. Its registers are changed there. The kernel then runs the system call instruction again, at once or, where a
 * handler comes first, after it. Nothing is written into the program's memory.
 *
 * A call that comes back (all but execve) is followed to its end (PTRACE_SYSCALL): a compiler that inlines a call counts
 * on finding the arguments in their registers afterwards, and the injected descriptor is to be closed, or a shell would
 * have one more with each cd. Signals are blocked for that long, and stay pending; else a handler could run in between.
 *
 * Who does it: this thread of ours, with no third process in between. A process has one tracer at most, and one with
 * timers has init (tracer.c): then init does, told by an order. If we die in between, the kernel detaches what we have seized and
 * lets it go on: it waits for its answer still, or makes the old call again, which asks again. (Or it has made the new
 * one, and goes on with its signals blocked.)
 *
 * Nothing here waits for the program: PTRACE_SEIZE waits for a thread of the same process that is in execve
 * (cred_guard_mutex), and is given up after a moment; what is seized and does not stop in time (a CPU quota, an
 * overloaded machine, a slow file system, job control) is gone on with by slk_rewrites_finish, from the drain.
 *
 * A stop for job control that comes at the same time stays one: the thread stops once, for both, and when it is let go
 * the kernel has it stop again until SIGCONT (kernel/ptrace.c, __ptrace_unlink).
 *
 * The new call may be trapped like the old one. It is let through if it comes from the same thread, from the same
 * instruction, with the same number and arguments, as the next thing that this thread asks, and once. Between the moment
 * we injected a descriptor and the moment the kernel uses it, another thread of the program may put something else in
 * its place, whether the call is trapped or not; so whoever restarts a call names the rule of the kernel that makes that
 * harmless (handlers/answers.py, Backstop): Landlock judges what is executed by a descriptor as it does by a name, and
 * fchdir gives no right and takes the program nowhere that its own fchdir would not. A call that the table refuses is
 * never made this way. What is closed afterwards may be something else by then as well: that of the thread which did it.
 */
#define _GNU_SOURCE
#include "slk.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

/* Of a wait for others, the interval of the looks at the clock. */
#define LOOK_EVERY_NS 1000000
/* PTRACE_SEIZE is given up after so many looks: a thread in execve holds it up until we are told of the end of its siblings.
 * Looks, not time: where we had to wait for our CPU, the first one may come before we asked. */
#define SEIZE_LOOKS_MAX 2
#define END_TRIES_MAX 100
#define FOLLOW_PATIENCE_MS 5
/* init waits for nobody for long; it may have to wait for a CPU, and a call that it does not restart fails. */
#define INIT_PATIENCE_MS 1000

enum phase {
	STOPPING, /* told to stop */
	LEFT,     /* let go as it begins */
	ENTERING, /* the stop before the call is next */
	CALLING,  /* the stop after it */
	ENTERING_MOVE,
	MOVING,
	ENTERING_CLOSE,
	CLOSING,
	NEVER,
};

/* ---- the registers of a stopped thread */

#if defined(__x86_64__)
/*
 * In get_signal rax still holds the answer, orig_rax the number, and rip is behind the instruction. After the stop the
 * kernel puts orig_rax into rax and rip back by the instruction's two bytes (arch/x86/kernel/signal.c,
 * arch_do_signal_or_restart and handle_signal). ERESTARTSYS is what a call shows that PTRACE_INTERRUPT itself has
 * withdrawn, where the kernel has no WAIT_KILLABLE_RECV.
 */
#define INSTRUCTION_BYTES 2u

static int is_in_call(const struct user_regs_struct *now, const struct slk_rewrite *rewrite)
{
	const uint64_t found[6] = {now->rdi, now->rsi, now->rdx, now->r10, now->r8, now->r9};
	int64_t result = (int64_t)now->rax;

	return (result == -SLK_ERESTARTNOINTR || result == -SLK_ERESTARTSYS) &&
	       (int32_t)now->orig_rax == rewrite->old_nr && now->rip == rewrite->instruction_pointer &&
	       memcmp(found, rewrite->old_args, sizeof(found)) == 0;
}

static void set_args(struct user_regs_struct *now, const uint64_t *args)
{
	now->rdi = args[0];
	now->rsi = args[1];
	now->rdx = args[2];
	now->r10 = args[3];
	now->r8 = args[4];
	now->r9 = args[5];
}

static void restart_as(struct user_regs_struct *now, const struct slk_restart *call)
{
	now->rax = (unsigned long long)-SLK_ERESTARTNOINTR;
	now->orig_rax = (unsigned long long)call->nr;
	set_args(now, call->args);
}

static int64_t result_of(const struct user_regs_struct *now)
{
	return (int64_t)now->rax;
}

/* From the stop after a call: it was none, and the next thing is the instruction. */
static void call_next(struct user_regs_struct *now, int32_t nr, const uint64_t *args)
{
	now->rip -= INSTRUCTION_BYTES;
	now->rax = (unsigned long long)nr;
	now->orig_rax = (unsigned long long)-1;
	set_args(now, args);
}

static void return_from_call(struct user_regs_struct *now, const struct slk_rewrite *rewrite)
{
	set_args(now, rewrite->old_args);
	now->rax = (unsigned long long)rewrite->result;
	now->orig_rax = (unsigned long long)-1;
}
#elif defined(__aarch64__)
/*
 * By the time of the stop in get_signal the kernel has put pc back to the instruction and x0 back to what it was, and
 * forgotten that this was a call (arch/arm64/kernel/signal.c, do_signal): the instruction runs again with what is in the
 * registers. pc is to be left alone: a handler that comes first is given it as it is. In the stops before and after a
 * call x7 cannot be changed (arch/arm64/kernel/ptrace.c, report_syscall); no call has a seventh argument.
 */
#define INSTRUCTION_BYTES 4u

static int is_in_call(const struct user_regs_struct *now, const struct slk_rewrite *rewrite)
{
	return now->pc == rewrite->instruction_pointer - INSTRUCTION_BYTES &&
	       (int32_t)now->regs[8] == rewrite->old_nr &&
	       memcmp(now->regs, rewrite->old_args, sizeof(rewrite->old_args)) == 0;
}

static void restart_as(struct user_regs_struct *now, const struct slk_restart *call)
{
	now->regs[8] = (unsigned long long)call->nr;
	memcpy(now->regs, call->args, sizeof(call->args));
}

static int64_t result_of(const struct user_regs_struct *now)
{
	return (int64_t)now->regs[0];
}

static void call_next(struct user_regs_struct *now, int32_t nr, const uint64_t *args)
{
	now->pc -= INSTRUCTION_BYTES;
	now->regs[8] = (unsigned long long)nr;
	memcpy(now->regs, args, 6 * sizeof(*args));
}

/* x0 is the first argument and the result. */
static void return_from_call(struct user_regs_struct *now, const struct slk_rewrite *rewrite)
{
	memcpy(now->regs, rewrite->old_args, sizeof(rewrite->old_args));
	now->regs[0] = (unsigned long long)rewrite->result;
	now->regs[8] = (unsigned long long)rewrite->old_nr;
}
#else
#error "how a call is restarted on this architecture is not known"
#endif

static int get_registers(pid_t tid, struct user_regs_struct *ret_registers)
{
	struct iovec all = {ret_registers, sizeof(*ret_registers)};

	return ptrace(PTRACE_GETREGSET, tid, NT_PRSTATUS, &all) == 0 && all.iov_len == sizeof(*ret_registers);
}

static int set_registers(pid_t tid, struct user_regs_struct *registers)
{
	struct iovec all = {registers, sizeof(*registers)};

	return ptrace(PTRACE_SETREGSET, tid, NT_PRSTATUS, &all) == 0;
}

/* ---- what is done in each stop. Where it cannot be done, the thread was killed in it. */

static void block_signals(struct slk_rewrite *rewrite)
{
	uint64_t all = UINT64_MAX;

	if (ptrace(PTRACE_GETSIGMASK, rewrite->tid, sizeof(all), &rewrite->blocked) == 0)
		ptrace(PTRACE_SETSIGMASK, rewrite->tid, sizeof(all), &all);
}

static void give_signals_back(const struct slk_rewrite *rewrite)
{
	uint64_t blocked = rewrite->blocked;

	ptrace(PTRACE_SETSIGMASK, rewrite->tid, sizeof(blocked), &blocked);
}

int slk_is_job_control(int number)
{
	return number == SIGSTOP || number == SIGTSTP || number == SIGTTIN || number == SIGTTOU;
}

static int begin(struct slk_rewrite *rewrite)
{
	struct user_regs_struct registers;

	if (!get_registers(rewrite->tid, &registers) || !is_in_call(&registers, rewrite))
		return 0; /* something else was answered, or nothing */
	restart_as(&registers, &rewrite->call);
	if (!set_registers(rewrite->tid, &registers))
		return 0;
	rewrite->phase = LEFT;
	if (rewrite->call.end == SLK_RESTART_LEAVE)
		return 0;
	block_signals(rewrite);
	rewrite->phase = ENTERING;
	return PTRACE_SYSCALL;
}

static void tell_result(const struct slk_engine *engine, const struct slk_rewrite *rewrite)
{
	struct slk_restart_result *told = &engine->shared->results[(uint32_t)rewrite->tid % SLK_RESULTS_MAX];

	told->value = rewrite->result;
	__atomic_store_n(&told->tid, rewrite->tid, __ATOMIC_RELEASE);
}

/* What comes after the call that was asked for: 0, nothing more. */
static int call_further(struct slk_rewrite *rewrite, struct user_regs_struct *now)
{
	uint64_t args[6] = {(uint64_t)(uint32_t)rewrite->call.close_fd};
	int64_t result = result_of(now);

	if (rewrite->phase == CALLING) {
		rewrite->result = result;
		if (rewrite->call.close_fd < 0)
			return 0;
		if (rewrite->call.end == SLK_RESTART_OPEN && result >= 0) {
			const uint64_t move_args[6] = {(uint64_t)result, args[0], rewrite->call.args[2] & O_CLOEXEC};

			call_next(now, SYS_dup3, move_args);
			rewrite->phase = ENTERING_MOVE;
			return 1;
		}
	} else if (rewrite->phase == MOVING && result == rewrite->call.close_fd) {
		args[0] = (uint64_t)rewrite->result;
		rewrite->result = result;
	} else if (rewrite->phase == CLOSING) {
		return 0;
	}
	call_next(now, SYS_close, args);
	rewrite->phase = ENTERING_CLOSE;
	return 1;
}

static int called(const struct slk_engine *engine, struct slk_rewrite *rewrite)
{
	struct user_regs_struct registers;

	if (!get_registers(rewrite->tid, &registers))
		return 0;
	if (call_further(rewrite, &registers))
		return set_registers(rewrite->tid, &registers) ? PTRACE_SYSCALL : 0;
	if (rewrite->call.end == SLK_RESTART_AGAIN) {
		tell_result(engine, rewrite);
		call_next(&registers, rewrite->old_nr, rewrite->old_args);
	} else {
		return_from_call(&registers, rewrite);
	}
	set_registers(rewrite->tid, &registers);
	give_signals_back(rewrite);
	return 0;
}

/* Before the call it is stopped for us first (get_signal looks for that before it takes signals), and with its signals
 * blocked no other comes but SIGSTOP's. */
int slk_rewrite_step(const struct slk_engine *engine, struct slk_rewrite *rewrite, int status, long *ret_signal)
{
	int number = WSTOPSIG(status);

	*ret_signal = 0;
	if (SLK_IS_CALL_STOP(status)) {
		if (rewrite->phase == CALLING || rewrite->phase == MOVING || rewrite->phase == CLOSING)
			return called(engine, rewrite);
		rewrite->phase++;
		return PTRACE_SYSCALL;
	}
	if (status >> 16 == 0)
		*ret_signal = number;
	if (rewrite->phase == STOPPING && (status >> 16 == 0 || begin(rewrite) == 0))
		return 0;
	return status >> 16 && slk_is_job_control(number) ? PTRACE_LISTEN : PTRACE_SYSCALL;
}

/* ---- our own waits, bounded */

struct patience {
	uint64_t end_ns;
	sigset_t before;
};

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

/* Every other signal is kept away: the handler of one could be left in its middle. */
static int begin_patience(struct slk_engine *engine, int32_t timeout_ms, struct patience *ret_patience)
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

static void end_patience(struct slk_engine *engine, const struct patience *patience)
{
	static const struct itimerspec never;

	timer_settime(engine->patience, 0, &never, NULL);
	pthread_sigmask(SIG_SETMASK, &patience->before, NULL);
}

/* The call would be begun anew after a handler that returns (ERESTARTNOINTR): so that one does not. It may have come
 * when the call was done; whether it was, PTRACE_INTERRUPT tells, which comes next anyway. The one in execve may have
 * killed our caller meanwhile, and have its number. */
static int seize(const struct slk_engine *engine, const struct slk_slot *slot)
{
	volatile int looks = 0;
	int result;

	if (sigsetjmp(seize_ends, 0) != 0) {
		is_seizing = 0;
		if (ptrace(PTRACE_INTERRUPT, slot->tid, 0, 0) == 0)
			return 0;
		if (slk_notif_id_valid(engine->listener_fd, slot->notif_id) != 1)
			return -EPERM;
		if (++looks == SEIZE_LOOKS_MAX)
			return -EAGAIN;
	}
	is_seizing = 1;
	result = ptrace(PTRACE_SEIZE, slot->tid, 0, PTRACE_O_TRACESYSGOOD) < 0 ? -errno : 0;
	is_seizing = 0;
	return result;
}

/* 1: it has stopped; 0: not in time; -ENOENT: it has ended, or its number is by now its sibling's, which is in execve. */
static int await_stop(pid_t tid, uint64_t end_ns, int options, int *ret_status)
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

/* ---- what is under way */

/*
 * 0: it is over; -EINPROGRESS; -ENOENT: the thread has ended; -ESTALE: it was not in that call. When it was killed in a
 * stop there is nothing to detach, but its end is to be taken, or nobody else ever hears of it.
 * as_far_as: the phase from which on the caller needs our drain; NEVER.
 */
static int finish_one(const struct slk_engine *engine, struct slk_rewrite *rewrite, uint64_t end_ns, int options,
		      enum phase as_far_as, const struct slk_confined *confined)
{
	for (;;) {
		int status, request;
		long number;
		int result = await_stop(rewrite->tid, end_ns, options, &status);

		if (result <= 0)
			return result ? result : -EINPROGRESS;
		request = slk_rewrite_step(engine, rewrite, status, &number);
		if (request) {
			ptrace((enum __ptrace_request)request, rewrite->tid, 0, number); /* or it is killed by now */
			if (request == PTRACE_LISTEN || rewrite->phase == (int32_t)as_far_as)
				return -EINPROGRESS; /* for long, maybe */
			continue;
		}
		if (confined)
			slk_release(confined); /* before a line of the program runs */
		if (ptrace(PTRACE_DETACH, rewrite->tid, 0, number) == 0)
			return rewrite->phase == STOPPING ? -ESTALE : 0;
	}
}

int slk_rewrites_finish(struct slk_engine *engine)
{
	for (uint32_t at = engine->unfinished_count; at-- > 0;)
		if (finish_one(engine, &engine->unfinished[at], 0, WNOHANG, NEVER, NULL) != -EINPROGRESS)
			engine->unfinished[at] = engine->unfinished[--engine->unfinished_count];
	return engine->unfinished_count != 0;
}

uint32_t slk_restarts_under_way(const struct slk_engine *engine)
{
	return engine->unfinished_count;
}

/* Nobody will look again, and whoever waits for the end of all waits for those that only we can reap. */
void slk_rewrites_end(struct slk_engine *engine)
{
	for (int tries = 0; slk_rewrites_finish(engine) && tries < END_TRIES_MAX; tries++)
		poll(NULL, 0, 1);
}

/* ---- what may pass, because we have asked for it */

void slk_rewrite_forget(struct slk_engine *engine, int32_t tid)
{
	for (uint32_t at = engine->passing_count; at-- > 0;)
		if (engine->passing[at].tid == tid)
			engine->passing[at] = engine->passing[--engine->passing_count];
}

static int is_trapped(const struct slk_engine *engine, const struct slk_rewrite *rewrite)
{
	return engine->calls[rewrite->call.nr].treatment != SLK_CALL_NONE;
}

/* The oldest gives way: its call is then judged as any other. */
static void will_pass(struct slk_engine *engine, const struct slk_rewrite *rewrite)
{
	slk_rewrite_forget(engine, rewrite->tid);
	if (!is_trapped(engine, rewrite))
		return;
	if (engine->passing_count == SLK_REWRITES_MAX)
		memmove(engine->passing, engine->passing + 1, --engine->passing_count * sizeof(*engine->passing));
	engine->passing[engine->passing_count++] = *rewrite;
}

/* The call is made now, and what comes after it is not trapped: followed to its end at once. */
static void follow(struct slk_engine *engine, int32_t tid)
{
	struct patience patience;

	for (uint32_t at = engine->unfinished_count; at-- > 0;) {
		struct slk_rewrite *rewrite = &engine->unfinished[at];

		if (rewrite->tid != tid || begin_patience(engine, FOLLOW_PATIENCE_MS, &patience) < 0)
			continue;
		if (finish_one(engine, rewrite, patience.end_ns, 0, NEVER, NULL) != -EINPROGRESS)
			engine->unfinished[at] = engine->unfinished[--engine->unfinished_count];
		end_patience(engine, &patience);
	}
}

int slk_rewrite_passes(struct slk_engine *engine, const struct slk_request *request)
{
	int fits = 0;

	for (uint32_t at = 0; at < engine->passing_count; at++) {
		const struct slk_rewrite *rewrite = &engine->passing[at];

		if (rewrite->tid == request->tid)
			fits = rewrite->call.nr == request->nr &&
			       rewrite->instruction_pointer == request->instruction_pointer &&
			       memcmp(rewrite->call.args, request->args, sizeof(request->args)) == 0;
	}
	slk_rewrite_forget(engine, request->tid); /* used, or what it was meant for has not come */
	if (!fits)
		return 0;
	engine->counts.continued++;
	slk_answer_continue(engine, request->slot);
	follow(engine, request->tid);
	return 1;
}

/* ---- answering */

/* -ENOENT: it is dead, and to be reaped here. */
static int hold(const struct slk_engine *engine, const struct slk_slot *slot)
{
	int result = seize(engine, slot);

	if (result == -ESRCH)
		return -ENOENT;
	if (result == 0 && ptrace(PTRACE_INTERRUPT, slot->tid, 0, 0) < 0)
		return -ENOENT;
	return result;
}

/* A stop and a going on wake one of us each, four times where the call returns: on one CPU, where that is to be had. */
static int finish_now(const struct slk_engine *engine, struct slk_rewrite *rewrite, uint64_t end_ns,
		      enum phase as_far_as)
{
	struct slk_confined confined;
	int is_confined = rewrite->call.end != SLK_RESTART_LEAVE && slk_may_confine(engine) &&
			  slk_confine(rewrite->tid, &confined);
	int result = finish_one(engine, rewrite, end_ns, 0, as_far_as, is_confined ? &confined : NULL);

	if (is_confined && result != 0)
		slk_release(&confined);
	return result;
}

static int restart_by_us(struct slk_engine *engine, uint32_t index, struct slk_rewrite *rewrite,
			 const struct patience *patience)
{
	/* A call that is trapped needs the drain before it can return: slk_rewrite_passes goes on then. */
	int waits = rewrite->call.end == SLK_RESTART_LEAVE || !is_trapped(engine, rewrite);
	int held = hold(engine, &engine->slots[index]);
	int sent, finished;

	if (held < 0 && held != -ENOENT)
		return held;
	/* That number to one that will not stop would reach the program. */
	sent = slk_answer(engine, index, 0, held == 0 ? -SLK_ERESTARTNOINTR : -EIO, 0);
	/* Withdrawn meanwhile (ENOENT), it stops all the same, and its registers say whether it is in that call still. */
	finished = finish_now(engine, rewrite, patience->end_ns, waits ? NEVER : CALLING);
	if (finished == -EINPROGRESS) {
		engine->unfinished[engine->unfinished_count++] = *rewrite;
		finished = 0;
	}
	if (finished == 0)
		will_pass(engine, rewrite);
	if (sent == -ENOENT && finished == -ESTALE)
		return -ENOENT; /* another one has its number */
	return sent < 0 && sent != -ENOENT ? sent : finished;
}

/* Before a stranger is stopped: 1 when nobody waits any more, and the slot is free. */
static int has_vanished(struct slk_engine *engine, struct slk_slot *slot)
{
	if (slk_notif_id_valid(engine->listener_fd, slot->notif_id) == 1)
		return 0;
	engine->counts.vanished++;
	slk_slot_release(slot);
	return 1;
}

static int restart_by_init(struct slk_engine *engine, uint32_t index, int control_fd,
			   const struct slk_rewrite *rewrite, int32_t timeout_ms)
{
	int result = slk_order_restart(engine, control_fd, rewrite, timeout_ms);

	if (result <= 0)
		return result < 0 ? result : -EPERM;
	will_pass(engine, rewrite);
	return slk_answer(engine, index, 0, -SLK_ERESTARTNOINTR, 0);
}

int slk_answer_restart(struct slk_engine *engine, uint32_t index, int control_fd, const struct slk_restart *call,
		       int32_t timeout_ms)
{
	struct slk_rewrite rewrite = {.call = *call};
	struct patience patience;
	struct slk_slot *slot = slk_slot_in_use(engine, index);
	int result;

	if (!slot)
		return -EBADSLT;
	if (call->nr < 0 || call->nr >= SLK_CALLS_MAX || engine->calls[call->nr].treatment == SLK_CALL_REFUSE)
		return -EPERM;
	slk_rewrites_finish(engine);
	if (engine->unfinished_count == SLK_REWRITES_MAX)
		return -EAGAIN;
	if (has_vanished(engine, slot))
		return -ENOENT;
	rewrite.tid = slot->tid;
	rewrite.old_nr = slot->nr;
	rewrite.instruction_pointer = slot->instruction_pointer;
	memcpy(rewrite.old_args, slot->args, sizeof(rewrite.old_args));
	result = begin_patience(engine, timeout_ms, &patience);
	if (result < 0)
		return result;
	result = restart_by_us(engine, index, &rewrite, &patience);
	end_patience(engine, &patience);
	if (result != -EPERM || control_fd < 0)
		return result;
	if (has_vanished(engine, slot))
		return -ENOENT; /* the dead are not seized either */
	if (timeout_ms < INIT_PATIENCE_MS)
		timeout_ms = INIT_PATIENCE_MS;
	return restart_by_init(engine, index, control_fd, &rewrite, timeout_ms); /* if its process has timers */
}

int slk_restart_result(struct slk_engine *engine, int32_t tid, int64_t *ret_result)
{
	struct slk_restart_result *told = &engine->shared->results[(uint32_t)tid % SLK_RESULTS_MAX];

	if (__atomic_load_n(&told->tid, __ATOMIC_ACQUIRE) != tid)
		return 0;
	*ret_result = told->value;
	told->tid = 0;
	return 1;
}
