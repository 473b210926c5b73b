/* SPDX-License-Identifier: Apache-2.0 */
/* The ledger's slots, and the one place that writes to the listener: each slot is answered once. */
#define _GNU_SOURCE
#include "slk.h"

#include <errno.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* How long a call that we let through may be under way, generously: on a loaded machine its thread may wait its turn. */
#define AFFINITY_SETTLES_NS 100000000u

/* EINTR says nothing about the caller: a signal met us while the kernel's lock was taken by somebody else
 * (kernel/seccomp.c, seccomp_notify_id_valid). Taken for "gone", the call would never be answered. */
int slk_notif_id_valid(int listener_fd, uint64_t notif_id)
{
	int result;

	do
		result = ioctl(listener_fd, SECCOMP_IOCTL_NOTIF_ID_VALID, &notif_id);
	while (result < 0 && errno == EINTR);
	return result < 0 ? -errno : 1;
}

/* Whoever takes over reads it, wherever we were killed: what belongs to the phase is there before it. */
static void set_phase(struct slk_slot *slot, enum slk_phase phase)
{
	__atomic_store_n(&slot->phase, (uint32_t)phase, __ATOMIC_RELEASE);
}

struct slk_slot *slk_slot_take(struct slk_engine *engine)
{
	for (uint32_t tries = 0; tries < SLK_SLOTS_MAX; tries++) {
		struct slk_slot *slot = &engine->slots[engine->next_slot];

		engine->next_slot = (engine->next_slot + 1) % SLK_SLOTS_MAX;
		if (slot->phase == SLK_PHASE_FREE)
			return slot;
	}
	return NULL;
}

struct slk_slot *slk_slot_in_use(struct slk_engine *engine, uint32_t slot)
{
	if (slot >= SLK_SLOTS_MAX || engine->slots[slot].phase == SLK_PHASE_FREE)
		return NULL;
	return &engine->slots[slot];
}

void slk_slot_release(struct slk_engine *engine, struct slk_slot *slot)
{
	if (slot->phase == SLK_PHASE_FREE)
		return;
	set_phase(slot, SLK_PHASE_FREE);
	slot->notif_id = 0;
	if (engine->shared->handled == (uint32_t)(slot - engine->slots))
		slk_handles(engine, SLK_SLOTS_MAX);
	slk_listener_released(engine, slot->listener);
}

struct slk_slot *slk_slot_fill(struct slk_engine *engine, const struct seccomp_notif *notif, uint32_t listener,
			       struct slk_request *ret_request)
{
	struct slk_slot *slot = slk_slot_take(engine);

	ret_request->notif_id = notif->id;
	ret_request->instruction_pointer = notif->data.instruction_pointer;
	memcpy(ret_request->args, notif->data.args, sizeof(ret_request->args));
	ret_request->tid = (int32_t)notif->pid;
	ret_request->nr = notif->data.nr;
	ret_request->listener = listener;
	ret_request->slot = slot ? (uint32_t)(slot - engine->slots) : SLK_SLOTS_MAX;
	ret_request->reason = SLK_REASON_SLOW;
	ret_request->path_error = 0;
	ret_request->may_wait = 0;
	ret_request->is_resumed = 0;
	ret_request->path_length = 0;
	if (!slot)
		return NULL;
	slot->notif_id = notif->id;
	memcpy(slot->args, notif->data.args, sizeof(slot->args));
	slot->instruction_pointer = notif->data.instruction_pointer;
	slot->tid = (int32_t)notif->pid;
	slot->nr = notif->data.nr;
	slot->listener = listener;
	slot->deaths = 0;
	return slot;
}

void slk_slot_received(struct slk_engine *engine, struct slk_slot *slot)
{
	set_phase(slot, SLK_PHASE_RECEIVED);
	engine->listeners[slot->listener].open++;
}

void slk_slot_acts(struct slk_engine *engine, uint32_t index, uint64_t noted)
{
	struct slk_slot *slot = slk_slot_in_use(engine, index);

	if (!slot)
		return;
	slot->noted = noted;
	set_phase(slot, SLK_PHASE_ACTING);
}

void slk_slot_acted(struct slk_engine *engine, uint32_t index)
{
	struct slk_slot *slot = slk_slot_in_use(engine, index);

	if (slot)
		set_phase(slot, SLK_PHASE_ACTED);
}

void slk_slot_acts_not(struct slk_engine *engine, uint32_t index)
{
	struct slk_slot *slot = slk_slot_in_use(engine, index);

	if (slot)
		set_phase(slot, SLK_PHASE_RECEIVED);
}

int slk_slot_alive(const struct slk_engine *engine, const struct slk_slot *slot)
{
	return slk_notif_id_valid(engine->listeners[slot->listener].fd, slot->notif_id) == 1;
}

