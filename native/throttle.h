/* SPDX-License-Identifier: Apache-2.0 */
/* What the files that hold whoever computes share: throttle.c says when, holding.c holds, stillness.c finds who runs in a
 * pause, and throttle_calls.c is for the calls that they come out of. */
#ifndef SLK_THROTTLE_H
#define SLK_THROTTLE_H

#include <sys/wait.h>

#include "rewrite.h"

#define SLK_ERESTART_MAX 516 /* ERESTART_RESTARTBLOCK */
#define SLK_NS_PER_MS UINT64_C(1000000)
#define SLK_SEARCH_MAX_NS (16 * SLK_NS_PER_MS)

/* What a look uses itself is that much less than the time to the next one; while nobody else of ours runs it may be more. */
#define SLK_LOOK_SHARE 25
#define SLK_PAUSE_SHARE 3

/* ---- holding.c: init has one of these */

/* Makes room, once. 0, or -errno. */
int slk_hold_begin(struct slk_holding *holding, int scoped);
/* From now on; who is to be held is found by searches. */
void slk_hold_all(void);
/* When the next one is due. */
uint64_t slk_hold_search(void);
void slk_hold_release(void);

/* ---- stillness.c */

/* Nothing is known of anybody. 0; -EPERM: somebody is there who cannot be held; or -errno. */
int slk_still_begin(int scoped);
void slk_still_end(void);
/* All processes, and their threads, are looked at now. */
void slk_still_begin_pass(void);
/* 1: a thread of it has run since the last pass, or it is new. */
int slk_still_look(pid_t pid);
/* Of a thread, /proc/<pid>/task/<tid>: since it was looked at last. process_has_run: where only that can be told. */
int slk_still_has_run(pid_t tid, const char *directory, int process_has_run);
/* 1: nobody has run since the last pass, nor between that and the one before, so that nobody can be there who was missed. */
int slk_still_is_so(void);

/* ---- throttle_calls.c */

enum slk_held_call { SLK_HELD_CALL_IS_OVER, SLK_HELD_CALL_GOES_ON, SLK_HELD_CALL_WAITS };

/* Of a thread that was told to stop, and has. 1: it has a call to make for the rest (PTRACE_SYSCALL), and the stops that
 * come then go to: */
int slk_throttle_mend(pid_t tid);
/* IS_OVER: it goes on as without us; GOES_ON: with PTRACE_SYSCALL; WAITS: likewise, now or later. */
enum slk_held_call slk_throttle_call_step(pid_t tid, int status);
void slk_throttle_forget_call(pid_t tid);

#endif /* SLK_THROTTLE_H */
