/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The watcher: a thread of its own, so that nothing that the loop does delays it. It looks more often the less is left: two
 * looks are not further apart than all processors together need to write what was left at the first, if they can. Who has
 * written past the limit is ended: init is told to end everything.
 */
#define _GNU_SOURCE
#include "disk.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#define PERIOD_MIN_NS 1000000u
#define PERIOD_MAX_NS 250000000u
#define END_AGAIN_AFTER_NS 1000000 /* where init has as many orders as its socket holds */

void slk_disk_find_over(struct slk_disk *disk)
{
	if (disk->is_over || slk_disk_above_limit(disk) <= disk->excess)
		return;
	disk->is_over = 1;
	disk->over_bytes = disk->total;
}

static uint64_t period_ns(const struct slk_disk *disk)
{
	uint64_t left = disk->total < disk->limit ? disk->limit - disk->total : 0;
	uint64_t period = left / (SLK_DISK_FASTEST_BYTES_PER_NS * disk->processors);
	uint64_t shortest = disk->look_ns > PERIOD_MIN_NS ? disk->look_ns : PERIOD_MIN_NS;

	period = period < PERIOD_MAX_NS ? period : PERIOD_MAX_NS;
	return period > shortest ? period : shortest;
}

void slk_disk_hurry(struct slk_disk *disk)
{
	uint64_t one = 1;

	if (!disk->is_watched || !disk->open_count || disk->due_ns <= slk_now_ns() + period_ns(disk) + PERIOD_MIN_NS)
		return;
	disk->due_ns = 0;
	if (write(disk->wake_fd, &one, sizeof(one)) < 0)
		return; /* full: it is awake */
}

static void until_everything_is_ended(struct slk_disk *disk)
{
	static const struct timespec soon = {0, END_AGAIN_AFTER_NS};

	while (!disk->stop && !slk_order_everything_ended(disk->control_fd)) {
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
		slk_disk_look(disk);
		slk_disk_find_over(disk);
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
	disk->excess = slk_disk_above_limit(disk);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	error = pthread_create(&disk->watcher, NULL, watch, disk);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	disk->is_watched = error == 0;
	return -error;
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
