/* SPDX-License-Identifier: Apache-2.0 */
/* What the three files of the limit of processes share: forks.c (the account) tells how it works. */
#ifndef SLK_FORKS_H
#define SLK_FORKS_H

#include "slk.h"


/* What is known of a thread number. */
#define SLK_TID_KNOWN 1u   /* of a process: in `order` */
#define SLK_TID_BORN 2u    /* counted among those alive at the last look, or among the births since */
#define SLK_TID_FOUND 4u   /* of a process: in this pass */
#define SLK_TID_CLONES 8u  /* was ever let fork or clone: only such a process can have children, or threads */
#define SLK_TID_MAKES_PROCESS 16u /* its last fork may be under way */
#define SLK_TID_MAKES_THREAD 32u
#define SLK_TID_LISTED 64u /* in `makers` */
#define SLK_TID_TRACED 128u
#define SLK_TID_MAKES (SLK_TID_MAKES_PROCESS | SLK_TID_MAKES_THREAD)

struct slk_tids {
	int32_t *numbers;
	uint32_t count, capacity;
};

#define SLK_HELD_FORKS_MAX 1024

/* A fork that waits for others to have happened; or whose refusal is put off. */
struct slk_held_fork {
	uint64_t notif_id;
	uint64_t args[6];
	uint64_t until_ns;
	int32_t tid;
	int32_t nr;
	uint32_t slot;
	int is_put_off;
};

struct slk_forks {
	uint32_t limit, task_limit;
	uint32_t refusals_at_once; /* before they are put off */
	int32_t init_pid;
	int control_fd; /* init's, where it traces processes; else -1 */
	/* At the last look. A task is a thread, those of one thread too. */
	uint32_t processes, tasks;
	/* That may have come since: of forks that were under way then, and of those that were let through. */
	uint32_t new_processes, new_tasks;
	uint32_t births; /* of new_tasks so many have been seen by now */
	uint32_t making_processes, making_threads; /* threads with these flags */
	uint32_t round, looked_in, settled_in; /* which round of the loop it is, and the last looks were in */
	int is_blind;              /* the last look could not see everything */
	struct slk_tids order;     /* processes, each behind all that it descends from */
	struct slk_tids born;      /* with SLK_TID_BORN */
	struct slk_tids makers;    /* with SLK_TID_LISTED */
	struct slk_tids found;     /* tasks of this pass */
	struct slk_tids adopted;   /* what init has for children */
	uint64_t again_ns, pause_ns; /* when what is held is looked at again, and how long after the last time */
	uint64_t look_ns;   /* what the last look took of the processor */
	uint64_t insist_ns; /* refusals of so long, one after the other, have been given by then */
	uint32_t held_count;
	struct slk_held_fork held[SLK_HELD_FORKS_MAX];
	uint8_t *flags; /* by number */
};

/* ---- descendants.c */

int slk_tids_push(struct slk_tids *tids, int32_t tid);
/* Seen, or found: if for the first time, it is a birth. */
void slk_forks_born(struct slk_forks *forks, int32_t tid);
/* Everything below init: processes, tasks and births are what they are; sets is_blind. */
void slk_look_at_descendants(struct slk_forks *forks);
/* Its number is in use, as far as can be told. */
int slk_tid_is_there(int32_t tid);

/* ---- forks.c */

enum slk_fork_answer { SLK_FORK_GOES_ON, SLK_FORK_REFUSED, SLK_FORK_HELD, SLK_FORK_FORBIDDEN };

void slk_forks_destroy(struct slk_forks *forks);
/* A process that nobody asked for was made below init, and counts. */
void slk_forks_one_more(struct slk_forks *forks);
/* A thread asks for something: its last fork is over, and it is alive. */
void slk_forks_seen(struct slk_forks *forks, int32_t tid);
/* Its last fork has happened, or failed, or never will. */
void slk_makes_no_more(struct slk_forks *forks, int32_t tid);
/* What was received before this is about to be answered. */
void slk_forks_next_round(struct slk_forks *forks);
enum slk_fork_answer slk_forks_ask(struct slk_engine *engine, const struct slk_request *request);
/* For the first time; again, since it was not known; or again, since its refusal is put off. */
enum slk_fork_asked { SLK_FORK_ASKED, SLK_FORK_ASKED_AGAIN, SLK_FORK_PUT_OFF };
/* GOES_ON: it is counted. */
enum slk_fork_answer slk_forks_decide(struct slk_forks *forks, const struct slk_request *request,
				      enum slk_fork_asked asked);
int slk_makes_thread(const struct slk_request *request);
/* Of one that will go on. */
void slk_trace_if_it_handles_children(struct slk_engine *engine, const struct slk_request *request);

/* ---- forks_held.c */

/* Would another refusal be put off? */
int slk_forks_insist(const struct slk_forks *forks);
/* One more is refused, and no more than that held: 1. 0: at once. */
int slk_forks_put_off(struct slk_forks *forks, const struct slk_request *request);
/* Until it is known whether there is room. 0: as many are held as can be. */
int slk_forks_hold(struct slk_forks *forks, const struct slk_request *request);
/* The one that waits longest and is due for an answer: 1, and it is held no more. In a round of its own: see above. */
int slk_forks_take_held(struct slk_engine *engine, uint32_t *position, struct slk_request *ret_request,
			enum slk_fork_answer *ret_answer);
/* Nanoseconds until what is held is to be looked at again; -1: nothing is. */
int64_t slk_forks_due_ns(const struct slk_forks *forks);
void slk_forks_looked_again(struct slk_forks *forks);

#endif /* SLK_FORKS_H */
