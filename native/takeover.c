/* SPDX-License-Identifier: Apache-2.0 */
/*
 * In the place of a supervisor that has died.
 *
 * Its replacement was forked from a process that it had forked itself before it started the program, and so has the same
 * engine as it was then, with the same ledger. The kernel offers a call to one receiver only, but takes the answer from any
 * holder of the listener, by its id. So each slot that is not free is a caller that waits, unless it was killed: for an answer
 * that was prepared, which it is sent again (ENOENT: it has it); or to be handled anew.
 *
 * What was received was written by the kernel to memory that we share, before anybody could die of anything: when a call is in
 * no slot yet it is there still.
 *
 * A call whose act was begun may be done already. Python finds out: it is handled before all others, so nothing else has changed
 * since.
 *
 * A call that a supervisor dies of again and again is refused.
 */
#define _GNU_SOURCE
#include "slk.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define DEATHS_MAX 3
#define DEATHS_WITHIN_NS 10000000000u

void slk_handles(struct slk_engine *engine, uint32_t slot)
{
	__atomic_store_n(&engine->shared->handled, slot, __ATOMIC_RELAXED);
}

static void arrived(struct slk_engine *engine)
{
	const struct seccomp_notif *notif = &engine->shared->arrival;
	uint32_t listener = engine->shared->arrival_listener;
	struct slk_request request;
	struct slk_slot *slot;

	if (!notif->id || listener >= SLK_LISTENERS_MAX || engine->listeners[listener].fd < 0 ||
	    slk_notif_id_valid(engine->listeners[listener].fd, notif->id) != 1)
		return;
	for (uint32_t i = 0; i < SLK_SLOTS_MAX; i++)
		if (engine->slots[i].phase != SLK_PHASE_FREE && engine->slots[i].notif_id == notif->id)
			return;
	slot = slk_slot_fill(engine, notif, listener, &request);
	if (!slot || (int32_t)notif->pid <= 0 || notif->data.arch != engine->native_arch || notif->data.nr < 0 ||
	    notif->data.nr >= SLK_CALLS_MAX)
		slk_respond(engine, listener, notif->id, 0, slot ? -ENOSYS : -ENOMEM, 0);
	else
		slk_slot_received(engine, slot);
}

/* 1: he died of it once more, and it is enough. */
static int is_deadly(struct slk_engine *engine, uint32_t index)
{
	struct slk_slot *slot = &engine->slots[index];
	uint64_t now = slk_now_ns();

	if (engine->shared->handled != index)
		return 0;
	if (!slot->deaths || now - slot->death_ns > DEATHS_WITHIN_NS) {
		slot->deaths = 0;
		slot->death_ns = now;
	}
	return ++slot->deaths >= DEATHS_MAX;
}

void slk_take_over(struct slk_engine *engine)
{
	if (engine->shared->confined.is_set)
		slk_release(&engine->shared->confined);
	/* Of what was not seen by us the worse is true. */
	memset(engine->given, 0xff, sizeof(engine->given));
	engine->has_watches = 1;
	slk_touch_trees(engine);
	engine->generation++;
	for (uint32_t i = 0; i < SLK_SLOTS_MAX; i++) {
		struct slk_slot *slot = &engine->slots[i];

		if (slot->phase == SLK_PHASE_FREE)
			continue;
		if (slot->listener >= SLK_LISTENERS_MAX || engine->listeners[slot->listener].fd < 0) {
			slot->phase = SLK_PHASE_FREE;
			continue;
		}
		engine->listeners[slot->listener].open++;
		if (slot->phase == SLK_PHASE_PREPARED) {
			slk_answer(engine, i, slot->value, slot->error, slot->flags);
		} else if (slot->phase == SLK_PHASE_ACTED && engine->calls[slot->nr].treatment != SLK_CALL_OPEN) {
			slk_answer(engine, i, 0, 0, 0);
		} else if (is_deadly(engine, i)) {
			engine->shared->counts.failed++;
			if (engine->deadly_count < SLK_DEADLY_MAX)
				engine->deadly[engine->deadly_count++] = *slot;
			slk_answer(engine, i, 0, -EIO, 0);
		} else if (!slk_slot_alive(engine, slot)) {
			engine->shared->counts.vanished++;
			slk_slot_release(engine, slot);
		}
	}
	arrived(engine);
	slk_handles(engine, SLK_SLOTS_MAX);
	engine->resumed = 0;
}

static void request_of(const struct slk_slot *slot, uint32_t index, struct slk_request *ret_request)
{
	ret_request->notif_id = slot->notif_id;
	ret_request->instruction_pointer = slot->instruction_pointer;
	memcpy(ret_request->args, slot->args, sizeof(ret_request->args));
	ret_request->tid = slot->tid;
	ret_request->nr = slot->nr;
	ret_request->listener = slot->listener;
	ret_request->slot = index;
	ret_request->reason = SLK_REASON_SLOW;
	ret_request->path_error = 0;
	ret_request->may_wait = 0;
	ret_request->is_resumed = SLK_RESUMED;
	ret_request->noted = 0;
	ret_request->path_length = 0;
}

/* Twice round: first the acts, which Python looks into, then the others. */
int slk_take_over_calls(struct slk_engine *engine, struct slk_request *batch, uint32_t capacity, uint32_t *ret_count)
{
	uint32_t count = 0;

	while (engine->deadly_count && count < capacity) {
		request_of(&engine->deadly[--engine->deadly_count], SLK_SLOTS_MAX, &batch[count]);
		batch[count].reason = SLK_REASON_FAILED; /* answered; the log is owed the cause */
		batch[count++].path_error = EIO;
		engine->shared->counts.to_python++;
	}
	for (; engine->resumed < 2 * SLK_SLOTS_MAX && count < capacity; engine->resumed++) {
		uint32_t index = engine->resumed % SLK_SLOTS_MAX;
		int is_first_round = engine->resumed < SLK_SLOTS_MAX;
		const struct slk_slot *slot = &engine->slots[index];

		if (is_first_round ? slot->phase != SLK_PHASE_ACTING && slot->phase != SLK_PHASE_ACTED :
				     slot->phase != SLK_PHASE_RECEIVED)
			continue;
		request_of(slot, index, &batch[count]);
		slk_timing_begin(engine->timing, index);
		if (is_first_round) {
			batch[count].is_resumed = SLK_RESUMED_ACT;
			batch[count].noted = slot->noted;
			slk_notice_thread(engine, slot->tid);
			slk_timing_by_python(engine->timing, index);
			engine->shared->counts.to_python++;
			count++;
		} else {
			count += (uint32_t)slk_handle(engine, &batch[count]);
		}
	}
	*ret_count = count;
	return engine->resumed < 2 * SLK_SLOTS_MAX;
}
