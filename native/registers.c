/* SPDX-License-Identifier: Apache-2.0 */
/* The registers of a thread that is stopped in a call that is to be another one, or after one: what differs between the
 * architectures (rewrite.c). */
#define _GNU_SOURCE
#include "rewrite.h"

#include <elf.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

#if defined(__x86_64__)
/*
 * In get_signal rax still holds the answer, orig_rax the number, and rip is behind the instruction. After the stop the
 * kernel puts orig_rax into rax and rip back by the instruction's two bytes (arch/x86/kernel/signal.c,
 * arch_do_signal_or_restart and handle_signal). ERESTARTSYS is what a call shows that PTRACE_INTERRUPT itself has
 * withdrawn, where the kernel has no WAIT_KILLABLE_RECV.
 */
#define INSTRUCTION_BYTES 2u

int slk_registers_in_call(const struct user_regs_struct *now, const struct slk_rewrite *rewrite)
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

void slk_registers_restart_as(struct user_regs_struct *now, const struct slk_restart *call)
{
	now->rax = (unsigned long long)-SLK_ERESTARTNOINTR;
	now->orig_rax = (unsigned long long)call->nr;
	set_args(now, call->args);
}

int64_t slk_registers_result(const struct user_regs_struct *now)
{
	return (int64_t)now->rax;
}

void slk_registers_call_next(struct user_regs_struct *now, int32_t nr, const uint64_t *args)
{
	now->rip -= INSTRUCTION_BYTES;
	now->rax = (unsigned long long)nr;
	now->orig_rax = (unsigned long long)-1;
	set_args(now, args);
}

void slk_registers_return(struct user_regs_struct *now, const struct slk_rewrite *rewrite)
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

int slk_registers_in_call(const struct user_regs_struct *now, const struct slk_rewrite *rewrite)
{
	return now->pc == rewrite->instruction_pointer - INSTRUCTION_BYTES &&
	       (int32_t)now->regs[8] == rewrite->old_nr &&
	       memcmp(now->regs, rewrite->old_args, sizeof(rewrite->old_args)) == 0;
}

void slk_registers_restart_as(struct user_regs_struct *now, const struct slk_restart *call)
{
	now->regs[8] = (unsigned long long)call->nr;
	memcpy(now->regs, call->args, sizeof(call->args));
}

int64_t slk_registers_result(const struct user_regs_struct *now)
{
	return (int64_t)now->regs[0];
}

void slk_registers_call_next(struct user_regs_struct *now, int32_t nr, const uint64_t *args)
{
	now->pc -= INSTRUCTION_BYTES;
	now->regs[8] = (unsigned long long)nr;
	memcpy(now->regs, args, 6 * sizeof(*args));
}

/* x0 is the first argument and the result. */
void slk_registers_return(struct user_regs_struct *now, const struct slk_rewrite *rewrite)
{
	memcpy(now->regs, rewrite->old_args, sizeof(rewrite->old_args));
	now->regs[0] = (unsigned long long)rewrite->result;
	now->regs[8] = (unsigned long long)rewrite->old_nr;
}
#else
#error "how a call is restarted on this architecture is not known"
#endif

int slk_registers_get(pid_t tid, struct user_regs_struct *ret_registers)
{
	struct iovec all = {ret_registers, sizeof(*ret_registers)};

	return ptrace(PTRACE_GETREGSET, tid, NT_PRSTATUS, &all) == 0 && all.iov_len == sizeof(*ret_registers);
}

int slk_registers_set(pid_t tid, struct user_regs_struct *registers)
{
	struct iovec all = {registers, sizeof(*registers)};

	return ptrace(PTRACE_SETREGSET, tid, NT_PRSTATUS, &all) == 0;
}
