/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How much memory a sandbox uses, all its processes together, and the limit of that. Where a cgroup keeps it, that is asked
 * in the place of all that follows (memlimit_group.c).
 *
 * Nothing is booked: what is in use is what the kernel says. So exec, exit, fork and a number that is used again need no
 * care, and nothing drifts. It has three parts:
 * - what processes hold of their own (memlimit_members.c, memlimit_held.c): private pages, those that are swapped out, page
 *   tables. The sum over all processes is too high by what a fork shares; only where that sum is above the limit each page is counted
 *   once, which takes the kernel a walk through the page tables.
 * - objects that need nobody who maps them. Each is made by us on behalf (memfd_create, shared anonymous memory), so that
 *   we have a descriptor of each, and are told when it is gone (disk.c, inuse.c). Mapped, they count here and not there.
 * - files on a tmpfs that the policy lets the program write (memlimit_places.c).
 *
 * Who asks for more than is left gets ENOMEM (memlimit_calls.c). That is a courtesy, for programs that can do with less, and
 * a part of the limit is kept for what they need to go on then: memory is taken by touching it, and what was granted may be
 * touched long after. The limit is kept by the thread that
 * looks, and ends everything (memlimit_watcher.c).
 */
#define _GNU_SOURCE
#include "memlimit.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "disk.h"

#define RESERVE_PART 16 /* of the limit is for what is not asked for, at most */
#define RESERVE_BYTES_MAX (UINT64_C(16) << 20)
#define NO_LIMIT (UINT64_C(1) << 62)
#define LOOP_PATIENCE_NS 2000000u /* the loop does not wait for a look that takes longer */
#define EXACT_PATIENCE_NS 1000000000u /* who has not been counted by then is refused by what was found last */
#define OBJECT_LINK "/memfd:" /* how /proc/<pid>/fd shows what memfd_create made (mm/memfd.c) */
#define OBJECTS_PART 2 /* of the descriptors that we may have, at most */

int slk_memory_create(uint64_t limit_bytes, struct slk_memory **ret_memory)
{
	struct slk_memory *memory = calloc(1, sizeof(*memory));
	struct rlimit descriptors;
	int result;

	if (!memory)
		return -ENOMEM;
	memory->limit = limit_bytes;
	memory->asked_below = limit_bytes - (limit_bytes / RESERVE_PART < RESERVE_BYTES_MAX ? limit_bytes / RESERVE_PART :
											     RESERVE_BYTES_MAX);
	memory->descriptors = getrlimit(RLIMIT_NOFILE, &descriptors) == 0 ? descriptors.rlim_cur : 1024;
	pthread_mutex_init(&memory->lock, NULL);
	pthread_cond_init(&memory->changed, NULL);
	result = slk_disk_create(NO_LIMIT, &memory->objects);
	if (result == 0)
		memory->processors = memory->objects->processors;
	memory->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (result == 0 && memory->wake_fd < 0)
		result = -errno;
	if (result < 0) {
		slk_memory_destroy(memory);
		return result;
	}
	*ret_memory = memory;
	return 0;
}

void slk_memory_destroy(struct slk_memory *memory)
{
	slk_memory_stop(memory);
	slk_memory_join(memory);
	slk_memory_count(memory);
	slk_members_forget(memory);
	slk_places_forget(memory);
	if (memory->objects)
		slk_disk_destroy(memory->objects);
	if (memory->wake_fd >= 0)
		close(memory->wake_fd);
	pthread_cond_destroy(&memory->changed);
	pthread_mutex_destroy(&memory->lock);
	free(memory->walk.members);
	free(memory);
}

void slk_memory_count_mapped(struct slk_memory *memory)
{
	memory->counts_mapped = 1;
}

/* ---- objects */

