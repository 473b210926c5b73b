/* SPDX-License-Identifier: Apache-2.0 */
/* What is told of an object: a copy's original, whatever else happens; and no number twice. */
#include "check.h"
#include "slk.h"

#include <sys/stat.h>
#include <sys/xattr.h>

static struct slk_numbers *of_directories(const char *lower, const char *upper)
{
	struct slk_numbers *numbers = NULL;
	int lower_fd = open(lower, O_PATH | O_DIRECTORY), upper_fd = open(upper, O_PATH | O_DIRECTORY);

	CHECK_EQUAL(0, slk_numbers_create(lower_fd, upper_fd, &numbers));
	close(lower_fd);
	close(upper_fd);
	return numbers;
}

static uint64_t told(struct slk_numbers *numbers, uint64_t inode)
{
	struct slk_number number;

	slk_numbers_told(numbers, inode, &number);
	return number.inode;
}

static int copied(struct slk_numbers *numbers, uint64_t copy, uint64_t inode)
{
	struct stat status;

	CHECK_EQUAL(0, stat("/", &status));
	return slk_numbers_copied(numbers, copy, status.st_dev, inode);
}

static void a_copy_bears_the_number_of_its_original(void)
{
	struct slk_numbers *numbers = of_directories("/", "/");

	CHECK(slk_numbers_are_own(numbers));
	CHECK_EQUAL(1, copied(numbers, 1000, 2000));
	CHECK(!slk_numbers_are_own(numbers));
	CHECK(told(numbers, 1000) == 2000);
	CHECK(told(numbers, 1001) == 1001);
	CHECK_EQUAL(1, copied(numbers, 1000, 2000)); /* by another of its names */
	slk_numbers_destroy(numbers);
}

static void two_files_never_bear_one(void)
{
	struct slk_numbers *numbers = of_directories("/", "/");

	CHECK_EQUAL(1, copied(numbers, 1000, 2000));
	CHECK_EQUAL(0, copied(numbers, 1001, 2000));
	CHECK(told(numbers, 1000) == 2000 && told(numbers, 1001) == 1001);
	/* The original is gone, and its number given to something new in the upper. */
	CHECK(told(numbers, 2000) == (2000 | SLK_NUMBER_FOREIGN));
	slk_numbers_destroy(numbers);
}

static void a_number_that_comes_again_is_nobody_s_copy(void)
{
	struct slk_numbers *numbers = of_directories("/", "/");

	CHECK_EQUAL(1, copied(numbers, 1000, 2000));
	slk_numbers_made(numbers, 1000);
	CHECK(told(numbers, 1000) == 1000 && told(numbers, 2000) == 2000);
	CHECK_EQUAL(1, copied(numbers, 1000, 3000));
	CHECK_EQUAL(1, copied(numbers, 1001, 2000));
	CHECK(told(numbers, 1000) == 3000 && told(numbers, 1001) == 2000);
	slk_numbers_destroy(numbers);
}

static void another_file_system_keeps_apart(void)
{
	struct slk_numbers *numbers = of_directories("/", "/dev");
	struct slk_number number;
	struct stat lower, upper;

	CHECK(stat("/", &lower) == 0 && stat("/dev", &upper) == 0 && lower.st_dev != upper.st_dev);
	CHECK(!slk_numbers_are_own(numbers));
	slk_numbers_told(numbers, 77777, &number);
	CHECK(number.device == lower.st_dev && number.inode == (77777 | SLK_NUMBER_FOREIGN));
	slk_numbers_told(numbers, upper.st_ino, &number); /* the root bears no record */
	CHECK(number.device == lower.st_dev && number.inode == lower.st_ino);
	slk_numbers_destroy(numbers);
}

static void many_are_found_again(void)
{
	struct slk_numbers *numbers = of_directories("/", "/");

	for (uint64_t i = 0; i < 20000; i++)
		CHECK_EQUAL(1, copied(numbers, 100000 + i, 1000000 + i * 7));
	for (uint64_t i = 0; i < 20000; i += 2)
		slk_numbers_made(numbers, 100000 + i);
	for (uint64_t i = 0; i < 20000; i++)
		CHECK(told(numbers, 100000 + i) == (i % 2 ? 1000000 + i * 7 : 100000 + i));
	slk_numbers_destroy(numbers);
}

static void the_record_is_read(void)
{
	const char *records[] = {"1 f 64769 4242 7 1 2 644 a path", "2 f 64769 4242 7 1 2 644 x", "1 f 64769", ""};
	char name[] = "/var/tmp/test_numbers_XXXXXX";
	struct slk_number origin = {0, 0};
	int fd = mkstemp(name), directory = open("/var/tmp", O_PATH);

	CHECK(fd >= 0 && directory >= 0);
	CHECK_EQUAL(0, slk_read_origin(directory, strrchr(name, '/') + 1, &origin));
	for (size_t i = 0; i < sizeof(records) / sizeof(*records); i++) {
		CHECK_EQUAL(0, fsetxattr(fd, SLK_ORIGIN_ATTRIBUTE, records[i], strlen(records[i]), 0));
		CHECK_EQUAL(i == 0, slk_read_origin(directory, strrchr(name, '/') + 1, &origin));
	}
	CHECK(origin.device == 64769 && origin.inode == 4242);
	CHECK_EQUAL(-ENOENT, slk_read_origin(directory, "no such name", &origin));
	close(directory);
	close(fd);
	CHECK_EQUAL(0, unlink(name));
}

int main(void)
{
	RUN(a_copy_bears_the_number_of_its_original);
	RUN(two_files_never_bear_one);
	RUN(a_number_that_comes_again_is_nobody_s_copy);
	RUN(another_file_system_keeps_apart);
	RUN(many_are_found_again);
	RUN(the_record_is_read);
	return 0;
}
