"""Signals and trapped calls: a signal with a handler makes no call fail that it does not make fail bare.

The kernel withdraws a notification that a signal meets before the supervisor has received it (seccomp_unotify(2),
"signal handlers"), and without SA_RESTART the call then fails with EINTR. So processes that have timers are traced by
init, which restarts such calls (native/tracer.c). Being traced must not show: job control, wait, exec and threads of
such a process are compared with bare here too.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.running import Runner
from harness.survivors import marked
from harness.waiting import until
from harness.whole_supervisor import wait_for_whole_supervisor

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
		int fd = (int)count(0, open("/etc/passwd", O_RDONLY));

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


@pytest.mark.parametrize("flags", ["0", "1"], ids=["without-sa-restart", "with-sa-restart"])
@pytest.mark.parametrize("kind", ["setitimer", "timer_create", "threads_before", "threads_after", "exec"])
def test_a_timer_makes_no_call_fail(
    runner: Runner, kind: str, flags: str, measured: Callable[[str, object], None]
) -> None:
    program = runner.compiler.compile(_UNDER_A_TIMER, "-pthread")
    _, bare = _parsed(runner.bare([program, "0.2", flags, kind]).stdout)
    # Bare, a timer whose signal is ignored for a while (exec) may stop for good.
    ended = runner.sandboxed([program, "1", flags, kind, "300", "1000"])
    ticks, ours = _parsed(ended.stdout)
    measured("signals", ticks)
    assert {name: counts[1:] for name, counts in bare.items()} == dict.fromkeys(_CALLS, (0, 0))
    assert {name: counts[1:] for name, counts in ours.items()} == dict.fromkeys(_CALLS, (0, 0))
    assert ticks >= 300
    assert ours["open"][0] >= 1000


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
		close(open("/etc/passwd", O_RDONLY));
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
	while (ticks < 600) {
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
	while (ticks < 1000) {
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

#define MEETINGS 60

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

		usleep(15000 + i * 7919 % 20000);
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


_JOB = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static volatile long ticks;
static void tick(int number) { (void)number; ticks++; }
static volatile sig_atomic_t codes[64], code_count;
static void child(int number, siginfo_t *info, void *context)
{
	(void)number;
	(void)context;
	codes[code_count++ % 64] = info->si_code;
}

static void *spin(void *argument)
{
	(void)argument;
	for (;;)
		close(open("/etc/passwd", O_RDONLY));
	return NULL;
}

static void be_timed(const char *how)
{
	struct itimerval every = {{0, 1000}, {0, 1000}};
	pthread_t thread;

	signal(SIGALRM, tick);
	setitimer(ITIMER_REAL, &every, NULL);
	if (strcmp(how, "threads") == 0)
		pthread_create(&thread, NULL, spin, NULL);
	if (strcmp(how, "leader") == 0) {
		pthread_create(&thread, NULL, spin, NULL);
		pthread_exit(NULL);
	}
	spin(NULL);
}

static void rest(void)
{
	struct timespec left = {0, 30000000};

	while (nanosleep(&left, &left) < 0 && errno == EINTR)
		;
}

/* The kernel keeps one SIGCHLD at a time, and may send it later than waitpid tells of it: of two that come before the
 * first is taken, the second is lost, bare too. */
static void await_signal(void)
{
	static int awaited;
	struct timespec left = {0, 1000000};

	awaited++;
	for (int i = 0; code_count < awaited && i < 10000; i++)
		nanosleep(&left, NULL);
}

static void tell(const char *what, pid_t pid, int options)
{
	int status = 0;
	pid_t got;

	do
		got = waitpid(pid, &status, options);
	while (got < 0 && errno == EINTR);
	printf("%s: %d 0x%x\n", what, got == pid, got == pid ? status : 0);
}

int main(int argc, char **argv)
{
	struct sigaction action = {.sa_sigaction = child, .sa_flags = SA_SIGINFO | SA_RESTART};
	int stops[] = {SIGSTOP, SIGTSTP, SIGSTOP, SIGTTIN};
	pid_t pid;

	(void)argc;
	sigaction(SIGCHLD, &action, NULL);
	pid = fork();
	if (pid == 0) {
		setpgid(0, 0);
		be_timed(argv[1]);
	}
	usleep(150000);
	for (int i = 0; i < 4; i++) {
		kill(pid, stops[i]);
		tell("stop", pid, WUNTRACED);
		await_signal();
		rest();
		tell("still", pid, WUNTRACED | WCONTINUED | WNOHANG);
		kill(pid, SIGCONT);
		tell("cont", pid, WCONTINUED);
		await_signal();
		rest();
	}
	kill(pid, atoi(argv[2]));
	tell("end", pid, 0);
	await_signal();
	for (int i = 0; i < code_count; i++)
		printf("code %d\n", codes[i]);
	return 0;
}
"""


