/* SPDX-License-Identifier: Apache-2.0 */
/* What is read of /proc/<tid>/status. That it is what Python reads there: tests/lifecycle/test_status.py. */
#include "check.h"

#include <grp.h>
#include <sys/stat.h>

static void test_it_is_what_the_kernel_says(void)
{
	struct slk_status status;
	gid_t groups[SLK_STATUS_GROUPS_MAX];
	int count = getgroups(SLK_STATUS_GROUPS_MAX, groups);
	mode_t mask = umask(0137);

	CHECK_EQUAL(0, slk_status(getpid(), &status));
	umask(mask);
	CHECK_EQUAL(getpid(), status.tgid);
	CHECK_EQUAL(getppid(), status.ppid);
	CHECK_EQUAL(getuid(), status.uids[0]);
	CHECK_EQUAL(geteuid(), status.uids[3]);
	CHECK_EQUAL(getgid(), status.gids[0]);
	CHECK_EQUAL(0137, status.umask);
	CHECK_EQUAL(count, status.group_count);
	for (int i = 0; i < count; i++)
		CHECK_EQUAL(groups[i], status.groups[i]);
}

static int has_a_lying_name(void *unused)
{
	struct slk_status status;

	(void)unused;
	prctl(PR_SET_NAME, "x\nUid:\t7", 0, 0, 0);
	CHECK_EQUAL(0, slk_status(getpid(), &status));
	CHECK_EQUAL(getuid(), status.uids[0]);
	prctl(PR_SET_NAME, "\nTgid:\t1\n", 0, 0, 0);
	CHECK_EQUAL(0, slk_status(getpid(), &status));
	CHECK_EQUAL(getpid(), status.tgid);
	return 0;
}

static void test_a_name_is_not_taken_for_a_line(void)
{
	CHECK_EQUAL(0, exit_of(in_child(has_a_lying_name, NULL)));
}

static void test_nobody_is_told_of(void)
{
	struct slk_status status = {.tgid = 77};

	CHECK_EQUAL(-ENOENT, slk_status(0x3fffffff, &status));
	CHECK_EQUAL(-ESRCH, slk_status(0, &status));
	CHECK_EQUAL(-ESRCH, slk_status(-1, &status));
	CHECK_EQUAL(77, status.tgid);
}

/* Up to as many as fit; beyond, be they a few more or all that the kernel allows, it is told that there are more. */
static int has_many_groups(void *unused)
{
	static gid_t groups[SLK_GROUPS_MAX];
	static const int counts[] = {0, 1, 255, 256, 257, 3000, SLK_GROUPS_MAX};
	struct slk_status status;

	(void)unused;
	for (uint32_t i = 0; i < SLK_GROUPS_MAX; i++)
		groups[i] = 4000000000u - SLK_GROUPS_MAX + i;
	for (size_t which = 0; which < sizeof(counts) / sizeof(*counts); which++) {
		uint32_t count = (uint32_t)counts[which];

		if (setgroups(count, groups) < 0)
			return SKIPPED; /* for root only */
		if (count > SLK_STATUS_GROUPS_MAX) {
			CHECK_EQUAL(-E2BIG, slk_status(getpid(), &status));
			continue;
		}
		CHECK_EQUAL(0, slk_status(getpid(), &status));
		CHECK_EQUAL(count, status.group_count);
		for (uint32_t i = 0; i < count; i++)
			CHECK_EQUAL(groups[i], status.groups[i]);
	}
	return 0;
}

static void test_many_groups(void)
{
	int result = exit_of(in_child(has_many_groups, NULL));

	CHECK(result == 0 || result == SKIPPED);
}

int main(void)
{
	begin_tests();
	RUN(test_it_is_what_the_kernel_says);
	RUN(test_a_name_is_not_taken_for_a_line);
	RUN(test_nobody_is_told_of);
	RUN(test_many_groups);
	return 0;
}
