/* SPDX-License-Identifier: Apache-2.0 */
/* What the files that hold whoever computes share: throttle.c, and throttle_calls.c for the calls they come out of. */
#ifndef SLK_THROTTLE_H
#define SLK_THROTTLE_H

#include <sys/wait.h>

#include "rewrite.h"

#define SLK_ERESTART_MAX 516 /* ERESTART_RESTARTBLOCK */

enum slk_held_call { SLK_HELD_CALL_IS_OVER, SLK_HELD_CALL_GOES_ON, SLK_HELD_CALL_WAITS };

/* Of a thread that was told to stop, and has. 1: it has a call to make for the rest (PTRACE_SYSCALL), and the stops that
 * come then go to: */
int slk_throttle_mend(pid_t tid);
/* IS_OVER: it goes on as without us; GOES_ON: with PTRACE_SYSCALL; WAITS: likewise, now or later. */
enum slk_held_call slk_throttle_call_step(pid_t tid, int status);
void slk_throttle_forget_call(pid_t tid);

#endif /* SLK_THROTTLE_H */
