/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the uppers of a sandbox hold, in allocated bytes, and the limit of that.
 *
 * The account has one entry for each object, by device and inode number, with what it held when it was last looked at: so
 * whoever has changed a name or an object only says where, and saying it twice does no harm. Nothing but a file that
 * somebody may write to can change by itself. Those are *open*: every descriptor that is handed to the program passes
 * slk_disk_given. Of each we keep an O_PATH descriptor and look at it now and then, until nobody has it open for writing.
 *
 * An object that has lost its last name holds its space until nobody has it either (inuse.c), and counts until then.
 *
 * A part of the limit is kept for writing: who meets the limit in making or opening something learns of it by an errno, who
 * meets it in writing can only be ended. So most programs are to meet it there first.
 *
 * The watcher is a thread of its own, so that nothing that the loop does delays it. It looks more often the less is left:
 * two looks are not further apart than all processors together need to write what was left at the first, if they can.
 */
#define _GNU_SOURCE
#include "slk.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define BUCKETS_FIRST 1024u
#define UPPERS_MAX SLK_TREES_MAX
#define FASTEST_BYTES_PER_NS 4 /* of one processor: copying memory to the page cache */
#define PERIOD_MIN_NS 1000000u
#define PERIOD_MAX_NS 250000000u
#define FRESH_NS 1000000u               /* a look that is as young counts as one of now, for whoever is let through */
#define NEAR_BYTES (UINT64_C(64) << 20) /* with less room than that, whoever asks for some has us look first */
#define RESERVE_PART 16 /* of the limit is for writing to what is open already, at most */
#define RESERVE_BYTES_MAX (UINT64_C(256) << 20)
#define OPEN_AT_ONCE 512u               /* more of them are looked through early: most are closed by then */
#define END_AGAIN_AFTER_NS 1000000      /* where init has as many orders as its socket holds */
#define ASKED_MAX 6                     /* one that stays open is asked every 64 looks */

struct held {
	struct held *chain;
	struct held *watched; /* in the bucket of its watch */
	uint64_t device, inode;
	uint64_t bytes;
	int64_t changed_ns; /* of an open file, when it was last looked at */
	uint32_t position;  /* among the open ones */
	int fd;             /* O_PATH, as long as it is one of those; else -1 */
	int watch;          /* -1: none */
	uint8_t had_names;  /* several, at one time */
	uint8_t is_unlinked;
	uint8_t asked; /* how often in vain whether it is closed, and */
	uint8_t rests; /* how many looks it is not asked now */
};

struct upper {
	char path[SLK_PATH_MAX];
	uint32_t length;
	uint64_t device;
};

struct slk_disk {
	pthread_mutex_t lock;
	uint64_t limit, total, reserved;
	uint64_t opened_below; /* the limit without the reserve: from there on nothing more is made or opened for writing */
	uint64_t excess; /* what lies above the limit and came by calls that are never refused */
	struct held **buckets, **by_watch;
	uint64_t mask, count;
	struct held **open;
	uint32_t open_count, open_capacity, unlinked_open;
	struct upper uppers[UPPERS_MAX];
	uint32_t upper_count;
	uint64_t looked_ns, look_ns, due_ns; /* when, for how long, and when the next is due */
	int inotify_fd, wake_fd, control_fd;
	int path_given; /* the program may have O_PATH descriptors */
	int is_watched, stop, is_over;
	uint64_t over_bytes; /* what was held when it was found over */
	unsigned processors;
	pthread_t watcher;
};

/* ---- the entries */

static struct held **place_of(const struct slk_disk *disk, uint64_t device, uint64_t inode)
{
	uint64_t key = (inode ^ device << 40 ^ device >> 24) * UINT64_C(0x9e3779b97f4a7c15);
	struct held **at = &disk->buckets[(key >> 32) & disk->mask];

	while (*at && ((*at)->inode != inode || (*at)->device != device))
		at = &(*at)->chain;
	return at;
}

