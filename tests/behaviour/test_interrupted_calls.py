"""Signals and trapped calls: a signal with a handler makes no call fail that it does not make fail bare.

The kernel withdraws a notification that a signal meets before the supervisor has received it (seccomp_unotify(2),
"signal handlers"), and without SA_RESTART the call then fails with EINTR. So processes that have timers are traced by
init, which restarts such calls (native/tracer.c). That being traced does not show is test_traced_processes.py's, and
opens that wait are test_waiting_opens.py's.

What is opened lies in a directory that is granted whole: of /etc, files have grants of their own, and one that is
replaced just then (tests make users) is refused by the kernel now and then (docs/security-model.md).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.running import Runner
from harness.survivors import marked
from harness.waiting import until

_UNDER_A_TIMER = r"""
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* As many at least, however long they take on a busy machine. */
static long ticks_min, opens_min;

static volatile long ticks;
static void tick(int number) { (void)number; ticks++; }

static long calls[4], interrupted[4], failed[4];
static long count(int which, long result)
{
	__atomic_add_fetch(&calls[which], 1, __ATOMIC_RELAXED);
	if (result < 0) {
		if (errno == EINTR)
			__atomic_add_fetch(&interrupted[which], 1, __ATOMIC_RELAXED);
		else
			__atomic_add_fetch(&failed[which], 1, __ATOMIC_RELAXED);
	}
	return result;
}

static double seconds;

static void *work(void *argument)
{
	struct timespec now, start;
	struct stat status;

	(void)argument;
	clock_gettime(CLOCK_MONOTONIC, &start);
	for (long i = 0;; i++) {
		int fd = (int)count(0, open("/usr/lib/os-release", O_RDONLY));

		if (fd >= 0)
			count(1, close(fd));
		if (i % 10 == 0 && (fd = (int)count(0, open("/proc/self/stat", O_RDONLY))) >= 0)
			count(1, close(fd));
		count(2, stat("/etc/hostname", &status));
		if (i % 50 == 0) {
			pid_t pid = (pid_t)count(3, fork());

			if (pid == 0)
				_exit(0);
			if (pid > 0)
				while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
					;
		}
		clock_gettime(CLOCK_MONOTONIC, &now);
		double passed = (double)(now.tv_sec - start.tv_sec) + (double)(now.tv_nsec - start.tv_nsec) / 1e9;

		if (passed > seconds && ticks >= ticks_min && calls[0] >= opens_min)
			break;
	}
	return NULL;
}

static void set_timer(const char *kind)
{
	struct itimerval every = {{0, 1000}, {0, 1000}};
	struct itimerspec every_ns = {{0, 1000000}, {0, 1000000}};
	struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGALRM};
	timer_t timer;

	if (strcmp(kind, "timer_create") == 0) {
		timer_create(CLOCK_MONOTONIC, &event, &timer);
		timer_settime(timer, 0, &every_ns, NULL);
	} else {
		setitimer(ITIMER_REAL, &every, NULL);
	}
}

/* argv: seconds, flags of the handler, the kind of timer, how many ticks and how many opens at least */
int main(int argc, char **argv)
{
	struct sigaction action = {.sa_handler = tick, .sa_flags = atoi(argv[2]) ? SA_RESTART : 0};
	int before = strcmp(argv[3], "threads_before") == 0, after = strcmp(argv[3], "threads_after") == 0;
	pthread_t threads[3];

	seconds = atof(argv[1]);
	ticks_min = argc > 5 ? atol(argv[4]) : 0;
	opens_min = argc > 5 ? atol(argv[5]) : 0;
	sigaction(SIGALRM, &action, NULL);
	if (strcmp(argv[3], "exec") == 0) {
		signal(SIGALRM, SIG_IGN);
		set_timer("setitimer");
		argv[3] = "executed"; /* the timer stays */
		execv(argv[0], argv);
	}
	for (int i = 0; before && i < 3; i++)
		pthread_create(&threads[i], NULL, work, NULL);
	if (strcmp(argv[3], "executed") != 0)
		set_timer(argv[3]);
	for (int i = 0; after && i < 3; i++)
		pthread_create(&threads[i], NULL, work, NULL);
	work(NULL);
	for (int i = 0; (before || after) && i < 3; i++)
		pthread_join(threads[i], NULL);
	printf("%ld", ticks);
	for (int i = 0; i < 4; i++)
		printf(" %ld %ld %ld", calls[i], interrupted[i], failed[i]);
	return 0;
}
"""
_CALLS = ("open", "close", "stat", "fork")


def _parsed(stdout: bytes) -> tuple[int, dict[str, tuple[int, int, int]]]:
    ticks, *rest = (int(word) for word in stdout.split())
    return ticks, {name: (rest[3 * at], rest[3 * at + 1], rest[3 * at + 2]) for at, name in enumerate(_CALLS)}


@pytest.mark.one_user
@pytest.mark.parametrize("flags", ["0", "1"], ids=["without-sa-restart", "with-sa-restart"])
@pytest.mark.parametrize("kind", ["setitimer", "timer_create", "threads_before", "threads_after", "exec"])
def test_a_timer_makes_no_call_fail(
    runner: Runner, kind: str, flags: str, soak: bool, measured: Callable[[str, object], None]
) -> None:
    program = runner.compiler.compile(_UNDER_A_TIMER, "-pthread")
    _, bare = _parsed(runner.bare([program, "0.1", flags, kind]).stdout)
    # Bare, a timer whose signal is ignored for a while (exec) may stop for good.
    ended = runner.sandboxed([program, "5" if soak else "0.3", flags, kind, "300", "1000"])
    ticks, ours = _parsed(ended.stdout)
    measured("signals", ticks)
    assert {name: counts[1:] for name, counts in bare.items()} == dict.fromkeys(_CALLS, (0, 0))
    assert {name: counts[1:] for name, counts in ours.items()} == dict.fromkeys(_CALLS, (0, 0))
    assert ticks >= 300
    assert ours["open"][0] >= 1000


_WITHOUT_PATHS_UNDER_A_TIMER = r"""
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile long ticks;
static void tick(int number) { (void)number; ticks++; }

