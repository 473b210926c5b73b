/* SPDX-License-Identifier: Apache-2.0 */
/* What the files that replace a call share: rewrite.c tells how it is done, registers.c, patience.c, restarts.c. */
#ifndef SLK_REWRITE_H
#define SLK_REWRITE_H

#include <signal.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/user.h>

#include "slk.h"

/* Of a call that is replaced; what happens next to its thread. */
enum slk_rewrite_phase {
	SLK_STOPPING, /* told to stop */
	SLK_LEFT,     /* let go as it begins */
	SLK_ENTERING, /* the stop before the call is next */
	SLK_CALLING,  /* the stop after it */
	SLK_ENTERING_MOVE,
	SLK_MOVING,
	SLK_ENTERING_CLOSE,
	SLK_CLOSING,
	SLK_NEVER, /* comes */
};

/* ---- registers.c */

int slk_registers_get(pid_t tid, struct user_regs_struct *ret_registers);
int slk_registers_set(pid_t tid, struct user_regs_struct *registers);
/* Does it wait in the call that is to be replaced? */
int slk_registers_in_call(const struct user_regs_struct *now, const struct slk_rewrite *rewrite);
/* From there: the kernel makes this call instead. */
void slk_registers_restart_as(struct user_regs_struct *now, const struct slk_restart *call);
int64_t slk_registers_result(const struct user_regs_struct *now);
/* From the stop after a call: it was none, and the next thing is the instruction. */
void slk_registers_call_next(struct user_regs_struct *now, int32_t nr, const uint64_t *args);
/* The call is over, as if it had been the old one. */
void slk_registers_return(struct user_regs_struct *now, const struct slk_rewrite *rewrite);

/* ---- patience.c */

struct slk_patience {
	uint64_t end_ns;
	sigset_t before;
};

/* Every other signal is kept away: the handler of one could be left in its middle. */
int slk_patience_begin(struct slk_engine *engine, int32_t timeout_ms, struct slk_patience *ret_patience);
void slk_patience_end(struct slk_engine *engine, const struct slk_patience *patience);
/* -EAGAIN: not in time; -EPERM: it is traced by another, or gone. */
int slk_seize(const struct slk_engine *engine, const struct slk_slot *slot);
/* 1: it has stopped; 0: not in time; -ENOENT: it has ended, or its number is by now its sibling's, which is in execve. */
int slk_await_stop(pid_t tid, uint64_t end_ns, int options, int *ret_status);

#endif /* SLK_REWRITE_H */
