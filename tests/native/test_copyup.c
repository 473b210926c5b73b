/* SPDX-License-Identifier: Apache-2.0 */
/* Copying data, holes, metadata; sources that change meanwhile; what a layer says of a name: copyup.c. */
#include "check.h"

#include <sys/stat.h>
#include <sys/xattr.h>

#define MIB (1u << 20)

static char tree[64];
static int directory;

static int made(const char *name)
{
	int fd = openat(directory, name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	CHECK(fd >= 0);
	return fd;
}

static struct stat status_of(int fd)
{
	struct stat status;

	CHECK_EQUAL(0, fstat(fd, &status));
	return status;
}

static int slices(int from, int to, uint64_t limit, uint64_t slice)
{
	struct slk_copy copy;
	int count = 1, more;

	CHECK_EQUAL(0, slk_copy_begin(from, to, limit, &copy));
	while ((more = slk_copy_slice(&copy, slice)) == 1)
		count++;
	CHECK_EQUAL(0, more);
	return count;
}

static void check_same(int one, int other, off_t size)
{
	char first[4096], second[4096];

	CHECK_EQUAL(size, status_of(other).st_size);
	for (off_t at = 0; at < size; at += (off_t)sizeof(first)) {
		ssize_t got = pread(one, first, sizeof(first), at);

		CHECK_EQUAL(got, pread(other, second, sizeof(second), at));
		CHECK_EQUAL(0, memcmp(first, second, (size_t)got));
	}
}

static void test_a_file_is_copied_in_slices(void)
{
	int from = made("from"), to = made("to");

	for (unsigned at = 0; at < MIB; at += 4096) {
		char block[4096];

		memset(block, (int)(at >> 12) + 1, sizeof(block));
		CHECK_EQUAL(4096, pwrite(from, block, sizeof(block), at));
	}
	CHECK(slices(from, to, UINT64_MAX, 100000) <= 12);
	check_same(from, to, MIB);
	close(to);
	to = made("to");
	slices(from, to, 5000, 100000);
	check_same(to, to, 5000);
	close(from);
	close(to);
}

static void test_an_empty_file_stays_empty(void)
{
	int from = made("from"), to = made("to");

	CHECK_EQUAL(1, slices(from, to, UINT64_MAX, MIB));
	CHECK_EQUAL(0, status_of(to).st_size);
	close(from);
	close(to);
}

static void test_holes_are_kept_also_at_the_end(void)
{
	int from = made("from"), to = made("to");

	CHECK_EQUAL(3, pwrite(from, "one", 3, 16 * MIB));
	CHECK_EQUAL(0, ftruncate(from, 64 * MIB));
	slices(from, to, UINT64_MAX, MIB);
	check_same(from, to, 64 * MIB);
	CHECK(status_of(to).st_blocks <= status_of(from).st_blocks + 8);
	close(from);
	close(to);
}

static void test_a_source_that_shrinks_meanwhile_ends_the_copy(void)
{
	int from = made("from"), to = made("to");
	static char block[MIB];
	struct slk_copy copy;

	memset(block, 'x', sizeof(block));
	CHECK_EQUAL(MIB, pwrite(from, block, sizeof(block), 0));
	/* As begun where nothing can be cloned. */
	copy = (struct slk_copy){.from_fd = from, .to_fd = to, .end = MIB};
	CHECK_EQUAL(1, slk_copy_slice(&copy, 4096));
	CHECK_EQUAL(0, ftruncate(from, 10000));
	CHECK_EQUAL(0, slk_copy_slice(&copy, 2 * MIB));
	check_same(from, to, 10000);
	CHECK_EQUAL(0, ftruncate(from, 0));
	CHECK_EQUAL(0, slk_copy_slice(&copy, 2 * MIB));
	close(from);
	close(to);
}

static void test_a_source_that_cannot_be_copied_by_ranges_is_read(void)
{
	int from = open("/proc/self/status", O_RDONLY | O_CLOEXEC), to = made("to");
	struct slk_copy copy = {.from_fd = from, .to_fd = to, .end = 20, .method = 0};

	CHECK_EQUAL(0, slk_copy_slice(&copy, 4096)); /* it says that it has no size */
	CHECK_EQUAL(0, status_of(to).st_size);
	close(from);
	close(to);
}

static void test_metadata_is_copied_with_nanoseconds_and_setuid(void)
{
	int from = made("from"), to = made("to");
	struct timespec times[2] = {{1000, 1}, {2000, 999999999}};
	struct stat status;

	CHECK_EQUAL(0, fsetxattr(from, "user.color", "red", 3, 0));
	CHECK_EQUAL(0, fsetxattr(from, "user.overlay.opaque", "y", 1, 0));
	if (geteuid() == 0)
		CHECK_EQUAL(0, fchown(from, 4242, 4343));
	CHECK_EQUAL(0, fchmod(from, 06511));
	CHECK_EQUAL(0, futimens(from, times));
	CHECK_EQUAL(0, slk_copy_metadata(from, to));
	status = status_of(to);
	CHECK_EQUAL(status_of(from).st_uid, status.st_uid);
	CHECK_EQUAL(status_of(from).st_gid, status.st_gid);
	CHECK_EQUAL(06511, status.st_mode & 07777);
	CHECK_EQUAL(1000, status.st_atim.tv_sec);
	CHECK_EQUAL(1, status.st_atim.tv_nsec);
	CHECK_EQUAL(999999999, status.st_mtim.tv_nsec);
	CHECK_EQUAL(3, fgetxattr(to, "user.color", NULL, 0));
	CHECK(fgetxattr(to, "user.overlay.opaque", NULL, 0) < 0);
	close(from);
	close(to);
}

static void test_metadata_of_a_link_is_copied(void)
{
	int from, to;

	CHECK_EQUAL(0, symlinkat("somewhere", directory, "link"));
	CHECK_EQUAL(0, symlinkat("elsewhere", directory, "copy"));
	from = openat(directory, "link", O_PATH | O_NOFOLLOW | O_CLOEXEC);
	to = openat(directory, "copy", O_PATH | O_NOFOLLOW | O_CLOEXEC);
	CHECK_EQUAL(0, slk_utimensat(from, "", 5, 6, 7, 8, AT_EMPTY_PATH));
	CHECK_EQUAL(0, slk_copy_metadata(from, to));
	CHECK_EQUAL(8, status_of(to).st_mtim.tv_nsec);
	close(from);
	close(to);
}

static void test_a_layer_is_not_left_and_no_link_followed(void)
{
	struct slk_layer_entry entry;

	CHECK_EQUAL(0, mkdirat(directory, "deep", 0755));
	CHECK_EQUAL(0, symlinkat("deep", directory, "way"));
	CHECK_EQUAL(0, slk_layer_entry(directory, "deep", 1, NULL, &entry));
	CHECK_EQUAL(0, entry.is_opaque);
	CHECK(S_ISDIR(entry.mode));
	CHECK_EQUAL(0, slk_layer_entry(directory, "way", 1, NULL, &entry));
	CHECK(S_ISLNK(entry.mode));
	CHECK_EQUAL(-ELOOP, slk_layer_entry(directory, "way/x", 1, NULL, &entry));
	CHECK_EQUAL(-EXDEV, slk_layer_entry(directory, "../x", 1, NULL, &entry));
	CHECK_EQUAL(-EXDEV, slk_layer_entry(directory, "/etc", 1, NULL, &entry));
	CHECK_EQUAL(-ENOENT, slk_layer_entry(directory, "deep/none", 1, NULL, &entry));
	CHECK_EQUAL(0, slk_layer_entry(directory, "", 1, NULL, &entry));
}

static void test_the_opaque_mark_is_seen(void)
{
	struct slk_layer_entry entry;
	int fd = openat(directory, "deep", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	CHECK_EQUAL(0, fsetxattr(fd, "user.overlay.opaque", "yes", 3, 0));
	CHECK_EQUAL(0, slk_layer_entry(directory, "deep", 1, NULL, &entry));
	CHECK_EQUAL(0, entry.is_opaque);
	CHECK_EQUAL(0, fsetxattr(fd, "user.overlay.opaque", "y", 1, 0));
	CHECK_EQUAL(0, slk_layer_entry(directory, "deep", 1, NULL, &entry));
	CHECK_EQUAL(1, entry.is_opaque);
	CHECK_EQUAL(0, slk_layer_entry(directory, "deep", 0, NULL, &entry));
	CHECK_EQUAL(0, entry.is_opaque);
	close(fd);
}

int main(void)
{
	static const char *const names[] = {"from", "to", "link", "copy", "way"};

	/* Not /tmp, which may be a tmpfs without user attributes. */
	snprintf(tree, sizeof(tree), "/var/tmp/slk-copyup-XXXXXX");
	CHECK(mkdtemp(tree));
	directory = open(tree, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	RUN(test_a_file_is_copied_in_slices);
	RUN(test_an_empty_file_stays_empty);
	RUN(test_holes_are_kept_also_at_the_end);
	RUN(test_a_source_that_shrinks_meanwhile_ends_the_copy);
	RUN(test_a_source_that_cannot_be_copied_by_ranges_is_read);
	RUN(test_metadata_is_copied_with_nanoseconds_and_setuid);
	RUN(test_metadata_of_a_link_is_copied);
	RUN(test_a_layer_is_not_left_and_no_link_followed);
	RUN(test_the_opaque_mark_is_seen);
	for (size_t at = 0; at < sizeof(names) / sizeof(*names); at++)
		unlinkat(directory, names[at], 0);
	unlinkat(directory, "deep", AT_REMOVEDIR);
	close(directory);
	return rmdir(tree) < 0;
}