int slk_memory_note(struct slk_memory *memory, int fd)
{
	struct slk_disk *objects = memory->objects;
	struct stat status;
	char link[32];
	int result;

	if (fstat(fd, &status) < 0)
		return -errno;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	pthread_mutex_lock(&objects->lock);
	/* Without descriptors nobody could be looked at. */
	if (objects->open_count >= memory->descriptors / OBJECTS_PART)
		result = -EMFILE;
	else
		result = slk_held_given(objects, &status, link);
	pthread_mutex_unlock(&objects->lock);
	if (memory->is_by_group)
		slk_memory_wake(memory);
	return result;
}

int slk_memory_given(struct slk_memory *memory, int fd)
{
	return memory->is_by_group ? 0 : slk_disk_given(memory->objects, fd);
}

/*
 * To know when an object is gone, our own descriptor of it has to go (disk_looks.c); what is still there then is held by
 * somebody who cannot write to it now: by a path (O_PATH), or for reading. By what he has he can open it for writing, and
 * nobody asks us. So those are looked for among what the members have, and we have a descriptor of each again.
 */
struct finding {
	struct slk_disk *objects;
	pid_t pid;
};

/* What it leads to may be a file whose server answers when it likes: that is not asked. */
static int is_object(int directory_fd, const char *number)
{
	char text[sizeof(OBJECT_LINK) - 1];

	return readlinkat(directory_fd, number, text, sizeof(text)) == (ssize_t)sizeof(text) &&
	       memcmp(text, OBJECT_LINK, sizeof(text)) == 0;
}

static void find_one(void *context, int directory_fd, const char *number)
{
	const struct finding *finding = context;
	struct slk_disk *objects = finding->objects;
	struct slk_held *held;
	struct stat status;
	char path[64];

	if (!is_object(directory_fd, number) || fstatat(directory_fd, number, &status, 0) < 0)
		return;
	held = *slk_held_place(objects, status.st_dev, status.st_ino);
	if (!held || held->fd >= 0)
		return;
	snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)finding->pid, atoi(number));
	if (slk_held_keep_open(objects, held, AT_FDCWD, path) < 0)
		return;
	/* It may be another one by now. */
	if (fstat(held->fd, &status) < 0 || status.st_dev != held->device || status.st_ino != held->inode)
		slk_held_close(objects, held);
	else
		slk_held_set_bytes(objects, held, &status);
}

static void find_among(struct slk_disk *objects, pid_t pid)
{
	struct finding finding = {objects, pid};

	slk_each_descriptor(pid, find_one, &finding);
}

static void find_again(struct slk_memory *memory)
{
	for (const struct slk_member *member = memory->first;
	     member && memory->objects->count > memory->objects->open_count; member = member->next)
		find_among(memory->objects, member->pid);
}

int slk_memory_has_objects(struct slk_memory *memory)
{
	int has_any;

	pthread_mutex_lock(&memory->objects->lock);
	has_any = memory->objects->count > 0;
	pthread_mutex_unlock(&memory->objects->lock);
	return has_any;
}

static uint64_t objects_look(struct slk_memory *memory)
{
	struct slk_disk *objects = memory->objects;
	uint64_t total;

	pthread_mutex_lock(&objects->lock);
	if (objects->count)
		slk_disk_look(objects);
	find_again(memory);
	total = objects->total;
	pthread_mutex_unlock(&objects->lock);
	return total;
}

/* Each is asked now whether anybody has it: what nobody has is gone when our descriptor of it is. */
static uint64_t objects_exactly(struct slk_memory *memory)
{
	struct slk_disk *objects = memory->objects;
	uint64_t total;

	pthread_mutex_lock(&objects->lock);
	for (uint32_t i = objects->open_count; i-- > 0;) {
		slk_disk_look_once(objects, objects->open[i]);
		slk_disk_let_go(objects, objects->open[i]);
	}
	slk_disk_settle(objects);
	find_again(memory);
	total = objects->total;
	pthread_mutex_unlock(&objects->lock);
	return total;
}

/* ---- all of it */

static uint64_t left(const struct slk_memory *memory)
{
	return memory->used < memory->asked_below && !memory->blind_error ? memory->asked_below - memory->used : 0;
}

