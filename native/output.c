/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the program writes to standard output and error, on its way through us (limits.output): so much is passed on, and
 * the rest is dropped. The program is neither ended for it nor kept waiting.
 *
 * A pipe for each, and a thread that carries from it to where the output was to go. Threads, because a write may wait as long
 * as its reader likes: the loop must not, nor the other stream. Nothing is read that is not written on at once, so that a
 * slow reader has the program wait, one pipe later than bare; and where the reader has gone the pipe is closed, so that the
 * program gets SIGPIPE.
 *
 * It is copied, not spliced: a spliced line takes a whole place in the reader's pipe, which has 16, and who waits for our
 * end before it reads would wait for ever after 17 lines. What is dropped is spliced to /dev/null: that is nothing but freed;
 * and it may gather for a while before, so that who writes without end takes no two processors for what nobody reads.
 *
 * When nothing of the sandbox is left, what is in the pipes is passed on, and that is all: whoever else may hold a writing end.
 */
#define _GNU_SOURCE
#include "slk.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <linux/magic.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#define CHUNK_BYTES 65536u
#define DROPPED_AT_ONCE (1u << 20) /* which the pipe has room for from then on, if it may, */
#define GATHERS_NS 1000000         /* as that takes at 1 GB/s, */
#define GATHERS_SMALL_NS 100000    /* else in a pipe of 64 KiB */
#define GIVE_UP_TRIES_MAX 1000

struct slk_stream {
	struct slk_output *output;
	pthread_t thread;
	int is_running; /* it was begun */
	int is_done;
	pid_t tid;
	int from_fd, to_fd;
	int watched_fd; /* to_fd, or -1: that nobody reads now means nothing */
	int gathers_ns; /* before it is dropped; 0: nothing was yet */
	int error;      /* of writing, other than that nobody reads */
};

struct slk_output {
	uint64_t left, passed, dropped, failed; /* bytes; changed by atomic operations */
	int is_told, gives_up;
	int ending_fd; /* readable: nobody writes any more */
	int done_fd;   /* counts the streams that have come to their end */
	int null_fd;
	int told_fd; /* where it is said that it was cut; -1: nowhere */
	char told[SLK_OUTPUT_TOLD_MAX];
	uint32_t count;
	struct slk_stream streams[SLK_OUTPUT_STREAMS_MAX];
};

/* ---- one stream */

