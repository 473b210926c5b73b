/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Threads seen for the first time. Most end soon, and are never registered: only who still lives after a while is Python's
 * to hear of, when nobody waits for an answer.
 *
 * When that while is over is told by a timer of its own that runs once for many of them. As a timeout of each wait of the
 * loop it would be set and taken back with each call that a new process makes, which costs as much as the call itself
 * where the clock's interrupt is another machine's to set.
 */
#define _GNU_SOURCE
#include "slk.h"

#include <errno.h>
#include <string.h>
#include <sys/timerfd.h>
#include <unistd.h>

/* A thread that ends sooner is never registered: nothing about it could still be asked. */
#define NEW_THREADS_AFTER_NS 20000000u

int slk_newcomers_create(struct slk_engine *engine)
{
	engine->newcomers_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	return engine->newcomers_fd < 0 ? -errno : 0;
}

void slk_newcomers_destroy(struct slk_engine *engine)
{
	if (engine->newcomers_fd >= 0)
		close(engine->newcomers_fd);
}

void slk_notice_thread(struct slk_engine *engine, int32_t tid)
{
	int32_t *seen = &engine->seen[(uint32_t)tid % SLK_SEEN_MAX];

	if (*seen == tid || engine->new_count == SLK_NEW_MAX)
		return; /* without room, its next notification brings it back */
	*seen = tid;
	engine->new_threads[engine->new_count++] = (struct slk_new_thread){tid, slk_now_ns()};
}

static void drop(struct slk_engine *engine, uint32_t count)
{
	engine->new_count -= count;
	memmove(engine->new_threads, engine->new_threads + count, engine->new_count * sizeof(*engine->new_threads));
}

/* The oldest come first. The short-lived ones end here, for next to nothing. */
int slk_newcomer_is_due(struct slk_engine *engine)
{
	uint64_t now = engine->new_count ? slk_now_ns() : 0;
	uint32_t dead = 0;

	while (dead < engine->new_count && engine->new_threads[dead].since_ns + NEW_THREADS_AFTER_NS <= now &&
	       getpgid(engine->new_threads[dead].tid) < 0)
		slk_forget_thread(engine, engine->new_threads[dead++].tid); /* its number may come again */
	if (dead)
		drop(engine, dead);
	return engine->new_count && engine->new_threads[0].since_ns + NEW_THREADS_AFTER_NS <= now;
}

void slk_newcomers_set_timer(struct slk_engine *engine)
{
	uint64_t due_ns;
	struct itimerspec timer = {{0, 0}, {0, 0}};

	if (engine->newcomers_timed || !engine->new_count)
		return;
	due_ns = engine->new_threads[0].since_ns + NEW_THREADS_AFTER_NS;
	timer.it_value.tv_sec = (time_t)(due_ns / 1000000000u);
	timer.it_value.tv_nsec = (long)(due_ns % 1000000000u);
	engine->newcomers_timed = timerfd_settime(engine->newcomers_fd, TFD_TIMER_ABSTIME, &timer, NULL) == 0;
}

void slk_newcomers_timer_ran(struct slk_engine *engine)
{
	uint64_t times;

	if (read(engine->newcomers_fd, &times, sizeof(times)) < 0 && errno == EAGAIN)
		return;
	engine->newcomers_timed = 0;
}

int slk_new_threads(struct slk_engine *engine, int32_t *ret_tids, uint32_t capacity)
{
	uint32_t count = 0;

	while (count < capacity && slk_newcomer_is_due(engine)) {
		ret_tids[count++] = engine->new_threads[0].tid;
		drop(engine, 1);
	}
	return (int)count;
}

void slk_forget_thread(struct slk_engine *engine, int32_t tid)
{
	int32_t *seen = &engine->seen[(uint32_t)tid % SLK_SEEN_MAX];

	if (*seen == tid)
		*seen = 0;
	slk_bases_forget(engine, tid);
	slk_rewrite_forget(engine, tid);
}
