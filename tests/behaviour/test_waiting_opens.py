"""An open that waits for the other end of a FIFO waits, is ended by signals, and goes on as it does bare.

By the kernel, or by a worker of the supervisor that waits in its place (native/tracer.c ends that wait).
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from harness.running import Runner
from harness.waiting import until
from harness.whole_supervisor import wait_for_whole_supervisor

_FIFO = r"""
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

static volatile long *ticks;
static void tick(int number) { (void)number; ++*ticks; }

/* argv: the FIFO, flags of the handler. Each open waits until a signal ends it. */
int main(int argc, char **argv)
{
	struct sigaction action = {.sa_handler = tick, .sa_flags = atoi(argv[2]) ? SA_RESTART : 0};
	struct itimerval every = {{0, 20000}, {0, 20000}};
	int interrupted = 0;

	(void)argc;
	ticks = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	mkfifo(argv[1], 0600);
	sigaction(SIGALRM, &action, NULL);
	if (atoi(argv[2]) && fork() == 0) {
		while (*ticks <= 5)
			usleep(1000);
		open(argv[1], O_WRONLY);
		_exit(0);
	}
	setitimer(ITIMER_REAL, &every, NULL);
	if (atoi(argv[2])) {
		printf("opened %d\n", open(argv[1], O_RDONLY) >= 0);
		return 0;
	}
	for (int i = 0; i < 10; i++) {
		close(open("/usr/lib/os-release", O_RDONLY));
		if (open(argv[1], O_RDONLY) < 0 && errno == EINTR)
			interrupted++;
	}
	printf("interrupted %d\n", interrupted);
	return 0;
}
"""


def _spine(runner: Runner) -> list[str | Path]:
    """Options by which the supervisor opens the FIFOs of the work directory, and waits for their other ends."""
    return ["--deny", runner.work / "denied"]


@pytest.mark.parametrize("served", [False, True], ids=["by-the-kernel", "served"])
@pytest.mark.parametrize("flags", ["0", "1"], ids=["without-sa-restart", "with-sa-restart"])
def test_an_open_that_waits_ends_with_a_signal_as_it_does_bare(
    runner: Runner, flags: str, served: bool
) -> None:
    program = runner.compiler.compile(_FIFO)
    runner.both([program, "fifo", flags], options=_spine(runner) if served else ())


_SERVED_AT_ONCE = r"""
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

static volatile long ticks;
static void tick(int number) { (void)number; ticks++; }

/* The other end is there, so that no open of the FIFO waits. */
int main(int argc, char **argv)
{
	struct sigaction action = {.sa_handler = tick};
	struct itimerval every = {{0, 1000}, {0, 1000}};
	int interrupted = 0, opened = 0;

	(void)argc;
	mkfifo("fifo", 0600);
	if (open("fifo", O_RDWR) < 0)
		return 1;
	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &every, NULL);
	while (ticks < 300) {
		int fd = open(argv[1], O_RDONLY);

		if (fd < 0)
			interrupted += errno == EINTR;
		else if (close(fd) == 0)
			opened++;
	}
	printf("interrupted %d, opened %s\n", interrupted, opened > 100 ? "often" : "seldom");
	return 0;
}
"""


def test_an_open_that_is_served_and_need_not_wait_is_not_interrupted(runner: Runner) -> None:
    """That the one before might have waited does not count for the next, which is told apart by nothing else."""
    program = runner.compiler.compile(_SERVED_AT_ONCE)
    runner.both([program, "fifo"], options=_spine(runner))


# Each end opens, says a byte or hears it, and closes, at moments that wander over the timer's interval.
_MEETINGS = r"""
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#define MEETINGS 30

static void tick(int number) { (void)number; }

int main(void)
{
	struct sigaction action = {.sa_handler = tick, .sa_flags = SA_RESTART};
	struct itimerval every = {{0, 20000}, {0, 20000}};
	int heard = 0, status, answers[2];
	pid_t pid;

	signal(SIGPIPE, SIG_IGN);
	mkfifo("fifo", 0600);
	sigaction(SIGALRM, &action, NULL);
	if (pipe(answers) < 0 || (pid = fork()) < 0)
		return 1;
	for (int i = 0; pid == 0 && i < MEETINGS; i++) {
		char byte;
		int fd;

		usleep(3000 + i * 7919 % 20000);
		fd = open("fifo", O_WRONLY);
		if (fd < 0 || write(fd, "m", 1) != 1 || close(fd) < 0 || read(answers[0], &byte, 1) != 1)
			_exit(1);
	}
	if (pid == 0)
		_exit(0);
	setitimer(ITIMER_REAL, &every, NULL);
	for (int i = 0; i < MEETINGS; i++) {
		char byte = 0;
		int fd = open("fifo", O_RDONLY);

		/* To the end: while the other one has it open, it is no new meeting. */
		if (fd < 0 || read(fd, &byte, 1) != 1 || byte != 'm' || read(fd, &byte, 1) != 0 || close(fd) < 0)
			break;
		heard++;
		write(answers[1], &byte, 1);
	}
	kill(pid, heard == MEETINGS ? 0 : SIGKILL);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	printf("%d %x\n", heard, status);
	return 0;
}
"""


@pytest.mark.parametrize("served", [False, True], ids=["by-the-kernel", "served"])
def test_who_met_the_other_end_of_a_fifo_gets_it_whatever_signals_come(runner: Runner, served: bool) -> None:
    """The other end's open has succeeded by then, and is not made again."""
    program = runner.compiler.compile(_MEETINGS)
    runner.both([program], options=_spine(runner) if served else ())