/* So much of it may be passed on. */
static uint64_t claim(struct slk_output *output, uint64_t wanted)
{
	uint64_t left = __atomic_load_n(&output->left, __ATOMIC_RELAXED);

	for (;;) {
		uint64_t granted = wanted < left ? wanted : left;

		if (__atomic_compare_exchange_n(&output->left, &left, left - granted, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
			return granted;
	}
}

/* 0, or -errno. Others may have set O_NONBLOCK: it is a property of what is open, not of our descriptor. */
static int write_all(const struct slk_output *output, int fd, const char *data, size_t size)
{
	while (size) {
		ssize_t written = write(fd, data, size);

		if (written < 0 && errno == EAGAIN) {
			struct pollfd waiting = {fd, POLLOUT, 0};

			poll(&waiting, 1, -1);
		}
		if (__atomic_load_n(&output->gives_up, __ATOMIC_ACQUIRE))
			return -ECANCELED;
		if (written < 0 && errno != EINTR && errno != EAGAIN)
			return -errno;
		if (written > 0) {
			data += written;
			size -= (size_t)written;
		}
	}
	return 0;
}

/* Now, if that keeps nobody waiting: who reads standard output to its end may read what is told only then. */
static void tell(struct slk_output *output, int patience_ms)
{
	struct pollfd waiting = {output->told_fd, POLLOUT, 0};

	if (output->told_fd < 0 || __atomic_load_n(&output->is_told, __ATOMIC_RELAXED) ||
	    poll(&waiting, 1, patience_ms) <= 0 || __atomic_exchange_n(&output->is_told, 1, __ATOMIC_RELAXED))
		return;
	write_all(output, output->told_fd, output->told, strlen(output->told)); /* nobody may be there to read it */
}

/* So much is in the pipe; of a pipe in packet mode (O_DIRECT, pipe(2)) one packet is read. 0, or -errno. */
static int pass_on(struct slk_stream *stream, uint64_t size)
{
	char buffer[CHUNK_BYTES];
	ssize_t got = read(stream->from_fd, buffer, size);
	int result = got < 0 ? -errno : 0;

	__atomic_add_fetch(&stream->output->left, size - (uint64_t)(got > 0 ? got : 0), __ATOMIC_RELAXED);
	if (got < 0)
		return result == -EINTR ? 0 : result;
	result = write_all(stream->output, stream->to_fd, buffer, (size_t)got);
	__atomic_add_fetch(result == 0 ? &stream->output->passed : &stream->output->failed, (uint64_t)got,
			   __ATOMIC_RELAXED);
	return result;
}

/* Until more is there to be dropped, or no more is to come. */
static void gather(struct slk_stream *stream)
{
	struct pollfd ending = {stream->output->ending_fd, POLLIN, 0};
	struct timespec until;

	if (!stream->gathers_ns)
		stream->gathers_ns = fcntl(stream->from_fd, F_SETPIPE_SZ, (int)DROPPED_AT_ONCE) >= (int)DROPPED_AT_ONCE ?
					     GATHERS_NS :
					     GATHERS_SMALL_NS;
	until = (struct timespec){0, stream->gathers_ns};
	ppoll(&ending, 1, &until, NULL);
}

static int drop(struct slk_stream *stream)
{
	struct slk_output *output = stream->output;
	ssize_t dropped;

	tell(output, 0);
	gather(stream);
	dropped = splice(stream->from_fd, NULL, output->null_fd, NULL, DROPPED_AT_ONCE, SPLICE_F_NONBLOCK);
	if (dropped < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	__atomic_add_fetch(&output->dropped, (uint64_t)dropped, __ATOMIC_RELAXED);
	return 0;
}

/* 1: there is something; 0: nothing comes any more; -EPIPE: nobody reads. */
static int wait_for_more(const struct slk_stream *stream)
{
	struct pollfd waiting[3] = {
		{stream->from_fd, POLLIN, 0}, {stream->watched_fd, 0, 0}, {stream->output->ending_fd, POLLIN, 0}};

	for (;;) {
		if (poll(waiting, 3, -1) < 0)
			continue; /* EINTR */
		if (__atomic_load_n(&stream->output->gives_up, __ATOMIC_ACQUIRE))
			return -ECANCELED;
		if (waiting[1].revents)
			return -EPIPE;
		if (waiting[0].revents & POLLIN)
			return 1;
		if (waiting[0].revents || waiting[2].revents)
			return 0;
	}
}

static int carry(struct slk_stream *stream)
{
	for (;;) {
		int result = wait_for_more(stream), there;
		uint64_t granted;

		if (result <= 0)
			return result;
		if (ioctl(stream->from_fd, FIONREAD, &there) < 0)
			return -errno;
		granted = claim(stream->output, (uint64_t)there < CHUNK_BYTES ? (uint64_t)there : CHUNK_BYTES);
		result = granted ? pass_on(stream, granted) : there ? drop(stream) : 0;
		if (result < 0)
			return result;
	}
}

static void *run(void *argument)
{
	struct slk_stream *stream = argument;
	uint64_t one = 1;
	int result;

	__atomic_store_n(&stream->tid, (pid_t)syscall(SYS_gettid), __ATOMIC_RELEASE);
	result = carry(stream);
	stream->error = result < 0 && result != -EPIPE && result != -ECANCELED ? -result : 0;
	close(stream->from_fd); /* whoever writes now is told that nobody reads, */
	close(stream->to_fd);   /* and whoever reads, that nobody writes */
	if (__atomic_load_n(&stream->output->dropped, __ATOMIC_RELAXED))
		tell(stream->output, -1);
	__atomic_store_n(&stream->is_done, 1, __ATOMIC_RELEASE);
	if (write(stream->output->done_fd, &one, sizeof(one)) < 0)
		return NULL; /* a counter that is never full */
	return NULL;
}

/* ---- the whole */

int slk_same_open_file(int fd, int other_fd)
{
	pid_t self = getpid();
	struct stat one, other;
	long result = syscall(SYS_kcmp, self, self, KCMP_FILE, fd, other_fd);

	if (result >= 0)
		return result == 0;
	if (fstat(fd, &one) < 0 || fstat(other_fd, &other) < 0)
		return -errno;
	return one.st_dev == other.st_dev && one.st_ino == other.st_ino; /* a kernel without kcmp(2) */
}

int slk_output_create(uint64_t limit_bytes, const char *told, int told_fd, struct slk_output **ret_output)
{
	struct slk_output *output = calloc(1, sizeof(*output));

	if (!output)
		return -ENOMEM;
	if (strlen(told) >= sizeof(output->told)) {
		free(output);
		return -EINVAL;
	}
	strcpy(output->told, told);
	output->left = limit_bytes;
	output->told_fd = told_fd < 0 ? -1 : fcntl(told_fd, F_DUPFD_CLOEXEC, 3);
	output->ending_fd = eventfd(0, EFD_CLOEXEC);
	output->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	output->null_fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
	if ((told_fd >= 0 && output->told_fd < 0) || output->ending_fd < 0 || output->done_fd < 0 || output->null_fd < 0) {
		int error = errno;

		slk_output_destroy(output);
		return -error;
	}
	*ret_output = output;
	return 0;
}

/* One with a name: the next reader may come before anything is written. */
static int is_named_pipe(int fd)
{
	struct stat status;
	struct statfs system;

	return fstat(fd, &status) == 0 && S_ISFIFO(status.st_mode) && fstatfs(fd, &system) == 0 &&
	       system.f_type != PIPEFS_MAGIC;
}

int slk_output_add(struct slk_output *output, int to_fd)
{
	struct slk_stream *stream = &output->streams[output->count];
	int ends[2];

	if (output->count == SLK_OUTPUT_STREAMS_MAX)
		return -ENOSPC;
	*stream = (struct slk_stream){.output = output, .to_fd = fcntl(to_fd, F_DUPFD_CLOEXEC, 3)};
	if (stream->to_fd < 0)
		return -errno;
	stream->watched_fd = is_named_pipe(stream->to_fd) ? -1 : stream->to_fd;
	if (pipe2(ends, O_CLOEXEC) < 0) {
		int error = errno;

		close(stream->to_fd);
		return -error;
	}
	stream->from_fd = ends[0];
	output->count++;
	return ends[1];
}

int slk_output_start(struct slk_output *output)
{
	sigset_t most, before;
	int error = 0;

	sigfillset(&most);
	sigdelset(&most, SLK_POKE_SIGNAL);
	pthread_sigmask(SIG_SETMASK, &most, &before);
	for (uint32_t i = 0; i < output->count && !error; i++) {
		error = pthread_create(&output->streams[i].thread, NULL, run, &output->streams[i]);
		output->streams[i].is_running = error == 0;
	}
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return -error;
}

int slk_output_done_fd(const struct slk_output *output)
{
	return output->done_fd;
}

static int is_done(const struct slk_stream *stream)
{
	return !stream->is_running || __atomic_load_n(&stream->is_done, __ATOMIC_ACQUIRE);
}

void slk_output_ended(struct slk_output *output)
{
	uint64_t one = 1;

	if (write(output->ending_fd, &one, sizeof(one)) < 0)
		return; /* a counter that is never full */
}

void slk_output_state(const struct slk_output *output, struct slk_output_state *ret_state)
{
	struct slk_output_state state = {
		.passed_bytes = __atomic_load_n(&output->passed, __ATOMIC_RELAXED),
		.dropped_bytes = __atomic_load_n(&output->dropped, __ATOMIC_RELAXED),
		.failed_bytes = __atomic_load_n(&output->failed, __ATOMIC_RELAXED),
		.is_done = 1,
	};

	for (uint32_t i = 0; i < output->count; i++) {
		if (!is_done(&output->streams[i]))
			state.is_done = 0;
		else if (output->streams[i].error)
			state.error = output->streams[i].error;
	}
	*ret_state = state;
}

/* It may be before the call that it is to come out of: so again and again. */
static int give_up(const struct slk_output *output, struct slk_stream *stream)
{
	for (int tries = 0; tries < GIVE_UP_TRIES_MAX; tries++) {
		pid_t tid = __atomic_load_n(&stream->tid, __ATOMIC_ACQUIRE);

		if (is_done(stream))
			return 1;
		slk_output_ended((struct slk_output *)(uintptr_t)output);
		if (tid)
			slk_poke(tid);
		poll(NULL, 0, 1);
	}
	return 0;
}

void slk_output_destroy(struct slk_output *output)
{
	int is_left = 0;

	if (!output)
		return;
	__atomic_store_n(&output->gives_up, 1, __ATOMIC_RELEASE);
	for (uint32_t i = 0; i < output->count; i++) {
		struct slk_stream *stream = &output->streams[i];

		if (!give_up(output, stream)) {
			is_left = 1; /* it waits in the kernel for who cannot be waited for: it keeps what it uses */
			continue;
		}
		if (stream->is_running) {
			pthread_join(stream->thread, NULL);
			continue;
		}
		close(stream->from_fd);
		close(stream->to_fd);
	}
	if (is_left)
		return;
	for (int i = 0; i < 4; i++) {
		const int fds[4] = {output->ending_fd, output->done_fd, output->null_fd, output->told_fd};

		if (fds[i] >= 0)
			close(fds[i]);
	}
	free(output);
}