static void grow(struct slk_disk *disk)
{
	uint64_t old = disk->mask + 1;
	struct held **buckets = disk->buckets, **larger = calloc(4 * old, sizeof(struct held *));

	if (!larger)
		return; /* then it is slower */
	disk->buckets = larger;
	disk->mask = 4 * old - 1;
	for (uint64_t i = 0; i < old; i++) {
		for (struct held *next, *held = buckets[i]; held; held = next) {
			next = held->chain;
			held->chain = NULL;
			*place_of(disk, held->device, held->inode) = held;
		}
	}
	free(buckets);
}

static struct held *entry_of(struct slk_disk *disk, const struct stat *status)
{
	struct held **at = place_of(disk, status->st_dev, status->st_ino), *held = *at;

	if (held)
		return held;
	held = calloc(1, sizeof(*held));
	if (!held)
		return NULL;
	held->device = status->st_dev;
	held->inode = status->st_ino;
	held->fd = held->watch = -1;
	*at = held;
	if (++disk->count > 2 * disk->mask)
		grow(disk);
	return held;
}

static uint64_t above_limit(const struct slk_disk *disk)
{
	return disk->total > disk->limit ? disk->total - disk->limit : 0;
}

static void trim_excess(struct slk_disk *disk)
{
	if (disk->excess > above_limit(disk))
		disk->excess = above_limit(disk);
}

static void set_bytes(struct slk_disk *disk, struct held *held, const struct stat *status)
{
	uint64_t bytes = (uint64_t)status->st_blocks * 512u;

	disk->total += bytes - held->bytes;
	held->bytes = bytes;
	if (held->is_unlinked && status->st_nlink > 0) { /* it was given a name: the kernel has two of it from now on */
		held->is_unlinked = 0;
		held->had_names = !S_ISDIR(status->st_mode);
		disk->unlinked_open -= held->fd >= 0;
	}
	if (status->st_nlink > 1 && !S_ISDIR(status->st_mode))
		held->had_names = 1;
	trim_excess(disk);
}

static struct held **watch_bucket(const struct slk_disk *disk, int watch)
{
	return &disk->by_watch[(uint32_t)watch % BUCKETS_FIRST];
}

static void set_watch(struct slk_disk *disk, struct held *held, int watch)
{
	struct held **at;

	if (held->watch == watch)
		return;
	if (held->watch >= 0) {
		at = watch_bucket(disk, held->watch);
		while (*at && *at != held)
			at = &(*at)->watched;
		if (*at)
			*at = held->watched;
	}
	held->watch = watch;
	if (watch >= 0) {
		at = watch_bucket(disk, watch);
		held->watched = *at;
		*at = held;
	}
}

static void close_open(struct slk_disk *disk, struct held *held)
{
	struct held *last;

	if (held->fd < 0)
		return;
	last = disk->open[--disk->open_count];
	disk->open[held->position] = last;
	last->position = held->position;
	disk->unlinked_open -= held->is_unlinked;
	close(held->fd);
	held->fd = -1;
}

static void forget(struct slk_disk *disk, struct held *held)
{
	struct held **at;

	close_open(disk, held);
	set_watch(disk, held, -1);
	disk->total -= held->bytes;
	trim_excess(disk);
	at = place_of(disk, held->device, held->inode);
	*at = held->chain;
	disk->count--;
	free(held);
}

/* ---- open files, and those without a name */

static int keep_open(struct slk_disk *disk, struct held *held, int dirfd, const char *path)
{
	if (held->fd >= 0)
		return 0;
	if (disk->open_count == disk->open_capacity) {
		uint32_t capacity = disk->open_capacity ? 2 * disk->open_capacity : 64;
		struct held **larger = realloc(disk->open, capacity * sizeof(*larger));

		if (!larger)
			return -ENOMEM;
		disk->open = larger;
		disk->open_capacity = capacity;
	}
	held->fd = openat(dirfd, path, O_PATH | O_CLOEXEC | (*path == '/' ? 0 : O_NOFOLLOW));
	if (held->fd < 0)
		return -errno;
	held->position = disk->open_count;
	held->changed_ns = -1;
	disk->unlinked_open += held->is_unlinked;
	disk->open[disk->open_count++] = held;
	return 0;
}

