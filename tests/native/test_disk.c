/* SPDX-License-Identifier: Apache-2.0 */
/* What an upper directory holds is counted as the file system has it, as long as anybody has it, and its limit holds. */
#include "check.h"
#include "slk.h"

#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

#define MEGA (UINT64_C(1) << 20)

static char place[] = "/var/tmp/sandlockd-test-disk-XXXXXX";
static char text[MEGA];

struct upper {
	struct slk_disk *disk;
	int fd;
};

static struct upper begin(uint64_t limit)
{
	struct upper upper;

	strcpy(place + sizeof(place) - 7, "XXXXXX");
	CHECK(mkdtemp(place));
	upper.fd = open(place, O_PATH | O_DIRECTORY | O_CLOEXEC);
	CHECK(upper.fd >= 0);
	CHECK_EQUAL(0, slk_disk_create(limit, &upper.disk));
	CHECK_EQUAL(0, slk_disk_add_upper(upper.disk, upper.fd, place));
	return upper;
}

static void end(struct upper *upper)
{
	char command[sizeof(place) + 16];

	slk_disk_destroy(upper->disk);
	close(upper->fd);
	snprintf(command, sizeof(command), "rm -rf %s", place);
	CHECK_EQUAL(0, system(command));
}

static struct slk_disk_state state_of(const struct upper *upper)
{
	struct slk_disk_state state;

	slk_disk_state(upper->disk, &state);
	return state;
}

static uint64_t total(const struct upper *upper)
{
	return state_of(upper).total_bytes;
}

static uint64_t bytes_of(int fd)
{
	struct stat status;

	CHECK_EQUAL(0, fstat(fd, &status));
	return (uint64_t)status.st_blocks * 512;
}

static int made(const struct upper *upper, const char *name, int flags)
{
	int fd = openat(upper->fd, name, O_CREAT | O_CLOEXEC | flags, 0600);

	CHECK(fd >= 0);
	CHECK_EQUAL(0, slk_disk_note(upper->disk, upper->fd, name));
	CHECK_EQUAL(0, slk_disk_given(upper->disk, fd));
	return fd;
}

static void fill(int fd, uint64_t bytes)
{
	for (; bytes > 0; bytes -= bytes < MEGA ? bytes : MEGA)
		CHECK(write(fd, text, bytes < MEGA ? bytes : MEGA) > 0);
}

static void take(const struct upper *upper, const char *name, int flags)
{
	slk_disk_leaving(upper->disk, upper->fd, name);
	CHECK_EQUAL(0, unlinkat(upper->fd, name, flags));
	slk_disk_left(upper->disk);
}

static void what_is_written_counts_while_it_is_open_and_after(void)
{
	struct upper upper = begin(100 * MEGA);
	int fd = made(&upper, "file", O_WRONLY);

	CHECK_EQUAL(0, total(&upper));
	fill(fd, 3 * MEGA);
	CHECK_EQUAL(bytes_of(fd), total(&upper));
	CHECK(total(&upper) >= 3 * MEGA);
	CHECK_EQUAL(1, state_of(&upper).open_files);
	close(fd);
	total(&upper);
	CHECK_EQUAL(0, state_of(&upper).open_files);
	CHECK(total(&upper) >= 3 * MEGA);
	take(&upper, "file", 0);
	CHECK_EQUAL(0, total(&upper));
	end(&upper);
}