_EXEC_IN_A_THREAD = r"""
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

static void tick(int number) { (void)number; }

static void *spin(void *argument)
{
	(void)argument;
	for (;;)
		close(open("/etc/passwd", O_RDONLY));
	return NULL;
}

static void *replace(void *argument)
{
	(void)argument;
	usleep(50000);
	execl("/bin/sleep", "sleep", "10", (char *)NULL);
	return NULL;
}

int main(void)
{
	struct itimerval every = {{0, 1000}, {0, 1000}};
	pthread_t threads[3];
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		signal(SIGALRM, tick);
		setitimer(ITIMER_REAL, &every, NULL);
		pthread_create(&threads[0], NULL, spin, NULL);
		pthread_create(&threads[1], NULL, spin, NULL);
		pthread_create(&threads[2], NULL, replace, NULL);
		spin(NULL);
	}
	waitpid(pid, &status, 0);
	printf("%d %d\n", WIFSIGNALED(status), WTERMSIG(status));
	return 0;
}
"""


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("how", ["single", "threads", "leader"])
def test_a_parent_sees_a_child_with_a_timer_stop_go_on_and_end(runner: Runner, how: str, end: int) -> None:
    program = runner.compiler.compile(_JOB, "-pthread")
    runner.both([program, how, str(int(end))])


def test_exec_in_a_thread_of_a_process_with_a_timer(runner: Runner) -> None:
    # The timer outlives exec and the handler does not, so SIGALRM ends the new program.
    program = runner.compiler.compile(_EXEC_IN_A_THREAD, "-pthread")
    runner.both([program])


@pytest.mark.parametrize("script", ["exit 7", "kill -SEGV $$", "kill -KILL $$"])
def test_the_program_itself_with_a_timer_ends_as_bare(runner: Runner, script: str) -> None:
    program = runner.compiler.compile(_TIMED_THEN_EXEC)
    runner.both([program, "/bin/sh", "-c", f"ulimit -c 0; sleep 0.05; {script}"])


_TIMED_THEN_EXEC = r"""
#include <signal.h>
#include <sys/time.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	struct itimerval every = {{0, 1000}, {0, 1000}};

	(void)argc;
	signal(SIGALRM, SIG_IGN);
	setitimer(ITIMER_REAL, &every, NULL);
	execv(argv[1], argv + 1);
	return 1;
}
"""


def test_a_debugger_inside_can_trace_a_process_with_a_timer(runner: Runner) -> None:
    program = runner.compiler.compile(_TRACES)
    policy = '[filesystem]\nbase = true\n[syscalls]\nallow = ["ptrace"]\n'
    bare = runner.bare([program])
    ended = runner.sandboxed([program], policy=policy)
    assert bare.stdout == ended.stdout == b"seized 0\n"


_TRACES = r"""
#include <signal.h>
#include <stdio.h>
#include <sys/ptrace.h>
#include <sys/time.h>
#include <unistd.h>

static void tick(int number) { (void)number; }

int main(void)
{
	struct itimerval every = {{0, 1000}, {0, 1000}};
	int ready[2];
	char byte;
	pid_t pid;

	pipe(ready);
	pid = fork();
	if (pid == 0) {
		signal(SIGALRM, tick);
		setitimer(ITIMER_REAL, &every, NULL);
		write(ready[1], "r", 1);
		for (;;)
			pause();
	}
	read(ready[0], &byte, 1);
	printf("seized %ld\n", ptrace(PTRACE_SEIZE, pid, 0, 0));
	kill(pid, SIGKILL);
	return 0;
}
"""


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
#include <time.h>
#include <unistd.h>
static void tick(int number) { (void)number; }
int main(int argc, char **argv)
{
	struct sigaction action = {.sa_handler = tick};
	struct itimerval every = {{0, 1000}, {0, 1000}};
	time_t end = time(NULL) + 3;
	long interrupted = 0;
	(void)argc;
	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &every, NULL);
	while (time(NULL) < end) {
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
		alarm(3);
		_exit(open("fifo", O_RDONLY) < 0 && errno == EINTR ? 0 : 1);
	}
	sleep(1);
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
