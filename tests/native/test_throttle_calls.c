/* SPDX-License-Identifier: Apache-2.0 */
/* Calls that a held thread comes out of: which of them are made again for the rest. */
#include "check.h"
#include "throttle.h"

#if defined(__x86_64__)
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/resource.h>

#define SIZE 8192
#define ROOM 4096 /* so much of it fits */

static char data[SIZE];

/* A write that comes back with less, in a process that is stopped where it returns. */
static pid_t written_in_part(int fd)
{
	pid_t child = fork();
	int status;

	if (child == 0) {
		struct rlimit room = {ROOM, ROOM};

		setrlimit(RLIMIT_FSIZE, &room);
		raise(SIGSTOP);
		_exit(write(fd, data, SIZE) == ROOM ? 0 : 1);
	}
	CHECK(waitpid(child, &status, WUNTRACED) == child && WIFSTOPPED(status));
	CHECK(ptrace(PTRACE_SEIZE, child, 0, PTRACE_O_EXITKILL | PTRACE_O_TRACESYSGOOD) == 0);
	CHECK(kill(child, SIGCONT) == 0);
	for (int stops = 0; stops < 100; stops++) {
		struct user_regs_struct registers;

		CHECK(waitpid(child, &status, 0) == child && WIFSTOPPED(status));
		if (SLK_IS_CALL_STOP(status) && slk_registers_get(child, &registers) && registers.orig_rax == SYS_write &&
		    (long)registers.rax > 0)
			return child;
		CHECK(ptrace(PTRACE_SYSCALL, child, 0, 0) == 0);
	}
	CHECK(!"it has written");
	return -1;
}

/* Its exit status is 0 if it found what was written first. */
static void go_on(pid_t child)
{
	int status;

	CHECK(ptrace(PTRACE_DETACH, child, 0, 0) == 0);
	CHECK(waitpid(child, &status, 0) == child);
	CHECK_EQUAL(0, status);
}

/* Made for the rest it would be SIGXFSZ, which kills, and bare is none. */
static void test_a_file_that_may_not_be_larger_has_less_written(void)
{
	int fd = memfd_create("file", MFD_CLOEXEC);
	pid_t child = written_in_part(fd);

	CHECK_EQUAL(0, slk_throttle_mend(child));
	go_on(child);
	close(fd);
}

/* Nobody makes room in it here, so it comes back with that as well: but it is tried. */
static void test_a_pipe_that_was_full_is_written_to_again(void)
{
	int ends[2];
	pid_t child;

	CHECK(pipe2(ends, O_CLOEXEC | O_NONBLOCK) == 0);
	CHECK(fcntl(ends[1], F_SETPIPE_SZ, ROOM) == ROOM);
	child = written_in_part(ends[1]);
	CHECK_EQUAL(1, slk_throttle_mend(child));
	slk_throttle_forget_call(child);
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	close(ends[0]);
	close(ends[1]);
}

#endif

int main(void)
{
	begin_tests();
	if (slk_throttle_possible() < 0)
		skip_all("tracing is forbidden here");
#if defined(__x86_64__)
	RUN(test_a_file_that_may_not_be_larger_has_less_written);
	RUN(test_a_pipe_that_was_full_is_written_to_again);
#endif
	return 0;
}
