/* SPDX-License-Identifier: Apache-2.0 */
/* The memory of another process (and of this one, which the kernel treats alike): memory.c. */
#include "check.h"

#include <sys/mman.h>

#define PAGE 4096ul

/* Two pages that may be read and written, and one that is not mapped. */
static char *two_pages_and_a_hole(void)
{
	char *pages = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	CHECK(pages != MAP_FAILED);
	CHECK_EQUAL(0, munmap(pages + 2 * PAGE, PAGE));
	return pages;
}

static uint64_t at(const void *pointer)
{
	return (uint64_t)(uintptr_t)pointer;
}

static void test_a_string_may_end_one_byte_before_an_unmapped_page(void)
{
	char *pages = two_pages_and_a_hole();
	char text[SLK_PATH_MAX];

	for (uint32_t length = 0; length < PAGE + 300; length += length < 8 || length > PAGE - 8 ? 1 : 97) {
		char *start = pages + 2 * PAGE - length - 1;

		memset(pages, 'x', 2 * PAGE);
		pages[2 * PAGE - 1] = '\0';
		memset(text, '?', sizeof(text));
		if (length >= SLK_PATH_MAX) {
			CHECK_EQUAL(-ENAMETOOLONG, slk_read_string(getpid(), at(start), SLK_PATH_MAX, text));
			continue;
		}
		CHECK_EQUAL(length, slk_read_string(getpid(), at(start), SLK_PATH_MAX, text));
		CHECK_EQUAL(length, strlen(text));
		CHECK_EQUAL(0, memcmp(text, start, length));
	}
	munmap(pages, 2 * PAGE);
}

static void test_a_string_that_runs_into_an_unmapped_page_is_efault(void)
{
	char *pages = two_pages_and_a_hole();
	char text[SLK_PATH_MAX];

	memset(pages, 'x', 2 * PAGE);
	for (uint32_t length = 0; length < SLK_PATH_MAX - 1; length += 13)
		CHECK_EQUAL(-EFAULT, slk_read_string(getpid(), at(pages + 2 * PAGE - length), SLK_PATH_MAX, text));
	munmap(pages, 2 * PAGE);
}

static void test_a_string_without_an_end_is_enametoolong(void)
{
	char *pages = two_pages_and_a_hole();
	char text[SLK_PATH_MAX];

	memset(pages, 'x', 2 * PAGE);
	CHECK_EQUAL(-ENAMETOOLONG, slk_read_string(getpid(), at(pages), SLK_PATH_MAX, text));
	CHECK_EQUAL(-ENAMETOOLONG, slk_read_string(getpid(), at(pages + 1), SLK_PATH_MAX, text));
	pages[SLK_PATH_MAX] = '\0'; /* the first byte out of reach */
	CHECK_EQUAL(-ENAMETOOLONG, slk_read_string(getpid(), at(pages), SLK_PATH_MAX, text));
	pages[SLK_PATH_MAX - 1] = '\0';
	CHECK_EQUAL(SLK_PATH_MAX - 1, slk_read_string(getpid(), at(pages), SLK_PATH_MAX, text));
	munmap(pages, 2 * PAGE);
}

/* What does not fit must not be written: the sanitiser watches the allocation. */
static void test_never_more_than_the_capacity_is_written(void)
{
	char *pages = two_pages_and_a_hole();

	memset(pages, 'x', 2 * PAGE);
	pages[700] = '\0';
	for (uint32_t capacity = 0; capacity < 800; capacity += capacity < 4 ? 1 : 51) {
		char *text = malloc(capacity ? capacity : 1);
		int expected = capacity > 700 ? 700 : -ENAMETOOLONG;

		CHECK_EQUAL(expected, slk_read_string(getpid(), at(pages), capacity, text));
		free(text);
	}
	munmap(pages, 2 * PAGE);
}

static void test_memory_that_may_not_be_read_is_efault(void)
{
	char *pages = two_pages_and_a_hole();
	char text[64];

	strcpy(pages, "hello");
	CHECK_EQUAL(0, mprotect(pages, PAGE, PROT_NONE));
	CHECK_EQUAL(-EFAULT, slk_read_string(getpid(), at(pages), sizeof(text), text));
	CHECK_EQUAL(-EFAULT, slk_read_memory(getpid(), at(pages), 5, text));
	munmap(pages, 2 * PAGE);
}

static void test_addresses_that_are_nonsense_are_efault(void)
{
	static const uint64_t nonsense[] = {0, 1, 4095, UINT64_C(0x7fffffffffffff), UINT64_C(0xffff800000000000),
					    UINT64_MAX - 5000, UINT64_MAX};
	char text[SLK_PATH_MAX];

	for (size_t i = 0; i < sizeof(nonsense) / sizeof(*nonsense); i++) {
		CHECK_EQUAL(-EFAULT, slk_read_string(getpid(), nonsense[i], sizeof(text), text));
		CHECK_EQUAL(-EFAULT, slk_read_memory(getpid(), nonsense[i], 8, text));
		CHECK_EQUAL(-EFAULT, slk_write_memory(getpid(), nonsense[i], 8, text));
	}
}

