/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Forks that are held: those of which it is not known yet whether there is room, and refusals that are put off.
 *
 * Who is at the limit of processes and asks again and again gets 10,000 refusals a second, each of which wakes us and him:
 * load that others feel, and that no limit of his bounds. So refusals are paid for, with REFUSAL_NS each, or more where a look
 * takes long (of many threads: some ms); and as many as were saved up to refusals_at_once are given at once. What comes above that is held until it is paid for. However
 * many ask, none is held for longer than HELD_FOR_NS, or signals would wait for ever. Meanwhile it is looked whether there
 * is room now, and whoever is held may go on: he need not ask again. Who asks some times and then waits, as make, a shell
 * or a JVM do, is never held.
 *
 * It is looked at intervals that grow, and are so long that looks take no more than a part of a processor. What is held
 * has no timer, thread or task of its own, only its slot; of one who was killed it is given back by the next look. As
 * many may be held as SLK_HELD_FORKS_MAX, so that slots are left for all other calls; beyond that refusals are at once.
 */
#define _GNU_SOURCE
#include "forks.h"

#include <string.h>

#define HELD_FOR_NS 1000000000u /* then it is refused: it could not be made sure that there is room */
#define PAUSE_MIN_NS 100000u
#define PAUSE_MAX_NS 5000000u
#define REFUSAL_NS 20000000u
/* Between looks while all that is held is to be refused, where a look is short. */
#define PUT_OFF_PAUSE_MIN_NS 5000000u
#define PUT_OFF_PAUSE_MAX_NS 20000000u
#define PUT_OFF_PAUSE_END_NS 250000000u
#define LOOKS_PART_MAX 10 /* a tenth of the time is what they may take */

/* ---- who insists ---- */

static uint64_t longer(uint64_t one, uint64_t other)
{
	return one > other ? one : other;
}

/* As long as looks are to be apart, at the least. */
static uint64_t apart_ns(const struct slk_forks *forks)
{
	uint64_t apart = forks->look_ns * LOOKS_PART_MAX;

	return apart < PUT_OFF_PAUSE_END_NS ? apart : PUT_OFF_PAUSE_END_NS;
}

static uint64_t price_ns(const struct slk_forks *forks)
{
	return longer(REFUSAL_NS, apart_ns(forks));
}

/* How long it takes until this is paid for, but for what is given at once. */
static uint64_t owed_ns(const struct slk_forks *forks, uint64_t insist_ns, uint64_t now)
{
	uint64_t at_once_ns = (uint64_t)forks->refusals_at_once * REFUSAL_NS;

	return insist_ns > now + at_once_ns ? insist_ns - now - at_once_ns : 0;
}

/* One more, at this moment. */
static uint64_t dearer(const struct slk_forks *forks, uint64_t now)
{
	return longer(forks->insist_ns, now) + price_ns(forks);
}

int slk_forks_insist(const struct slk_forks *forks)
{
	uint64_t now = slk_now_ns();

	return owed_ns(forks, dearer(forks, now), now) > 0;
}

/* How long one more refusal is to be put off. */
static uint64_t give_refusal(struct slk_forks *forks, uint64_t now)
{
	uint64_t owed;

	forks->insist_ns = dearer(forks, now);
	owed = owed_ns(forks, forks->insist_ns, now);
	if (owed <= HELD_FOR_NS)
		return owed;
	forks->insist_ns -= owed - HELD_FOR_NS;
	return HELD_FOR_NS;
}

/* ---- holding ---- */

static void begin_pauses(struct slk_forks *forks, uint64_t now, uint64_t pause_ns)
{
	forks->pause_ns = pause_ns;
	forks->again_ns = now + pause_ns;
}

static int hold(struct slk_forks *forks, const struct slk_request *request, uint64_t until_ns, int is_put_off)
{
	struct slk_held_fork *held = &forks->held[forks->held_count];

	if (forks->held_count == SLK_HELD_FORKS_MAX)
		return 0;
	forks->held_count++;
	*held = (struct slk_held_fork){.notif_id = request->notif_id, .until_ns = until_ns, .tid = request->tid,
				       .nr = request->nr, .slot = request->slot, .is_put_off = is_put_off};
	memcpy(held->args, request->args, sizeof(held->args));
	return 1;
}

