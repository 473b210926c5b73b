/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writing to files that are open already, for ever or as far as it goes: each in its own way.
 *
 *     writers WAY
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHUNK (4u << 20)
#define LARGE ((size_t)256 << 20)

static char *data;
static int number; /* of this process */

static int opened(const char *name, int flags)
{
	int fd = open(name, O_CREAT | O_RDWR | flags, 0600);

	if (fd < 0) {
		perror(name);
		_exit(3);
	}
	return fd;
}

static int own(void)
{
	char name[32];

	snprintf(name, sizeof(name), "file%d", number);
	return opened(name, 0);
}

static void many(int count)
{
	for (number = 0; number < count - 1; number++)
		if (fork() == 0)
			return;
}

/* Each with a file of its own, opened beforehand: who gets his turn late finds no room to open one. */
static int many_with_files(int count)
{
	int fds[8];

	for (number = 0; number < count; number++)
		fds[number] = own();
	many(count);
	return fds[number];
}

static void once(int fd, size_t size)
{
	if (write(fd, data, size) < 0) {
		perror("write");
		_exit(3);
	}
}

static void write_all(int fd)
{
	for (;;)
		once(fd, CHUNK);
}

static void few_bytes(void)
{
	int fd = own();

	for (;;)
		once(fd, 5000);
}

static void one_file(void)
{
	write_all(own());
}

static void many_processes(void)
{
	write_all(many_with_files(8));
}

static void many_files(void)
{
	int fds[64];

	for (number = 0; number < 64; number++)
		fds[number] = own();
	for (;; number++)
		once(fds[number % 64], 1 << 16);
}

static void appending(void)
{
	write_all(opened("file", O_APPEND));
}

static void map(int fd)
{
	volatile char *mapped;

	if (ftruncate(fd, (off_t)LARGE) < 0)
		_exit(3);
	mapped = mmap(NULL, LARGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	for (size_t at = 0; at < LARGE; at += 4096)
		mapped[at] = 1;
}

static void mapped(void)
{
	map(own());
}

static void mapped_by_many(void)
{
	map(many_with_files(4));
}

static void unlinked(void)
{
	int fd = opened("file", 0);

	unlink("file");
	write_all(fd);
}

/* Each of them is small, and only readers and mappings are left of it. */
static void unlinked_one_after_another(void)
{
	for (;;) {
		int fd = opened("file", 0), reader = open("file", O_RDONLY);

		for (int i = 0; i < 4; i++)
			once(fd, 1 << 20);
		close(fd);
		unlink("file");
		if (reader % 2 == 0 && mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, reader, 0) != MAP_FAILED)
			close(reader);
	}
}

static void without_a_name(void)
{
	int fd = open(".", O_TMPFILE | O_RDWR, 0600);

	if (fd < 0)
		_exit(3);
	write_all(fd);
}

/* The kernel has two of it, the one that was opened and the one that was named, and tells of the end of either. */
static void named_and_removed(void)
{
	char link[64];
	int fd = open(".", O_TMPFILE | O_RDWR, 0600);

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	if (fd < 0 || linkat(AT_FDCWD, link, AT_FDCWD, "named", AT_SYMLINK_FOLLOW) < 0 || unlink("named") < 0)
		_exit(3);
	write_all(fd);
}

static void in_tmp(void)
{
	if (chdir("/tmp") < 0)
		_exit(3);
	one_file();
}

static void in_both(void)
{
	int here = own(), there = opened("/tmp/file", 0);

	many(2);
	write_all(number ? there : here);
}

static void spliced(void)
{
	int fd = own(), zero = open("/dev/zero", O_RDONLY), ends[2];

	if (pipe(ends) < 0)
		_exit(3);
	for (;;) {
		ssize_t got = read(zero, data, 65536);

		if (write(ends[1], data, (size_t)got) != got || splice(ends[0], NULL, fd, NULL, 65536, 0) < 0)
			_exit(3);
	}
}

static void copied(void)
{
	int from = opened("source", 0), fd = own();

	once(from, CHUNK);
	for (;;) {
		off_t start = 0;

		if (copy_file_range(from, &start, fd, NULL, CHUNK, 0) < 0)
			_exit(3);
	}
}

static void sent(void)
{
	int from = opened("source", 0), fd = own();

	once(from, CHUNK);
	for (;;) {
		off_t start = 0;

		if (sendfile(fd, from, &start, CHUNK) < 0)
			_exit(3);
	}
}

static void forking(void)
{
	int fd = own();

	for (;;) {
		if (fork() == 0) {
			once(fd, CHUNK);
			_exit(0);
		}
		wait(NULL);
	}
}

static void huge(void)
{
	enum { PARTS = 256 };
	struct iovec parts[PARTS];
	int fd = own();

	for (int i = 0; i < PARTS; i++)
		parts[i] = (struct iovec){data, CHUNK};
	for (;;)
		if (writev(fd, parts, PARTS) < 0)
			_exit(3);
}

/* By a process that has the descriptor from another one, which is gone. */
static void passed_on(void)
{
	char space[CMSG_SPACE(sizeof(int))], byte = 0;
	struct iovec part = {&byte, 1};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof(space)};
	struct cmsghdr *header;
	int ends[2], fd;

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) < 0)
		_exit(3);
	if (fork() == 0) {
		fd = own();
		header = CMSG_FIRSTHDR(&message);
		header->cmsg_level = SOL_SOCKET;
		header->cmsg_type = SCM_RIGHTS;
		header->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(header), &fd, sizeof(fd));
		_exit(sendmsg(ends[0], &message, 0) < 0);
	}
	wait(NULL);
	usleep(300000); /* nobody but the socket has it */
	if (recvmsg(ends[1], &message, 0) < 0)
		_exit(3);
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(fd));
	write_all(fd);
}

/* ---- those that end */

static void in_a_moment(void)
{
	once(own(), CHUNK);
}

/* Files come and go, hundreds of megabytes of them, and never more than a part of them at once. */
static void within(void)
{
	for (number = 0; number < 200; number++) {
		int fd = own(), other = opened("other", O_TRUNC);

		once(fd, CHUNK);
		once(other, CHUNK);
		ftruncate(other, 0) < 0 ? _exit(3) : (void)0;
		close(number % 2 ? fd : other);
		if (number >= 4) {
			char name[32];

			snprintf(name, sizeof(name), "file%d", number - 4);
			unlink(name);
		}
		close(number % 2 ? other : fd);
	}
}

static const struct {
	const char *name;
	void (*run)(void);
} ways[] = {
	{"one-file", one_file},
	{"few-bytes-at-a-time", few_bytes},
	{"many-processes", many_processes},
	{"many-files", many_files},
	{"appending", appending},
	{"mapped", mapped},
	{"mapped-by-many", mapped_by_many},
	{"unlinked", unlinked},
	{"unlinked-one-after-another", unlinked_one_after_another},
	{"without-a-name", without_a_name},
	{"named-and-removed", named_and_removed},
	{"in-tmp", in_tmp},
	{"in-both", in_both},
	{"spliced", spliced},
	{"copied", copied},
	{"sent", sent},
	{"forking", forking},
	{"huge", huge},
	{"passed-on", passed_on},
	{"in-a-moment", in_a_moment},
	{"within", within},
};

int main(int count, char **arguments)
{
	data = malloc(CHUNK);
	memset(data, 'x', CHUNK);
	for (size_t i = 0; count == 2 && i < sizeof(ways) / sizeof(*ways); i++) {
		if (strcmp(ways[i].name, arguments[1]) != 0)
			continue;
		ways[i].run();
		return 0;
	}
	return 2;
}