_STOPPED_WHILE_WAITING = r"""
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void caught(int number) { (void)number; }

static void rest(void)
{
	struct timespec left = {0, 100000000};

	nanosleep(&left, NULL);
}

int main(void)
{
	struct sigaction action = {.sa_handler = caught, .sa_flags = SA_RESTART};
	int status;
	pid_t pid;

	mkfifo("fifo", 0600);
	pid = fork();
	if (pid == 0) {
		sigaction(SIGUSR1, &action, NULL);
		_exit(open("fifo", O_RDONLY) >= 0 ? 7 : 8);
	}
	rest();
	for (int i = 0; i < 3; i++) {
		kill(pid, SIGSTOP);
		printf("%d ", waitpid(pid, &status, WUNTRACED) == pid && WIFSTOPPED(status));
		kill(pid, SIGCONT);
		printf("%d ", waitpid(pid, &status, WCONTINUED) == pid && WIFCONTINUED(status));
		kill(pid, SIGUSR1);
		rest();
		printf("%d\n", waitpid(pid, &status, WNOHANG));
	}
	open("fifo", O_WRONLY);
	waitpid(pid, &status, 0);
	printf("%d\n", WEXITSTATUS(status));
	return 0;
}
"""


@pytest.mark.parametrize("served", [False, True], ids=["by-the-kernel", "served"])
def test_an_open_that_waits_stops_goes_on_and_waits_on(runner: Runner, served: bool) -> None:
    program = runner.compiler.compile(_STOPPED_WHILE_WAITING)
    runner.both([program], options=_spine(runner) if served else ())


_WAITERS_DIE = r"""
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

int main(void)
{
	pid_t pids[20];
	char byte;

	mkfifo("fifo", 0600);
	for (int i = 0; i < 20; i++)
		if ((pids[i] = fork()) == 0)
			_exit(open("fifo", O_RDONLY));
	puts("waiting");
	fflush(stdout);
	if (read(0, &byte, 1) != 1)
		return 1;
	for (int i = 0; i < 20; i++)
		kill(pids[i], SIGKILL);
	while (wait(NULL) > 0)
		;
	puts("dead");
	fflush(stdout);
	return read(0, &byte, 1) == 1 ? 0 : 1;
}
"""


def test_who_dies_while_its_open_waits_holds_nothing(runner: Runner) -> None:
    """Neither descriptors nor the calls that workers wait in, of which there is a fixed number."""
    program = runner.compiler.compile(_WAITERS_DIE)
    line = runner.command_line([program], options=["--write", runner.work, *_spine(runner)])
    with runner.started(line) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == b"waiting\n"
        wait_for_whole_supervisor(process.pid)
        until(lambda: len(_waiting_threads(process.pid)) == 20, "20 workers that wait")
        process.stdin.write(b"k")
        assert process.stdout.readline() == b"dead\n"
        until(lambda: not _waiting_threads(process.pid), "workers that wait no more")
        until(lambda: not _held_fifos(process.pid), "descriptors that are closed")
        process.stdin.write(b"e")
        assert process.wait(timeout=10) == 0


def _waiting_threads(pid: int) -> list[str]:
    """Those that wait in the kernel for the other end of a FIFO (openat2(2) is 437)."""
    calls = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        try:
            calls.append((thread / "syscall").read_text())
        except OSError:
            continue  # it has ended, or is not ours to ask
    return [call for call in calls if call.startswith("437 ")]


def _held_fifos(pid: int) -> list[str]:
    links = (os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir() if os.path.lexists(fd))
    return [link for link in links if link.endswith("/fifo")]


# One waits in a FIFO under an alarm; meanwhile another, whose number is 256 higher, comes to wait there too.
_TWO_THAT_WAIT = r"""
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
static void tick(int number) { (void)number; }
int main(void)
{
	struct sigaction action = {.sa_handler = tick};
	pid_t first, other;
	int status;
	sigaction(SIGALRM, &action, NULL);
	mkfifo("fifo", 0600);
	if ((first = fork()) == 0) {
		alarm(1);
		_exit(open("fifo", O_RDONLY) < 0 && errno == EINTR ? 0 : 1);
	}
	usleep(300000);
	do {
		if ((other = fork()) == 0) {
			if ((getpid() - first) % 256 == 0)
				open("fifo", O_RDONLY);
			_exit(0);
		}
		if ((other - first) % 256)
			waitpid(other, NULL, 0);
	} while ((other - first) % 256);
	waitpid(first, &status, 0);
	kill(other, SIGKILL);
	printf("%x", status);
	return 0;
}
"""


def test_an_alarm_ends_a_wait_also_while_others_wait(runner: Runner) -> None:
    program = runner.compiler.compile(_TWO_THAT_WAIT)
    runner.both([program])