int main(void)
{
	struct sigaction action = {.sa_handler = tick};
	struct itimerval every = {{0, 1000}, {0, 1000}}, late = {{0, 0}, {100000, 0}};
	struct itimerspec late_ns = {{0, 0}, {100000, 0}};
	int fd = open("file", O_CREAT | O_RDWR, 0600);
	long interrupted[3] = {0};
	timer_t timer;

	sigaction(SIGALRM, &action, NULL);
	timer_create(CLOCK_MONOTONIC, NULL, &timer);
	setitimer(ITIMER_REAL, &every, NULL);
	while (ticks < 400) {
		interrupted[0] += setitimer(ITIMER_VIRTUAL, &late, NULL) < 0 && errno == EINTR;
		interrupted[1] += timer_settime(timer, 0, &late_ns, NULL) < 0 && errno == EINTR;
		interrupted[2] += fchmod(fd, 0600) < 0 && errno == EINTR;
	}
	printf("%ld %ld %ld\n", interrupted[0], interrupted[1], interrupted[2]);
	return 0;
}
"""


def test_a_timer_makes_no_call_without_a_path_fail(runner: Runner) -> None:
    program = runner.compiler.compile(_WITHOUT_PATHS_UNDER_A_TIMER)
    runner.both([program])


def _traced(runner: Runner) -> int:
    """How many processes are under a tracer."""
    count = 0
    for survivor in marked(runner.marker):
        with contextlib.suppress(OSError):
            count += "TracerPid:\t0\n" not in Path(f"/proc/{survivor.pid}/status").read_text()
    return count


def test_processes_with_timers_die_with_sandlockd(runner: Runner) -> None:
    program = runner.compiler.compile(_UNDER_A_TIMER, "-pthread")
    script = 'for i in 1 2 3 4 5 6 7 8; do "$0" 100 0 threads_after & done; "$0" 100 0 setitimer & echo ready; wait'
    runner.may_leave_temporary = True
    with runner.started(runner.command_line(["sh", "-c", script, program])) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        until(lambda: _traced(runner) >= 9, "timers in all of them")
        process.kill()
        process.wait()
        # Each of them holds the other end.
        start = time.monotonic()
        assert process.stdout.read() == b""
        assert time.monotonic() - start < 2


_DEVICE_UNDER_A_TIMER = r"""
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/time.h>
#include <unistd.h>
static volatile long ticks;
static void tick(int number) { (void)number; ticks++; }
int main(int argc, char **argv)
{
	struct sigaction action = {.sa_handler = tick};
	struct itimerval every = {{0, 1000}, {0, 1000}};
	long interrupted = 0;
	(void)argc;
	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &every, NULL);
	while (ticks < 600) {
		int fd = open(argv[1], O_RDWR);
		if (fd >= 0)
			close(fd);
		else
			interrupted += errno == EINTR;
	}
	printf("%ld", interrupted);
	return 0;
}
"""


def test_a_device_that_nobody_waits_for_is_opened_under_a_timer_as_bare(runner: Runner) -> None:
    program = runner.compiler.compile(_DEVICE_UNDER_A_TIMER)
    runner.both([program, "/dev/null"])