int slk_request_alive(const struct slk_engine *engine, const struct slk_request *request)
{
	return slk_notif_id_valid(engine->listeners[request->listener].fd, request->notif_id) == 1;
}

int slk_respond(struct slk_engine *engine, uint32_t listener, uint64_t notif_id, int64_t value, int32_t error,
		uint32_t flags)
{
	struct seccomp_notif_resp response = {.id = notif_id, .val = value, .error = error, .flags = flags};
	int result;

	do
		result = ioctl(engine->listeners[listener].fd, SECCOMP_IOCTL_NOTIF_SEND, &response);
	while (result < 0 && errno == EINTR);
	if (result == 0)
		return 0;
	if (errno == ENOENT)
		engine->shared->counts.vanished++;
	return -errno;
}

int slk_answer(struct slk_engine *engine, uint32_t index, int64_t value, int32_t error, uint32_t flags)
{
	struct slk_slot *slot = slk_slot_in_use(engine, index);
	int result;

	if (!slot)
		return -EBADSLT;
	slot->value = value;
	slot->error = error;
	slot->flags = flags;
	set_phase(slot, SLK_PHASE_PREPARED);
	result = slk_respond(engine, slot->listener, slot->notif_id, value, error, flags);
	if (result < 0 && result != -ENOENT) {
		engine->shared->counts.failed++;
		slk_respond(engine, slot->listener, slot->notif_id, 0, -EIO, 0); /* an error is better than no answer */
	}
	slk_timing_end(engine->timing, index, slot->nr);
	slk_slot_release(engine, slot);
	return result;
}

/* Of these two, Python's: what it has done may have been a change of names or rights. */
int slk_answer_errno(struct slk_engine *engine, uint32_t slot, int32_t error)
{
	engine->generation++;
	/* Beyond MAX_ERRNO the kernel clamps, and 0 would be success. */
	if (error <= 0 || error > 4095)
		error = EIO;
	return slk_answer(engine, slot, 0, -error, 0);
}

int slk_answer_value(struct slk_engine *engine, uint32_t slot, int64_t value)
{
	engine->generation++;
	return slk_answer(engine, slot, value, 0, 0);
}

void slk_answer_may_wait(struct slk_engine *engine, uint32_t index)
{
	const struct slk_slot *slot = slk_slot_in_use(engine, index);
	struct slk_waiting_call *call;

	if (!slot)
		return;
	call = &engine->shared->waiting[(uint32_t)slot->tid % SLK_WAITING_MAX];
	__atomic_store_n(&call->tid, 0, __ATOMIC_RELEASE);
	call->nr = slot->nr;
	call->instruction_pointer = slot->instruction_pointer;
	call->args[0] = slot->args[0];
	call->args[1] = slot->args[1];
	__atomic_store_n(&call->tid, slot->tid, __ATOMIC_RELEASE);
}

/* It asks again, so what may have waited is over. */
void slk_waits_no_more(struct slk_engine *engine, int32_t tid)
{
	struct slk_waiting_call *call = &engine->shared->waiting[(uint32_t)tid % SLK_WAITING_MAX];

	if (__atomic_load_n(&call->tid, __ATOMIC_ACQUIRE) == tid)
		__atomic_store_n(&call->tid, 0, __ATOMIC_RELEASE);
}

/*
 * The caller's wait ends only by our answer (or SIGKILL), so it is made to stop on its way back, where the kernel takes
 * the pending signals in any case: ERESTARTSYS then means what it means bare. Without the stop, a signal that another
 * thread takes in this moment would let the number through to the program.
 */
int slk_answer_interrupted(struct slk_engine *engine, uint32_t index, int control_fd, int32_t timeout_ms)
{
	const struct slk_slot *slot = slk_slot_in_use(engine, index);
	int result;

	if (!slot)
		return -EBADSLT;
	slk_answer_may_wait(engine, index); /* for init to leave it alone */
	result = slk_order_init(engine, control_fd, SLK_ORDER_INTERRUPT, slot->tid, timeout_ms);
	if (result <= 0) {
		slk_waits_no_more(engine, slot->tid);
		return result;
	}
	slk_answer(engine, index, 0, -SLK_ERESTARTSYS, 0);
	return 1;
}

int slk_answer_continue(struct slk_engine *engine, uint32_t index)
{
	const struct slk_slot *slot = slk_slot_in_use(engine, index);
	uint8_t treatment;

	if (!slot)
		return -EBADSLT;
	treatment = engine->calls[slot->nr].treatment;
	if ((treatment == SLK_CALL_REFUSE && !slk_is_asked(engine, slot->nr, slot->args)) || treatment == SLK_CALL_NONE) {
		slk_answer(engine, index, 0, -EPERM, 0);
		return -EPERM;
	}
	if (slot->nr == SYS_sched_setaffinity)
		engine->unconfined_until_ns = slk_now_ns() + AFFINITY_SETTLES_NS;
	return slk_answer(engine, index, 0, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE);
}

