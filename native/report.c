/* SPDX-License-Identifier: Apache-2.0 */
/* The control socket: reports from init and the program-to-be, orders to init. SOCK_SEQPACKET keeps them whole. */
#define _GNU_SOURCE
#include "slk.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

static int send_report(int control_fd, const struct slk_report *report, int passed_fd, int flags)
{
	struct iovec text = {(void *)(uintptr_t)report, sizeof(*report)};
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control;
	struct msghdr message = {.msg_iov = &text, .msg_iovlen = 1};
	ssize_t sent;

	if (passed_fd >= 0) {
		struct cmsghdr *header;

		memset(&control, 0, sizeof(control));
		message.msg_control = control.bytes;
		message.msg_controllen = sizeof(control.bytes);
		header = CMSG_FIRSTHDR(&message);
		header->cmsg_level = SOL_SOCKET;
		header->cmsg_type = SCM_RIGHTS;
		header->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(header), &passed_fd, sizeof(int));
	}
	do
		sent = sendmsg(control_fd, &message, MSG_NOSIGNAL | flags);
	while (sent < 0 && errno == EINTR);
	return sent < 0 ? -errno : 0;
}

int slk_report_send(int control_fd, const struct slk_report *report, int passed_fd)
{
	return send_report(control_fd, report, passed_fd, 0);
}

void slk_tell_waiting(struct slk_outbox *outbox, int control_fd, int wait)
{
	uint32_t told = 0;

	while (told < outbox->count &&
	       send_report(control_fd, &outbox->waiting[told], -1, wait ? 0 : MSG_DONTWAIT) != -EAGAIN)
		told++; /* a dead supervisor shows as a hang-up */
	outbox->count -= told;
	memmove(outbox->waiting, outbox->waiting + told, outbox->count * sizeof(outbox->waiting[0]));
}

static int is_of_stops(const struct slk_report *report)
{
	return report->kind == SLK_REPORT_STOPPED || report->kind == SLK_REPORT_CONTINUED;
}

void slk_tell(struct slk_outbox *outbox, int control_fd, const struct slk_report *report)
{
	if (outbox->count && is_of_stops(report) && is_of_stops(&outbox->waiting[outbox->count - 1]))
		outbox->count--;
	if (outbox->count == SLK_OUTBOX_MAX)
		slk_tell_waiting(outbox, control_fd, 1);
	outbox->waiting[outbox->count++] = *report;
	slk_tell_waiting(outbox, control_fd, 0);
}

void slk_report_failure(int control_fd, enum slk_stage stage, int error)
{
	struct slk_report report = {
		.kind = SLK_REPORT_FAILED,
		.pid = getpid(),
		.stage = (int32_t)stage,
		.error = error,
		.fd = -1,
	};

	slk_report_send(control_fd, &report, -1);
}

static int passed_descriptor(struct msghdr *message)
{
	struct cmsghdr *header = CMSG_FIRSTHDR(message);
	int fd;

	if (!header || header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS)
		return -1;
	memcpy(&fd, CMSG_DATA(header), sizeof(fd));
	return fd;
}

static int receive(int control_fd, struct slk_report *ret_report)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control;
	struct slk_report report;
	struct iovec text = {&report, sizeof(report)};
	struct msghdr message = {
		.msg_iov = &text,
		.msg_iovlen = 1,
		.msg_control = control.bytes,
		/* Not CMSG_SPACE: the padding has room for a second descriptor, which nobody would close. */
		.msg_controllen = CMSG_LEN(sizeof(int)),
	};
	ssize_t got = recvmsg(control_fd, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);

	/* init ended with an order unread: told once, before the reports that are still queued (unix(7)). */
	if (got < 0 && errno == ECONNRESET)
		got = recvmsg(control_fd, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);

	if (got < 0 && errno != ECONNRESET)
		return -errno;
	if (got <= 0) { /* every other end is closed */
		if (got == 0 && (report.fd = passed_descriptor(&message)) >= 0)
			close(report.fd); /* an empty message; we have never sent one */
		memset(&report, 0, sizeof(report));
		report.kind = SLK_REPORT_GONE;
		report.fd = -1;
		*ret_report = report;
		return 1;
	}
	report.fd = passed_descriptor(&message);
	/* Where we have no descriptor left for one that came, none has come; more than one is nothing of init's. */
	if ((size_t)got != sizeof(report) || message.msg_flags & MSG_TRUNC ||
	    (message.msg_flags & MSG_CTRUNC && report.fd >= 0)) {
		if (report.fd >= 0)
			close(report.fd);
		return -EPROTO;
	}
	*ret_report = report;
	return 1;
}

int slk_report_read(int control_fd, int timeout_ms, struct slk_report *ret_report)
{
	struct pollfd waiting = {control_fd, POLLIN, 0};
	int ready = poll(&waiting, 1, timeout_ms);

	if (ready < 0)
		return -errno;
	return ready == 0 ? 0 : receive(control_fd, ret_report);
}

int slk_order_send(int control_fd, const struct slk_order *order)
{
	ssize_t sent = send(control_fd, order, sizeof(*order), MSG_NOSIGNAL | MSG_DONTWAIT);

	return sent < 0 ? -errno : 0;
}

static void fill_set(uint64_t signals, sigset_t *ret_set)
{
	sigemptyset(ret_set);
	for (int number = 1; number <= 64; number++)
		if (signals >> (number - 1) & 1)
			sigaddset(ret_set, number); /* refuses only numbers that libc keeps for itself */
}

int slk_signal_fd(uint64_t signals)
{
	sigset_t set;
	int fd;

	fill_set(signals, &set);
	fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return fd < 0 ? -errno : fd;
}

int slk_signal_read(int signal_fd, int32_t *ret_code, int32_t *ret_pid)
{
	struct signalfd_siginfo info;
	ssize_t got = read(signal_fd, &info, sizeof(info));

	if (got < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	*ret_code = info.ssi_code;
	*ret_pid = (int32_t)info.ssi_pid;
	return (int)info.ssi_signo;
}

int slk_order_everything_ended(int control_fd)
{
	struct slk_order order = {.kind = SLK_ORDER_KILL};
	int result = slk_order_send(control_fd, &order);

	return result != -EAGAIN && result != -EINTR && result != -ENOBUFS && result != -ENOMEM;
}