static void now_unlinked(struct slk_disk *disk, struct held *held)
{
	if (held->is_unlinked)
		return;
	held->is_unlinked = 1;
	disk->unlinked_open += held->fd >= 0;
}

/* Is a watch enough to know when it is gone? Else it is kept until nobody has it open. */
static int is_told(const struct held *held)
{
	return held->watch >= 0 && !held->had_names;
}

static int64_t look_once(struct slk_disk *disk, struct held *held)
{
	struct stat status;

	if (fstat(held->fd, &status) < 0)
		return -1;
	set_bytes(disk, held, &status);
	if (status.st_nlink == 0)
		now_unlinked(disk, held);
	return (int64_t)status.st_ctim.tv_sec * 1000000000 + status.st_ctim.tv_nsec;
}

/* Is an open file closed by all who could write to it, or without a name by all? Then it is none any more. */
static void let_go(struct slk_disk *disk, struct held *held)
{
	int is_kept = held->is_unlinked && !is_told(held);

	if (slk_in_use(held->fd, is_kept)) {
		held->asked = (uint8_t)(held->asked + (held->asked < ASKED_MAX));
		held->rests = (uint8_t)(1u << held->asked);
	} else if (!is_kept || disk->path_given) {
		/* No lease is against O_PATH descriptors: where there may be one and no watch tells, it counts to the end. */
		look_once(disk, held); /* what was written before it was closed, after the last look */
		close_open(disk, held);
	} else {
		forget(disk, held);
	}
}

static void look_at(struct slk_disk *disk, struct held *held, int is_crowded)
{
	int64_t changed_ns = look_once(disk, held);

	if (changed_ns != held->changed_ns && !is_crowded) {
		held->changed_ns = changed_ns;
		return;
	}
	held->changed_ns = changed_ns;
	if (held->rests > 0)
		held->rests--;
	else
		let_go(disk, held);
}

static struct held *of_watch(const struct slk_disk *disk, int watch)
{
	struct held *held = *watch_bucket(disk, watch);

	while (held && held->watch != watch)
		held = held->watched;
	return held;
}

static void note_left(void *context, int watch)
{
	unsigned char *left = context;

	if (watch >= 0 && watch < 1 << 24)
		left[watch / 8] |= (unsigned char)(1u << watch % 8);
}

/* Events were lost: what has no watch any more is gone. */
static void catch_up(struct slk_disk *disk)
{
	unsigned char *left = calloc(1u << 21, 1);

	if (left && slk_watches_left(disk->inotify_fd, note_left, left) == 0) {
		for (uint32_t i = 0; i < BUCKETS_FIRST; i++) {
			for (struct held *next, *held = disk->by_watch[i]; held; held = next) {
				next = held->watched;
				if (held->watch >= 1 << 24 || left[held->watch / 8] & 1u << held->watch % 8)
					continue;
				if (held->had_names)
					set_watch(disk, held, -1);
				else
					forget(disk, held);
			}
		}
	}
	free(left);
}

static void on_event(struct slk_disk *disk, const struct inotify_event *event)
{
	struct held *held = of_watch(disk, event->wd);

	if (event->mask & IN_Q_OVERFLOW)
		catch_up(disk);
	else if (!held)
		return;
	else if (event->mask & IN_DELETE_SELF && !held->had_names)
		forget(disk, held);
	else if (event->mask & IN_IGNORED)
		set_watch(disk, held, -1);
	else if (event->mask & IN_CLOSE_WRITE && held->fd >= 0 && look_once(disk, held) >= 0)
		let_go(disk, held);
}

/* What has been told of objects that went. Letting one go may tell of it at once. */
static void settle(struct slk_disk *disk)
{
	char events[4096] __attribute__((aligned(__alignof__(struct inotify_event))));
	ssize_t got;

	while ((got = read(disk->inotify_fd, events, sizeof(events))) > 0)
		for (ssize_t at = 0; at < got;) {
			const struct inotify_event *event = (const struct inotify_event *)(events + at);

			on_event(disk, event);
			at += (ssize_t)(sizeof(*event) + event->len);
		}
}

