/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Restarting a call, as the supervisor does it: its caller is seized and answered, followed as far as it comes now, and
 * gone on with later; and the new call, where it is trapped, is let through (rewrite.c).
 */
#define _GNU_SOURCE
#include "rewrite.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

#define END_TRIES_MAX 100
#define FOLLOW_PATIENCE_MS 5
/* init waits for nobody for long; it may have to wait for a CPU, and a call that it does not restart fails. */
#define INIT_PATIENCE_MS 1000

/* ---- what is under way */

/*
 * 0: it is over; -EINPROGRESS; -ENOENT: the thread has ended; -ESTALE: it was not in that call. When it was killed in a
 * stop there is nothing to detach, but its end is to be taken, or nobody else ever hears of it.
 * as_far_as: the phase from which on the caller needs our drain.
 */
static int finish_one(const struct slk_engine *engine, struct slk_rewrite *rewrite, uint64_t end_ns, int options,
		      enum slk_rewrite_phase as_far_as, struct slk_confined *confined)
{
	for (;;) {
		int status, request;
		long number;
		int result = slk_await_stop(rewrite->tid, end_ns, options, &status);

		if (result <= 0)
			return result ? result : -EINPROGRESS;
		request = slk_rewrite_step(engine->shared, rewrite, status, &number);
		if (request) {
			ptrace((enum __ptrace_request)request, rewrite->tid, 0, number); /* or it is killed by now */
			if (request == PTRACE_LISTEN || rewrite->phase == (int32_t)as_far_as)
				return -EINPROGRESS; /* for long, maybe */
			continue;
		}
		if (confined)
			slk_release(confined); /* before a line of the program runs */
		if (ptrace(PTRACE_DETACH, rewrite->tid, 0, number) == 0)
			return rewrite->phase == SLK_STOPPING ? -ESTALE : 0;
	}
}

int slk_rewrites_finish(struct slk_engine *engine)
{
	for (uint32_t at = engine->unfinished_count; at-- > 0;)
		if (finish_one(engine, &engine->unfinished[at], 0, WNOHANG, SLK_NEVER, NULL) != -EINPROGRESS)
			engine->unfinished[at] = engine->unfinished[--engine->unfinished_count];
	return engine->unfinished_count != 0;
}

uint32_t slk_restarts_under_way(const struct slk_engine *engine)
{
	return engine->unfinished_count;
}

/* Nobody will look again, and whoever waits for the end of all waits for those that only we can reap. */
void slk_rewrites_end(struct slk_engine *engine)
{
	for (int tries = 0; slk_rewrites_finish(engine) && tries < END_TRIES_MAX; tries++)
		poll(NULL, 0, 1);
}

/* ---- what may pass, because we have asked for it */

void slk_rewrite_forget(struct slk_engine *engine, int32_t tid)
{
	for (uint32_t at = engine->passing_count; at-- > 0;)
		if (engine->passing[at].tid == tid)
			engine->passing[at] = engine->passing[--engine->passing_count];
}

static int is_trapped(const struct slk_engine *engine, const struct slk_rewrite *rewrite)
{
	if (engine->calls[rewrite->call.nr].treatment == SLK_CALL_MEMORY)
		return slk_memory_is_asked(engine, rewrite->call.nr, rewrite->call.args);
	return engine->calls[rewrite->call.nr].treatment != SLK_CALL_NONE;
}

/* The oldest gives way: its call is then judged as any other. */
static void will_pass(struct slk_engine *engine, const struct slk_rewrite *rewrite)
{
	slk_rewrite_forget(engine, rewrite->tid);
	if (!is_trapped(engine, rewrite))
		return;
	if (engine->passing_count == SLK_REWRITES_MAX)
		memmove(engine->passing, engine->passing + 1, --engine->passing_count * sizeof(*engine->passing));
	engine->passing[engine->passing_count++] = *rewrite;
}

