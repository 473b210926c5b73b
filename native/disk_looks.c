/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the open files and those without a name hold by now, whether anybody has them still, and what the kernel tells of
 * objects that are gone (disk.c).
 */
#define _GNU_SOURCE
#include "disk.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/inotify.h>
#include <unistd.h>

#define OPEN_AT_ONCE 512u /* more of them are looked through early: most are closed by then */
#define ASKED_MAX 6       /* one that stays open is asked every 64 looks */

int64_t slk_disk_look_once(struct slk_disk *disk, struct slk_held *held)
{
	struct stat status;

	if (fstat(held->fd, &status) < 0)
		return -1;
	slk_held_set_bytes(disk, held, &status);
	if (status.st_nlink == 0)
		slk_held_now_unlinked(disk, held);
	return (int64_t)status.st_ctim.tv_sec * 1000000000 + status.st_ctim.tv_nsec;
}

void slk_disk_let_go(struct slk_disk *disk, struct slk_held *held)
{
	int is_kept = held->is_unlinked && !slk_held_is_told(held);

	if (slk_in_use(held->fd, is_kept)) {
		held->asked = (uint8_t)(held->asked + (held->asked < ASKED_MAX));
		held->rests = (uint8_t)(1u << held->asked);
	} else if (!is_kept || disk->path_given) {
		/* No lease is against O_PATH descriptors: where there may be one and no watch tells, it counts to the end. */
		slk_disk_look_once(disk, held); /* what was written before it was closed, after the last look */
		slk_held_close(disk, held);
	} else {
		slk_held_forget(disk, held);
	}
}

static void look_at(struct slk_disk *disk, struct slk_held *held, int is_crowded)
{
	int64_t changed_ns = slk_disk_look_once(disk, held);

	if (changed_ns != held->changed_ns && !is_crowded) {
		held->changed_ns = changed_ns;
		return;
	}
	held->changed_ns = changed_ns;
	if (held->rests > 0)
		held->rests--;
	else
		slk_disk_let_go(disk, held);
}

/* ---- what the kernel tells of objects that went */

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
		for (uint32_t i = 0; i < SLK_DISK_BUCKETS; i++) {
			for (struct slk_held *next, *held = disk->by_watch[i]; held; held = next) {
				next = held->watched;
				if (held->watch >= 1 << 24 || left[held->watch / 8] & 1u << held->watch % 8)
					continue;
				if (held->had_names)
					slk_held_set_watch(disk, held, -1);
				else
					slk_held_forget(disk, held);
			}
		}
	}
	free(left);
}

static void on_event(struct slk_disk *disk, const struct inotify_event *event)
{
	struct slk_held *held = slk_held_of_watch(disk, event->wd);

	if (event->mask & IN_Q_OVERFLOW)
		catch_up(disk);
	else if (!held)
		return;
	else if (event->mask & IN_DELETE_SELF && !held->had_names)
		slk_held_forget(disk, held);
	else if (event->mask & IN_IGNORED)
		slk_held_set_watch(disk, held, -1);
	else if (event->mask & IN_CLOSE_WRITE && held->fd >= 0 && slk_disk_look_once(disk, held) >= 0)
		slk_disk_let_go(disk, held);
}

void slk_disk_settle(struct slk_disk *disk)
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

/* ---- all of them */

void slk_disk_look(struct slk_disk *disk)
{
	uint64_t began_ns = slk_now_ns();
	int is_crowded = disk->open_count > OPEN_AT_ONCE;

	slk_disk_settle(disk);
	/* From the end: what is closed is replaced by the last. */
	for (uint32_t i = disk->open_count; i-- > 0;)
		look_at(disk, disk->open[i], is_crowded);
	slk_disk_settle(disk);
	disk->looked_ns = slk_now_ns();
	disk->look_ns = disk->looked_ns - began_ns;
}

int slk_disk_is_stale(const struct slk_disk *disk)
{
	uint64_t age_ns = slk_now_ns() - disk->looked_ns;

	return age_ns > SLK_DISK_FRESH_NS && age_ns > 8 * disk->look_ns;
}

void slk_disk_look_if_crowded(struct slk_disk *disk)
{
	if (disk->open_count > OPEN_AT_ONCE && slk_disk_is_stale(disk))
		slk_disk_look(disk);
}