static void look(struct slk_disk *disk)
{
	uint64_t began_ns = slk_now_ns();
	int is_crowded = disk->open_count > OPEN_AT_ONCE;

	settle(disk);
	/* From the end: what is closed is replaced by the last. */
	for (uint32_t i = disk->open_count; i-- > 0;)
		look_at(disk, disk->open[i], is_crowded);
	settle(disk);
	disk->looked_ns = slk_now_ns();
	disk->look_ns = disk->looked_ns - began_ns;
}

/* Was it long ago? With many files open it takes a while, and is not to take all the time. */
static int is_stale(const struct slk_disk *disk)
{
	uint64_t age_ns = slk_now_ns() - disk->looked_ns;

	return age_ns > FRESH_NS && age_ns > 8 * disk->look_ns;
}

/* ---- room */

static uint64_t room_with(const struct slk_disk *disk, uint64_t freed_bytes)
{
	uint64_t used = disk->total + disk->reserved;

	used -= freed_bytes < used ? freed_bytes : used;
	return used < disk->opened_below ? disk->opened_below - used : 0;
}

static uint64_t room(const struct slk_disk *disk)
{
	return room_with(disk, 0);
}

static int has_room(struct slk_disk *disk, uint64_t bytes, uint64_t freed_bytes)
{
	uint64_t there = room_with(disk, freed_bytes);
	uint64_t near = disk->processors * FASTEST_BYTES_PER_NS * FRESH_NS; /* what may have been written since */

	if (there >= bytes && there - bytes >= (is_stale(disk) ? NEAR_BYTES : near))
		return 1;
	look(disk);
	return room_with(disk, freed_bytes) >= bytes;
}

static void find_over(struct slk_disk *disk)
{
	if (disk->is_over || above_limit(disk) <= disk->excess)
		return;
	disk->is_over = 1;
	disk->over_bytes = disk->total;
}

static uint64_t period_ns(const struct slk_disk *disk)
{
	uint64_t left = disk->total < disk->limit ? disk->limit - disk->total : 0;
	uint64_t period = left / (FASTEST_BYTES_PER_NS * disk->processors);
	uint64_t shortest = disk->look_ns > PERIOD_MIN_NS ? disk->look_ns : PERIOD_MIN_NS;

	period = period < PERIOD_MAX_NS ? period : PERIOD_MAX_NS;
	return period > shortest ? period : shortest;
}

/* After something that takes room, or opens a file: the watcher may have to look earlier than it meant to. */
static void hurry(struct slk_disk *disk)
{
	uint64_t one = 1;

	if (!disk->is_watched || !disk->open_count || disk->due_ns <= slk_now_ns() + period_ns(disk) + PERIOD_MIN_NS)
		return;
	disk->due_ns = 0;
	if (write(disk->wake_fd, &one, sizeof(one)) < 0)
		return; /* full: it is awake */
}

/* ---- what others tell and ask */

int slk_disk_note(struct slk_disk *disk, int dirfd, const char *path)
{
	struct stat status;
	struct held *held;
	uint64_t before;

	pthread_mutex_lock(&disk->lock);
	/* Looked at here: who looks in between and for the last time would be told what was before. */
	if (syscall(SYS_newfstatat, dirfd, path, &status, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) < 0) {
		int error = errno;

		pthread_mutex_unlock(&disk->lock);
		return -error;
	}
	settle(disk); /* its number may have been that of something that is gone */
	held = entry_of(disk, &status);
	if (held) {
		before = disk->total > disk->limit ? disk->total : disk->limit;
		set_bytes(disk, held, &status);
		/* What an open file has taken was not by this call. */
		if (disk->total > before && held->fd < 0)
			disk->excess += disk->total - before;
		hurry(disk);
	}
	pthread_mutex_unlock(&disk->lock);
	return held ? 0 : -ENOMEM;
}

static int may_hold(const struct held *held, const struct stat *status)
{
	return held->bytes > 0 || held->fd >= 0 || S_ISDIR(status->st_mode);
}