static void test_a_read_is_whole_or_efault(void)
{
	char *pages = two_pages_and_a_hole();
	char data[64];

	memset(pages, 'x', 2 * PAGE);
	CHECK_EQUAL(0, slk_read_memory(getpid(), at(pages + PAGE - 32), 64, data));
	CHECK_EQUAL(0, memcmp(data, pages, 64));
	CHECK_EQUAL(0, slk_read_memory(getpid(), at(pages + 2 * PAGE - 64), 64, data));
	CHECK_EQUAL(-EFAULT, slk_read_memory(getpid(), at(pages + 2 * PAGE - 63), 64, data));
	munmap(pages, 2 * PAGE);
}

static void test_a_write_is_whole_or_efault(void)
{
	char *pages = two_pages_and_a_hole();

	CHECK_EQUAL(0, slk_write_memory(getpid(), at(pages + PAGE - 2), 4, "abcd"));
	CHECK_EQUAL(0, memcmp(pages + PAGE - 2, "abcd", 4));
	CHECK_EQUAL(-EFAULT, slk_write_memory(getpid(), at(pages + 2 * PAGE - 2), 4, "abcd"));
	CHECK_EQUAL(0, mprotect(pages, PAGE, PROT_READ));
	CHECK_EQUAL(-EFAULT, slk_write_memory(getpid(), at(pages), 4, "abcd"));
	munmap(pages, 2 * PAGE);
}

/* ---- another process */

struct shared {
	int ready[2], go[2];
	char *secret; /* private memory: the two processes have different bytes there */
};

static int other_process(void *argument)
{
	struct shared *shared = argument;
	char byte = 0;

	close(shared->go[1]);
	strcpy(shared->secret, "of the child");
	if (write(shared->ready[1], "r", 1) != 1 || read(shared->go[0], &byte, 1) != 1)
		return 1;
	return strcmp(shared->secret, "of the elder") != 0;
}

static void test_another_process_is_read_and_written(void)
{
	struct shared shared;
	char text[64], byte;
	pid_t pid;

	CHECK_EQUAL(0, pipe(shared.ready));
	CHECK_EQUAL(0, pipe(shared.go));
	shared.secret = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(shared.secret != MAP_FAILED);
	strcpy(shared.secret, "of the parent");
	pid = in_child(other_process, &shared);
	CHECK_EQUAL(1, read(shared.ready[0], &byte, 1));
	CHECK_EQUAL(12, slk_read_string(pid, at(shared.secret), sizeof(text), text));
	CHECK_TEXT("of the child", text);
	CHECK_EQUAL(0, slk_write_memory(pid, at(shared.secret + 7), 5, "elder"));
	CHECK_TEXT("of the parent", shared.secret);
	CHECK_EQUAL(1, write(shared.go[1], "g", 1));
	CHECK_EQUAL(0, exit_of(pid));
	CHECK_EQUAL(-ESRCH, slk_read_string(pid, at(shared.secret), sizeof(text), text));
	CHECK_EQUAL(-ESRCH, slk_read_memory(pid, at(shared.secret), 5, text));
	CHECK_EQUAL(-ESRCH, slk_write_memory(pid, at(shared.secret), 5, text));
	for (int i = 0; i < 2; i++) {
		close(shared.ready[i]);
		close(shared.go[i]);
	}
	munmap(shared.secret, PAGE);
}

static void test_numbers_that_are_no_thread_are_refused(void)
{
	char text[8] = "";

	for (int tid = -2; tid <= 0; tid++) {
		CHECK_EQUAL(-ESRCH, slk_read_string(tid, at(text), sizeof(text), text));
		CHECK_EQUAL(-ESRCH, slk_read_memory(tid, at(text), sizeof(text), text));
		CHECK_EQUAL(-ESRCH, slk_write_memory(tid, at(text), sizeof(text), text));
	}
}

int main(void)
{
	begin_tests();
	RUN(test_a_string_may_end_one_byte_before_an_unmapped_page);
	RUN(test_a_string_that_runs_into_an_unmapped_page_is_efault);
	RUN(test_a_string_without_an_end_is_enametoolong);
	RUN(test_never_more_than_the_capacity_is_written);
	RUN(test_memory_that_may_not_be_read_is_efault);
	RUN(test_addresses_that_are_nonsense_are_efault);
	RUN(test_a_read_is_whole_or_efault);
	RUN(test_a_write_is_whole_or_efault);
	RUN(test_another_process_is_read_and_written);
	RUN(test_numbers_that_are_no_thread_are_refused);
	return 0;
}
