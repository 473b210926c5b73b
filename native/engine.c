/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Notifications: receive, put into the ledger, settle what the fast path can.
 *
 * RECV ignores O_NONBLOCK and blocks on an empty queue, so every RECV is preceded by a poll. A signal withdraws a
 * notification that has not been received yet and the program sees EINTR, so everything queued is received before
 * anything is handled. Each received notification owns a slot of the ledger until it is answered, once.
 */
#define _GNU_SOURCE
#include "forks.h"

#include <errno.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

/* After so many rounds the caller gets a turn, however full the queue is kept. */
#define ROUNDS_MAX 16
/* So many calls in a row of one thread say that it is the only one; see is_alone(). */
#define ALONE_AFTER 4
#define LOOK_EVERY 16
/* Nothing tells us that a thread which we have seized has stopped. */
#define REWRITES_EVERY_NS 5000000

uint64_t slk_ledger_bytes(void)
{
	return sizeof(struct slk_slot) * SLK_SLOTS_MAX;
}

int slk_shared_create(struct slk_shared **ret_shared)
{
	/* Not of the memfd: a file may be no larger than the user's RLIMIT_FSIZE. */
	struct slk_shared *shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (shared == MAP_FAILED)
		return -errno;
	*ret_shared = shared;
	return 0;
}

void slk_shared_destroy(struct slk_shared *shared)
{
	munmap(shared, sizeof(*shared));
}

static int copy_refusals(struct slk_engine *engine, const struct slk_engine_config *config)
{
	engine->refusals = calloc((size_t)config->refusal_count + 1, sizeof(*engine->refusals));
	if (!engine->refusals)
		return -ENOMEM;
	for (uint32_t i = 0; i < config->refusal_count; i++) {
		if (config->refusals[i].argument < 0 || config->refusals[i].argument > 5)
			return -EINVAL;
		engine->refusals[i] = config->refusals[i];
	}
	engine->refusal_count = config->refusal_count;
	return 0;
}

int slk_engine_create(const struct slk_engine_config *config, struct slk_engine **ret_engine)
{
	struct slk_engine *engine;
	void *slots;
	int result;

	if (config->call_count > SLK_CALLS_MAX)
		return -E2BIG;
	slots = mmap(NULL, slk_ledger_bytes(), PROT_READ | PROT_WRITE, MAP_SHARED, config->ledger_fd, 0);
	if (slots == MAP_FAILED)
		return -errno;
	engine = calloc(1, sizeof(*engine));
	if (!engine) {
		munmap(slots, slk_ledger_bytes());
		return -ENOMEM;
	}
	engine->slots = slots;
	engine->shared = config->shared;
	engine->newcomers_fd = -1;
	result = slk_listeners_create(engine);
	slk_bases_create(engine);
	engine->timing = slk_timing_create();
	engine->uid = (uint32_t)geteuid();
	engine->gid = (uint32_t)getegid();
	engine->native_arch = config->native_arch;
	engine->openat_nr = config->openat_nr;
	engine->open_nr = config->open_nr;
	engine->creat_nr = config->creat_nr;
	engine->openat2_nr = config->openat2_nr;
	engine->slow_lookups = config->slow_lookups;
	engine->tell_granted = config->tell_granted;
	engine->own_pids = config->own_pids;
	engine->mounts_fd = config->mounts_fd;
	for (uint32_t i = 0; i < config->zone_count; i++) {
		engine->has_trees |= (config->zones[i].flags & SLK_ZONE_TREE) != 0;
		engine->tells_listings |= config->own_pids || config->zones[i].flags & SLK_ZONE_TOLD;
	}
	memcpy(engine->calls, config->calls, config->call_count * sizeof(*config->calls));
	if (result == 0)
		result = copy_refusals(engine, config);
	if (result == 0)
		result = slk_newcomers_create(engine);
	if (result == 0)
		result = slk_zones_create(config->zones, config->zone_count, &engine->zones);
	if (result < 0) {
		slk_engine_destroy(engine);
		return result;
	}
	*ret_engine = engine;
	return 0;
}

