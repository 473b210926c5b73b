/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Further programs in a sandbox that runs: the order, what init does with it, and what the new process is told.
 *
 * init forks it, as it forked the first one, with the same plan: what happens between fork and exec is child.c's alone. So
 * it is below init (which reaps it, and kills it with all others) and behind the same wall. What differs is told by words
 * in a sealed file, which init does not read: the new process does.
 *
 * init tells how it ended, by the serial of its order. It is never signalled by a number that is not a child of ours still.
 */
#define _GNU_SOURCE
#include "slk.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define SEALS (F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW)

/* ---- the order ---- */

int slk_order_execute(int control_fd, uint32_t serial, const int32_t *stdio, int words_fd)
{
	struct slk_order order = {.kind = SLK_ORDER_EXECUTE, .serial = serial};
	const int fds[SLK_ORDER_FDS_MAX] = {stdio[0], stdio[1], stdio[2], words_fd};
	struct iovec text = {&order, sizeof(order)};
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(fds))];
	} control;
	struct msghdr message = {.msg_iov = &text,
				 .msg_iovlen = 1,
				 .msg_control = control.bytes,
				 .msg_controllen = sizeof(control.bytes)};
	struct cmsghdr *header;

	if (serial == 0)
		return -EINVAL;
	memset(&control, 0, sizeof(control));
	header = CMSG_FIRSTHDR(&message);
	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(fds));
	memcpy(CMSG_DATA(header), fds, sizeof(fds));
	return sendmsg(control_fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 ? -errno : 0;
}

/* Where not all have arrived (we have too few descriptors left), none has. */
static void take_descriptors(struct msghdr *message, int *ret_fds)
{
	struct cmsghdr *header = CMSG_FIRSTHDR(message);
	size_t count;

	if (!header || header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS)
		return;
	count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
	memcpy(ret_fds, CMSG_DATA(header), count * sizeof(int));
	if (count == SLK_ORDER_FDS_MAX && !(message->msg_flags & MSG_CTRUNC))
		return;
	for (size_t i = 0; i < count; i++) {
		close(ret_fds[i]);
		ret_fds[i] = -1;
	}
}

ssize_t slk_order_receive(int control_fd, struct slk_order *ret_order, int *ret_fds)
{
	struct iovec text = {ret_order, sizeof(*ret_order)};
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(SLK_ORDER_FDS_MAX * sizeof(int))];
	} control;
	struct msghdr message = {.msg_iov = &text,
				 .msg_iovlen = 1,
				 .msg_control = control.bytes,
				 .msg_controllen = CMSG_LEN(SLK_ORDER_FDS_MAX * sizeof(int))};
	ssize_t got = recvmsg(control_fd, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);

	for (int i = 0; i < SLK_ORDER_FDS_MAX; i++)
		ret_fds[i] = -1;
	if (got > 0)
		take_descriptors(&message, ret_fds);
	return got;
}

/* ---- init ---- */

static struct slk_executed *executed_by(struct slk_executing *executing, uint32_t serial)
{
	for (int i = 0; i < SLK_EXECUTED_MAX; i++)
		if (executing->executed[i].pid && executing->executed[i].serial == serial)
			return &executing->executed[i];
	return NULL;
}

static struct slk_executed *executed_as(struct slk_executing *executing, pid_t pid)
{
	for (int i = 0; i < SLK_EXECUTED_MAX; i++)
		if (executing->executed[i].pid == pid)
			return &executing->executed[i];
	return NULL;
}

static void tell_failure(struct slk_executing *executing, int control_fd, uint32_t serial, enum slk_stage stage, int error)
{
	struct slk_report message = {
		.kind = SLK_REPORT_FAILED, .stage = (int32_t)stage, .error = error, .fd = -1, .serial = serial};

	slk_tell(executing->outbox, control_fd, &message);
}

