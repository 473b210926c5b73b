/* SPDX-License-Identifier: Apache-2.0 */
/* Where relative paths start: bases.c, against getcwd(3) of real processes. */
#include "check.h"

static struct slk_engine engine;
static char path[SLK_PATH_MAX];

static const char *base_of(int32_t tid, int dirfd)
{
	uint32_t length = 0;
	int result = slk_read_base(&engine, tid, dirfd, path, &length);

	if (result < 0)
		return strerror(-result);
	path[length] = '\0';
	return path;
}

static int descriptors(void)
{
	int count = 0;

	for (int fd = 0; fd < 256; fd++)
		count += fcntl(fd, F_GETFD) >= 0;
	return count;
}

/* A process that changes its directory when told to. */
static pid_t start_process(int *ret_order, int *ret_done)
{
	int order[2], done[2];
	char directory[64];
	pid_t pid;

	CHECK(pipe(order) == 0 && pipe(done) == 0);
	pid = fork();
	if (pid == 0) {
		close(order[1]);
		while (read(order[0], directory, sizeof(directory)) > 0)
			if (chdir(directory) < 0 || write(done[1], "", 1) != 1)
				break;
		_exit(0);
	}
	close(order[0]);
	close(done[1]);
	*ret_order = order[1];
	*ret_done = done[0];
	return pid;
}

static void go(int order, int done, const char *directory)
{
	char text[64] = "";
	char byte;

	strcpy(text, directory);
	CHECK(write(order, text, sizeof(text)) == sizeof(text) && read(done, &byte, 1) == 1);
}

static void test_each_answer_is_the_directory_of_that_moment(void)
{
	int order, done, before;
	pid_t pid = start_process(&order, &done);

	before = descriptors();
	for (int i = 0; i < 4; i++) {
		go(order, done, "/usr");
		CHECK_TEXT("/usr", base_of(pid, AT_FDCWD));
		go(order, done, "/");
		CHECK_TEXT("/", base_of(pid, AT_FDCWD));
	}
	CHECK_EQUAL(before + 1, descriptors()); /* it was remembered */
	CHECK_EQUAL(0, kill(pid, SIGKILL));
	CHECK_EQUAL(pid, waitpid(pid, NULL, 0));
	CHECK_TEXT(strerror(EINVAL), base_of(pid, AT_FDCWD));
	CHECK_EQUAL(before, descriptors()); /* and forgotten when it was found dead */
	close(order);
	close(done);
}

static void test_one_that_makes_room_for_another_is_closed(void)
{
	int before = descriptors();
	int32_t own = (int32_t)getpid();
	char cwd[SLK_PATH_MAX];

	CHECK(getcwd(cwd, sizeof(cwd)) != NULL);
	for (int i = 0; i < 3; i++)
		CHECK_TEXT(cwd, base_of(own, AT_FDCWD));
	CHECK_EQUAL(before + 1, descriptors());
	base_of(own + SLK_BASES_MAX * 1000003, AT_FDCWD); /* in its place; no process has that number */
	CHECK_EQUAL(before, descriptors());
	CHECK_TEXT(cwd, base_of(own, AT_FDCWD));
	CHECK_TEXT(cwd, base_of(own, AT_FDCWD));
	slk_bases_forget(&engine, own);
	CHECK_EQUAL(before, descriptors());
}

static void test_a_descriptor_is_a_base_if_it_has_a_path(void)
{
	int directory = open("/usr", O_RDONLY | O_DIRECTORY);
	int pair[2];

	CHECK(directory >= 0 && pipe(pair) == 0);
	CHECK_TEXT("/usr", base_of((int32_t)getpid(), directory));
	CHECK_TEXT(strerror(EINVAL), base_of((int32_t)getpid(), pair[0]));
	CHECK_TEXT(strerror(EINVAL), base_of((int32_t)getpid(), 250));
	close(directory);
	close(pair[0]);
	close(pair[1]);
}

/* The link is kept, and never what it led to. */
static void test_each_answer_is_what_the_descriptor_has_open_at_that_moment(void)
{
	int32_t own = (int32_t)getpid();
	int before, directory = open("/usr", O_RDONLY | O_DIRECTORY), other = open("/usr/bin", O_RDONLY | O_DIRECTORY);

	before = descriptors();
	for (int i = 0; i < 3; i++)
		CHECK_TEXT("/usr", base_of(own, directory));
	CHECK_EQUAL(before + 1, descriptors()); /* it was remembered */
	CHECK_EQUAL(directory, dup2(other, directory));
	CHECK_TEXT("/usr/bin", base_of(own, directory));
	close(directory);
	CHECK_TEXT(strerror(EINVAL), base_of(own, directory));
	CHECK_EQUAL(before - 1, descriptors()); /* and forgotten when nothing was there */
	for (int i = 0; i < 3; i++)
		CHECK_TEXT("/usr/bin", base_of(own, other));
	slk_bases_forget(&engine, own);
	CHECK_EQUAL(before - 1, descriptors());
	close(other);
}

int main(void)
{
	begin_tests();
	slk_bases_create(&engine);
	RUN(test_each_answer_is_the_directory_of_that_moment);
	RUN(test_one_that_makes_room_for_another_is_closed);
	RUN(test_a_descriptor_is_a_base_if_it_has_a_path);
	RUN(test_each_answer_is_what_the_descriptor_has_open_at_that_moment);
	slk_bases_destroy(&engine);
	return 0;
}