/* The call is made now, and what comes after it is not trapped: followed to its end at once. */
static void follow(struct slk_engine *engine, int32_t tid)
{
	struct slk_patience patience;

	for (uint32_t at = engine->unfinished_count; at-- > 0;) {
		struct slk_rewrite *rewrite = &engine->unfinished[at];

		if (rewrite->tid != tid || slk_patience_begin(engine, FOLLOW_PATIENCE_MS, &patience) < 0)
			continue;
		if (finish_one(engine, rewrite, patience.end_ns, 0, SLK_NEVER, NULL) != -EINPROGRESS)
			engine->unfinished[at] = engine->unfinished[--engine->unfinished_count];
		slk_patience_end(engine, &patience);
	}
}

int slk_rewrite_passes(struct slk_engine *engine, const struct slk_request *request)
{
	int fits = 0;

	for (uint32_t at = 0; at < engine->passing_count; at++) {
		const struct slk_rewrite *rewrite = &engine->passing[at];

		if (rewrite->tid == request->tid)
			fits = rewrite->call.nr == request->nr &&
			       rewrite->instruction_pointer == request->instruction_pointer &&
			       memcmp(rewrite->call.args, request->args, sizeof(request->args)) == 0;
	}
	slk_rewrite_forget(engine, request->tid); /* used, or what it was meant for has not come */
	if (!fits)
		return 0;
	engine->shared->counts.continued++;
	slk_answer_continue(engine, request->slot);
	follow(engine, request->tid);
	return 1;
}

/* ---- answering */

/* Give it the descriptor that the new call is about. 0, or -errno: then the call is not to be replaced. */
static int give(struct slk_engine *engine, uint32_t index, int32_t fd, struct slk_rewrite *rewrite)
{
	int number = fd < 0 ? 0 : slk_give_fd(engine, index, fd, 1);

	if (number < 0) {
		rewrite->old_nr = -1; /* whatever its registers say then */
		return number;
	}
	if (fd < 0)
		return 0;
	rewrite->call.args[rewrite->call.fd_argument] = (uint64_t)number;
	if (rewrite->call.end != SLK_RESTART_LEAVE)
		rewrite->call.close_fd = number;
	return 0;
}

/*
 * Seized, given the descriptor, told to stop. In this order: nobody can take back what was given, so it is given when
 * nothing stands in the way of the call any more; and without WAIT_KILLABLE_RECV who is told to stop waits no longer.
 * -ENOENT: it is dead, and to be reaped here. ret_given: as give() has it.
 */
static int hold(struct slk_engine *engine, uint32_t index, int32_t fd, struct slk_rewrite *rewrite, int *ret_given)
{
	int result = slk_seize(engine, &engine->slots[index]);

	*ret_given = 0;
	if (result == -ESRCH)
		return -ENOENT;
	if (result < 0)
		return result;
	*ret_given = give(engine, index, fd, rewrite);
	return ptrace(PTRACE_INTERRUPT, rewrite->tid, 0, 0) < 0 ? -ENOENT : 0;
}

/* A stop and a going on wake one of us each, four times where the call returns: on one CPU, where that is to be had. */
static int finish_now(const struct slk_engine *engine, struct slk_rewrite *rewrite, uint64_t end_ns,
		      enum slk_rewrite_phase as_far_as)
{
	struct slk_confined *confined = &engine->shared->confined;
	int is_confined = rewrite->call.end != SLK_RESTART_LEAVE && slk_may_confine(engine) &&
			  slk_confine(rewrite->tid, confined);
	int result = finish_one(engine, rewrite, end_ns, 0, as_far_as, is_confined ? confined : NULL);

	if (is_confined && result != 0)
		slk_release(confined);
	return result;
}

/* What it is answered with. EMFILE is the program's own limit and its to see; that other number, where it is not going to
 * stop, would be seen too. */
static int32_t word_for(int held, int given)
{
	if (held == 0 && given == 0)
		return -SLK_ERESTARTNOINTR;
	return given == -EMFILE ? -EMFILE : -EIO;
}