void slk_engine_destroy(struct slk_engine *engine)
{
	if (!engine)
		return;
	slk_rewrites_end(engine); /* the rest go on when this thread ends */
	if (engine->patient_tid)
		timer_delete(engine->patience);
	slk_forks_destroy(engine->forks);
	slk_newcomers_destroy(engine);
	slk_listeners_destroy(engine);
	slk_bases_destroy(engine);
	slk_timing_destroy(engine->timing);
	slk_zones_destroy(engine->zones);
	free(engine->refusals);
	munmap(engine->slots, slk_ledger_bytes());
	free(engine);
}

void slk_engine_ids_changed(struct slk_engine *engine)
{
	engine->shared->ids_changed = 1;
}

void slk_engine_set_umask(struct slk_engine *engine, uint32_t umask)
{
	engine->umask = umask;
}

uint64_t slk_engine_copied(const struct slk_engine *engine)
{
	return engine->shared->copied_bytes;
}

int slk_engine_counts(const struct slk_engine *engine, struct slk_engine_counts *ret_counts)
{
	*ret_counts = engine->shared->counts;
	return 0;
}

/* ---- receiving ---- */

/* The log is owed the cause. */
static void failed(struct slk_request *request, int error)
{
	request->reason = SLK_REASON_FAILED;
	request->path_error = (int16_t)error;
	request->path_length = 0;
	request->slot = SLK_SLOTS_MAX; /* nobody answers it again */
}

/* 1: request is filled, and owns a slot or says that it could not be served; 0: nothing to handle (it vanished). -errno:
 * the listener is none any more. */
static int receive(struct slk_engine *engine, uint32_t listener, struct slk_request *request)
{
	struct seccomp_notif *notif = &engine->shared->arrival;
	struct slk_slot *slot;

	memset(notif, 0, sizeof(*notif)); /* the kernel insists */
	engine->shared->arrival_listener = listener;
	if (ioctl(engine->listeners[listener].fd, SECCOMP_IOCTL_NOTIF_RECV, notif) < 0) {
		if (errno != ENOENT && errno != EINTR)
			return -errno;
		engine->shared->counts.vanished++; /* ENOENT: withdrawn meanwhile; EINTR: the poll will tell again */
		return 0;
	}
	engine->shared->counts.received++;
	slot = slk_slot_fill(engine, notif, listener, request);
	/* A thread that our pid namespace does not show has number 0: never act on it. */
	if (!slot || (int32_t)notif->pid <= 0 || notif->data.arch != engine->native_arch || notif->data.nr < 0 ||
	    notif->data.nr >= SLK_CALLS_MAX) {
		failed(request, slot ? ENOSYS : ENOMEM);
		if (slot)
			slot->notif_id = 0;
		slk_respond(engine, listener, notif->id, 0, -request->path_error, 0);
		engine->shared->counts.failed++;
		return 1;
	}
	slk_waits_no_more(engine, (int32_t)notif->pid);
	slk_slot_received(engine, slot);
	slk_timing_begin(engine->timing, request->slot);
	return 1;
}

static const struct slk_refusal *refusal_of(const struct slk_engine *engine, int32_t nr, const uint64_t *args)
{
	for (uint32_t i = 0; i < engine->refusal_count; i++) {
		const struct slk_refusal *refusal = &engine->refusals[i];

		if (refusal->nr == nr && (args[refusal->argument] & refusal->mask) == refusal->value)
			return refusal;
	}
	return NULL;
}

static int32_t refuse_errno(const struct slk_engine *engine, const struct slk_request *request)
{
	const struct slk_refusal *refusal = refusal_of(engine, request->nr, request->args);

	return refusal ? refusal->refuse_errno : engine->calls[request->nr].refuse_errno;
}