static void found(struct slk_memory *memory, uint64_t used)
{
	memory->used = used;
	memory->looked_ns = slk_now_ns();
	__atomic_store_n(&memory->room, (int64_t)left(memory), __ATOMIC_RELEASE);
}

static void is_in_use(struct slk_memory *memory, uint64_t used)
{
	if (used > memory->peak)
		memory->peak = used;
}

static void look_at_group(struct slk_memory *memory)
{
	uint64_t began_ns = slk_cpu_ns(), used = slk_group_look(memory, memory->asked_below / 2);

	used += objects_look(memory); /* that we made for the program: the kernel counts them as ours */
	memory->look_ns = slk_cpu_ns() - began_ns;
	memory->looks++;
	found(memory, used);
	is_in_use(memory, used);
}

static void look_at_all(struct slk_memory *memory)
{
	uint64_t began_ns = slk_cpu_ns(), used = objects_look(memory) + slk_places_look(memory);

	used += slk_members_look(memory); /* last: that changes fastest, and of the others there may be thousands */

	memory->look_ns = slk_cpu_ns() - began_ns;
	memory->looks++;
	if (!memory->blind_error)
		memory->blind_since_ns = 0;
	else if (!memory->blind_since_ns)
		memory->blind_since_ns = slk_now_ns();
	memory->at_most = used;
	/* What was found to be shared is taken to be so still: only what came since counts in full. */
	if (memory->exact_at_ns && used > memory->exact)
		used = memory->exact + (used > memory->at_most_then ? used - memory->at_most_then : 0);
	found(memory, used < memory->at_most ? used : memory->at_most);
	if (memory->at_most <= memory->limit && !memory->counts_mapped)
		is_in_use(memory, memory->at_most);
}

void slk_memory_look(struct slk_memory *memory)
{
	if (memory->is_by_group)
		look_at_group(memory);
	else
		look_at_all(memory);
}

uint64_t slk_memory_at_least(const struct slk_memory *memory)
{
	return slk_members_at_least(memory);
}

int slk_memory_begin_walk(struct slk_memory *memory)
{
	memory->walk_began_ns = slk_now_ns();
	memory->at_most_then = memory->at_most;
	memory->walk.limit = memory->limit;
	memory->walk.counts_mapped = memory->counts_mapped;
	return slk_members_list(memory, &memory->walk);
}

void slk_memory_walk(const struct slk_memory *memory, struct slk_counting *walk)
{
	uint64_t began_ns = slk_cpu_ns();

	walk->used = slk_members_exactly(walk, &walk->mapped);
	walk->places = slk_places_exactly(memory, walk);
	walk->took_ns = slk_cpu_ns() - began_ns;
}

void slk_memory_end_walk(struct slk_memory *memory)
{
	const struct slk_counting *walk = &memory->walk;
	uint64_t began_ns = slk_cpu_ns(), shared = objects_exactly(memory) + walk->places, used = walk->used;

	memory->exact_ns = walk->took_ns + slk_cpu_ns() - began_ns;
	memory->exact_at_ns = slk_now_ns();
	memory->walks++;
	/* Whoever shares with somebody for a moment takes away from his share, and may be gone when it is his turn. */
	if (used < slk_memory_at_least(memory))
		used = slk_memory_at_least(memory);
	used += walk->counts_mapped && walk->mapped > shared ? walk->mapped : shared;
	memory->exact = used;
	found(memory, used);
	is_in_use(memory, used);
}

void slk_memory_look_exactly(struct slk_memory *memory)
{
	slk_memory_look(memory);
	if (memory->is_by_group || (memory->at_most <= memory->limit && !memory->counts_mapped) ||
	    slk_memory_begin_walk(memory) < 0)
		return;
	slk_memory_walk(memory, &memory->walk);
	slk_memory_end_walk(memory);
}

/* Where a look takes long it is not made for each who asks. */
static int is_stale(const struct slk_memory *memory)
{
	uint64_t age_ns = slk_now_ns() - memory->looked_ns;

	return age_ns > SLK_MEMORY_FRESH_NS && age_ns > 8 * memory->look_ns;
}

