/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who lives below init, exactly, while others die.
 *
 * The kernel lists the children of a thread in /proc/<pid>/task/<tid>/children, what nobody has reaped yet among them. init
 * is the subreaper, so nobody leaves the tree; and while we look, no fork is let through. What moves nevertheless: who dies
 * leaves its children to another thread of its process or to an ancestor (kernel/exit.c, find_new_reaper). One walk from
 * the top down would miss a child that moves from a list which it has still to read to one that it has read.
 *
 * So the lists are read from below: `order` has every process behind its ancestors, and is read from its end. Children move
 * only upwards, from where it has been to where it has still to come; what is not known yet is found in some list of
 * one that is. (Invariant: the topmost of what was not found has a parent whose list has still to be read. If that parent
 * dies, the next one is an ancestor, which comes later.) New ones are looked through at once, and if one of them could
 * have children, all is read once more.
 *
 * Each list is read until it is twice the same: the kernel finds its place by counting, and passes over one when another
 * that it has told is reaped meanwhile (fs/proc/array.c, get_children_pid). Likewise the threads of a process.
 *
 * Only who was ever let fork has children. A process that never was needs no look of its own, and most never were.
 */
#define _GNU_SOURCE
#include "forks.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define READS_MAX 64 /* what is not twice the same by then is not seen */
#define HASH_START 14695981039346656037u
#define HASH_TIMES 1099511628211u /* FNV-1a */
#define LINKS_BESIDE_THREADS 2    /* of /proc/<pid>/task (fs/proc/base.c, proc_task_getattr) */

struct look {
	struct slk_forks *forks;
	uint32_t processes, tasks;
	int has_new_cloner;
	int is_init;
};

int slk_tids_push(struct slk_tids *tids, int32_t tid)
{
	if (tids->count == tids->capacity) {
		uint32_t capacity = tids->capacity ? 2 * tids->capacity : 256;
		int32_t *numbers = realloc(tids->numbers, capacity * sizeof(*numbers));

		if (!numbers)
			return -ENOMEM;
		tids->numbers = numbers;
		tids->capacity = capacity;
	}
	tids->numbers[tids->count++] = tid;
	return 0;
}

int slk_tid_is_there(int32_t tid)
{
	return kill(tid, 0) == 0 || errno != ESRCH;
}

void slk_forks_born(struct slk_forks *forks, int32_t tid)
{
	uint8_t *flags = &forks->flags[tid];

	if (*flags & SLK_TID_BORN || slk_tids_push(&forks->born, tid) < 0)
		return;
	*flags &= (uint8_t) ~(SLK_TID_CLONES | SLK_TID_TRACED); /* who had the number before it may have left these */
	*flags |= SLK_TID_BORN;
	forks->births++;
}

static void found_task(struct look *look, int32_t tid)
{
	struct slk_forks *forks = look->forks;

	slk_forks_born(forks, tid);
	forks->is_blind |= slk_tids_push(&forks->found, tid) < 0;
	look->tasks++;
}

static void found_process(struct look *look, int32_t pid)
{
	struct slk_forks *forks = look->forks;
	uint8_t *flags = &forks->flags[pid];

	if (*flags & SLK_TID_FOUND)
		return;
	*flags |= SLK_TID_FOUND;
	look->processes++;
	slk_forks_born(forks, pid);
	if (!(*flags & SLK_TID_CLONES))
		found_task(look, pid); /* one thread: it never made another */
	if (look->is_init)
		forks->is_blind |= slk_tids_push(&forks->adopted, pid) < 0;
	if (*flags & SLK_TID_KNOWN)
		return;
	if (slk_tids_push(&forks->order, pid) < 0) {
		forks->is_blind = 1;
		return;
	}
	*flags |= SLK_TID_KNOWN;
	look->has_new_cloner |= (*flags & SLK_TID_CLONES) != 0;
}

/* The numbers of one reading, from its beginning. A hash of them, or 0: it cannot be read. */
static uint64_t read_children(struct look *look, int fd)
{
	char text[4096];
	uint64_t hash = HASH_START;
	uint32_t number = 0;
	ssize_t got;

	if (lseek(fd, 0, SEEK_SET) < 0)
		return 0;
	while ((got = read(fd, text, sizeof(text))) > 0) {
		for (ssize_t at = 0; at < got; at++) {
			hash = (hash ^ (uint8_t)text[at]) * HASH_TIMES;
			if (text[at] >= '0' && text[at] <= '9') {
				number = number * 10 + (uint32_t)(text[at] - '0');
				continue;
			}
			if (number > 0 && number < SLK_TIDS_END)
				found_process(look, (int32_t)number);
			number = 0;
		}
		if (got < (ssize_t)sizeof(text) / 2)
			break; /* seq_read() fills a page, or is at the end */
	}
	if (got < 0)
		return 0;
	return hash ? hash : 1;
}

/* 0: the thread is gone, or it was not to be seen, which the look remembers. */
static int read_list(struct look *look, int32_t pid, int32_t tid)
{
	char path[64];
	uint64_t before = 0, now = 0;
	int reads = 0, fd;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", (int)pid, (int)tid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0) {
		do {
			before = now;
			now = read_children(look, fd);
		} while (now && now != before && ++reads < READS_MAX);
		close(fd);
	}
	/* Hidden by a mount option, no descriptors left: it may have children all the same. */
	if ((!now || reads == READS_MAX) && slk_tid_is_there(tid))
		look->forks->is_blind = 1;
	return now && reads < READS_MAX;
}

