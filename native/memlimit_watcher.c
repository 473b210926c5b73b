/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The watcher of the limit of memory: a thread of its own, so that nothing that the loop does delays it. It looks more often
 * the less is left: two looks are not further apart than all processors together need to fill what was left at the first.
 * Where a cgroup keeps the limit, it waits for the kernel to say that it ran out; which has ended somebody by then.
 * Above the limit, init is told to end everything.
 *
 * Where what is in use at most is above the limit, each page has to be counted once. That takes long, and waits for what
 * processes do with their memory (smaps_rollup takes its lock): a fork of a large one, or a page that a server gives when it
 * likes. So another thread does it, the walker, while the watcher goes on looking: what one process has alone, and what all have
 * come to have since they were seen first, is in use at least. A walker that somebody keeps waiting can count nothing, nor can who may not look: then everything is ended, too.
 */
#define _GNU_SOURCE
#include "memlimit.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "disk.h"

#define PERIOD_MIN_NS 1000000u
#define PERIOD_MAX_NS 250000000u
#define LOOK_PART 4u /* of the time a look may take: the rest is others' */
#define END_AGAIN_AFTER_NS 1000000 /* where init has as many orders as its socket holds */
#define BLIND_FOR_NS 20000000u /* a process that ends, or a moment without descriptors, is no reason */
#define KEPT_WAITING_FOR_NS 1000000000u

static uint64_t period_ns(const struct slk_memory *memory)
{
	uint64_t left = memory->used < memory->limit ? memory->limit - memory->used : 0;
	uint64_t period = left / (SLK_MEMORY_FASTEST_BYTES_PER_NS * memory->processors);
	uint64_t shortest = LOOK_PART * memory->look_ns;

	/* Pages that are shared count too often in the sum of all: near the limit each look may lead to a walk. */
	if (memory->walking == SLK_WALK_NONE && memory->used + memory->used / LOOK_PART > memory->limit)
		shortest += memory->exact_ns;
	if (shortest < PERIOD_MIN_NS || memory->blind_error)
		shortest = PERIOD_MIN_NS;
	period = period < PERIOD_MAX_NS && !memory->blind_error ? period : PERIOD_MAX_NS * !memory->blind_error;
	return period > shortest ? period : shortest;
}

void slk_memory_wake(struct slk_memory *memory)
{
	uint64_t one = 1;

	if (write(memory->wake_fd, &one, sizeof(one)) < 0)
		one = 0; /* full: it is awake */
}

static void until_everything_is_ended(struct slk_memory *memory)
{
	static const struct timespec soon = {0, END_AGAIN_AFTER_NS};

	slk_let_be_first(memory->init);
	while (!memory->stop && !slk_order_everything_ended(memory->control_fd)) {
		pthread_mutex_unlock(&memory->lock);
		nanosleep(&soon, NULL);
		pthread_mutex_lock(&memory->lock);
	}
}

static void wait_until_due(struct slk_memory *memory)
{
	struct pollfd waiting = {memory->wake_fd, POLLIN, 0};
	uint64_t left = period_ns(memory), count;
	struct timespec limit = {(time_t)(left / 1000000000u), (long)(left % 1000000000u)};

	if (memory->walking == SLK_WALK_DONE)
		return;
	pthread_mutex_unlock(&memory->lock);
	if (ppoll(&waiting, 1, &limit, NULL) > 0 && read(memory->wake_fd, &count, sizeof(count)) < 0)
		count = 0; /* somebody was faster */
	pthread_mutex_lock(&memory->lock);
}

/* ---- the walker */

static void *walk(void *argument)
{
	struct slk_memory *memory = argument;

	slk_be_prompt();
	pthread_mutex_lock(&memory->lock);
	memory->walker_tid = (int32_t)syscall(SYS_gettid);
	while (!memory->stop) {
		if (memory->walking != SLK_WALK_UNDER_WAY) {
			pthread_cond_wait(&memory->changed, &memory->lock);
			continue;
		}
		pthread_mutex_unlock(&memory->lock);
		slk_memory_walk(memory, &memory->walk);
		pthread_mutex_lock(&memory->lock);
		memory->walking = SLK_WALK_DONE;
		slk_memory_wake(memory);
	}
	pthread_mutex_unlock(&memory->lock);
	return NULL;
}

