"""Signals and trapped calls: what a handler without SA_RESTART lets a program see.

The kernel withdraws a notification that a signal meets before the supervisor has received it (seccomp_unotify(2),
"signal handlers"), and the call then fails with EINTR. After it was received, only a fatal signal does so
(SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV). So a sandboxed program can see EINTR where a bare one cannot; the window is
the wake-up of the supervisor. Bare these calls never fail so.
"""

from __future__ import annotations

from collections.abc import Callable

from harness.running import Runner

_UNDER_A_TIMER = r"""
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static volatile long ticks;
static void tick(int number) { (void)number; ticks++; }

static long calls[4], interrupted[4], failed[4];
static long count(int which, long result)
{
	calls[which]++;
	if (result < 0) {
		if (errno == EINTR)
			interrupted[which]++;
		else
			failed[which]++;
	}
	return result;
}

int main(int argc, char **argv)
{
	struct sigaction action = {.sa_handler = tick};
	struct itimerval every = {{0, 1000}, {0, 1000}};
	struct timespec now, start;
	struct stat status;
	double seconds = atof(argv[1]);

	(void)argc;
	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &every, NULL);
	clock_gettime(CLOCK_MONOTONIC, &start);
	for (long i = 0;; i++) {
		int fd = (int)count(0, open("/etc/passwd", O_RDONLY));

		if (fd >= 0)
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
		if ((double)(now.tv_sec - start.tv_sec) + (double)(now.tv_nsec - start.tv_nsec) / 1e9 > seconds)
			break;
	}
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


def test_a_timer_rarely_interrupts_calls_that_it_cannot_interrupt_bare(
    runner: Runner, measured: Callable[[str, object], None]
) -> None:
    program = runner.compiler.compile(_UNDER_A_TIMER)
    _, bare = _parsed(runner.bare([program, "0.5"]).stdout)
    ended = runner.sandboxed([program, "2"])
    ticks, ours = _parsed(ended.stdout)
    for name, (calls, interrupted, failed) in ours.items():
        measured(f"{name}_calls", calls)
        measured(f"{name}_interrupted", interrupted)
        assert failed == 0
    measured("signals", ticks)
    assert all(interrupted == failed == 0 for _, interrupted, failed in bare.values())
    # Not trapped: as bare.
    assert ours["close"][1] == 0
    assert ours["fork"][1] == 0
    # Trapped: only what the signal met before RECV. One signal interrupts one call at most, and most meet none.
    assert ours["open"][1] + ours["stat"][1] <= ticks // 3


def test_a_handler_with_sa_restart_never_sees_an_interrupted_call(runner: Runner) -> None:
    text = _UNDER_A_TIMER.replace(".sa_handler = tick", ".sa_handler = tick, .sa_flags = SA_RESTART")
    program = runner.compiler.compile(text)
    _, ours = _parsed(runner.sandboxed([program, "1"]).stdout)
    assert {name: counts[1:] for name, counts in ours.items()} == dict.fromkeys(_CALLS, (0, 0))
