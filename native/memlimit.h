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

enum slk_file { SLK_FILE_STATUS, SLK_FILE_STATM, SLK_FILE_CHILDREN, SLK_FILE_TASK, SLK_FILES };

/* A process of the sandbox. */
struct slk_member {
	struct slk_member *chain;
	struct slk_member *next; /* of the look that goes on */
	pid_t pid, parent;
	uint32_t seen;       /* in which look */
	int fds[SLK_FILES];          /* of its files in /proc, kept open; enum slk_file; -1 */
	uint64_t read_ns;    /* when its status was read */
	pid_t thread;        /* that has its memory: the first, or where that has ended another one */
	uint64_t bytes;      /* that it holds at most: pages that it shares with others included */
	uint64_t beside;     /* of that, all but its pages */
	uint64_t unswapped;  /* and all but what is swapped out */
	uint64_t mapped;     /* of address space */
	long threads;        /* 0: it has ended, or cannot be seen */
	uint64_t least;      /* that it ever held, as far as it was seen: more than it has of others, from before a fork */
	int has_others;      /* its memory is another's, too */
};

/* A directory on a tmpfs that the program may write. */
struct slk_place {
	int fd;
	uint64_t device;
	uint64_t full_bytes; /* of the whole file system, at the start */
	uint64_t held_bytes; /* what lay in it then */
};

/* Counting each page once: what is asked, and what came of it. */
struct slk_walked {
	pid_t pid, parent; /* parent: 0 if it is none of them */
	pid_t thread;
	uint64_t bytes, unswapped;
};

struct slk_counting {
	struct slk_walked *members;
	uint32_t count, capacity;
	uint64_t limit;
	int counts_mapped;
	uint64_t used, mapped, places; /* of processes, of shared memory in page tables, of files */
	uint64_t took_ns;              /* of a processor */
};

enum slk_walking { SLK_WALK_NONE, SLK_WALK_UNDER_WAY, SLK_WALK_DONE };

struct slk_memory {
	pthread_mutex_t lock;
	pthread_cond_t changed; /* a walk is over, or begins, or a look was made */
	uint64_t limit;
	uint64_t asked_below; /* the limit without the reserve: from there on nobody is granted more */
	int64_t room; /* atomic: what is left to be asked for until somebody has to look */
	uint64_t used, peak;
	uint64_t at_most; /* as the last look found it: what processes share counts for each */
	uint64_t largest, grown; /* what the largest process holds, and what all have come to hold since they were seen first */
	uint64_t exact, at_most_then; /* what the last walk found, and what was in use at most when it began */
	struct slk_disk *objects; /* what needs nobody who maps it; no limit of its own */
	struct slk_place places[SLK_PLACES_MAX];
	uint32_t place_count;
	struct slk_member *buckets[SLK_MEMBER_BUCKETS];
	struct slk_member *first, *last; /* those of the last look, parents before children */
	uint32_t serial, member_count, kept_count;
	uint64_t looked_ns, look_ns; /* when, and what it took of a processor without counting exactly */
	uint64_t exact_ns, exact_at_ns; /* what that took, the last time, and when it was over */
	struct slk_counting walk;           /* while it is under way, the walker's */
	enum slk_walking walking;
	uint64_t walk_began_ns;
	uint32_t exact_wanted; /* by how many who ask */
	uint32_t looks, walks; /* made since the start */
	pid_t init, program;
	int has_executed; /* the program: before that it is a copy of ourselves */
	int blind_error;  /* what the last look could not see, and why; 0: it saw all */
	uint64_t blind_since_ns;
	uint64_t descriptors; /* how many we may have */
	int counts_mapped; /* shared memory is made that we have no descriptor of */
	int control_fd, wake_fd;
	int is_watched, has_walker, stop, is_over;
	int uncounted_error; /* why it is over though nobody knows what is in use */
	unsigned processors;
	pthread_t watcher, walker;
	int32_t walker_tid;
	uint64_t walker_ran_ns; /* when it was last seen to run, or to want to */
	int is_by_group; /* the kernel keeps the limit */
	int ran_out;     /* atomic: of which it has told */
	struct slk_memory_group group;
};