int slk_is_asked(const struct slk_engine *engine, int32_t nr, const uint64_t *args)
{
	const struct slk_refusal *refusal = refusal_of(engine, nr, args);

	return refusal && refusal->refuse_errno == 0;
}

/* Answered here. 1: and Python has to tell of it. */
static int settle(struct slk_engine *engine, struct slk_request *request, int32_t error, uint32_t flags)
{
	int result = slk_answer(engine, request->slot, 0, -error, flags);

	if (result < 0 && result != -ENOENT)
		failed(request, -result);
	return request->reason == SLK_REASON_FAILED || request->reason == SLK_REASON_REFUSED ||
	       request->reason == SLK_REASON_CROWDED;
}

/* row->mode: how many ids it sets, of those in the first arguments; 0: what else it does. row->buffer: groups, not users.
 * Who is no user 0 has none other to become. */
static int changes_ids(const struct slk_engine *engine, const struct slk_call *row, const struct slk_request *request)
{
	uint32_t own = row->buffer ? engine->gid : engine->uid;

	if (engine->uid != 0)
		return 0;
	for (int i = 0; i < row->mode; i++)
		if ((uint32_t)request->args[i] != own && (uint32_t)request->args[i] != UINT32_MAX)
			return 1;
	return row->mode == 0;
}

static int judge_descriptor(struct slk_engine *engine, struct slk_request *request)
{
	int act = engine->calls[request->nr].act;

	if (act == SLK_ACT_GETDENTS && engine->tells_listings && slk_lists_told(engine, request))
		return SLK_REASON_ZONE + 1;
	if (!engine->tree_count)
		return 0;
	/* What a listing shows is all of the lower tree; and who is where, the kernel knows. */
	if ((act == SLK_ACT_GETDENTS || act == SLK_ACT_GETCWD) && slk_trees_are_untouched(engine))
		return 0;
	return slk_tree_descriptor(engine, request);
}

/* 1: Python has something to do with it. */
static int settle_fork(struct slk_engine *engine, struct slk_request *request, enum slk_fork_answer answer)
{
	switch (answer) {
	case SLK_FORK_HELD:
		return 0;
	case SLK_FORK_GOES_ON:
		if (engine->tell_granted) {
			request->reason = SLK_REASON_GRANTED;
			return 1;
		}
		engine->shared->counts.continued++;
		return settle(engine, request, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE);
	case SLK_FORK_FORBIDDEN:
		request->reason = SLK_REASON_REFUSED;
		engine->shared->counts.refused++;
		return settle(engine, request, refuse_errno(engine, request), 0);
	case SLK_FORK_REFUSED:
		break;
	}
	request->reason = SLK_REASON_CROWDED;
	engine->shared->counts.refused++;
	return settle(engine, request, EAGAIN, 0);
}