void slk_disk_leaving(struct slk_disk *disk, int dirfd, const char *path)
{
	struct stat status;
	struct held *held;
	int watch = -1;

	if (syscall(SYS_newfstatat, dirfd, path, &status, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) < 0 ||
	    (!S_ISDIR(status.st_mode) && status.st_nlink > 1))
		return;
	pthread_mutex_lock(&disk->lock);
	held = *place_of(disk, status.st_dev, status.st_ino);
	if (held && !may_hold(held, &status)) {
		forget(disk, held);
	} else if (held) {
		if (!held->had_names)
			watch = slk_watch_gone(disk->inotify_fd, dirfd, path, held->fd >= 0);
		if (watch >= 0)
			set_watch(disk, held, watch);
		if (S_ISREG(status.st_mode)) {
			if (held->fd >= 0 && !slk_in_use(held->fd, 0)) {
				look_once(disk, held); /* what was written last */
				close_open(disk, held);
			}
			if (!is_told(held))
				keep_open(disk, held, dirfd, path); /* without it, it counts to the end */
		} else if (S_ISLNK(status.st_mode) && !is_told(held) && !disk->path_given) {
			forget(disk, held);
		}
	}
	pthread_mutex_unlock(&disk->lock);
}

void slk_disk_left(struct slk_disk *disk)
{
	uint64_t one = 1;

	pthread_mutex_lock(&disk->lock);
	settle(disk);
	for (uint32_t i = disk->open_count; i-- > 0;) {
		struct held *held = disk->open[i];

		if (held->is_unlinked || (held->watch < 0 && !held->had_names))
			continue;
		look_once(disk, held);
		if (!held->is_unlinked)
			continue;
		/* From now on the watcher waits for its being closed, too. */
		if (disk->unlinked_open == 1 && write(disk->wake_fd, &one, sizeof(one)) < 0)
			one = 1; /* full: it is awake */
		let_go(disk, held);
	}
	settle(disk);
	pthread_mutex_unlock(&disk->lock);
}

int slk_disk_has_room(struct slk_disk *disk, uint64_t bytes, uint64_t freed_bytes)
{
	int result;

	pthread_mutex_lock(&disk->lock);
	result = has_room(disk, bytes, freed_bytes);
	pthread_mutex_unlock(&disk->lock);
	return result;
}

int slk_disk_reserve(struct slk_disk *disk, uint64_t bytes)
{
	int result;

	pthread_mutex_lock(&disk->lock);
	result = has_room(disk, bytes, 0) ? 0 : -ENOSPC;
	if (result == 0)
		disk->reserved += bytes;
	hurry(disk);
	pthread_mutex_unlock(&disk->lock);
	return result;
}

void slk_disk_release(struct slk_disk *disk, uint64_t bytes)
{
	pthread_mutex_lock(&disk->lock);
	disk->reserved -= bytes < disk->reserved ? bytes : disk->reserved;
	pthread_mutex_unlock(&disk->lock);
}

static int is_of_upper(const struct slk_disk *disk, const struct stat *status, const char *link)
{
	char path[SLK_PATH_MAX];
	ssize_t length = -1;

	for (uint32_t i = 0; i < disk->upper_count; i++) {
		const struct upper *upper = &disk->uppers[i];

		if (upper->device != status->st_dev)
			continue;
		if (length < 0)
			length = readlink(link, path, sizeof(path));
		/* One that is longer than what can be told: rather too much than too little. */
		if (length < 0 || length == (ssize_t)sizeof(path) ||
		    ((uint32_t)length > upper->length && path[upper->length] == '/' &&
		     memcmp(path, upper->path, upper->length) == 0))
			return 1;
	}
	return 0;
}

static int given(struct slk_disk *disk, const struct stat *status, const char *link)
{
	struct held *held;
	int result;

	settle(disk);
	held = *place_of(disk, status->st_dev, status->st_ino);
	if (!held && !is_of_upper(disk, status, link))
		return 0;
	held = held ? held : entry_of(disk, status);
	if (!held)
		return -ENOMEM;
	set_bytes(disk, held, status);
	result = keep_open(disk, held, AT_FDCWD, link);
	if (result < 0)
		return result;
	held->changed_ns = -1;
	held->asked = held->rests = 0;
	if (status->st_nlink == 0) {
		now_unlinked(disk, held);
		if (!held->had_names)
			set_watch(disk, held, slk_watch_gone(disk->inotify_fd, held->fd, "", 1));
	}
	return 0;
}