/* -1: it is gone. */
static int32_t threads_of(struct look *look, int32_t pid)
{
	char path[32];
	struct stat status;

	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	if (stat(path, &status) < 0) {
		look->forks->is_blind |= slk_tid_is_there(pid);
		return -1;
	}
	return (int32_t)status.st_nlink - LINKS_BESIDE_THREADS;
}

/* Fills tids, which has nothing. */
static int list_threads(int32_t pid, struct slk_tids *tids)
{
	_Alignas(struct slk_dirent) char buffer[4096];
	char path[32];
	long got;
	int fd, result = 0;

	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	while (result == 0 && (got = syscall(SYS_getdents64, fd, buffer, sizeof(buffer))) != 0) {
		if (got < 0) {
			result = -errno;
			break;
		}
		for (long at = 0; at < got && result == 0;) {
			const struct slk_dirent *entry = (const void *)(buffer + at);
			long tid = entry->name[0] == '.' ? 0 : atol(entry->name);

			at += entry->length;
			if (tid > 0 && tid < (long)SLK_TIDS_END)
				result = slk_tids_push(tids, (int32_t)tid);
		}
	}
	close(fd);
	return result;
}

/* Its lists, as long as its threads are the same before and after: who dies leaves its children to another one. */
static void read_process(struct look *look, int32_t pid)
{
	struct slk_tids tids = {NULL, 0, 0};
	int is_same = 0;

	for (int reads = 0; !is_same && reads < READS_MAX; reads++) {
		int32_t before = threads_of(look, pid), after;

		tids.count = 0;
		if (before < 0)
			break;
		if (before == 1 ? slk_tids_push(&tids, pid) < 0 : list_threads(pid, &tids) < 0)
			break;
		is_same = tids.count == (uint32_t)before;
		for (uint32_t i = 0; i < tids.count; i++)
			is_same &= read_list(look, pid, tids.numbers[i]);
		after = threads_of(look, pid);
		is_same &= after == before;
	}
	if (is_same) {
		for (uint32_t i = 0; i < tids.count; i++)
			found_task(look, tids.numbers[i]);
	} else if (slk_tid_is_there(pid)) {
		look->forks->is_blind = 1;
	}
	free(tids.numbers);
}

static void read_if_it_clones(struct look *look, int32_t pid)
{
	if (look->forks->flags[pid] & SLK_TID_CLONES)
		read_process(look, pid);
}

/* Everything once, from below. 0: what was new may have more below it. */
static int pass(struct slk_forks *forks, struct look *ret_look)
{
	struct look look = {.forks = forks};
	uint32_t known = forks->order.count;

	for (uint32_t i = 0; i < known; i++)
		forks->flags[forks->order.numbers[i]] &= (uint8_t)~SLK_TID_FOUND;
	forks->found.count = forks->adopted.count = 0;
	forks->is_blind = 0;
	for (uint32_t i = known; i > 0; i--)
		read_if_it_clones(&look, forks->order.numbers[i - 1]);
	look.is_init = 1;
	if (!read_list(&look, forks->init_pid, forks->init_pid))
		forks->is_blind = 1; /* nothing below it can be counted, and nothing lives there any more */
	look.is_init = 0;
	if (look.has_new_cloner)
		for (uint32_t i = known; i < forks->order.count; i++)
			read_if_it_clones(&look, forks->order.numbers[i]);
	*ret_look = look;
	return !look.has_new_cloner;
}

/* Who was not found is gone, and its number may come again. */
static void forget_the_gone(struct slk_forks *forks)
{
	uint32_t kept = 0;

	for (uint32_t i = 0; i < forks->order.count; i++) {
		int32_t pid = forks->order.numbers[i];
		uint8_t *flags = &forks->flags[pid];

		if (*flags & SLK_TID_FOUND)
			forks->order.numbers[kept++] = pid;
		else
			*flags &= (uint8_t) ~(SLK_TID_KNOWN | SLK_TID_CLONES | SLK_TID_TRACED);
	}
	forks->order.count = kept;
}

/* From now on a birth is who is none of these. */
static void forget_births(struct slk_forks *forks)
{
	struct slk_tids born = forks->born;

	for (uint32_t i = 0; i < born.count; i++)
		forks->flags[born.numbers[i]] &= (uint8_t)~SLK_TID_BORN;
	for (uint32_t i = 0; i < forks->found.count; i++)
		forks->flags[forks->found.numbers[i]] |= SLK_TID_BORN;
	forks->born = forks->found;
	forks->found = born;
	forks->found.count = 0;
}

static uint32_t smaller(uint32_t one, uint32_t other)
{
	return one < other ? one : other;
}

void slk_look_at_descendants(struct slk_forks *forks)
{
	struct look look;
	uint32_t unborn;
	int is_whole = 0;

	for (uint32_t passes = 0; !is_whole && passes < READS_MAX; passes++)
		is_whole = pass(forks, &look);
	forks->is_blind |= !is_whole;
	if (forks->is_blind)
		return;
	forks->processes = look.processes;
	forks->tasks = look.tasks;
	/* Every birth is of one fork: so many may be still to come, and no more than may be under way. */
	unborn = forks->new_tasks > forks->births ? forks->new_tasks - forks->births : 0;
	forks->new_processes = smaller(forks->new_processes, smaller(unborn, forks->making_processes));
	forks->new_tasks = smaller(unborn, forks->making_processes + forks->making_threads);
	forks->births = 0;
	forget_the_gone(forks);
	forget_births(forks);
	for (uint32_t i = 0; i < forks->makers.count; i++)
		if (!(forks->flags[forks->makers.numbers[i]] & SLK_TID_BORN))
			slk_makes_no_more(forks, forks->makers.numbers[i]); /* it is dead: the next look finds what it made */
}