/* What was granted and not touched is no more in use than what was never asked for: so once it was looked, it counts only
 * towards the moment at which to look again. */
static int fits(struct slk_memory *memory, uint64_t bytes)
{
	if (left(memory) < bytes)
		return 0;
	__atomic_store_n(&memory->room, (int64_t)(left(memory) - bytes), __ATOMIC_RELEASE);
	return 1;
}

static struct timespec after_ns(uint64_t ns)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += (long)(ns % 1000000000u);
	until.tv_sec += (time_t)(ns / 1000000000u) + until.tv_nsec / 1000000000;
	until.tv_nsec %= 1000000000;
	return until;
}

int slk_memory_asks(struct slk_memory *memory, uint64_t bytes)
{
	struct timespec until;
	int result;

	if (bytes > memory->asked_below)
		return 0;
	if (__atomic_sub_fetch(&memory->room, (int64_t)bytes, __ATOMIC_ACQ_REL) >= 0)
		return 1;
	__atomic_add_fetch(&memory->room, (int64_t)bytes, __ATOMIC_ACQ_REL);
	until = after_ns(LOOP_PATIENCE_NS);
	if (pthread_mutex_clocklock(&memory->lock, CLOCK_MONOTONIC, &until) != 0)
		return left(memory) >= bytes; /* by what was found last */
	if (is_stale(memory))
		slk_memory_look(memory);
	result = fits(memory, bytes);
	pthread_mutex_unlock(&memory->lock);
	return result;
}

/* The watcher has it counted, as for itself. */
int slk_memory_asks_exactly(struct slk_memory *memory, uint64_t bytes)
{
	struct timespec until = after_ns(EXACT_PATIENCE_NS);
	int result;

	if (bytes > memory->asked_below)
		return 0;
	pthread_mutex_lock(&memory->lock);
	if (!memory->is_watched || memory->is_by_group) {
		slk_memory_look_exactly(memory);
	} else {
		/* One that is under way may have begun before. */
		uint32_t wanted = memory->walks + 1 + (memory->walking != SLK_WALK_NONE);

		memory->exact_wanted++;
		slk_memory_wake(memory);
		while (!memory->stop && !memory->is_over && (int32_t)(memory->walks - wanted) < 0)
			if (pthread_cond_clockwait(&memory->changed, &memory->lock, CLOCK_MONOTONIC, &until) == ETIMEDOUT)
				break;
		memory->exact_wanted--;
	}
	result = fits(memory, bytes);
	pthread_mutex_unlock(&memory->lock);
	return result;
}

static void group_state(struct slk_memory *memory, struct slk_memory_state *ret_state)
{
	uint64_t told = slk_group_peak(memory), seen = __atomic_load_n(&memory->peak, __ATOMIC_RELAXED);

	ret_state->used_bytes = slk_group_look(memory, 0) + objects_look(memory);
	ret_state->peak_bytes = told > seen ? told : seen;
	ret_state->processes = 0;
	ret_state->is_over = __atomic_load_n(&memory->is_over, __ATOMIC_ACQUIRE) || slk_group_is_over(memory);
	ret_state->uncounted_error = 0;
}

void slk_memory_state(struct slk_memory *memory, struct slk_memory_state *ret_state)
{
	if (memory->is_by_group) {
		group_state(memory, ret_state);
		return;
	}
	/* Without the lock: the loop asks, too, and a look may take long. */
	ret_state->used_bytes = __atomic_load_n(&memory->used, __ATOMIC_RELAXED);
	ret_state->peak_bytes = __atomic_load_n(&memory->peak, __ATOMIC_RELAXED);
	ret_state->processes = __atomic_load_n(&memory->member_count, __ATOMIC_RELAXED);
	ret_state->is_over = __atomic_load_n(&memory->is_over, __ATOMIC_ACQUIRE);
	ret_state->uncounted_error = __atomic_load_n(&memory->uncounted_error, __ATOMIC_RELAXED);
}