int slk_disk_given(struct slk_disk *disk, int fd)
{
	int flags = fcntl(fd, F_GETFL), result;
	struct stat status;
	char link[32];

	if (flags < 0)
		return -errno;
	if ((flags & O_ACCMODE) == O_RDONLY || flags & O_PATH)
		return 0;
	if (fstat(fd, &status) < 0)
		return -errno;
	if (!S_ISREG(status.st_mode))
		return 0;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	pthread_mutex_lock(&disk->lock);
	result = given(disk, &status, link);
	if (disk->open_count > OPEN_AT_ONCE && is_stale(disk))
		look(disk);
	hurry(disk);
	pthread_mutex_unlock(&disk->lock);
	return result;
}

int slk_disk_holds(struct slk_disk *disk, int fd)
{
	struct stat status;
	int result;

	if (fstat(fd, &status) < 0)
		return -errno;
	pthread_mutex_lock(&disk->lock);
	result = *place_of(disk, status.st_dev, status.st_ino) != NULL;
	pthread_mutex_unlock(&disk->lock);
	return result;
}

int slk_fallocate(int fd, int mode, int64_t offset, int64_t length)
{
	return fallocate(fd, mode, offset, length) < 0 ? -errno : 0;
}

void slk_disk_path_given(struct slk_disk *disk)
{
	pthread_mutex_lock(&disk->lock);
	disk->path_given = 1;
	pthread_mutex_unlock(&disk->lock);
}

void slk_disk_state(struct slk_disk *disk, struct slk_disk_state *ret_state)
{
	pthread_mutex_lock(&disk->lock);
	look(disk);
	find_over(disk);
	ret_state->total_bytes = disk->total > disk->over_bytes ? disk->total : disk->over_bytes;
	ret_state->room_bytes = room(disk);
	ret_state->open_files = disk->open_count;
	ret_state->is_over = disk->is_over;
	pthread_mutex_unlock(&disk->lock);
}

/* ---- the watcher */

/* 0: init cannot take it yet. Where it is gone, so is everything else. */
static int end_everything(struct slk_disk *disk)
{
	struct slk_order order = {.kind = SLK_ORDER_KILL};
	int result = slk_order_send(disk->control_fd, &order);

	return result != -EAGAIN && result != -EINTR && result != -ENOBUFS && result != -ENOMEM;
}

static void until_everything_is_ended(struct slk_disk *disk)
{
	static const struct timespec soon = {0, END_AGAIN_AFTER_NS};

	while (!disk->stop && !end_everything(disk)) {
		pthread_mutex_unlock(&disk->lock);
		nanosleep(&soon, NULL);
		pthread_mutex_lock(&disk->lock);
	}
}

static void wait_until_due(struct slk_disk *disk)
{
	struct pollfd waiting[2] = {{disk->wake_fd, POLLIN, 0}, {disk->unlinked_open ? disk->inotify_fd : -1, POLLIN, 0}};
	uint64_t now = slk_now_ns(), left, count;
	struct timespec limit;
	int is_idle = !disk->open_count;

	disk->due_ns = is_idle ? UINT64_MAX : now + period_ns(disk);
	left = disk->due_ns - now;
	limit.tv_sec = (time_t)(left / 1000000000u);
	limit.tv_nsec = (long)(left % 1000000000u);
	pthread_mutex_unlock(&disk->lock);
	if (ppoll(waiting, 2, is_idle ? NULL : &limit, NULL) > 0 && waiting[0].revents &&
	    read(disk->wake_fd, &count, sizeof(count)) < 0)
		count = 0; /* somebody was faster */
	pthread_mutex_lock(&disk->lock);
}