static int restart_by_us(struct slk_engine *engine, uint32_t index, int32_t fd, struct slk_rewrite *rewrite,
			 const struct slk_patience *patience)
{
	/* A call that is trapped needs the drain before it can return: slk_rewrite_passes goes on then. */
	int waits = rewrite->call.end == SLK_RESTART_LEAVE || !is_trapped(engine, rewrite);
	int given, sent, finished;
	int held = hold(engine, index, fd, rewrite, &given);

	if (held < 0 && held != -ENOENT)
		return held;
	sent = slk_answer(engine, index, 0, word_for(held, given), 0);
	/* Withdrawn meanwhile (ENOENT), it stops all the same, and its registers say whether it is in that call still. */
	finished = finish_now(engine, rewrite, patience->end_ns, waits ? SLK_NEVER : SLK_CALLING);
	if (finished == -EINPROGRESS) {
		engine->unfinished[engine->unfinished_count++] = *rewrite;
		finished = 0;
	}
	if (given < 0)
		return given;
	if (finished == 0)
		will_pass(engine, rewrite);
	if (sent == -ENOENT && finished == -ESTALE)
		return -ENOENT; /* another one has its number */
	return sent < 0 && sent != -ENOENT ? sent : finished;
}

/* Before a stranger is stopped: 1 when nobody waits any more, and the slot is free. */
static int has_vanished(struct slk_engine *engine, struct slk_slot *slot)
{
	if (slk_slot_alive(engine, slot))
		return 0;
	engine->shared->counts.vanished++;
	slk_slot_release(engine, slot);
	return 1;
}

/* The descriptor is part of the order. Where init does not answer (it was stopped from outside), the program has one more. */
static int restart_by_init(struct slk_engine *engine, uint32_t index, int control_fd, int32_t fd,
			   struct slk_rewrite *rewrite, int32_t timeout_ms)
{
	int result = give(engine, index, fd, rewrite);

	if (result < 0) {
		slk_answer(engine, index, 0, word_for(0, result), 0);
		return result;
	}
	result = slk_order_restart(engine, control_fd, rewrite, timeout_ms);
	if (result <= 0)
		return result < 0 ? result : -EPERM;
	will_pass(engine, rewrite);
	return slk_answer(engine, index, 0, -SLK_ERESTARTNOINTR, 0);
}

int slk_answer_restart(struct slk_engine *engine, uint32_t index, int control_fd, const struct slk_restart *call,
		       int32_t fd, int32_t timeout_ms)
{
	struct slk_rewrite rewrite = {.call = *call};
	struct slk_patience patience;
	struct slk_slot *slot = slk_slot_in_use(engine, index);
	int result;

	if (!slot)
		return -EBADSLT;
	if (call->fd_argument < 0 || call->fd_argument > 5)
		return -EINVAL;
	if (call->nr < 0 || call->nr >= SLK_CALLS_MAX || engine->calls[call->nr].treatment == SLK_CALL_REFUSE)
		return -EPERM;
	slk_rewrites_finish(engine);
	if (engine->unfinished_count == SLK_REWRITES_MAX)
		return -EAGAIN;
	if (has_vanished(engine, slot))
		return -ENOENT;
	rewrite.entered = -1;
	rewrite.tid = slot->tid;
	rewrite.old_nr = slot->nr;
	rewrite.instruction_pointer = slot->instruction_pointer;
	memcpy(rewrite.old_args, slot->args, sizeof(rewrite.old_args));
	result = slk_patience_begin(engine, timeout_ms, &patience);
	if (result < 0)
		return result;
	result = restart_by_us(engine, index, fd, &rewrite, &patience);
	slk_patience_end(engine, &patience);
	if (result != -EPERM || control_fd < 0)
		return result;
	if (has_vanished(engine, slot))
		return -ENOENT; /* the dead are not seized either */
	if (timeout_ms < INIT_PATIENCE_MS)
		timeout_ms = INIT_PATIENCE_MS;
	return restart_by_init(engine, index, control_fd, fd, &rewrite, timeout_ms); /* if its process has timers */
}

int slk_restart_result(struct slk_engine *engine, int32_t tid, int64_t *ret_result)
{
	struct slk_restart_result *told = &engine->shared->results[(uint32_t)tid % SLK_RESULTS_MAX];

	if (__atomic_load_n(&told->tid, __ATOMIC_ACQUIRE) != tid)
		return 0;
	*ret_result = told->value;
	told->tid = 0;
	return 1;
}
