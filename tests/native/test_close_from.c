/* SPDX-License-Identifier: Apache-2.0 */
/* Closing every inherited descriptor, by each of its methods: fds.c. */
#include "check.h"

#include <sys/resource.h>

#define MANY 300
#define FIRST 3

struct scene {
	int method;
	int first;
	rlim_t soft_limit; /* 0: as it is */
	int highest;       /* a descriptor opened there, above the limit that follows; 0: none */
	int fill_up;       /* no number below the soft limit stays free */
	int expected;
};

static int is_open(int fd)
{
	return fcntl(fd, F_GETFD) >= 0;
}

static void lower_limits(const struct scene *scene)
{
	struct rlimit limit;

	CHECK_EQUAL(0, getrlimit(RLIMIT_NOFILE, &limit));
	if (limit.rlim_max > 4096)
		limit.rlim_max = 4096; /* brute force goes up to there */
	limit.rlim_cur = scene->soft_limit ? scene->soft_limit : limit.rlim_max;
	CHECK_EQUAL(0, setrlimit(RLIMIT_NOFILE, &limit));
}

static void open_many(const struct scene *scene)
{
	int null = open("/dev/null", O_RDONLY);

	CHECK(null >= 0);
	for (int i = 0; i < MANY; i++)
		CHECK(dup(null) >= 0);
	/* With holes, and of each kind. */
	for (int fd = null + 1; fd < MANY && !scene->fill_up; fd += 7)
		close(fd);
	if (scene->highest)
		CHECK_EQUAL(scene->highest, dup2(null, scene->highest));
}

/* A look at each number: the listing in /proc is one of the methods under test. */
static int sweep(void *argument)
{
	static char was_open[8192];
	const struct scene *scene = argument;
	int result;

	open_many(scene);
	for (int fd = 0; fd < 8192; fd++)
		was_open[fd] = (char)is_open(fd);
	lower_limits(scene);
	result = slk_close_from(scene->first, scene->method);
	CHECK_EQUAL(scene->expected, result);
	if (result < 0)
		return 0;
	for (int fd = 0; fd < 8192; fd++)
		if (is_open(fd) != (fd < scene->first && was_open[fd]))
			check_failed(__FILE__, __LINE__, "method %d: descriptor %d is %s", scene->method, fd,
				     is_open(fd) ? "still open" : "closed");
	return 0;
}

static void play(struct scene scene)
{
	CHECK_EQUAL(0, exit_of(in_child(sweep, &scene)));
}

static void test_each_method_closes_hundreds_with_holes(void)
{
	for (int method = 0; method <= 3; method++)
		play((struct scene){.method = method, .first = FIRST});
}

static void test_what_lies_below_the_first_stays(void)
{
	for (int method = 0; method <= 3; method++)
		play((struct scene){.method = method, .first = 100});
}

static void test_nothing_to_close_is_no_error(void)
{
	for (int method = 0; method <= 3; method++)
		play((struct scene){.method = method, .first = 5000});
}

/* The soft limit says nothing about what is open: it may have been lowered afterwards. */
static void test_descriptors_above_the_soft_limit_are_closed(void)
{
	for (int method = 0; method <= 3; method++)
		play((struct scene){.method = method, .first = FIRST, .soft_limit = 64, .highest = 1000});
}

static void test_without_a_free_number_the_listing_fails_and_says_so(void)
{
	play((struct scene){
		.method = 2, .first = FIRST, .soft_limit = 64, .fill_up = 1, .expected = -EMFILE});
}

static void test_without_a_free_number_the_others_work(void)
{
	for (int method = 0; method <= 3; method++)
		if (method != 2)
			play((struct scene){.method = method, .first = FIRST, .soft_limit = 64, .fill_up = 1});
}

static void test_a_directory_descriptor_of_the_listing_is_closed_too(void)
{
	/* first = 0: the listing's own descriptor lies in the range. Only the child's stdio is lost. */
	play((struct scene){.method = 2, .first = 0});
}

int main(void)
{
	begin_tests();
	RUN(test_each_method_closes_hundreds_with_holes);
	RUN(test_what_lies_below_the_first_stays);
	RUN(test_nothing_to_close_is_no_error);
	RUN(test_descriptors_above_the_soft_limit_are_closed);
	RUN(test_without_a_free_number_the_listing_fails_and_says_so);
	RUN(test_without_a_free_number_the_others_work);
	RUN(test_a_directory_descriptor_of_the_listing_is_closed_too);
	return 0;
}
