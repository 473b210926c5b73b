/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the account of allocated bytes share (disk.c tells how it works). Whoever calls one of these has the
 * lock. */
#ifndef SLK_DISK_H
#define SLK_DISK_H

#include <pthread.h>
#include <stdint.h>
#include <sys/stat.h>

#include "slk.h"

#define SLK_DISK_BUCKETS 1024u /* of watches; of objects, to begin with */
#define SLK_DISK_UPPERS_MAX SLK_TREES_MAX
#define SLK_DISK_FRESH_NS 1000000u /* a look that is as young counts as one of now, for whoever is let through */
#define SLK_DISK_FASTEST_BYTES_PER_NS 32 /* of one processor, from its cache to the page cache (xfs; ext4 does 6) */

struct slk_held {
	struct slk_held *chain;
	struct slk_held *watched; /* in the bucket of its watch */
	uint64_t device, inode;
	uint64_t bytes;
	uint64_t attribute_bytes; /* where the upper allocates ahead: what its attributes take at most */
	int64_t changed_ns; /* of an open file, when it was last looked at */
	uint32_t position;  /* among the open ones */
	int fd;             /* O_PATH, as long as it is one of those; else -1 */
	int watch;          /* -1: none */
	uint8_t had_names;  /* several, at one time */
	uint8_t is_unlinked;
	uint8_t is_reserved; /* beyond its end as well, because the program asked for it */
	uint8_t asked; /* how often in vain whether it is closed, and */
	uint8_t rests; /* how many looks it is not asked now */
};

struct slk_disk_upper {
	char path[SLK_PATH_MAX];
	uint32_t length;
	uint64_t device;
	uint64_t ahead_block; /* of a file system that allocates more than is written, by itself; else 0 */
};

struct slk_disk {
	pthread_mutex_t lock;
	uint64_t limit, total, reserved;
	uint64_t opened_below; /* the limit without the reserve: from there on nothing more is made or opened for writing */
	uint64_t excess; /* what lies above the limit and came by calls that are never refused */
	struct slk_held **buckets, **by_watch;
	uint64_t mask, count;
	struct slk_held **open;
	uint32_t open_count, open_capacity, unlinked_open;
	struct slk_disk_upper uppers[SLK_DISK_UPPERS_MAX];
	uint32_t upper_count;
	uint64_t looked_ns, look_ns, due_ns; /* when, for how long, and when the next is due */
	int inotify_fd, wake_fd, control_fd;
	int path_given; /* the program may have O_PATH descriptors */
	int is_watched, stop, is_over;
	uint64_t over_bytes; /* what was held when it was found over */
	unsigned processors;
	pthread_t watcher;
};

/* ---- disk.c */

/* Its entry, among the open ones, whatever lies where. link: it in /proc. */
int slk_held_given(struct slk_disk *disk, const struct stat *status, const char *link);

/* ---- disk_held.c: the objects */

/* Where the entry of this object is pointed to, or would be. */
struct slk_held **slk_held_place(const struct slk_disk *disk, uint64_t device, uint64_t inode);
/* Its entry, made if there is none; NULL: no memory. */
struct slk_held *slk_held_entry(struct slk_disk *disk, const struct stat *status);
void slk_held_forget(struct slk_disk *disk, struct slk_held *held);
void slk_held_set_bytes(struct slk_disk *disk, struct slk_held *held, const struct stat *status);
/* Replaces the watch that it has; -1: none. */
void slk_held_set_watch(struct slk_disk *disk, struct slk_held *held, int watch);
struct slk_held *slk_held_of_watch(const struct slk_disk *disk, int watch);
/* Is a watch enough to know when it is gone? Else it is kept until nobody has it open. */
int slk_held_is_told(const struct slk_held *held);
/* Among the open ones from now on, and not any more. */
int slk_held_keep_open(struct slk_disk *disk, struct slk_held *held, int dirfd, const char *path);
void slk_held_close(struct slk_disk *disk, struct slk_held *held);
void slk_held_now_unlinked(struct slk_disk *disk, struct slk_held *held);
/* As of an upper, by its device. */
uint64_t slk_disk_ahead_block(const struct slk_disk *disk, uint64_t device);
uint64_t slk_disk_above_limit(const struct slk_disk *disk);

/* ---- disk_looks.c: what the open ones hold by now */

/* Its time of change, or -1. */
int64_t slk_disk_look_once(struct slk_disk *disk, struct slk_held *held);
/* Is an open file closed by all who could write to it, or without a name by all? Then it is none any more. */
void slk_disk_let_go(struct slk_disk *disk, struct slk_held *held);
/* What has been told of objects that went. Letting one go may tell of it at once. */
void slk_disk_settle(struct slk_disk *disk);
void slk_disk_look(struct slk_disk *disk);
/* Was it long ago? With many files open it takes a while, and is not to take all the time. */
int slk_disk_is_stale(const struct slk_disk *disk);

/* Many are open: most of them are closed by now, and need not be looked at any more. */
void slk_disk_look_if_crowded(struct slk_disk *disk);

/* ---- disk_room.c */

uint64_t slk_disk_room(const struct slk_disk *disk);

/* ---- disk_watcher.c: who ends what has written past the limit */

void slk_disk_find_over(struct slk_disk *disk);
/* After something that takes room, or opens a file: the watcher may have to look earlier than it meant to. */
void slk_disk_hurry(struct slk_disk *disk);

#endif /* SLK_DISK_H */
