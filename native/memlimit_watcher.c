/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The watcher of the limit of memory: a thread of its own, so that nothing that the loop does delays it. It looks more often
 * the less is left: two looks are not further apart than all processors together need to fill what was left at the first.
 * Where a cgroup keeps the limit, it waits for the kernel to say that it ran out; which has ended somebody by then.
 * Above the limit, init is told to end everything.
 */
#define _GNU_SOURCE
#include "memlimit.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include "disk.h"

#define PERIOD_MIN_NS 1000000u
#define PERIOD_MAX_NS 250000000u
#define LOOK_PART 4u /* of the time a look may take: the rest is others' */
#define END_AGAIN_AFTER_NS 1000000 /* where init has as many orders as its socket holds */

static uint64_t period_ns(const struct slk_memory *memory)
{
	uint64_t left = memory->used < memory->limit ? memory->limit - memory->used : 0;
	uint64_t period = left / (SLK_MEMORY_FASTEST_BYTES_PER_NS * memory->processors);
	uint64_t shortest = LOOK_PART * memory->look_ns;

	/* Pages that are shared count too often in the sum of all: near the limit each look may have to walk. */
	if (memory->used + memory->used / LOOK_PART > memory->limit)
		shortest += memory->exact_ns;
	if (shortest < PERIOD_MIN_NS)
		shortest = PERIOD_MIN_NS;
	period = period < PERIOD_MAX_NS ? period : PERIOD_MAX_NS;
	return period > shortest ? period : shortest;
}

static void until_everything_is_ended(struct slk_memory *memory)
{
	static const struct timespec soon = {0, END_AGAIN_AFTER_NS};

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

	pthread_mutex_unlock(&memory->lock);
	if (ppoll(&waiting, 1, &limit, NULL) > 0 && read(memory->wake_fd, &count, sizeof(count)) < 0)
		count = 0; /* somebody was faster */
	pthread_mutex_lock(&memory->lock);
}

static int is_above(struct slk_memory *memory)
{
	slk_memory_look(memory, 1);
	return memory->used > memory->limit;
}

static void *watch(void *argument)
{
	struct slk_memory *memory = argument;

	slk_be_prompt();
	pthread_mutex_lock(&memory->lock);
	while (!memory->stop && !memory->is_over) {
		if (memory->is_by_group)
			slk_group_wait(memory);
		else
			wait_until_due(memory);
		if (memory->stop)
			break;
		memory->is_over = memory->is_by_group ? slk_group_is_over(memory) : is_above(memory);
		if (memory->is_over)
			until_everything_is_ended(memory);
	}
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
	error = pthread_create(&memory->watcher, NULL, watch, memory);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	memory->is_watched = error == 0;
	return -error;
}

void slk_memory_stop(struct slk_memory *memory)
{
	uint64_t one = 1;

	if (!memory->is_watched)
		return;
	pthread_mutex_lock(&memory->lock);
	memory->stop = 1;
	pthread_mutex_unlock(&memory->lock);
	if (write(memory->wake_fd, &one, sizeof(one)) < 0)
		one = 0; /* full: it is awake */
	pthread_join(memory->watcher, NULL);
	memory->is_watched = 0;
}