int slk_forks_put_off(struct slk_forks *forks, const struct slk_request *request)
{
	uint64_t now = slk_now_ns(), wait_ns = give_refusal(forks, now);

	if (!wait_ns || !hold(forks, request, now + wait_ns, 1))
		return 0;
	if (forks->held_count == 1)
		begin_pauses(forks, now, longer(PUT_OFF_PAUSE_MIN_NS, apart_ns(forks)));
	return 1;
}

int slk_forks_hold(struct slk_forks *forks, const struct slk_request *request)
{
	uint64_t now = slk_now_ns();

	if (!hold(forks, request, now + HELD_FOR_NS, 0))
		return 0;
	/* It must not wait for those who insist. */
	if (forks->held_count == 1 || forks->again_ns > now + PAUSE_MAX_NS)
		begin_pauses(forks, now, PAUSE_MIN_NS);
	return 1;
}

int64_t slk_forks_due_ns(const struct slk_forks *forks)
{
	uint64_t now;

	if (!forks || !forks->held_count)
		return -1;
	now = slk_now_ns();
	return forks->again_ns > now ? (int64_t)(forks->again_ns - now) : 0;
}

int slk_engine_holds_forks(const struct slk_engine *engine)
{
	return engine->forks && engine->forks->held_count;
}

static uint64_t longest_pause(const struct slk_forks *forks)
{
	for (uint32_t i = 0; i < forks->held_count; i++)
		if (!forks->held[i].is_put_off)
			return PAUSE_MAX_NS;
	return longer(PUT_OFF_PAUSE_MAX_NS, apart_ns(forks));
}

void slk_forks_looked_again(struct slk_forks *forks)
{
	uint64_t longest = longest_pause(forks);

	begin_pauses(forks, slk_now_ns(), forks->pause_ns < longest / 2 ? 2 * forks->pause_ns : longest);
}

static enum slk_fork_answer decide_again(struct slk_engine *engine, const struct slk_held_fork *held,
					 const struct slk_request *request)
{
	struct slk_forks *forks = engine->forks;
	enum slk_fork_asked asked = held->is_put_off ? SLK_FORK_PUT_OFF : SLK_FORK_ASKED_AGAIN;
	enum slk_fork_answer answer = slk_forks_decide(forks, request, asked);

	if (answer == SLK_FORK_GOES_ON && held->is_put_off) {
		slk_trace_if_it_handles_children(engine, request);
		forks->insist_ns -= REFUSAL_NS; /* it got none; what a look takes was taken */
	}
	if (answer == SLK_FORK_GOES_ON || slk_now_ns() >= held->until_ns)
		return answer == SLK_FORK_GOES_ON ? answer : SLK_FORK_REFUSED;
	return held->is_put_off ? SLK_FORK_HELD : answer;
}

int slk_forks_take_held(struct slk_engine *engine, uint32_t *position, struct slk_request *ret_request,
			enum slk_fork_answer *ret_answer)
{
	struct slk_forks *forks = engine->forks;

	while (*position < forks->held_count) {
		struct slk_held_fork held = forks->held[*position];
		int is_there = slk_slot_alive(engine, &engine->slots[held.slot]);
		enum slk_fork_answer answer = SLK_FORK_REFUSED;

		ret_request->notif_id = held.notif_id;
		memcpy(ret_request->args, held.args, sizeof(held.args));
		ret_request->tid = held.tid;
		ret_request->nr = held.nr;
		ret_request->slot = held.slot;
		ret_request->listener = engine->slots[held.slot].listener;
		ret_request->reason = SLK_REASON_SLOW;
		ret_request->path_error = 0;
		ret_request->may_wait = 0;
		ret_request->path_length = 0;
		if (is_there)
			answer = decide_again(engine, &held, ret_request);
		if (answer == SLK_FORK_HELD) {
			++*position;
			continue;
		}
		forks->held_count--;
		memmove(&forks->held[*position], &forks->held[*position + 1],
			(forks->held_count - *position) * sizeof(held));
		if (!is_there) {
			slk_slot_release(engine, &engine->slots[held.slot]);
			engine->shared->counts.vanished++;
			continue;
		}
		*ret_answer = answer;
		return 1;
	}
	return 0;
}
