/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Another call in the place of one that is trapped: fchdir for chdir, execveat of a descriptor for execve. Here is what
 * is done in each stop; restarts.c does it as the supervisor, tracer.c as init.
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
#include "rewrite.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>

/* Where something cannot be done in a stop, the thread was killed in it. */

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

	if (!slk_registers_get(rewrite->tid, &registers) || !slk_registers_in_call(&registers, rewrite))
		return 0; /* something else was answered, or nothing */
	slk_registers_restart_as(&registers, &rewrite->call);
	if (!slk_registers_set(rewrite->tid, &registers))
		return 0;
	rewrite->phase = SLK_LEFT;
	if (rewrite->call.end == SLK_RESTART_LEAVE)
		return 0;
	block_signals(rewrite);
	rewrite->phase = SLK_ENTERING;
	return PTRACE_SYSCALL;
}

static void tell_result(struct slk_shared *shared, const struct slk_rewrite *rewrite)
{
	struct slk_restart_result *told = &shared->results[(uint32_t)rewrite->tid % SLK_RESULTS_MAX];

	told->value = rewrite->result;
	__atomic_store_n(&told->tid, rewrite->tid, __ATOMIC_RELEASE);
}

/* What comes after the call that was asked for: 0, nothing more. */
static int call_further(struct slk_rewrite *rewrite, struct user_regs_struct *now)
{
	uint64_t args[6] = {(uint64_t)(uint32_t)rewrite->call.close_fd};
	int64_t result = slk_registers_result(now);

	if (rewrite->phase == SLK_CALLING) {
		rewrite->result = result;
		if (rewrite->call.close_fd < 0)
			return 0;
		if (rewrite->call.end == SLK_RESTART_OPEN && result >= 0) {
			const uint64_t move_args[6] = {(uint64_t)result, args[0], rewrite->call.args[2] & O_CLOEXEC};

			slk_registers_call_next(now, SYS_dup3, move_args);
			rewrite->phase = SLK_ENTERING_MOVE;
			return 1;
		}
		if (rewrite->call.end == SLK_RESTART_ENTER && result >= 0) {
			args[0] = (uint64_t)result;
			rewrite->entered = result;
			slk_registers_call_next(now, SYS_fchdir, args);
			rewrite->phase = SLK_ENTERING_MOVE;
			return 1;
		}
	} else if (rewrite->phase == SLK_MOVING && rewrite->call.end == SLK_RESTART_ENTER) {
		rewrite->result = result; /* close_fd is closed first, then what was entered */
	} else if (rewrite->phase == SLK_CLOSING && rewrite->call.end == SLK_RESTART_ENTER && rewrite->entered >= 0) {
		args[0] = (uint64_t)rewrite->entered;
		rewrite->entered = -1;
	} else if (rewrite->phase == SLK_MOVING && result == rewrite->call.close_fd) {
		args[0] = (uint64_t)rewrite->result;
		rewrite->result = result;
	} else if (rewrite->phase == SLK_CLOSING) {
		return 0;
	}
	slk_registers_call_next(now, SYS_close, args);
	rewrite->phase = SLK_ENTERING_CLOSE;
	return 1;
}

static int called(struct slk_shared *shared, struct slk_rewrite *rewrite)
{
	struct user_regs_struct registers;

	if (!slk_registers_get(rewrite->tid, &registers))
		return 0;
	if (call_further(rewrite, &registers))
		return slk_registers_set(rewrite->tid, &registers) ? PTRACE_SYSCALL : 0;
	if (rewrite->call.end == SLK_RESTART_AGAIN) {
		tell_result(shared, rewrite);
		slk_registers_call_next(&registers, rewrite->old_nr, rewrite->old_args);
	} else {
		slk_registers_return(&registers, rewrite);
	}
	slk_registers_set(rewrite->tid, &registers);
	give_signals_back(rewrite);
	return 0;
}

/* Before the call it is stopped for us first (get_signal looks for that before it takes signals), and with its signals
 * blocked no other comes but SIGSTOP's. */
int slk_rewrite_step(struct slk_shared *shared, struct slk_rewrite *rewrite, int status, long *ret_signal)
{
	int number = WSTOPSIG(status);

	*ret_signal = 0;
	if (SLK_IS_CALL_STOP(status)) {
		if (rewrite->phase == SLK_CALLING || rewrite->phase == SLK_MOVING || rewrite->phase == SLK_CLOSING)
			return called(shared, rewrite);
		rewrite->phase++;
		return PTRACE_SYSCALL;
	}
	if (status >> 16 == 0)
		*ret_signal = number;
	if (rewrite->phase == SLK_STOPPING && (status >> 16 == 0 || begin(rewrite) == 0))
		return 0;
	return status >> 16 && slk_is_job_control(number) ? PTRACE_LISTEN : PTRACE_SYSCALL;
}
