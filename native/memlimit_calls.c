/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Calls that ask for memory, where it is limited (memlimit.c). The filter lets small ones pass, and what gives none: what is
 * only reserved (PROT_NONE), what is not written (of private memory), and what the program calls free until it is touched
 * (MAP_NORESERVE). All that they ask for stands in registers, so whoever is let through gets what was judged.
 *
 * How much a call asks for may be less than its length, because some of it is writable already, or more than is known
 * (brk gives an address). That is looked at only where it would not fit otherwise, and not by the loop: who reads the maps
 * of a process waits for what its other threads do with them (slk_memory_judge).
 *
 * Shared anonymous memory is Python's: it is made of an object that we have a descriptor of, as is what memfd_create makes
 * (handlers/memory.py). Where a cgroup keeps the limit, it is asked for as any other.
 */
#define _GNU_SOURCE
#include "slk.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/mman.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define PAGE_PRESENT (UINT64_C(1) << 63)
#define PAGE_SWAPPED (UINT64_C(1) << 62)
#define PAGE_OF_FILE (UINT64_C(1) << 61) /* or shared */
#define RANGE_BYTES_MAX (UINT64_C(4) << 30) /* whose pages are looked at one by one: 10 ms */
#define ZERO_MAJOR 1 /* /dev/zero: mapped, it is shared anonymous memory (mmap_zero of drivers/char/mem.c) */
#define ZERO_MINOR 5

struct area {
	uint64_t start, end;
	int is_writable, is_private, is_heap;
};

/* ---- /proc/<tid>/maps */

/* "start-end rwxp offset dev inode   [heap]"; 0: no such line. */
static int read_area(const char *line, struct area *ret_area)
{
	char *at;

	ret_area->start = strtoull(line, &at, 16);
	if (*at != '-')
		return 0;
	ret_area->end = strtoull(at + 1, &at, 16);
	if (*at != ' ' || strlen(at) < 5)
		return 0;
	ret_area->is_writable = at[2] == 'w';
	ret_area->is_private = at[4] == 'p';
	ret_area->is_heap = strstr(at, " [heap]") != NULL;
	return 1;
}

/* Each, until `look` returns 1. What cannot be read has none. */
static void each_area(int32_t tid, int (*look)(void *, const struct area *), void *context)
{
	char path[32], text[8192];
	size_t kept = 0;
	ssize_t got;
	int fd, is_done = 0;

	snprintf(path, sizeof(path), "/proc/%d/maps", tid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	while (!is_done && (got = read(fd, text + kept, sizeof(text) - 1 - kept)) > 0) {
		char *line = text, *end;
		struct area area;

		kept += (size_t)got;
		text[kept] = '\0';
		for (; !is_done && (end = strchr(line, '\n')); line = end + 1) {
			*end = '\0';
			is_done = read_area(line, &area) && look(context, &area);
		}
		kept = strlen(line);
		if (kept == sizeof(text) - 1)
			break; /* longer than any */
		memmove(text, line, kept);
	}
	close(fd);
}

struct range {
	uint64_t start, end;
	uint64_t missing; /* how much of it is private and cannot be written yet */
	int is_writable;  /* where it starts */
};

static int add_missing(void *context, const struct area *area)
{
	struct range *range = context;
	uint64_t start = area->start > range->start ? area->start : range->start;
	uint64_t end = area->end < range->end ? area->end : range->end;

	if (start < end && area->is_private && !area->is_writable)
		range->missing += end - start;
	if (area->start <= range->start && range->start < area->end)
		range->is_writable = area->is_writable && area->is_private;
	return area->start >= range->end;
}

/* ---- brk */

static int find_heap(void *context, const struct area *area)
{
	if (!area->is_heap)
		return 0;
	*(uint64_t *)context = area->end;
	return 1;
}

/* Field 47 of stat, behind the name (proc_pid_stat(5)); 0 to whoever may not know. */
static uint64_t heap_start(int32_t tid)
{
	char path[32], text[1024], *at;
	ssize_t got;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/stat", tid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	got = read(fd, text, sizeof(text) - 1);
	close(fd);
	text[got > 0 ? got : 0] = '\0';
	at = strrchr(text, ')');
	for (int field = 2; at && field < 47; field++)
		at = strchr(at + 1, ' ');
	return at ? strtoull(at + 1, NULL, 10) : 0;
}

static struct slk_break *known_break(struct slk_engine *engine, int32_t tid)
{
	return &engine->breaks[(uint32_t)tid % SLK_BREAKS_MAX];
}

/* As the kernel has it now, up to a page. */
static uint64_t read_break(int32_t tid)
{
	uint64_t end = 0;

	each_area(tid, find_heap, &end);
	return end ? end : heap_start(tid);
}

uint64_t slk_break_known(struct slk_engine *engine, int32_t tid, uint64_t end)
{
	struct slk_break *known = known_break(engine, tid);
	uint64_t page_bytes = (uint64_t)sysconf(_SC_PAGESIZE);

	if (known->tid != tid || (known->end + page_bytes - 1) / page_bytes * page_bytes != end)
		*known = (struct slk_break){tid, end};
	return known->end;
}

/* Where a break is known of another process that had the number, or from before an execve, or not at all, the difference is
 * wrong: too much has us look, too little is seen when it is touched. Where the heap starts the kernel tells without waiting
 * for anybody; where it ends, whoever is at its limit is asked for. */
static int judge_break(struct slk_engine *engine, const struct slk_request *request)
{
	struct slk_break *known = known_break(engine, request->tid);
	uint64_t wanted = request->args[0];

	if (known->tid != request->tid)
		*known = (struct slk_break){request->tid, heap_start(request->tid)};
	if (known->end && wanted > known->end && !slk_memory_asks(engine->memory, wanted - known->end))
		return SLK_REASON_NO_ROOM + 1;
	known->end = wanted;
	return 0;
}

/* ---- the others */

/* Whose file it is may answer when he likes, and is not asked. */
static int is_zero_device(const struct slk_request *request)
{
	struct statx status;
	char link[64];

	snprintf(link, sizeof(link), "/proc/%d/fd/%d", request->tid, (int)(int32_t)request->args[4]);
	return statx(AT_FDCWD, link, AT_STATX_DONT_SYNC, STATX_TYPE, &status) == 0 && S_ISCHR(status.stx_mode) &&
	       status.stx_rdev_major == ZERO_MAJOR && status.stx_rdev_minor == ZERO_MINOR;
}

static int judge_map(struct slk_engine *engine, const struct slk_request *request)
{
	uint64_t flags = request->args[3], type = flags & MAP_TYPE;

	if (type == MAP_SHARED || type == MAP_SHARED_VALIDATE) {
		if (flags & MAP_ANONYMOUS ? type != MAP_SHARED : !is_zero_device(request))
			return 0;
		if (!slk_memory_is_by_group(engine->memory))
			return SLK_REASON_SLOW + 1;
		if (!(request->args[2] & PROT_WRITE) || flags & MAP_NORESERVE)
			return 0;
	}
	return slk_memory_asks(engine->memory, request->args[1]) ? 0 : SLK_REASON_NO_ROOM + 1;
}

/* Pages of its own in a range: what it once wrote, and does not take anew. Bits of proc_pid_pagemap(5). */
static uint64_t bytes_there(int32_t tid, const struct range *range)
{
	uint64_t page_bytes = (uint64_t)sysconf(_SC_PAGESIZE), pages[1024], there = 0;
	uint64_t at = range->start / page_bytes, end = range->end / page_bytes;
	char path[32];
	ssize_t got;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/pagemap", tid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	while (at < end) {
		uint64_t count = end - at < 1024 ? end - at : 1024;

		got = pread(fd, pages, count * sizeof(*pages), (off_t)(at * sizeof(*pages)));
		if (got < (ssize_t)sizeof(*pages))
			break;
		for (size_t i = 0; i < (size_t)got / sizeof(*pages); i++)
			there += (pages[i] & (PAGE_PRESENT | PAGE_SWAPPED)) && !(pages[i] & PAGE_OF_FILE);
		at += (uint64_t)got / sizeof(*pages);
	}
	close(fd);
	return there * page_bytes;
}