static int inject_now(const struct slk_engine *engine, const struct slk_slot *slot, int32_t fd, int32_t close_on_exec)
{
	struct seccomp_notif_addfd injection = {
		.id = slot->notif_id,
		.srcfd = (uint32_t)fd,
		.newfd_flags = close_on_exec ? 02000000 /* O_CLOEXEC */ : 0,
	};
	int number;

	do
		number = ioctl(engine->listeners[slot->listener].fd, SECCOMP_IOCTL_NOTIF_ADDFD, &injection);
	while (number < 0 && errno == EINTR);
	if (number < 0 && errno == ESRCH)
		return -ENOENT; /* killed while it was to take it */
	return number < 0 ? -errno : number;
}

static int inject(const struct slk_engine *engine, const struct slk_slot *slot, int32_t fd, int32_t close_on_exec)
{
	struct slk_confined *confined = &engine->shared->confined;
	int is_confined = slk_may_confine(engine) && slk_confine(slot->tid, confined);
	int number = inject_now(engine, slot, fd, close_on_exec);

	if (is_confined)
		slk_release(confined);
	return number;
}

/*
 * Two calls, not ADDFD with SEND: when a stop signal reaches us inside that one, the kernel forgets the descriptor but
 * not that the call is answered, and the program's open returns 0, its own stdin. Between two calls nothing is lost
 * but, if we die there, a descriptor that the program does not know of.
 */
static int answer_with_fd(struct slk_engine *engine, uint32_t index, int32_t fd, int32_t close_on_exec, int consume)
{
	int number = slk_give_fd(engine, index, fd, close_on_exec);

	if (consume)
		close(fd);
	return slk_answer_given(engine, index, number);
}

int slk_give_fd(struct slk_engine *engine, uint32_t index, int32_t fd, int32_t close_on_exec)
{
	const struct slk_slot *slot = slk_slot_in_use(engine, index);

	if (!slot)
		return -EBADSLT;
	if (engine->disk && slk_disk_given(engine->disk, fd) < 0)
		return -EIO;
	if (engine->memory && slk_memory_given(engine->memory, fd) < 0)
		return -EIO;
	slk_note_given(engine, fd);
	return inject(engine, slot, fd, close_on_exec);
}

int slk_exchange_fd(struct slk_engine *engine, uint32_t index, int32_t fd, int32_t close_on_exec, int32_t number)
{
	const struct slk_slot *slot = slk_slot_in_use(engine, index);
	struct seccomp_notif_addfd injection = {
		.srcfd = (uint32_t)fd,
		.newfd = (uint32_t)number,
		.flags = SECCOMP_ADDFD_FLAG_SETFD,
		.newfd_flags = close_on_exec ? 02000000 /* O_CLOEXEC */ : 0,
	};
	int result;

	if (!slot)
		return -EBADSLT;
	injection.id = slot->notif_id;
	slk_note_given(engine, fd);
	do
		result = ioctl(engine->listeners[slot->listener].fd, SECCOMP_IOCTL_NOTIF_ADDFD, &injection);
	while (result < 0 && errno == EINTR);
	return result < 0 ? -errno : 0;
}

int slk_answer_given(struct slk_engine *engine, uint32_t index, int number)
{
	struct slk_slot *slot = slk_slot_in_use(engine, index);
	int result;

	if (!slot)
		return -EBADSLT;
	if (number >= 0) {
		result = slk_answer(engine, index, number, 0, 0);
		return result < 0 ? result : number;
	}
	if (number == -ENOENT) {
		engine->shared->counts.vanished++;
		slk_slot_release(engine, slot);
		return -ENOENT;
	}
	/* EMFILE is the program's own limit and its to see */
	slk_answer(engine, index, 0, number == -EMFILE ? -EMFILE : -EIO, 0);
	return number;
}

int slk_answer_fd(struct slk_engine *engine, uint32_t index, int32_t fd, int32_t close_on_exec)
{
	return answer_with_fd(engine, index, fd, close_on_exec, 0);
}

/* Closed before the program runs on: the end of a FIFO, and ETXTBSY, depend on who has a file open. */
int slk_hand_over_fd(struct slk_engine *engine, uint32_t index, int32_t fd, int32_t close_on_exec)
{
	return answer_with_fd(engine, index, fd, close_on_exec, 1);
}

int slk_answer_alive(struct slk_engine *engine, uint32_t index)
{
	const struct slk_slot *slot = slk_slot_in_use(engine, index);

	if (!slot)
		return -EBADSLT;
	return slk_slot_alive(engine, slot) ? 1 : -ENOENT;
}
