"""Nothing outlives its sandbox: not when the program ends, not when sandlockd or init is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.running import Runner, system_python
from harness.survivors import marked, pidfds_of
from harness.waiting import line_of, until, wait_dead

KILL_LIMIT_S = 0.1

# Each leaves processes behind in its own way, says "ready", and goes on.
_SHAPES = {
    "one child": "sleep 1000 & echo ready; wait",
    "setsid": "setsid sh -c '(sleep 1000 &)' & setsid sleep 1000 & echo ready; wait; sleep 1000",
    "double fork": "( ( sleep 1000 & ) & ); ( (sh -c 'sleep 1000' &) ); echo ready; exec sleep 1000",
    "stopped": "sh -c 'kill -STOP $$; sleep 1000' & sleep 1000 & kill -STOP $!; echo ready; wait; sleep 1000",
    "ignoring": "trap '' TERM HUP INT; (trap '' TERM HUP; sleep 1000) & echo ready; while :; do sleep 1000; done",
    "wide": "i=0; while [ $i -lt 60 ]; do sleep 1000 & i=$((i+1)); done; echo ready; wait",
    "clean environment": "env -i setsid sleep 1000 & env -i sh -c '(sleep 1000 &)'; echo ready; wait; sleep 1000",
}

# Up to 100 processes at a time that do nothing but fork and end; each child takes a session of its own.
_EXECUTED_AMONG_TIMERS = r"""
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>
static void *set_timers(void *unused)
{
	struct itimerval late = {{0, 0}, {100000, 0}};
	(void)unused;
	for (;;)
		setitimer(ITIMER_REAL, &late, NULL);
	return NULL;
}
int main(int argc, char **argv)
{
	if (argc > 1)
		_exit(0);
	for (int i = 0; i < 300; i++) {
		pid_t pid = fork();
		int status;
		if (pid == 0) {
			pthread_t thread;
			for (int k = 0; k < 4; k++)
				pthread_create(&thread, NULL, set_timers, NULL);
			usleep(2000 + (unsigned)(i * 37 % 3000));
			execl(argv[0], argv[0], "executed", (char *)NULL);
			_exit(1);
		}
		if (waitpid(pid, &status, 0) != pid || status != 0)
			return 1;
	}
	puts("done");
	return 0;
}
"""

# A file is written to without a pause, 2 GB a call, while other threads want what waits for its lock, come what may.
_LONG_WRITES = r"""
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/xattr.h>
#include <unistd.h>
static int fd;
static void *change(void *unused)
{
	(void)unused;
	for (;;)
		fsetxattr(fd, "user.x", "y", 1, 0);
	return NULL;
}
int main(void)
{
	size_t size = 0x7ffff000;
	char *zeroes = mmap(NULL, size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	pthread_t thread;
	fd = open("big", O_RDWR | O_CREAT, 0600);
	if (fd < 0 || zeroes == MAP_FAILED)
		return 1;
	for (int k = 0; k < 4; k++)
		pthread_create(&thread, NULL, change, NULL);
	puts("ready");
	fflush(stdout);
	while (pwrite(fd, zeroes, size, 0) > 0)
		;
	return 1;
}
"""


def init_of(supervisor: int) -> int:
    """The child that holds the leash; its end is that of everything, because it reaps all before."""
    for pid in _children(supervisor):
        with open(f"/proc/{pid}/comm") as file:
            if file.read() == "sandlockd-init\n":
                return pid
    raise LookupError("there is no init")


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/children") as file:
            found += [int(word) for word in file.read().split()]
    return found


@pytest.mark.alone
@pytest.mark.parametrize("shape", list(_SHAPES))
@pytest.mark.parametrize("stop_first", [False, True], ids=["running", "supervisor stopped"])
def test_killing_sandlockd_leaves_no_process_after_a_tenth_of_a_second(
    runner: Runner, shape: str, stop_first: bool, measured: Callable[[str, object], None]
) -> None:
    runner.may_leave_temporary = True
    with runner.started(runner.command_line(["sh", "-c", _SHAPES[shape]])) as process:
        assert process.stdout is not None
        line_of(process.stdout.fileno())
        if shape == "stopped":
            until(lambda: sum(s.state == "T" for s in marked(runner.marker)) == 2, "two stopped processes")
        # init and the program at least
        took_s = _end_by_a_kill_s(runner, process, at_least=2, stop_first=stop_first)
    measured("kill_latency_ms", round(took_s * 1000, 2))
    assert took_s < KILL_LIMIT_S


def _end_by_a_kill_s(
    runner: Runner, process: subprocess.Popen[bytes], *, at_least: int, stop_first: bool
) -> float:
    """sandlockd is killed, stopped or not. Until all others, so many at least, are dead; then nobody is left."""
    with pidfds_of(runner.marker, but=process.pid) as pidfds:
        assert len(pidfds) >= at_least
        if stop_first:
            process.send_signal(signal.SIGSTOP)
        process.kill()
        took_s = wait_dead(pidfds)
    assert marked(runner.marker) == []
    return took_s


@pytest.mark.alone
@pytest.mark.parametrize("stop_first", [False, True], ids=["running", "supervisor stopped"])
def test_killing_sandlockd_ends_who_is_held(
    runner: Runner, stop_first: bool, measured: Callable[[str, object], None]
) -> None:
    """By tracing, for limits.cpu without a cgroup. With so small a share they are held for seconds."""
    runner.with_cgroups = False
    runner.may_leave_temporary = True
    policy = '[filesystem]\nbase = true\n[limits]\ncpu = "1%"\n'
    loop = "while :; do :; done"
    script = f"{loop} & {loop} & (sleep 1000 &); echo ready; {loop}"
    with runner.started(runner.command_line(["sh", "-c", script], policy=policy)) as process:
        assert process.stdout is not None
        line_of(process.stdout.fileno())
        until(lambda: sum(s.state == "t" for s in marked(runner.marker)) == 3, "three that are held")
        took_s = _end_by_a_kill_s(runner, process, at_least=5, stop_first=stop_first)
    measured("kill_latency_ms", round(took_s * 1000, 2))
    assert took_s < KILL_LIMIT_S


@pytest.mark.alone
def test_a_supervisor_that_cannot_die_yet_leaves_nothing_either(
    runner: Runner, measured: Callable[[str, object], None]
) -> None:
    """Threads of it that wait for a file keep its descriptors, the leash among them: 8 s were measured."""
    runner.may_leave_temporary = True
    program = runner.compiler.compile(_LONG_WRITES, "-pthread")
    options = ["--workdir", runner.place.work, "--on-exit", "discard"]
    with runner.started(runner.command_line([program], options=options)) as process:
        assert process.stdout is not None
        line_of(process.stdout.fileno())
        tasks = Path(f"/proc/{process.pid}/task")
        until(
            lambda: "D" in [_state_of(task) for task in tasks.iterdir()], "a thread that waits for the file"
        )
        with pidfds_of(runner.marker, but=process.pid) as pidfds:
            process.kill()
            took_s = wait_dead(pidfds)
    measured("kill_latency_ms", round(took_s * 1000, 2))
    assert took_s < 3 * KILL_LIMIT_S  # gigabytes are freed


def _state_of(process: Path) -> str:
    return (process / "stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.one_user
def test_init_does_not_wait_for_a_process_that_executes_and_waits_for_it(runner: Runner) -> None:
    program = runner.compiler.compile(_EXECUTED_AMONG_TIMERS)
    runner.both([program])


@pytest.mark.parametrize("shape", [shape for shape in _SHAPES if shape not in ("ignoring",)])
def test_the_programs_end_is_the_end_of_its_descendants(runner: Runner, shape: str) -> None:
    script = _SHAPES[shape].partition("echo ready")[0] + "exit 3"
    ended = runner.sandboxed(["sh", "-c", script])
    assert marked(runner.marker) == []
    assert ended.returncode == 3
    assert ended.reason == "exited"


def test_descendants_do_not_delay_the_end(runner: Runner) -> None:
    """They hold the pipe: it must end, too."""
    start = time.monotonic()
    ended = runner.sandboxed(["sh", "-c", "setsid sleep 1000 & echo out; exit 0"])
    assert ended.stdout == b"out\n"
    assert time.monotonic() - start < 5


def test_exit_of_the_program_from_another_thread(runner: Runner) -> None:
    text = "import os, threading; t = threading.Thread(target=lambda: os._exit(5)); t.start(); t.join()"
    runner.both([system_python(), "-c", text])


def test_a_signal_as_of_the_supervisors_death_ends_nothing_while_it_lives(runner: Runner) -> None:
    with runner.started(runner.command_line(["sh", "-c", "echo ready; sleep 0.5"])) as process:
        assert process.stdout is not None
        line_of(process.stdout.fileno())
        for _ in range(5):
            os.kill(init_of(process.pid), signal.SIGUSR1)
            time.sleep(0.02)
        assert process.wait(timeout=10) == 0


@pytest.mark.parametrize("stopped", [False, True])
def test_killing_init_from_outside_ends_everything_and_is_an_error_of_the_sandbox(
    runner: Runner, stopped: bool
) -> None:
    script = "setsid sh -c '(sleep 1000 &)'; sleep 1000 & echo ready; wait"
    with runner.started(runner.command_line(["sh", "-c", script])) as process:
        assert process.stdout is not None and process.stderr is not None
        line_of(process.stdout.fileno())
        init = init_of(process.pid)
        with pidfds_of(runner.marker, but=process.pid) as pidfds:
            if stopped:
                os.kill(init, signal.SIGSTOP)
            os.kill(init, signal.SIGKILL)
            took_s = wait_dead(pidfds)
        assert process.wait(timeout=10) == 125
        assert marked(runner.marker) == []
        assert process.stderr.read().startswith(b"sandlockd: init of the sandbox was killed")
    status = runner.status()
    assert status is not None and status["reason"] == "sandbox_error"
    assert took_s < 1


def test_children_that_sandlockd_had_before_outlive_its_init(runner: Runner) -> None:
    """A shell that executes sandlockd leaves it some. With a tree there is one of our own, which ends by itself."""
    with_child = ["sh", "-c", 'sleep 60 >/dev/null 2>&1 & exec "$@"', "sh"]
    program = ["sh", "-c", "echo ready; sleep 60"]
    line = runner.command_line(program, options=["--workdir", runner.work], wrap=with_child)
    with runner.started(line) as process:
        assert process.stdout is not None
        line_of(process.stdout.fileno())
        children = [pid for pid in _children(process.pid) if _name_of(pid) == "sleep"]
        assert len(children) == 1
        os.kill(init_of(process.pid), signal.SIGKILL)
        assert process.wait(10) == 125
        assert _name_of(children[0]) == "sleep"
        os.kill(children[0], signal.SIGKILL)


def _name_of(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().rstrip()


def test_the_program_cannot_kill_init_or_sandlockd(runner: Runner) -> None:
    script = "kill -9 $PPID; kill -9 -1; kill -9 $(ps -o ppid= -p $PPID); echo still here"
    ended = runner.sandboxed(["bash", "-c", script])
    assert ended.returncode in (0, 137)  # kill(-1) may reach bash itself
    assert ended.reason in ("exited", "signaled")


def test_killing_the_program_by_its_number_is_its_signal(runner: Runner) -> None:
    with runner.started(runner.command_line(["sh", "-c", "sleep 1000 & echo $$; wait"])) as process:
        assert process.stdout is not None
        os.kill(int(line_of(process.stdout.fileno())), signal.SIGKILL)
        assert process.wait(timeout=10) == 137
    status = runner.status()
    assert status is not None
    assert (status["reason"], status["signal"]) == ("signaled", signal.SIGKILL)