static uint64_t grows_by(const uint64_t *args)
{
	return args[2] > args[1] ? args[2] - args[1] : 0;
}

/* ---- what would not fit, by what the kernel has of the caller's memory */

static uint64_t missing_in(int32_t tid, const uint64_t *args)
{
	struct range range = {args[0], args[0] + args[1], 0, 0};
	uint64_t there;

	each_area(tid, add_missing, &range);
	if (args[1] >= RANGE_BYTES_MAX)
		return range.missing;
	there = bytes_there(tid, &range);
	return range.missing - (there < range.missing ? there : range.missing);
}

static int is_writable(int32_t tid, uint64_t address)
{
	struct range range = {address, address + 1, 0, 0};

	each_area(tid, add_missing, &range);
	return range.is_writable;
}

static uint64_t wanted_by(enum slk_asks asks, int32_t tid, const uint64_t *args, uint64_t *ret_end)
{
	switch (asks) {
	case SLK_ASKS_BRK:
		*ret_end = read_break(tid);
		return *ret_end && args[0] > *ret_end ? args[0] - *ret_end : 0;
	case SLK_ASKS_MPROTECT:
		return missing_in(tid, args);
	case SLK_ASKS_MREMAP:
		return is_writable(tid, args[0]) ? grows_by(args) : 0;
	case SLK_ASKS_MMAP:
	case SLK_ASKS_OBJECT:
		break;
	}
	return args[1];
}

int slk_memory_judge(struct slk_memory *memory, int asks, int tid, const uint64_t *args, uint64_t *ret_end)
{
	uint64_t end = 0;
	int result = slk_memory_asks_exactly(memory, wanted_by((enum slk_asks)asks, tid, args, &end));

	*ret_end = end;
	return result;
}

/* ---- */

int slk_memory_call(struct slk_engine *engine, struct slk_request *request)
{
	int result;

	if (!engine->memory)
		return SLK_REASON_SLOW + 1;
	switch (engine->calls[request->nr].mode) {
	case SLK_ASKS_BRK:
		result = judge_break(engine, request);
		break;
	case SLK_ASKS_MMAP:
		result = judge_map(engine, request);
		break;
	case SLK_ASKS_MPROTECT:
		result = slk_memory_asks(engine->memory, request->args[1]) ? 0 : SLK_REASON_NO_ROOM + 1;
		break;
	case SLK_ASKS_MREMAP:
		result = slk_memory_asks(engine->memory, grows_by(request->args)) ? 0 : SLK_REASON_NO_ROOM + 1;
		break;
	default:
		result = SLK_REASON_SLOW + 1;
	}
	if (result > 0)
		request->reason = (int16_t)(result - 1);
	return result;
}

int slk_memory_is_asked(const struct slk_engine *engine, int32_t nr, const uint64_t *args)
{
	return engine->calls[nr].mode == SLK_ASKS_MMAP && (args[3] & MAP_TYPE) != MAP_PRIVATE;
}

void slk_engine_set_memory(struct slk_engine *engine, struct slk_memory *memory)
{
	engine->memory = memory;
}
