/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What init keeps of the memory that it was forked with.
 *
 * It is a fork of the supervisor, and needs next to nothing of Python's memory. That costs nothing as long as nobody writes
 * to it; but each page that the supervisor has written to since is there twice. And whatever init forks, the program
 * first of all, would be given tables of all of it.
 *
 * So what is still needed of the plan and of the engine is copied into one place, and private memory goes: what is
 * anonymous, and what of files can be written; but for our own data, the C library's and the dynamic linker's, the stacks,
 * and what the thread has for itself. What can only be read of files costs nothing, and stays. What is gone is unmapped:
 * who touches it nevertheless is killed for it, and with init all of the sandbox, which is better than reading zeros.
 *
 * From then on nothing in init may allocate (the heap is gone), nor call fork(3) (which runs the handlers of others,
 * pthread_atfork(3)): slk_fork() is for that.
 */
#define _GNU_SOURCE
#include "slk.h"

#include <errno.h>
#include <fcntl.h>
#include <locale.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#ifdef __GLIBC__
#include <gnu/libc-version.h>
#endif

#define MAPPINGS_MAX 4096
#define LINE_BYTES_MAX 5000 /* its path is PATH_MAX at most, and what is not printable is written as four */

#define THREAD_BYTES 8192 /* before and behind: its descriptor, and what the C library has of its own for it */
#define STACK_BELOW_BYTES (256u * 1024) /* that init may come to need */
#define STACK_ABOVE_BYTES (1024u * 1024) /* with what lies there of init's already */

#if defined(__SANITIZE_ADDRESS__)
#define NEEDS_ALL 1 /* its shadow, and its allocator */
#else
#define NEEDS_ALL 0
#endif

