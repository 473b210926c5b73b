/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The calls that a thread comes out of because it is told to stop (throttle.c): nobody shall see that it was.
 *
 * Who is about to wait in the kernel comes back. Most calls are begun anew by the kernel itself; those that say EINTR are
 * made such as begin anew if no handler runs (ERESTARTNOHAND).
 *
 * Some have done a part by then, and say so: a write of more than a pipe holds, a read of much from /dev/urandom. Bare that
 * happens with signals only, and many programs take it for an error. So the thread makes the same call again for the rest,
 * and returns with the sum. If a signal comes meanwhile, or a stop of job control, it returns with what was done, as bare.
 */
#define _GNU_SOURCE
#include "throttle.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)
#define CUTS_MAX 256 /* those beyond return with less */
#define AT_ONCE_MAX 0x7ffff000u /* MAX_RW_COUNT (include/linux/fs.h) */
#define INSTRUCTION_BYTES 2u

enum place { AT_INSTRUCTION, IN_CALL, BEGINS_ANEW };

struct cut {
	pid_t tid; /* 0: none */
	enum place place;
	uint64_t nr, args[6], done;
	int buffer; /* which argument; the next one is the size */
};

static struct cut cuts[CUTS_MAX];

/* Those that signal(7) names, where they can be begun anew; with a timeout, that begins anew as well. */
static int says_eintr(unsigned long long nr)
{
	static const long calls[] = {SYS_epoll_wait, SYS_epoll_pwait, 441 /* epoll_pwait2 */, SYS_semop, SYS_semtimedop,
				     SYS_rt_sigtimedwait, SYS_io_getevents, SYS_futex, SYS_read, SYS_readv, SYS_write,
				     SYS_writev, SYS_recvfrom, SYS_recvmsg, SYS_recvmmsg, SYS_sendto, SYS_sendmsg,
				     SYS_sendmmsg, SYS_accept, SYS_accept4, SYS_connect, SYS_fallocate};

	for (size_t i = 0; i < sizeof(calls) / sizeof(*calls); i++)
		if (nr == (unsigned long long)calls[i])
			return 1;
	return 0;
}

/* Only looked at by its name: a server might not answer for what it is. */
static int computes(pid_t tid, uint64_t fd)
{
	char path[64], found[32] = "";

	snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)tid, (int)fd);
	if (readlink(path, found, sizeof(found) - 1) < 0)
		return 0;
	return !strcmp(found, "/dev/urandom") || !strcmp(found, "/dev/random") || !strcmp(found, "/dev/zero") ||
	       !strcmp(found, "/dev/full");
}

/* Where a write comes back with less for what the program is to know (no room, RLIMIT_FSIZE), and made again for the rest it
 * would be told otherwise (SIGXFSZ). No stop cuts it there. Whose file it is may answer when he likes, and is not asked. */
static int is_storage(pid_t tid, uint64_t fd)
{
	struct statx status;
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)tid, (int)fd);
	return statx(AT_FDCWD, path, AT_STATX_DONT_SYNC, STATX_TYPE, &status) < 0 || S_ISREG(status.stx_mode) ||
	       S_ISBLK(status.stx_mode);
}

/* Which argument is the buffer, if it is a call that never returns with less unless a signal comes; -1. */
static int buffer_of(pid_t tid, const struct user_regs_struct *now)
{
	switch (now->orig_rax) {
	case SYS_write:
		return is_storage(tid, now->rdi) ? -1 : 1;
	case SYS_sendto:
		return 1;
	case SYS_read:
		return computes(tid, now->rdi) ? 1 : -1;
	case SYS_getrandom:
		return 0;
	default:
		return -1;
	}
}

static struct cut *cut_of(pid_t tid)
{
	for (uint32_t i = 0; i < CUTS_MAX; i++)
		if (cuts[i].tid == tid)
			return &cuts[i];
	return NULL;
}

static uint64_t size_of(const struct cut *cut)
{
	uint64_t size = cut->args[cut->buffer + 1];

	return size < AT_ONCE_MAX ? size : AT_ONCE_MAX;
}