static void *watch(void *argument)
{
	struct slk_disk *disk = argument;

	pthread_mutex_lock(&disk->lock);
	while (!disk->stop && !disk->is_over) {
		wait_until_due(disk);
		if (disk->stop)
			break;
		look(disk);
		find_over(disk);
		if (disk->is_over)
			until_everything_is_ended(disk);
	}
	pthread_mutex_unlock(&disk->lock);
	return NULL;
}

int slk_disk_watch(struct slk_disk *disk, int control_fd)
{
	sigset_t all, before;
	int error;

	disk->control_fd = control_fd;
	/* What was there at the start is nobody's fault. */
	disk->excess = above_limit(disk);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	error = pthread_create(&disk->watcher, NULL, watch, disk);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	disk->is_watched = error == 0;
	return -error;
}

static unsigned processors(void)
{
	cpu_set_t set;
	int count = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : (int)sysconf(_SC_NPROCESSORS_ONLN);

	return count > 0 ? (unsigned)count : 1;
}

int slk_disk_create(uint64_t limit_bytes, struct slk_disk **ret_disk)
{
	struct slk_disk *disk = calloc(1, sizeof(*disk));
	uint64_t reserve;
	int error;

	if (!disk)
		return -ENOMEM;
	disk->limit = limit_bytes;
	reserve = limit_bytes / RESERVE_PART;
	disk->opened_below = limit_bytes - (reserve < RESERVE_BYTES_MAX ? reserve : RESERVE_BYTES_MAX);
	disk->mask = BUCKETS_FIRST - 1;
	disk->processors = processors();
	disk->due_ns = UINT64_MAX;
	disk->inotify_fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	error = disk->inotify_fd < 0 ? errno : 0;
	disk->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	error = !error && disk->wake_fd < 0 ? errno : error;
	disk->buckets = calloc(BUCKETS_FIRST, sizeof(struct held *));
	disk->by_watch = calloc(BUCKETS_FIRST, sizeof(struct held *));
	pthread_mutex_init(&disk->lock, NULL);
	if (error || !disk->buckets || !disk->by_watch) {
		slk_disk_destroy(disk);
		return error ? -error : -ENOMEM;
	}
	*ret_disk = disk;
	return 0;
}

void slk_disk_stop(struct slk_disk *disk)
{
	uint64_t one = 1;

	if (!disk->is_watched)
		return;
	pthread_mutex_lock(&disk->lock);
	disk->stop = 1;
	pthread_mutex_unlock(&disk->lock);
	if (write(disk->wake_fd, &one, sizeof(one)) < 0)
		one = 0; /* full: it is awake */
	pthread_join(disk->watcher, NULL);
	disk->is_watched = 0;
}

void slk_disk_end(struct slk_disk *disk)
{
	slk_disk_stop(disk);
	pthread_mutex_lock(&disk->lock);
	while (disk->open_count)
		close_open(disk, disk->open[disk->open_count - 1]);
	if (disk->inotify_fd >= 0)
		close(disk->inotify_fd);
	if (disk->wake_fd >= 0)
		close(disk->wake_fd);
	disk->inotify_fd = disk->wake_fd = -1;
	pthread_mutex_unlock(&disk->lock);
}

void slk_disk_destroy(struct slk_disk *disk)
{
	slk_disk_end(disk);
	for (uint64_t i = 0; disk->buckets && i <= disk->mask; i++) {
		for (struct held *next, *held = disk->buckets[i]; held; held = next) {
			next = held->chain;
			free(held);
		}
	}
	free(disk->buckets);
	free(disk->by_watch);
	free(disk->open);
	pthread_mutex_destroy(&disk->lock);
	free(disk);
}

int slk_disk_add_upper(struct slk_disk *disk, int upper_fd, const char *path)
{
	struct upper *upper = &disk->uppers[disk->upper_count];
	size_t length = strlen(path);
	struct stat status;

	if (disk->upper_count == UPPERS_MAX)
		return -ENOSPC;
	if (length >= SLK_PATH_MAX)
		return -ENAMETOOLONG;
	if (fstat(upper_fd, &status) < 0)
		return -errno;
	memcpy(upper->path, path, length);
	upper->length = (uint32_t)length;
	upper->device = status.st_dev;
	disk->upper_count++;
	return 0;
}
