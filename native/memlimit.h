/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the limit of memory share (memlimit.c tells how it works). Unless it says otherwise, whoever calls one
 * of these has the lock. */
#ifndef SLK_MEMLIMIT_H
#define SLK_MEMLIMIT_H

#include <pthread.h>
#include <stdint.h>

#include "slk.h"

#define SLK_MEMBER_BUCKETS 256u
#define SLK_PLACES_MAX 64u
#define SLK_MEMORY_FRESH_NS 1000000u /* a look that is as young counts as one of now */
/* Of one processor: what it fills of new pages, cleared by the kernel, written by the program. Half of it is measured. */
#define SLK_MEMORY_FASTEST_BYTES_PER_NS 8

/* A process of the sandbox. */
struct slk_member {
	struct slk_member *chain;
	struct slk_member *next; /* of the look that goes on */
	pid_t pid, parent;
	uint32_t seen;       /* in which look */
	int fds[4];          /* of its files in /proc, kept open; enum slk_file of memlimit_members.c; -1 */
	uint64_t read_ns;    /* when its status was read */
	int has_executed;    /* before that it is a copy of ourselves */
	pid_t thread;        /* that has its memory: the first, or where that has ended another one */
	uint64_t bytes;      /* that it holds at most: pages that it shares with others included */
	uint64_t beside;     /* of that, all but its pages */
	uint64_t unswapped;  /* and all but what is swapped out */
	uint64_t mapped;     /* of address space */
};

/* A directory on a tmpfs that the program may write. */
struct slk_place {
	int fd;
	uint64_t device;
	uint64_t full_bytes; /* of the whole file system, at the start */
	uint64_t held_bytes; /* what lay in it then */
};

struct slk_memory {
	pthread_mutex_t lock;
	uint64_t limit;
	uint64_t asked_below; /* the limit without the reserve: from there on nobody is granted more */
	int64_t room; /* atomic: what is left to be asked for until somebody has to look */
	uint64_t used, peak;
	struct slk_disk *objects; /* what needs nobody who maps it; no limit of its own */
	struct slk_place places[SLK_PLACES_MAX];
	uint32_t place_count;
	struct slk_member *buckets[SLK_MEMBER_BUCKETS];
	struct slk_member *first, *last; /* those of the last look, parents before children */
	uint32_t serial, member_count, kept_count;
	uint64_t looked_ns, look_ns; /* when, and what it took of a processor without counting exactly */
	uint64_t exact_ns, exact_at_ns; /* what that took, the last time, and when */
	pid_t init;
	int counts_mapped; /* shared memory is made that we have no descriptor of */
	int control_fd, wake_fd;
	int is_watched, stop, is_over;
	unsigned processors;
	int is_by_group; /* the kernel keeps the limit */
	int ran_out;     /* atomic: of which it has told */
	struct slk_memory_group group;
	pthread_t watcher;
};

/* ---- memlimit.c */

/* What is in use. may_walk: count pages that are shared exactly where it matters, which may take long. */
void slk_memory_look(struct slk_memory *memory, int may_walk);

/* ---- memlimit_members.c: the processes */

/* Who is there, and what they hold at most, together. */
uint64_t slk_members_look(struct slk_memory *memory);
/* Each page once. What cannot be told so counts as above. ret_shared: of shared memory, as far as it is mapped. */
uint64_t slk_members_exactly(const struct slk_memory *memory, uint64_t *ret_shared);
void slk_members_forget(struct slk_memory *memory);

/* ---- memlimit_places.c: files that lie in memory */

uint64_t slk_places_look(const struct slk_memory *memory);
uint64_t slk_places_exactly(const struct slk_memory *memory);
void slk_places_forget(struct slk_memory *memory);

/* ---- memlimit_group.c: where a cgroup counts instead of all these, and keeps the limit */

/* What is in use at most: files that the kernel has in memory and can let go of are in it. */
uint64_t slk_group_look(const struct slk_memory *memory);
/* Without those. */
uint64_t slk_group_exactly(const struct slk_memory *memory);
/* The most that ever was, those files included; 0: this kernel does not tell. */
uint64_t slk_group_peak(const struct slk_memory *memory);
/* Did it run out of memory? */
int slk_group_is_over(const struct slk_memory *memory);
/* Until it may have. */
void slk_group_wait(struct slk_memory *memory);
void slk_group_forget(struct slk_memory *memory);

#endif /* SLK_MEMLIMIT_H */