/* ---- memlimit.c */

/* What is in use at most. Waits for nobody. */
void slk_memory_look(struct slk_memory *memory);
/* Exactly, at once. Only where nobody else walks. */
void slk_memory_look_exactly(struct slk_memory *memory);
/* The three steps of it. The second needs no lock, and may take long: it waits for what processes do with their memory. */
int slk_memory_begin_walk(struct slk_memory *memory);
void slk_memory_walk(const struct slk_memory *memory, struct slk_counting *walk);
void slk_memory_end_walk(struct slk_memory *memory);
/* So much is in use at least, as the last look found it. */
uint64_t slk_memory_at_least(const struct slk_memory *memory);

/* ---- memlimit_watcher.c */

/* Until the walker has ended. Only where nobody is left who could keep it waiting. */
void slk_memory_join(struct slk_memory *memory);
/* Have it look now. */
void slk_memory_wake(struct slk_memory *memory);

/* ---- memlimit_members.c: the processes */

/* Who is there, and what they hold at most, together. */
uint64_t slk_members_look(struct slk_memory *memory);
/* Of those that the last look met: so much is in use at least, whatever they share. */
uint64_t slk_members_at_least(const struct slk_memory *memory);
void slk_members_forget(struct slk_memory *memory);

int slk_have_one_memory(pid_t one, pid_t other);
/* NULL: it is none of those that the last look met. */
const struct slk_member *slk_parent_of(const struct slk_memory *memory, const struct slk_member *member);

/* ---- memlimit_held.c: what one process holds */

/* What it holds at most, how many threads it has, and which of them has its memory. */
void slk_member_look(struct slk_memory *memory, struct slk_member *member, uint64_t now_ns);
void slk_member_close_files(struct slk_memory *memory, struct slk_member *member);
/* Something of it could not be looked at. error: an errno. */
void slk_member_not_seen(struct slk_memory *memory, pid_t pid, int error);
void slk_member_each_thread(struct slk_memory *memory, pid_t pid, void (*act)(void *, pid_t), void *context);
/* A file of that thread in /proc, up to size: how much, or -errno. */
ssize_t slk_read_of(pid_t pid, pid_t thread, const char *name, char *ret_text, size_t size);
/* "Name:    1 kB", in bytes; 0: there is no such line. */
uint64_t slk_kilobytes(const char *text, const char *name);

/* ---- memlimit_pages.c: each page once */

/* Each number in /proc/<pid>/fd, and that directory. */
void slk_each_descriptor(pid_t pid, void (*look)(void *context, int directory_fd, const char *number), void *context);
/* Fills the list of whom to walk. */
int slk_members_list(const struct slk_memory *memory, struct slk_counting *walk);
/* Each page once. What cannot be told so counts as above. ret_shared: of shared memory, as far as it is mapped. */
uint64_t slk_members_exactly(const struct slk_counting *walk, uint64_t *ret_shared);

/* ---- memlimit_places.c: files that lie in memory */

uint64_t slk_places_look(const struct slk_memory *memory);
/* Walks, too. The places themselves never change once it is watched. */
uint64_t slk_places_exactly(const struct slk_memory *memory, const struct slk_counting *walk);
void slk_places_forget(struct slk_memory *memory);

/* Is there anything that needs nobody who maps it? */
int slk_memory_has_objects(struct slk_memory *memory);

/* ---- memlimit_group.c: where a cgroup counts instead of all these, and keeps the limit */

/* What is in use, without the files that the kernel has in memory and can let go of where that matters: where there is more
 * than enough_bytes. */
uint64_t slk_group_look(const struct slk_memory *memory, uint64_t enough_bytes);
/* The most that ever was, those files included; 0: this kernel does not tell. */
uint64_t slk_group_peak(const struct slk_memory *memory);
/* Did it run out of memory? */
int slk_group_is_over(const struct slk_memory *memory);
/* Until it may have. */
void slk_group_wait(struct slk_memory *memory);

#endif /* SLK_MEMLIMIT_H */