int slk_handle(struct slk_engine *engine, struct slk_request *request)
{
	const struct slk_call *row;
	int told = 1;
	int judged;

	slk_handles(engine, request->slot);
	if (request->reason == SLK_REASON_FAILED) {
		engine->shared->counts.to_python++;
		return 1;
	}
	row = &engine->calls[request->nr];
	slk_notice_thread(engine, request->tid);
	if (engine->forks)
		slk_forks_seen(engine->forks, request->tid);
	if (engine->passing_count && slk_rewrite_passes(engine, request))
		return 0;
	/* A name changes hands: what was judged by it is to be judged anew. */
	if (row->treatment == SLK_CALL_PATH && !(row->need & LANDLOCK_ACCESS_FS_EXECUTE))
		engine->generation++;
	switch (row->treatment) {
	case SLK_CALL_OPEN:
	case SLK_CALL_PATH:
	case SLK_CALL_SEE:
		judged = slk_fast_call(engine, request);
		if (judged == SLK_ANSWERED) {
			if (row->treatment != SLK_CALL_OPEN)
				engine->generation += row->may_touch;
			engine->shared->counts.answered++;
			return 0;
		}
		/* Not what is outside of all trees: bash opens /dev/tty for writing whenever it starts. */
		if (judged != 0 && judged != SLK_REASON_NOT_GRANTED + 1 && slk_may_touch(engine, request))
			slk_touch_trees(engine);
		/* What we read may have been a stranger's. Letting a call go on asks that by itself: of one whose caller
		 * is gone nothing comes but ENOENT. */
		if ((judged != 0 || request->may_wait || engine->tell_granted) &&
		    !slk_request_alive(engine, request)) {
			slk_slot_release(engine, &engine->slots[request->slot]);
			engine->shared->counts.vanished++;
			return 0;
		}
		if (judged != 0)
			break;
		if (request->may_wait)
			slk_answer_may_wait(engine, request->slot);
		if (engine->tell_granted) {
			request->reason = SLK_REASON_GRANTED;
			break;
		}
		engine->shared->counts.continued++;
		told = settle(engine, request, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE);
		break;
	case SLK_CALL_SLOW:
		if (slk_may_touch(engine, request))
			slk_touch_trees(engine);
		engine->generation += row->may_touch;
		judged = !row->act || engine->tell_granted ? 1 : judge_descriptor(engine, request);
		if (judged == SLK_ANSWERED) {
			engine->shared->counts.answered++;
			return 0;
		}
		if (judged != 0)
			break;
		engine->shared->counts.continued++;
		told = settle(engine, request, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE);
		break;
	case SLK_CALL_MEMORY:
		judged = slk_memory_call(engine, request);
		if (judged != 0 && !slk_request_alive(engine, request)) {
			slk_slot_release(engine, &engine->slots[request->slot]);
			engine->shared->counts.vanished++;
			return 0;
		}
		if (judged == 0 && engine->tell_granted)
			request->reason = SLK_REASON_GRANTED;
		if (judged != 0 || engine->tell_granted)
			break;
		engine->shared->counts.continued++;
		told = settle(engine, request, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE);
		break;
	case SLK_CALL_NOTICE:
		engine->shared->umask_changed |= row->act == SLK_ACT_UMASK;
		engine->shared->ids_changed |= row->act == SLK_ACT_IDS && changes_ids(engine, row, request);
		engine->shared->counts.continued++;
		told = settle(engine, request, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE);
		break;
	case SLK_CALL_COUNT:
		told = settle_fork(engine, request, slk_forks_ask(engine, request));
		break;
	case SLK_CALL_REFUSE:
		if (slk_is_asked(engine, request->nr, request->args))
			break;
		request->reason = SLK_REASON_REFUSED;
		engine->shared->counts.refused++;
		told = settle(engine, request, refuse_errno(engine, request), 0);
		break;
	default:
		engine->shared->counts.refused++;
		told = settle(engine, request, ENOSYS, 0);
	}
	if (told) {
		engine->shared->counts.to_python++;
		slk_timing_by_python(engine->timing, request->slot);
	}
	return told;
}

/* Without the unused rest of the path: it is most of the structure. */
static void move_request(struct slk_request *to, const struct slk_request *from)
{
	memcpy(to, from, offsetof(struct slk_request, path) + from->path_length);
}

/* One thread that asks again and again, and nobody else: what one more poll would find is most likely nothing, and the wait
 * for the next call finds it as well. Now and then it is looked all the same. */
static int is_alone(struct slk_engine *engine, int32_t tid)
{
	engine->in_a_row = tid == engine->last_tid ? engine->in_a_row + 1 : 0;
	engine->last_tid = tid;
	return engine->in_a_row >= ALONE_AFTER && engine->in_a_row % LOOK_EVERY;
}