static int is_cut(pid_t tid, const struct user_regs_struct *now, struct cut *ret_cut)
{
	struct cut cut = {.tid = tid, .nr = now->orig_rax, .done = now->rax,
			  .args = {now->rdi, now->rsi, now->rdx, now->r10, now->r8, now->r9}};

	if ((int64_t)now->rax <= 0 || now->rax >= AT_ONCE_MAX)
		return 0;
	cut.buffer = buffer_of(tid, now);
	if (cut.buffer < 0 || cut.done >= size_of(&cut))
		return 0;
	*ret_cut = cut;
	return 1;
}

static void set_to_rest(struct cut *cut, struct user_regs_struct *now)
{
	uint64_t args[6];

	memcpy(args, cut->args, sizeof(args));
	args[cut->buffer] += cut->done;
	args[cut->buffer + 1] -= cut->done;
	slk_registers_call_next(now, (int32_t)cut->nr, args);
	cut->place = AT_INSTRUCTION;
}

/* What it has come to is what it returns with. */
static void set_to_result(const struct cut *cut, struct user_regs_struct *now)
{
	struct slk_rewrite rewrite = {.result = (int64_t)cut->done};

	memcpy(rewrite.old_args, cut->args, sizeof(cut->args));
	if (cut->place == AT_INSTRUCTION)
		now->rip += INSTRUCTION_BYTES;
	slk_registers_return(now, &rewrite);
}

int slk_throttle_mend(pid_t tid)
{
	struct user_regs_struct registers;
	struct cut found, *cut = cut_of(0);

	if (!slk_registers_get(tid, &registers))
		return 0;
	if ((int64_t)registers.rax == -EINTR && says_eintr(registers.orig_rax)) {
		registers.rax = (unsigned long long)-SLK_ERESTARTNOHAND;
		slk_registers_set(tid, &registers);
		return 0;
	}
	if (!cut || !is_cut(tid, &registers, &found))
		return 0;
	set_to_rest(&found, &registers);
	if (!slk_registers_set(tid, &registers))
		return 0;
	*cut = found;
	return 1;
}

/* After the call. 1: more is to come. */
static int returned(struct cut *cut, struct user_regs_struct *now)
{
	int64_t result = slk_registers_result(now);

	cut->place = BEGINS_ANEW; /* behind the instruction */
	if (result <= -SLK_ERESTARTSYS && result >= -SLK_ERESTART_MAX)
		return 1; /* the kernel does that, or a signal comes first */
	if (result > 0) {
		cut->done += (uint64_t)result;
		if (cut->done < size_of(cut)) {
			set_to_rest(cut, now);
			return 1;
		}
	}
	set_to_result(cut, now);
	return 0;
}

enum slk_held_call slk_throttle_call_step(pid_t tid, int status)
{
	struct cut *cut = cut_of(tid);
	struct user_regs_struct registers;
	enum slk_held_call next = SLK_HELD_CALL_GOES_ON;

	if (!cut || !slk_registers_get(tid, &registers)) {
		slk_throttle_forget_call(tid); /* it was killed */
		return SLK_HELD_CALL_IS_OVER;
	}
	if (SLK_IS_CALL_STOP(status) && cut->place != IN_CALL) {
		cut->place = IN_CALL;
		return next;
	}
	if (SLK_IS_CALL_STOP(status)) {
		if (!returned(cut, &registers))
			next = SLK_HELD_CALL_IS_OVER;
	} else if (status >> 16 && !slk_is_job_control(WSTOPSIG(status))) {
		return SLK_HELD_CALL_WAITS;
	} else {
		set_to_result(cut, &registers);
		next = SLK_HELD_CALL_IS_OVER;
	}
	slk_registers_set(tid, &registers);
	if (next == SLK_HELD_CALL_IS_OVER)
		cut->tid = 0;
	return next;
}

void slk_throttle_forget_call(pid_t tid)
{
	struct cut *cut = cut_of(tid);

	if (cut)
		cut->tid = 0;
}
#else
/* By now the kernel has forgotten that it was a call (arch/arm64/kernel/signal.c, do_signal). */
int slk_throttle_mend(pid_t tid)
{
	(void)tid;
	return 0;
}

enum slk_held_call slk_throttle_call_step(pid_t tid, int status)
{
	(void)tid;
	(void)status;
	return SLK_HELD_CALL_IS_OVER;
}

void slk_throttle_forget_call(pid_t tid)
{
	(void)tid;
}
#endif
