/* SPDX-License-Identifier: Apache-2.0 */
/* The control socket: reports with and without a descriptor, and what is no report: report.c. */
#include "check.h"

#include <sys/socket.h>
#include <sys/stat.h>

struct ends {
	int ours;
	int theirs;
};

static struct ends new_ends(void)
{
	int both[2];

	CHECK_EQUAL(0, socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, both));
	return (struct ends){both[0], both[1]};
}

static void close_ends(struct ends ends)
{
	close(ends.ours);
	close(ends.theirs);
}

/* Something foreign: any bytes with any number of descriptors. */
static void send_foreign(int socket, const void *bytes, size_t size, int descriptors)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(8 * sizeof(int))];
	} control = {0};
	struct iovec text = {(void *)(uintptr_t)bytes, size};
	struct msghdr message = {.msg_iov = &text, .msg_iovlen = 1};
	int null = open("/dev/null", O_RDONLY | O_CLOEXEC);

	if (descriptors) {
		struct cmsghdr *header;

		message.msg_control = control.bytes;
		message.msg_controllen = CMSG_SPACE((size_t)descriptors * sizeof(int));
		header = CMSG_FIRSTHDR(&message);
		header->cmsg_level = SOL_SOCKET;
		header->cmsg_type = SCM_RIGHTS;
		header->cmsg_len = CMSG_LEN((size_t)descriptors * sizeof(int));
		for (int i = 0; i < descriptors; i++)
			memcpy(CMSG_DATA(header) + (size_t)i * sizeof(int), &null, sizeof(null));
	}
	CHECK_EQUAL(size, sendmsg(socket, &message, 0));
	close(null);
}

static void test_a_report_arrives_as_it_was_sent(void)
{
	struct ends ends = new_ends();
	struct slk_report sent = {.kind = SLK_REPORT_EXITED, .pid = 7, .status = 256, .user_us = UINT64_MAX, .fd = -1};
	struct slk_report got;

	CHECK_EQUAL(0, slk_report_read(ends.ours, 0, &got));
	CHECK_EQUAL(0, slk_report_send(ends.theirs, &sent, -1));
	CHECK_EQUAL(1, slk_report_read(ends.ours, 0, &got));
	CHECK_EQUAL(0, memcmp(&sent, &got, sizeof(got)));
	CHECK_EQUAL(0, slk_report_read(ends.ours, 0, &got));
	close_ends(ends);
}

static void test_a_descriptor_is_passed_and_closes_on_exec(void)
{
	struct ends ends = new_ends();
	struct slk_report report = {.kind = SLK_REPORT_LISTENER, .fd = 99};
	struct stat sent, got;
	int pipe_ends[2];

	CHECK_EQUAL(0, pipe(pipe_ends));
	CHECK_EQUAL(0, fstat(pipe_ends[0], &sent));
	CHECK_EQUAL(0, slk_report_send(ends.theirs, &report, pipe_ends[0]));
	CHECK_EQUAL(1, slk_report_read(ends.ours, 0, &report));
	CHECK(report.fd >= 0 && report.fd != pipe_ends[0]);
	CHECK_EQUAL(0, fstat(report.fd, &got));
	CHECK_EQUAL(sent.st_ino, got.st_ino);
	CHECK_EQUAL(FD_CLOEXEC, fcntl(report.fd, F_GETFD));
	close(report.fd);
	close(pipe_ends[0]);
	close(pipe_ends[1]);
	close_ends(ends);
}

/* The number that the sender wrote into the report is not a descriptor of ours. */
static void test_a_number_alone_is_no_descriptor(void)
{
	struct ends ends = new_ends();
	struct slk_report report = {.kind = SLK_REPORT_LISTENER, .fd = ends.ours};

	CHECK_EQUAL(0, slk_report_send(ends.theirs, &report, -1));
	CHECK_EQUAL(1, slk_report_read(ends.ours, 0, &report));
	CHECK_EQUAL(-1, report.fd);
	close_ends(ends);
}

/* Each is refused, and what came with it is closed (the runner counts the descriptors). */
static void test_what_is_no_report_is_eproto(void)
{
	static const size_t sizes[] = {1, sizeof(struct slk_report) - 1, sizeof(struct slk_report) + 1, 5000};
	static const char zeros[5000];
	struct ends ends = new_ends();

	for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++)
		for (int descriptors = 0; descriptors <= 8; descriptors++) {
			struct slk_report report = {.kind = -77};
			int before = open_descriptors();

			send_foreign(ends.theirs, zeros, sizes[i], descriptors);
			CHECK_EQUAL(-EPROTO, slk_report_read(ends.ours, 0, &report));
			CHECK_EQUAL(-77, report.kind); /* written only on success */
			CHECK_EQUAL(before, open_descriptors());
		}
	close_ends(ends);
}