/* Forks that wait: how many of them Python has something to do with. */
static uint32_t answer_held(struct slk_engine *engine, struct slk_request *batch, uint32_t capacity)
{
	enum slk_fork_answer answer;
	uint32_t position = 0, kept = 0;

	if (slk_forks_due_ns(engine->forks) != 0)
		return 0;
	slk_forks_next_round(engine->forks);
	while (kept < capacity && slk_forks_take_held(engine, &position, &batch[kept], &answer)) {
		int told = settle_fork(engine, &batch[kept], answer);

		engine->shared->counts.to_python += (uint64_t)told;
		kept += (uint32_t)told;
	}
	slk_forks_looked_again(engine->forks);
	return kept;
}

/* All that is queued, as far as there is room; returns the state then. From one that is alone nothing more is to be
 * expected: ret_unseen. */
static int receive_queued(struct slk_engine *engine, uint32_t listener, int state, struct slk_request *batch, uint32_t kept,
			  uint32_t capacity, uint32_t *end, int *ret_unseen)
{
	while (*end < capacity && state == SLK_NOTIF_PENDING) {
		int received = receive(engine, listener, &batch[*end]);

		if (received > 0 && *end == kept && is_alone(engine, batch[*end].tid)) {
			++*end;
			*ret_unseen = 1;
			return SLK_NOTIF_EMPTY;
		}
		*end += received > 0;
		state = received < 0 ? received : slk_listener_state(engine->listeners[listener].fd);
	}
	return state;
}

/* From the further listeners. PENDING: there may be more. One that has come to its end, or is none any more, is dropped:
 * what it might have asked fails. */
static int receive_further(struct slk_engine *engine, struct slk_request *batch, uint32_t kept, uint32_t capacity,
			   uint32_t *end, int *ret_unseen)
{
	struct epoll_event events[SLK_LISTENERS_MAX];
	int count = engine->further_count ? epoll_wait(engine->further_fd, events, SLK_LISTENERS_MAX, 0) : 0;
	int more = SLK_NOTIF_EMPTY;

	for (int i = 0; i < count; i++) {
		uint32_t listener = events[i].data.u32;
		int state = events[i].events & EPOLLIN ? SLK_NOTIF_PENDING : SLK_NOTIF_TERMINAL;

		state = receive_queued(engine, listener, state, batch, kept, capacity, end, ret_unseen);
		if (state == SLK_NOTIF_PENDING)
			more = SLK_NOTIF_PENDING;
		else if (state != SLK_NOTIF_EMPTY)
			slk_listener_ended(engine, listener);
	}
	return more;
}

/* One caller: wake it here, it is what we wait for. Several: let them spread over the CPUs. */
static void choose_wakes(struct slk_engine *engine, const struct slk_request *batch, uint32_t count)
{
	int on = count <= 1;

	slk_set_sync(&engine->listeners[0], on);
	engine->pulls = engine->listeners[0].sync_now;
	for (uint32_t i = 0; engine->further_count && i < count; i++)
		slk_set_sync(&engine->listeners[batch[i].listener], on);
}

/* state: what the caller's own poll has just said of the first listener, so that the first one here can be spared. */
static int drain(struct slk_engine *engine, int state, struct slk_request *batch, uint32_t capacity,
		 uint32_t *ret_count)
{
	uint32_t kept;

	slk_rewrites_finish(engine);
	kept = answer_held(engine, batch, capacity);
	for (uint32_t rounds = 1;; rounds++) {
		uint32_t end = kept;
		int unseen = 0, further_unseen = 0, further;

		state = receive_queued(engine, 0, state, batch, kept, capacity, &end, &unseen);
		further = receive_further(engine, batch, kept, capacity, &end, &further_unseen);
		if (engine->forks)
			slk_forks_next_round(engine->forks);
		choose_wakes(engine, batch + kept, end - kept);
		for (uint32_t i = kept; i < end; i++) {
			if (!slk_handle(engine, &batch[i]))
				continue;
			if (kept != i)
				move_request(&batch[kept], &batch[i]);
			kept++;
		}
		/* What Python handles may take long: everything queued is received before. */
		if (unseen && kept)
			state = slk_listener_state(engine->listeners[0].fd);
		if (further_unseen && kept)
			further = SLK_NOTIF_PENDING;
		if ((state != SLK_NOTIF_PENDING && (state != SLK_NOTIF_EMPTY || further != SLK_NOTIF_PENDING)) ||
		    kept == capacity || rounds == ROUNDS_MAX) {
			*ret_count = kept;
			if (state == SLK_NOTIF_TERMINAL)
				slk_rewrites_end(engine);
			/* An error must not take with it what was received before: the next drain meets it again. */
			return state < 0 && kept ? SLK_NOTIF_PENDING : state;
		}
	}
}