static void a_hole_counts_nothing_and_an_allocation_counts(void)
{
	struct upper upper = begin(100 * MEGA);
	int fd = made(&upper, "file", O_RDWR);
	char *mapped;

	CHECK_EQUAL(0, ftruncate(fd, 50 * MEGA));
	CHECK(total(&upper) < MEGA);
	mapped = mmap(NULL, 50 * MEGA, PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(mapped != MAP_FAILED);
	close(fd);
	for (uint64_t at = 0; at < 8 * MEGA; at += 4096)
		mapped[at] = 1;
	total(&upper);
	total(&upper);
	CHECK_EQUAL(1, state_of(&upper).open_files); /* it is mapped */
	CHECK(total(&upper) >= 8 * MEGA && total(&upper) < 9 * MEGA);
	munmap(mapped, 50 * MEGA);
	fd = made(&upper, "allocated", O_WRONLY);
	CHECK_EQUAL(0, slk_fallocate(fd, 1 /* FALLOC_FL_KEEP_SIZE */, 0, 5 * (int64_t)MEGA));
	CHECK(total(&upper) >= 13 * MEGA);
	close(fd);
	end(&upper);
}

static void hard_links_count_once(void)
{
	struct upper upper = begin(100 * MEGA);
	int fd = made(&upper, "one", O_WRONLY);

	fill(fd, MEGA);
	close(fd);
	CHECK_EQUAL(0, linkat(upper.fd, "one", upper.fd, "other", 0));
	CHECK_EQUAL(0, slk_disk_note(upper.disk, upper.fd, "other"));
	CHECK(total(&upper) < 2 * MEGA);
	take(&upper, "one", 0);
	CHECK(total(&upper) >= MEGA);
	take(&upper, "other", 0);
	CHECK_EQUAL(0, total(&upper));
	end(&upper);
}

/* how: 0: a writer, 1: a reader, 2: by O_PATH. */
static void unlinked(int how, int links)
{
	const int flags[] = {O_WRONLY, O_RDONLY, O_PATH};
	struct upper upper = begin(100 * MEGA);
	int fd = made(&upper, "file", O_WRONLY), held;

	fill(fd, MEGA);
	if (how == 0) {
		held = fd;
	} else {
		held = openat(upper.fd, "file", flags[how] | O_CLOEXEC);
		close(fd);
		if (how == 2)
			slk_disk_path_given(upper.disk);
	}
	if (links) {
		CHECK_EQUAL(0, linkat(upper.fd, "file", upper.fd, "other", 0));
		CHECK_EQUAL(0, slk_disk_note(upper.disk, upper.fd, "other"));
		fd = openat(upper.fd, "other", O_RDONLY | O_CLOEXEC);
		take(&upper, "file", 0);
		take(&upper, "other", 0);
		close(fd); /* the kernel tells that it is gone, and it is not */
	} else {
		take(&upper, "file", 0);
	}
	CHECK(total(&upper) >= MEGA);
	CHECK(total(&upper) >= MEGA);
	if (how == 0) {
		fill(fd = held, MEGA);
		CHECK(total(&upper) >= 2 * MEGA);
	}
	close(held);
	for (int i = 0; i < 140 && total(&upper) > 0 && how != 2; i++)
		continue; /* one that stays open is not asked at each look */
	if (!links || how != 2)
		CHECK_EQUAL(0, total(&upper));
	else
		CHECK(total(&upper) >= MEGA); /* nobody can tell */
	end(&upper);
}

static void what_has_lost_its_name_counts_until_nobody_has_it(void)
{
	for (int how = 0; how < 3; how++)
		for (int links = 0; links < 2; links++)
			unlinked(how, links && how > 0);
}

static void an_unnamed_file_counts(void)
{
	struct upper upper = begin(100 * MEGA);
	int fd = open(place, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600), reader;
	char path[32];

	CHECK_EQUAL(0, slk_disk_given(upper.disk, fd));
	fill(fd, 2 * MEGA);
	CHECK(total(&upper) >= 2 * MEGA);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	reader = open(path, O_RDONLY | O_CLOEXEC);
	close(fd);
	CHECK(total(&upper) >= 2 * MEGA);
	CHECK_EQUAL(0, state_of(&upper).open_files);
	close(reader);
	CHECK_EQUAL(0, total(&upper));
	end(&upper);
}

static void a_directory_counts_as_long_as_somebody_is_in_it(void)
{
	struct upper upper = begin(100 * MEGA);
	int fd;

	CHECK_EQUAL(0, mkdirat(upper.fd, "directory", 0700));
	CHECK_EQUAL(0, slk_disk_note(upper.disk, upper.fd, "directory"));
	fd = openat(upper.fd, "directory", O_PATH | O_CLOEXEC);
	if (bytes_of(fd) > 0) {
		CHECK(total(&upper) >= 4096);
		take(&upper, "directory", AT_REMOVEDIR);
		CHECK(total(&upper) >= 4096);
	} else {
		take(&upper, "directory", AT_REMOVEDIR);
	}
	close(fd);
	CHECK_EQUAL(0, total(&upper));
	end(&upper);
}

static void a_number_that_comes_again_is_another_object(void)
{
	struct upper upper = begin(100 * MEGA);

	for (int i = 0; i < 200; i++) {
		int fd = made(&upper, "file", O_WRONLY);

		fill(fd, 8192);
		if (i % 2)
			close(fd);
		slk_disk_leaving(upper.disk, upper.fd, "file");
		CHECK_EQUAL(0, unlinkat(upper.fd, "file", 0));
		if (!(i % 2))
			close(fd);
		if (i % 3)
			slk_disk_left(upper.disk);
	}
	CHECK_EQUAL(0, total(&upper));
	end(&upper);
}

static uint64_t filled(const struct upper *upper, const char *name)
{
	int fd = openat(upper->fd, name, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
	struct stat status;

	CHECK(fd >= 0);
	fill(fd, 16384);
	CHECK_EQUAL(0, fstat(fd, &status));
	close(fd);
	return status.st_ino;
}

/* The kernel has told that the old one is gone, and nobody has read it when the new one, with its number, is noted. */
static void a_number_that_comes_again_at_once_is_not_forgotten_for_the_one_that_went(void)
{
	struct upper upper = begin(100 * MEGA);
	int same = 0;

	for (int i = 0; i < 50 && !same; i++) {
		uint64_t number = filled(&upper, "old");
		int reader;

		CHECK_EQUAL(0, slk_disk_note(upper.disk, upper.fd, "old"));
		reader = openat(upper.fd, "old", O_RDONLY | O_CLOEXEC);
		take(&upper, "old", 0);
		CHECK(total(&upper) >= 16384);
		close(reader);
		same = filled(&upper, "new") == number;
		CHECK_EQUAL(0, slk_disk_note(upper.disk, upper.fd, "new"));
		CHECK(total(&upper) >= 16384 && total(&upper) < 2 * 16384);
		take(&upper, "new", 0);
		CHECK_EQUAL(0, total(&upper));
	}
	if (!same)
		printf("no number came again on this file system\n");
	end(&upper);
}

static void more_than_is_told_at_once_is_not_lost(void)
{
	enum { MANY = 9000 };
	struct upper upper = begin(1000 * MEGA);
	char name[32];
	int fd;

	/* Nobody reads what the kernel tells meanwhile: the queue takes 16384, and each of them is two. */
	for (int i = 0; i < MANY; i++) {
		snprintf(name, sizeof(name), "file%d", i);
		fd = openat(upper.fd, name, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
		CHECK(fd >= 0 && write(fd, "x", 1) == 1);
		close(fd);
		CHECK_EQUAL(0, slk_disk_note(upper.disk, upper.fd, name));
		slk_disk_leaving(upper.disk, upper.fd, name);
	}
	for (int i = 0; i < MANY; i++) {
		snprintf(name, sizeof(name), "file%d", i);
		CHECK_EQUAL(0, unlinkat(upper.fd, name, 0));
	}
	CHECK_EQUAL(0, total(&upper));
	end(&upper);
}

static void room_is_what_is_not_held_nor_kept(void)
{
	struct upper upper = begin(16 * MEGA); /* a sixteenth is for what is open already */
	int fd = made(&upper, "file", O_WRONLY);

	CHECK_EQUAL(1, slk_disk_has_room(upper.disk, 15 * MEGA, 0));
	CHECK_EQUAL(0, slk_disk_has_room(upper.disk, 15 * MEGA + 1, 0));
	CHECK_EQUAL(0, slk_disk_reserve(upper.disk, MEGA));
	CHECK_EQUAL(-ENOSPC, slk_disk_reserve(upper.disk, 14 * MEGA + 1));
	CHECK_EQUAL(0, slk_disk_has_room(upper.disk, 15 * MEGA, 0));
	slk_disk_release(upper.disk, MEGA);
	fill(fd, 14 * MEGA);
	CHECK_EQUAL(0, slk_disk_has_room(upper.disk, MEGA + 4096, 0));
	CHECK_EQUAL(1, slk_disk_has_room(upper.disk, MEGA + 4096, 2 * MEGA));
	CHECK_EQUAL(0, ftruncate(fd, 0));
	CHECK_EQUAL(1, slk_disk_has_room(upper.disk, 15 * MEGA - 4096, 0));
	close(fd);
	end(&upper);
}

static int told_to_end(int control, int timeout_ms)
{
	struct pollfd waiting = {control, POLLIN, 0};
	struct slk_order order;

	return poll(&waiting, 1, timeout_ms) == 1 && recv(control, &order, sizeof(order), 0) == (ssize_t)sizeof(order) &&
	       order.kind == SLK_ORDER_KILL;
}

static void who_writes_past_the_limit_is_ended(void)
{
	struct upper upper = begin(4 * MEGA);
	int control[2], fd = made(&upper, "file", O_WRONLY);

	CHECK_EQUAL(0, socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, control));
	CHECK_EQUAL(0, slk_disk_watch(upper.disk, control[0]));
	fill(fd, 3 * MEGA);
	CHECK(!told_to_end(control[1], 100));
	fill(fd, 2 * MEGA);
	CHECK(told_to_end(control[1], PATIENCE_MS));
	CHECK_EQUAL(1, state_of(&upper).is_over);
	close(fd);
	close(control[0]);
	close(control[1]);
	end(&upper);
}

static void what_was_there_or_is_always_allowed_ends_nobody(void)
{
	struct upper upper = begin(MEGA);
	int control[2], fd = made(&upper, "file", O_WRONLY);

	fill(fd, 2 * MEGA);
	close(fd);
	CHECK(total(&upper) >= 2 * MEGA);
	slk_disk_destroy(upper.disk);
	CHECK_EQUAL(0, slk_disk_create(MEGA, &upper.disk));
	CHECK_EQUAL(0, slk_disk_note(upper.disk, upper.fd, "file"));
	CHECK_EQUAL(0, socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, control));
	CHECK_EQUAL(0, slk_disk_watch(upper.disk, control[0]));
	CHECK_EQUAL(0, slk_disk_has_room(upper.disk, 1, 0));
	CHECK_EQUAL(0, mkdirat(upper.fd, "directory", 0700));
	CHECK_EQUAL(0, slk_disk_note(upper.disk, upper.fd, "directory"));
	CHECK_EQUAL(0, state_of(&upper).is_over);
	CHECK(!told_to_end(control[1], 50));
	take(&upper, "file", 0);
	CHECK_EQUAL(1, slk_disk_has_room(upper.disk, MEGA / 2, 0));
	close(control[0]);
	close(control[1]);
	end(&upper);
}

int main(void)
{
	memset(text, 'x', sizeof(text));
	RUN(what_is_written_counts_while_it_is_open_and_after);
	RUN(a_hole_counts_nothing_and_an_allocation_counts);
	RUN(hard_links_count_once);
	RUN(what_has_lost_its_name_counts_until_nobody_has_it);
	RUN(an_unnamed_file_counts);
	RUN(a_directory_counts_as_long_as_somebody_is_in_it);
	RUN(a_number_that_comes_again_is_another_object);
	RUN(a_number_that_comes_again_at_once_is_not_forgotten_for_the_one_that_went);
	RUN(more_than_is_told_at_once_is_not_lost);
	RUN(room_is_what_is_not_held_nor_kept);
	RUN(who_writes_past_the_limit_is_ended);
	RUN(what_was_there_or_is_always_allowed_ends_nobody);
	return 0;
}