static void test_more_than_one_descriptor_is_eproto(void)
{
	struct ends ends = new_ends();
	struct slk_report report = {.kind = SLK_REPORT_LISTENER};

	for (int descriptors = 2; descriptors <= 8; descriptors++) {
		int before = open_descriptors();

		send_foreign(ends.theirs, &report, sizeof(report), descriptors);
		CHECK_EQUAL(-EPROTO, slk_report_read(ends.ours, 0, &report));
		CHECK_EQUAL(before, open_descriptors());
	}
	close_ends(ends);
}

static void test_an_empty_message_leaks_nothing(void)
{
	struct ends ends = new_ends();
	struct slk_report report;
	int before = open_descriptors();

	send_foreign(ends.theirs, "", 0, 1);
	slk_report_read(ends.ours, 0, &report); /* cannot be told from a hang-up, and ends the connection as well */
	CHECK_EQUAL(before, open_descriptors());
	close_ends(ends);
}

static void test_a_hang_up_is_gone_after_all_that_was_said(void)
{
	struct ends ends = new_ends();
	struct slk_report report = {.kind = SLK_REPORT_DONE, .fd = -1};

	CHECK_EQUAL(0, slk_report_send(ends.theirs, &report, -1));
	close(ends.theirs);
	CHECK_EQUAL(1, slk_report_read(ends.ours, 0, &report));
	CHECK_EQUAL(SLK_REPORT_DONE, report.kind);
	for (int i = 0; i < 2; i++) {
		CHECK_EQUAL(1, slk_report_read(ends.ours, -1, &report));
		CHECK_EQUAL(SLK_REPORT_GONE, report.kind);
		CHECK_EQUAL(-1, report.fd);
	}
	close(ends.ours);
}

/* The peer died with an order of ours unread: the kernel says ECONNRESET once. */
static void test_a_reset_is_gone_as_well(void)
{
	struct ends ends = new_ends();
	struct slk_order order = {.kind = SLK_ORDER_KILL};
	struct slk_report report;

	CHECK_EQUAL(0, slk_order_send(ends.ours, &order));
	close(ends.theirs);
	CHECK_EQUAL(1, slk_report_read(ends.ours, -1, &report));
	CHECK_EQUAL(SLK_REPORT_GONE, report.kind);
	CHECK_EQUAL(-EPIPE, slk_order_send(ends.ours, &order));
	close(ends.ours);
}

static void test_a_failure_carries_stage_and_error(void)
{
	struct ends ends = new_ends();
	struct slk_report report;

	slk_report_failure(ends.theirs, SLK_STAGE_LANDLOCK, EBADFD);
	CHECK_EQUAL(1, slk_report_read(ends.ours, 0, &report));
	CHECK_EQUAL(SLK_REPORT_FAILED, report.kind);
	CHECK_EQUAL(SLK_STAGE_LANDLOCK, report.stage);
	CHECK_EQUAL(EBADFD, report.error);
	CHECK_EQUAL(getpid(), report.pid);
	close_ends(ends);
}

static void test_signals_are_read_with_their_sender(void)
{
	int32_t code = -1, sender = -1;
	sigset_t set, before;
	int fd;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGRTMAX);
	sigprocmask(SIG_BLOCK, &set, &before);
	fd = slk_signal_fd(1ull << (SIGUSR1 - 1) | 1ull << (SIGRTMAX - 1));
	CHECK(fd >= 0);
	CHECK_EQUAL(0, slk_signal_read(fd, &code, &sender));
	CHECK_EQUAL(0, kill(getpid(), SIGRTMAX));
	CHECK_EQUAL(SIGRTMAX, slk_signal_read(fd, &code, &sender));
	CHECK_EQUAL(SI_USER, code);
	CHECK_EQUAL(getpid(), sender);
	CHECK_EQUAL(0, slk_signal_read(fd, &code, &sender));
	close(fd);
	sigprocmask(SIG_SETMASK, &before, NULL);
}

int main(void)
{
	begin_tests();
	RUN(test_a_report_arrives_as_it_was_sent);
	RUN(test_a_descriptor_is_passed_and_closes_on_exec);
	RUN(test_a_number_alone_is_no_descriptor);
	RUN(test_what_is_no_report_is_eproto);
	RUN(test_more_than_one_descriptor_is_eproto);
	RUN(test_an_empty_message_leaks_nothing);
	RUN(test_a_hang_up_is_gone_after_all_that_was_said);
	RUN(test_a_reset_is_gone_as_well);
	RUN(test_a_failure_carries_stage_and_error);
	RUN(test_signals_are_read_with_their_sender);
	return 0;
}