int slk_drain(struct slk_engine *engine, struct slk_request *batch, uint32_t capacity, uint32_t *ret_count)
{
	return drain(engine, slk_listener_state(engine->listeners[0].fd), batch, capacity, ret_count);
}

enum { FIRST, OTHER, NEWCOMERS, FURTHER, WAITING };

static int wait_for(struct slk_engine *engine, struct pollfd *waiting, int64_t timeout_ns)
{
	struct timespec limit;
	int64_t fork_due_ns = slk_forks_due_ns(engine->forks);

	slk_newcomers_set_timer(engine);
	if (slk_rewrites_finish(engine) && (timeout_ns < 0 || timeout_ns > REWRITES_EVERY_NS))
		timeout_ns = REWRITES_EVERY_NS;
	if (fork_due_ns >= 0 && (timeout_ns < 0 || timeout_ns > fork_due_ns))
		timeout_ns = fork_due_ns;
	limit.tv_sec = timeout_ns / 1000000000;
	limit.tv_nsec = timeout_ns % 1000000000;
	engine->shared->counts.wakes++;
	return ppoll(waiting, WAITING, timeout_ns < 0 ? NULL : &limit, NULL);
}

/* Nanoseconds left of timeout_us that began at start_ns; -1: for ever. */
static int64_t time_left(int64_t timeout_us, uint64_t start_ns)
{
	uint64_t end_ns = start_ns + (uint64_t)timeout_us * 1000u;
	uint64_t now = slk_now_ns();

	if (timeout_us < 0)
		return -1;
	return now < end_ns ? (int64_t)(end_ns - now) : 0;
}

int slk_pump(struct slk_engine *engine, int other_fd, int64_t timeout_us, struct slk_request *batch, uint32_t capacity,
	     uint32_t *ret_count, int32_t *ret_other)
{
	uint64_t start_ns = slk_now_ns();
	struct pollfd waiting[WAITING] = {[FIRST] = {engine->listeners[0].fd, POLLIN, 0},
					  [OTHER] = {other_fd, POLLIN, 0},
					  [NEWCOMERS] = {engine->newcomers_fd, POLLIN, 0},
					  [FURTHER] = {engine->further_count ? engine->further_fd : -1, POLLIN, 0}};

	for (;;) {
		int state = SLK_NOTIF_EMPTY;
		uint32_t count = 0;
		int due;
		int ready = wait_for(engine, waiting, time_left(timeout_us, start_ns));

		if (ready < 0 && errno != EINTR)
			return -errno;
		if (ready <= 0)
			for (int i = 0; i < WAITING; i++)
				waiting[i].revents = 0;
		if (waiting[FIRST].revents || waiting[FURTHER].revents || slk_engine_holds_forks(engine))
			state = drain(engine, slk_listener_state_by(waiting[FIRST].revents), batch, capacity, &count);
		if (state < 0)
			return state;
		if (waiting[NEWCOMERS].revents)
			slk_newcomers_timer_ran(engine);
		due = slk_newcomer_is_due(engine);
		if (count || state == SLK_NOTIF_TERMINAL || waiting[OTHER].revents || due || ready < 0 ||
		    time_left(timeout_us, start_ns) == 0) {
			*ret_count = count;
			*ret_other = waiting[OTHER].revents != 0;
			return state;
		}
	}
}
