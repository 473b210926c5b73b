/* SPDX-License-Identifier: Apache-2.0 */
/* What is opened below a layer of a tree lies in it, whatever the names on the way have become since they were walked. */
#include "check.h"
#include "slk.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define EXCHANGE 2u
#define TRIES 20000

static char place[] = "/var/tmp/sandlockd-test-confined-XXXXXX";

/* tree/ with inside/file in it, and outside/file beside it. */
static int begin(void)
{
	char command[512];
	int fd;

	strcpy(place + sizeof(place) - 7, "XXXXXX");
	CHECK(mkdtemp(place));
	snprintf(command, sizeof(command),
		 "cd %s && mkdir -p tree/inside/deep outside/deep && printf inside > tree/inside/file &&"
		 " printf outside > outside/file && printf outside > outside/deep/file && printf outside > file",
		 place);
	CHECK_EQUAL(0, system(command));
	snprintf(command, sizeof(command), "%s/tree", place);
	fd = open(command, O_PATH | O_DIRECTORY | O_CLOEXEC);
	CHECK(fd >= 0);
	return fd;
}

static void end(int tree)
{
	char command[sizeof(place) + 16];

	close(tree);
	snprintf(command, sizeof(command), "rm -rf %s", place);
	CHECK_EQUAL(0, system(command));
}

/* Does it lie in the tree? -1: it was not opened. */
static int reads_inside(int tree, const char *path)
{
	char text[16] = "";
	int fd = slk_open_confined(tree, path, O_RDONLY | O_NOFOLLOW, 0);

	if (fd < 0)
		return -1;
	CHECK(read(fd, text, sizeof(text) - 1) >= 0);
	close(fd);
	return strcmp(text, "inside") == 0;
}

static void no_link_and_no_dots_lead_out(void)
{
	int tree = begin();
	char absolute[sizeof(place) + 16], path[2 * sizeof(place)];
	const char *const ways[] = {"relative/file",	"absolute/file",       "above/outside/file", "../outside/file",
				    "inside/../../file", "chain/file",	       "root/etc/passwd",    "inside/deep/../../../file",
				    "above/file",	 "magic/../file",      "relative/deep/file"};

	snprintf(absolute, sizeof(absolute), "%s/outside", place);
	CHECK_EQUAL(0, symlinkat("../outside", tree, "relative"));
	CHECK_EQUAL(0, symlinkat(absolute, tree, "absolute"));
	CHECK_EQUAL(0, symlinkat("..", tree, "above"));
	CHECK_EQUAL(0, symlinkat("inside/../relative", tree, "chain"));
	CHECK_EQUAL(0, symlinkat("/", tree, "root"));
	snprintf(path, sizeof(path), "/proc/self/fd/%d", tree);
	CHECK_EQUAL(0, symlinkat(path, tree, "magic"));
	CHECK_EQUAL(1, reads_inside(tree, "inside/file"));
	for (size_t i = 0; i < sizeof(ways) / sizeof(*ways); i++) {
		struct stat status;
		int fd = slk_open_confined(tree, ways[i], O_RDONLY, 0);

		if (fd >= 0)
			printf("%s leads out\n", ways[i]);
		CHECK(fd == -EXDEV || fd == -ELOOP);
		CHECK(slk_stat_confined(tree, ways[i], &status) < 0);
	}
	/* A link that stays inside is walked by who decides, with the names that the program sees: not here. */
	CHECK_EQUAL(0, symlinkat("inside", tree, "within"));
	CHECK_EQUAL(-ELOOP, slk_open_confined(tree, "within/file", O_RDONLY, 0));
	CHECK_EQUAL(-EXDEV, slk_open_confined(tree, absolute, O_RDONLY, 0));
	CHECK(slk_open_confined(tree, "relative/made", O_WRONLY | O_CREAT | O_EXCL, 0600) < 0);
	CHECK(slk_open_confined(tree, "above/made", O_WRONLY | O_CREAT | O_EXCL, 0600) < 0);
	snprintf(path, sizeof(path), "%s/outside/made", place);
	CHECK(access(path, F_OK) < 0);
	end(tree);
}

/* ---- what somebody swaps meanwhile */

struct swap {
	int one_fd, other_fd;
	const char *one, *other;
	atomic_int over;
};

static void *swaps(void *argument)
{
	struct swap *swap = argument;

	while (!atomic_load(&swap->over))
		syscall(SYS_renameat2, swap->one_fd, swap->one, swap->other_fd, swap->other, EXCHANGE);
	return NULL;
}

static void never_outside(int tree, const char *path, struct swap *swap)
{
	pthread_t thread;
	int inside = 0;

	CHECK_EQUAL(0, pthread_create(&thread, NULL, swaps, swap));
	for (int i = 0; i < TRIES; i++) {
		int reads = reads_inside(tree, path);

		CHECK(reads != 0);
		inside += reads > 0;
	}
	atomic_store(&swap->over, 1);
	pthread_join(thread, NULL);
	CHECK(inside > 0);
}

static void a_directory_that_is_swapped_for_a_link_leads_nowhere(void)
{
	int tree = begin();
	struct swap swap = {tree, tree, "inside", "link", 0};

	CHECK_EQUAL(0, symlinkat("../outside", tree, "link"));
	never_outside(tree, "inside/file", &swap);
	end(tree);
}

static void a_directory_that_is_moved_out_and_back_does_not_take_dots_along(void)
{
	int tree = begin(), outside = openat(tree, "../outside", O_PATH | O_DIRECTORY | O_CLOEXEC);
	struct swap swap = {tree, outside, "inside/deep", "deep", 0};

	/* From inside/deep: `..` is inside, or outside where it was moved there. */
	CHECK_EQUAL(0, unlinkat(outside, "deep/file", 0));
	never_outside(tree, "inside/deep/../file", &swap);
	close(outside);
	end(tree);
}

int main(void)
{
	RUN(no_link_and_no_dots_lead_out);
	RUN(a_directory_that_is_swapped_for_a_link_leads_nowhere);
	RUN(a_directory_that_is_moved_out_and_back_does_not_take_dots_along);
	return 0;
}