static int walker_runs(const struct slk_memory *memory)
{
	char path[64], text[512];
	const char *name_end;
	ssize_t got;
	int fd;

	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", (int)memory->walker_tid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	got = read(fd, text, sizeof(text) - 1);
	close(fd);
	text[got > 0 ? got : 0] = '\0';
	name_end = strrchr(text, ')');
	return name_end && strncmp(name_end, ") R", 3) == 0;
}

static void begin_walk(struct slk_memory *memory)
{
	if (slk_memory_begin_walk(memory) < 0)
		return; /* no memory for a list: again at the next look */
	memory->walking = SLK_WALK_UNDER_WAY;
	memory->walker_ran_ns = memory->walk_began_ns;
	pthread_cond_broadcast(&memory->changed);
}

static void end_walk(struct slk_memory *memory)
{
	slk_memory_end_walk(memory);
	memory->walking = SLK_WALK_NONE;
	pthread_cond_broadcast(&memory->changed);
}

/* ---- the watcher */

static int cannot_be_counted(struct slk_memory *memory)
{
	uint64_t now = slk_now_ns();

	if (memory->blind_since_ns && now - memory->blind_since_ns > BLIND_FOR_NS)
		return memory->blind_error;
	if (memory->walking != SLK_WALK_UNDER_WAY)
		return 0;
	if (walker_runs(memory))
		memory->walker_ran_ns = now;
	return now - memory->walker_ran_ns > KEPT_WAITING_FOR_NS ? ETIMEDOUT : 0;
}

static void look(struct slk_memory *memory)
{
	uint64_t at_least;

	if (memory->walking == SLK_WALK_DONE) {
		end_walk(memory);
	} else {
		slk_memory_look(memory);
		at_least = slk_memory_at_least(memory);
		if (at_least > memory->limit) {
			memory->used = at_least;
			memory->peak = at_least > memory->peak ? at_least : memory->peak;
		}
		if (memory->walking == SLK_WALK_NONE &&
		    (memory->at_most > memory->limit || memory->counts_mapped || memory->exact_wanted))
			begin_walk(memory);
	}
	memory->uncounted_error = cannot_be_counted(memory);
	memory->is_over = (memory->used > memory->limit && memory->walking != SLK_WALK_UNDER_WAY) ||
			  slk_memory_at_least(memory) > memory->limit || memory->uncounted_error;
}

static void *watch(void *argument)
{
	struct slk_memory *memory = argument;

	slk_be_first();
	pthread_mutex_lock(&memory->lock);
	while (!memory->stop && !memory->is_over) {
		if (memory->is_by_group)
			slk_group_wait(memory);
		else
			wait_until_due(memory);
		if (memory->stop)
			break;
		if (memory->is_by_group)
			memory->is_over = slk_group_is_over(memory);
		else
			look(memory);
		if (memory->is_over)
			until_everything_is_ended(memory);
	}
	pthread_cond_broadcast(&memory->changed);
	pthread_mutex_unlock(&memory->lock);
	return NULL;
}

int slk_memory_watch(struct slk_memory *memory, int control_fd, int init_pid)
{
	sigset_t all, before;
	int error;

	memory->control_fd = control_fd;
	memory->init = init_pid;
	memory->room = (int64_t)memory->asked_below;
	memory->looked_ns = slk_now_ns();
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	error = memory->is_by_group ? 0 : pthread_create(&memory->walker, NULL, walk, memory);
	if (!error) {
		memory->has_walker = !memory->is_by_group;
		error = pthread_create(&memory->watcher, NULL, watch, memory);
		memory->is_watched = error == 0;
	}
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return -error;
}

void slk_memory_stop(struct slk_memory *memory)
{
	pthread_mutex_lock(&memory->lock);
	memory->stop = 1;
	pthread_cond_broadcast(&memory->changed);
	pthread_mutex_unlock(&memory->lock);
	slk_memory_wake(memory);
	if (memory->is_watched)
		pthread_join(memory->watcher, NULL);
	memory->is_watched = 0;
}

void slk_memory_join(struct slk_memory *memory)
{
	if (memory->has_walker)
		pthread_join(memory->walker, NULL);
	memory->has_walker = 0;
}