pid_t slk_fork(void)
{
	return (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
}

/* ---- one place */

struct place {
	char *at, *end;
};

static size_t page_bytes(void)
{
	return (size_t)getauxval(AT_PAGESZ);
}

static size_t in_pages(size_t size)
{
	return (size + page_bytes() - 1) & ~(page_bytes() - 1);
}

/* Aligned as a pointer is. */
static size_t room_for(size_t size)
{
	return (size + sizeof(void *) - 1) & ~(sizeof(void *) - 1);
}

static void *put(struct place *place, const void *from, size_t size)
{
	char *to = place->at;

	memcpy(to, from, size);
	place->at += room_for(size);
	return to;
}

static char *put_text(struct place *place, const char *text)
{
	return text ? put(place, text, strlen(text) + 1) : NULL;
}

static size_t room_for_text(const char *text)
{
	return text ? room_for(strlen(text) + 1) : 0;
}

static uint32_t count_of(char *const *texts)
{
	uint32_t count = 0;

	while (texts && texts[count])
		count++;
	return count;
}

static size_t room_for_texts(char *const *texts)
{
	size_t size = 0;

	for (uint32_t i = 0; i < count_of(texts); i++)
		size += room_for_text(texts[i]);
	return texts ? size + (count_of(texts) + 1) * sizeof(*texts) : 0;
}

static char *const *put_texts(struct place *place, char *const *texts)
{
	uint32_t count = count_of(texts);
	char **to;

	if (!texts)
		return NULL;
	to = put(place, texts, (count + 1) * sizeof(*texts)); /* with its end */
	for (uint32_t i = 0; i < count; i++)
		to[i] = put_text(place, texts[i]);
	return to;
}

static size_t filter_bytes(const struct slk_launch_plan *plan)
{
	return plan->filter_length * (size_t)8; /* struct sock_filter */
}

/* What further programs are started with, and what lasts as long as init. */
static size_t room_for_lasting(const struct slk_launch_plan *plan)
{
	size_t size = room_for(sizeof(struct slk_kept)) + room_for(filter_bytes(plan));

	for (int i = 0; i < SLK_CGROUPS_MAX; i++)
		size += room_for_text(plan->groups[i]);
	return size;
}

static size_t room_for_words(const struct slk_launch_plan *plan)
{
	return room_for_text(plan->executable) + room_for_text(plan->directory) + room_for_texts(plan->argv) +
	       room_for_texts(plan->shell_argv) + room_for_texts(plan->envp);
}

static void put_view(struct slk_engine_view *view, const struct slk_engine *engine)
{
	view->shared = engine->shared;
	for (int nr = 0; nr < SLK_CALLS_MAX; nr++)
		view->is_always_trapped[nr] = (uint8_t)(engine->calls[nr].is_always_trapped != 0);
}

int slk_init_keep(const struct slk_launch_plan *plan, struct slk_kept **ret_kept)
{
	size_t lasting = in_pages(room_for_lasting(plan)), size = lasting + in_pages(room_for_words(plan));
	struct place place;
	struct slk_kept *kept;

	place.at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (place.at == MAP_FAILED)
		return -errno;
	kept = (struct slk_kept *)(void *)place.at;
	place.at += room_for(sizeof(*kept));
	kept->plan = *plan;
	kept->plan.filter = plan->filter ? put(&place, plan->filter, filter_bytes(plan)) : NULL;
	for (int i = 0; i < SLK_CGROUPS_MAX; i++)
		kept->plan.groups[i] = put_text(&place, plan->groups[i]);
	if (plan->engine)
		put_view(&kept->view, plan->engine);
	kept->plan.engine = NULL;
	kept->has_engine = plan->engine != NULL;
	place.at = (char *)kept + lasting;
	kept->words_bytes = size - lasting;
	kept->words = place.at;
	kept->plan.executable = put_text(&place, plan->executable);
	kept->plan.directory = put_text(&place, plan->directory);
	kept->plan.argv = put_texts(&place, plan->argv);
	kept->plan.shell_argv = put_texts(&place, plan->shell_argv);
	kept->plan.envp = put_texts(&place, plan->envp);
	*ret_kept = kept;
	return 0;
}

void slk_init_drop_words(struct slk_kept *kept)
{
	munmap(kept->words, kept->words_bytes);
	kept->plan.executable = kept->plan.directory = NULL;
	kept->plan.argv = kept->plan.shell_argv = kept->plan.envp = NULL;
}

/* ---- what there is: /proc/self/maps, proc(5) */

struct mapping {
	uintptr_t start, end;
	uint64_t device, inode;
	uint8_t is_writable, is_shared, is_special; /* a stack, or the kernel's own */
	uint8_t is_ours;                            /* of a file that we run from */
};

struct mappings {
	uint32_t count;
	struct mapping of[MAPPINGS_MAX];
};

static uint64_t number_at(const char **text, uint64_t base)
{
	uint64_t number = 0;

	for (;; (*text)++) {
		char digit = **text;

		if (digit >= '0' && digit <= '9')
			number = number * base + (uint64_t)(digit - '0');
		else if (base == 16 && digit >= 'a' && digit <= 'f')
			number = number * base + (uint64_t)(digit - 'a' + 10);
		else
			return number;
	}
}

/* start-end rwxp offset major:minor inode path */
static void read_line(const char *line, struct mapping *ret_mapping)
{
	struct mapping mapping = {0};
	const char *at = line;

	mapping.start = number_at(&at, 16);
	at += *at == '-';
	mapping.end = number_at(&at, 16);
	if (strnlen(at, 6) == 6) {
		mapping.is_writable = at[2] == 'w';
		mapping.is_shared = at[4] == 's';
		at += 6;
	}
	number_at(&at, 16);
	at += *at == ' ';
	mapping.device = number_at(&at, 16) << 32;
	at += *at == ':';
	mapping.device |= number_at(&at, 16);
	at += *at == ' ';
	mapping.inode = number_at(&at, 10);
	at += strspn(at, " ");
	mapping.is_special = strncmp(at, "[stack", 6) == 0 || strncmp(at, "[v", 2) == 0;
	*ret_mapping = mapping;
}

/* 0, or -1: it is not known what there is. */
static int read_mappings(struct mappings *mappings)
{
	char text[LINE_BYTES_MAX + 4096];
	size_t held = 0;
	ssize_t got;
	int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return -1;
	while ((got = read(fd, text + held, sizeof(text) - 1 - held)) > 0) {
		char *line = text, *end;

		held += (size_t)got;
		text[held] = '\0';
		while (mappings->count < MAPPINGS_MAX && (end = memchr(line, '\n', held - (size_t)(line - text)))) {
			*end = '\0';
			read_line(line, &mappings->of[mappings->count++]);
			line = end + 1;
		}
		held -= (size_t)(line - text);
		memmove(text, line, held);
	}
	close(fd);
	return got < 0 || held || mappings->count == MAPPINGS_MAX ? -1 : 0;
}

/* ---- what goes */

static int holds(const struct mapping *mapping, const void *address)
{
	return (uintptr_t)address >= mapping->start && (uintptr_t)address < mapping->end;
}

static const struct mapping *mapping_of(const struct mappings *mappings, const void *address)
{
	for (uint32_t i = 0; i < mappings->count; i++)
		if (holds(&mappings->of[i], address))
			return &mappings->of[i];
	return NULL;
}

static const char ours[] = "ours"; /* lies in the file that we run from */

/* 0, or -1: one was not found, so nothing is known. */
static int find_ours(struct mappings *mappings)
{
	const void *addresses[] = {
		ours,
#ifdef __GLIBC__
		gnu_get_libc_version(), /* one that no program has a copy of, as it may have of data and of functions */
#endif
		(const void *)getauxval(AT_BASE), /* of the dynamic linker; which is the C library, too, elsewhere */
	};

	for (size_t at = 0; at < sizeof(addresses) / sizeof(*addresses); at++) {
		const struct mapping *found = mapping_of(mappings, addresses[at]);

		if (!found && addresses[at])
			return -1; /* without an address: linked statically */
		for (uint32_t i = 0; found && i < mappings->count; i++)
			mappings->of[i].is_ours |= found->inode && mappings->of[i].inode == found->inode &&
						   mappings->of[i].device == found->device;
	}
	return 0;
}

/* What a program's data begins with is of its file; what is zero at first follows it, and is of none. */
static void find_rest_of_data(struct mappings *mappings)
{
	for (uint32_t i = 1; i < mappings->count; i++) {
		const struct mapping *before = &mappings->of[i - 1];
		struct mapping *mapping = &mappings->of[i];

		if (before->is_ours && before->inode && !mapping->inode && !mapping->is_special &&
		    mapping->start == before->end)
			mapping->is_ours = 1;
	}
}

static int is_needed(const struct mapping *mapping)
{
	return mapping->is_shared || mapping->is_special || mapping->is_ours || (mapping->inode && !mapping->is_writable);
}

/* Of a mapping that is not needed as a whole: what was mapped beside one another is one. */
struct range {
	uintptr_t start, end;
};

static struct range around(const void *address, size_t before, size_t behind)
{
	uintptr_t page = page_bytes() - 1;

	return (struct range){((uintptr_t)address - before) & ~page, ((uintptr_t)address + behind + page) & ~page};
}

/* The first part that goes: 0, none is left. */
static int next_part(struct range *ret_part, uintptr_t from, uintptr_t end, const struct range *needed, size_t count)
{
	struct range part = {from, end};

	for (size_t i = 0; i < count; i++)
		if (needed[i].start <= part.start && part.start < needed[i].end) {
			part.start = needed[i].end;
			i = (size_t)-1; /* there may be one behind */
		}
	for (size_t i = 0; i < count; i++)
		if (needed[i].start > part.start && needed[i].start < part.end)
			part.end = needed[i].start;
	*ret_part = part;
	return part.start < part.end;
}

static void give_back(const struct mapping *mapping, const struct range *needed, size_t count)
{
	struct range part;

	for (uintptr_t at = mapping->start; next_part(&part, at, mapping->end, needed, count); at = part.end)
		munmap((void *)part.start, part.end - part.start);
}

/* Of the processor (CET), where it keeps return addresses once more; there is no name for that in the list. NULL: none. */
static const void *shadow_stack(void)
{
	uintptr_t at = 0;

#if defined(__x86_64__)
	__asm__ volatile("rdsspq %0" : "+r"(at)); /* does nothing where there is none */
#endif
	return (const void *)at;
}

void slk_init_give_back(const struct slk_kept *kept)
{
	struct mappings *mappings;
	struct range needed[6] = {{0, 0}};

	if (NEEDS_ALL)
		return;
	mappings = mmap(NULL, sizeof(*mappings), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (mappings == MAP_FAILED)
		return;
	needed[0] = around(kept, 0, (size_t)(kept->words - (const char *)kept) + kept->words_bytes);
	needed[1] = around(mappings, 0, sizeof(*mappings));
	needed[2] = around((const void *)pthread_self(), THREAD_BYTES, THREAD_BYTES);
	needed[3] = around(&errno, THREAD_BYTES, THREAD_BYTES); /* where the C library has its part of the thread's own */
	needed[4] = around(&mappings, STACK_BELOW_BYTES, STACK_ABOVE_BYTES); /* where it is not the first thread's */
	if (shadow_stack())
		needed[5] = around(shadow_stack(), STACK_BELOW_BYTES, STACK_BELOW_BYTES);
	/* A locale's tables are on the heap. */
	if (uselocale(newlocale(LC_ALL_MASK, "C", (locale_t)0)) && read_mappings(mappings) == 0 &&
	    find_ours(mappings) == 0) {
		find_rest_of_data(mappings);
		for (uint32_t i = 0; i < mappings->count; i++)
			if (!is_needed(&mappings->of[i]))
				give_back(&mappings->of[i], needed, sizeof(needed) / sizeof(*needed));
	}
	munmap(mappings, sizeof(*mappings));
}