int slk_execute(struct slk_executing *executing, int control_fd, const struct slk_order *order, const int *fds)
{
	struct slk_launch_plan plan = executing->plan;
	struct slk_executed *free_place = executed_as(executing, 0);
	pid_t pid;

	if (!plan.keeps_ruleset || !free_place || order->serial == 0 || executed_by(executing, order->serial))
		return -1;
	if (fds[0] < 0) {
		tell_failure(executing, control_fd, order->serial, SLK_STAGE_DESCRIPTORS, EMFILE);
		return 0;
	}
	memcpy(plan.stdio, fds, sizeof(plan.stdio));
	plan.new_session = 1;
	pid = slk_fork();
	if (pid == 0) {
		slk_be_as_prompt_as(&executing->promptness);
		slk_further_main(&plan, control_fd, order->serial, fds[3]);
	}
	if (pid < 0)
		tell_failure(executing, control_fd, order->serial, SLK_STAGE_FORK, errno);
	else
		*free_place = (struct slk_executed){pid, order->serial};
	return 0;
}

void slk_signal_executed(struct slk_executing *executing, const struct slk_order *order)
{
	const struct slk_executed *executed = executed_by(executing, order->serial);

	if (executed) /* not reaped yet; or it had ended when this was ordered */
		kill(order->kind == SLK_ORDER_SIGNAL_EXECUTED_GROUP ? slk_group_of(executed->pid) : executed->pid,
		     order->number);
}

void slk_executed_ended(struct slk_executing *executing, int control_fd, pid_t pid, int status)
{
	struct slk_executed *executed = executed_as(executing, pid);
	struct slk_report message = {.kind = SLK_REPORT_EXECUTED, .pid = pid, .status = status, .fd = -1};

	if (!executed)
		return;
	message.serial = executed->serial;
	executed->pid = 0;
	slk_tell(executing->outbox, control_fd, &message);
}

/* ---- the new process ---- */

static void *map_words(int words_fd, size_t *ret_size)
{
	struct stat status;
	int seals = fcntl(words_fd, F_GET_SEALS);
	void *words;

	if (seals < 0 || (seals & SEALS) != SEALS || fstat(words_fd, &status) < 0)
		return NULL;
	if (status.st_size < (off_t)sizeof(struct slk_words) || status.st_size > SLK_WORDS_BYTES_MAX)
		return NULL;
	words = mmap(NULL, (size_t)status.st_size, PROT_READ | PROT_WRITE, MAP_PRIVATE, words_fd, 0);
	if (words == MAP_FAILED)
		return NULL;
	*ret_size = (size_t)status.st_size;
	return words;
}

/* The next so many words: 0, or -1: there are fewer. */
static int point_to(char **places, uint32_t count, char **at, const char *end)
{
	for (uint32_t i = 0; i < count; i++) {
		char *nul = memchr(*at, 0, (size_t)(end - *at));

		if (!nul)
			return -1;
		places[i] = *at;
		*at = nul + 1;
	}
	places[count] = NULL;
	return 0;
}

static char shell[] = "/bin/sh";

int slk_words_read(int words_fd, struct slk_told *ret_told)
{
	size_t size;
	struct slk_words *words = map_words(words_fd, &size);
	struct slk_told told;
	uint64_t count;
	char *directory[2], *at, *end, **places;

	if (!words)
		return -EINVAL;
	count = (uint64_t)words->directories + words->candidates + words->arguments + words->environments;
	if (words->directories > 1 || !words->candidates || !words->arguments || count > size)
		return -EINVAL;
	/* The shell's are as many as the arguments, and one; each of the four has its end. */
	places = mmap(NULL, (count + words->arguments + 5) * sizeof(*places), PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (places == MAP_FAILED)
		return -ENOMEM;
	at = (char *)(words + 1);
	end = (char *)words + size;
	told.candidates = places;
	told.arguments = told.candidates + words->candidates + 1;
	told.environment = told.arguments + words->arguments + 1;
	told.shell_arguments = told.environment + words->environments + 1;
	if (point_to(directory, words->directories, &at, end) < 0 ||
	    point_to(told.candidates, words->candidates, &at, end) < 0 ||
	    point_to(told.arguments, words->arguments, &at, end) < 0 ||
	    point_to(told.environment, words->environments, &at, end) < 0 || at != end)
		return -EINVAL;
	told.directory = directory[0];
	told.shell_arguments[0] = shell;
	memcpy(told.shell_arguments + 2, told.arguments + 1, words->arguments * sizeof(*places)); /* with the end */
	*ret_told = told;
	return 0;
}
