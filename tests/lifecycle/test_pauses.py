"""A sandbox that is paused stands still as a whole, and nothing in it sees that it did."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest
from harness.pausing import Pausable, pausable
from harness.running import Runner
from harness.survivors import marked
from harness.waiting import until, wait_dead

_STILL_S = 0.3
_POLICY = "[filesystem]\nbase = true\n"
_TREE = '[filesystem]\nbase = true\nworkdir = "{}"\non_exit = "discard"\non_error = "discard"\n'
_LOOP = "while :; do echo x; done"

_MOVING = {
    "one": _LOOP,
    "forks": "while :; do (echo x); done & while :; do (echo y); done & while :; do (echo z); done",
    "programs": "while :; do /bin/echo x; done",
    "naps": "while :; do sleep 0.005; echo x; done",
    "pipeline": "while :; do echo x; done | while read x; do echo $x; done | while read x; do echo $x; done",
    "trapped": "while :; do read x < /proc/self/comm; echo $x; done",
}


@pytest.mark.parametrize("moving", _MOVING)
def test_whoever_runs_stands_still_and_goes_on(runner: Runner, moving: str) -> None:
    with pausable(runner, ["sh", "-c", _MOVING[moving]]) as sandbox:
        sandbox.goes_on()
        sandbox.pause()
        assert sandbox.is_still_for(_STILL_S)
        assert sandbox.order("resume") == {"is_paused": False}
        sandbox.goes_on()


@pytest.mark.one_user
def test_a_share_of_the_processors_is_kept_beside_it(runner: Runner) -> None:
    with pausable(runner, ["sh", "-c", _LOOP], _POLICY + '[limits]\ncpu = "20%"\n') as sandbox:
        for _ in range(2):
            sandbox.goes_on()
            sandbox.pause()
            assert sandbox.is_still_for(0.1)
            sandbox.order("resume")
        sandbox.goes_on()


@pytest.mark.one_user
def test_pausing_twice_is_pausing_once(runner: Runner) -> None:
    with pausable(runner, ["sh", "-c", _LOOP]) as sandbox:
        assert sandbox.order("resume") == {"is_paused": False}
        sandbox.goes_on()
        sandbox.pause()
        sandbox.pause()
        assert sandbox.order("resume") == {"is_paused": False}
        sandbox.goes_on()
        assert sandbox.order("resume") == {"is_paused": False}
        sandbox.goes_on()


_RESULTS = {
    "jobs": "set -m; sh -c 'i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done' & wait $!; echo $?; jobs",
    "pipeline": "for i in 1 2 3; do seq 9000 | sort -R | sort -n | cksum; done",
    "forks": "i=0; while [ $i -lt 200 ]; do (exit 3) || i=$((i+1)); done; echo $i",
    "reads": "for i in 1 2; do head -c 600000 /dev/zero | od -An -tx1 -v | cksum; done",
}


@pytest.mark.parametrize("command", _RESULTS)
def test_two_hundred_pauses_change_no_result(runner: Runner, command: str) -> None:
    line = ["sh", "-c", _RESULTS[command]]
    bare = runner.bare(line)
    with pausable(runner, line) as sandbox:
        sandbox.order("flicker", 200)
        status = sandbox.status()
    assert (status["exit_code"], status["denials"]) == (bare.returncode, 0)
    assert sandbox.output.read_bytes() == bare.stdout


@pytest.mark.one_user
def test_timers_and_restarted_calls_go_on_beside_it(runner: Runner) -> None:
    """Whose signals would interrupt calls is traced by init all the time; and whose call is another one is, too."""
    script = """
import os, signal
ticks = 0
def tick(*_):
    global ticks
    ticks += 1
os.mkdir("made")
for turn in range(600):
    if turn == 300:
        signal.signal(signal.SIGALRM, tick)
        signal.siginterrupt(signal.SIGALRM, True)
        signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
    os.chdir("made"); os.chdir(".."); os.stat("made"); sum(range(2000))
signal.setitimer(signal.ITIMER_REAL, 0)
print(ticks > 3)
"""
    line = ["python3", "-S", "-c", script]
    with pausable(runner, line, _TREE.format(runner.work)) as sandbox:
        sandbox.order("flicker", 200)
        status = sandbox.status()
    assert (status["exit_code"], sandbox.output.read_bytes()) == (0, b"True\n"), status


@pytest.mark.one_user
def test_who_waits_in_a_served_call_is_held_when_it_is_answered(runner: Runner) -> None:
    """With a hole in the grant the supervisor opens the FIFO, and waits for its other end."""
    os.mkfifo(runner.work / "fifo")
    runner.place.give(runner.work / "fifo")
    script = f"echo begun; exec 3< fifo; {_LOOP}"
    policy = f'{_POLICY}read = ["{runner.work}"]\ndeny = ["{runner.work}/denied"]\n'
    with pausable(runner, ["sh", "-c", script], policy) as sandbox:
        sandbox.begins()
        sandbox.pause()
        fd = os.open(runner.work / "fifo", os.O_RDWR)
        try:
            until(lambda: sandbox.is_still_for(0.1), "it stands still")
            sandbox.order("resume")
            sandbox.goes_on()
        finally:
            os.close(fd)


@pytest.mark.one_user
def test_who_waits_for_input_is_held_when_it_comes(
    runner: Runner, measured: Callable[[str, object], None]
) -> None:
    script = """
import sys, time
print("begun", flush=True)
sys.stdin.readline()
began = time.monotonic()
while True:
    print(time.monotonic() - began, flush=True)
"""
    with pausable(runner, ["python3", "-S", "-c", script]) as sandbox:
        sandbox.begins()
        sandbox.pause()
        sandbox.order("write", "x\n")
        until(lambda: sandbox.output.read_text().count("\n") > 1, "it wakes")
        until(lambda: sandbox.is_still_for(0.05), "it stands still")
        assert sandbox.is_still_for(0.1)
        measured("ran_ms", float(sandbox.output.read_text().splitlines()[-1]) * 1000)
        sandbox.order("resume")
        sandbox.goes_on()


@pytest.mark.one_user
def test_signals_come_when_it_goes_on(runner: Runner) -> None:
    script = "trap 'echo heard' USR1; echo begun; while :; do sleep 0.01; done"
    with pausable(runner, ["sh", "-c", script]) as sandbox:
        sandbox.begins()
        sandbox.pause()
        sandbox.order("signal", signal.SIGUSR1)
        assert sandbox.is_still_for(_STILL_S)
        sandbox.order("resume")
        until(lambda: sandbox.output.read_text() == "begun\nheard\n", "it hears")


# ---- the end


def _paused(sandbox: Pausable) -> None:
    sandbox.goes_on()
    sandbox.pause()


def test_a_kill_ends_who_is_paused(runner: Runner) -> None:
    with pausable(runner, ["sh", "-c", _MOVING["forks"]]) as sandbox:
        _paused(sandbox)
        assert sandbox.order("kill")
        status = sandbox.status()
    assert (status["signal"], status["rule"]) == (signal.SIGKILL, "test")


@pytest.mark.one_user
def test_who_is_asked_to_end_goes_on_for_it(runner: Runner) -> None:
    with pausable(runner, ["sh", "-c", f"trap 'echo asked; exit 3' TERM; {_LOOP}"]) as sandbox:
        _paused(sandbox)
        assert sandbox.order("stop") == {"is_paused": False}
        assert (sandbox.status()["exit_code"], sandbox.output.read_text()[-6:]) == (3, "asked\n")


@pytest.mark.one_user
def test_a_timeout_ends_who_is_paused(runner: Runner) -> None:
    policy = _POLICY + '[limits]\ntimeout = "400ms"\n'
    with pausable(runner, ["sh", "-c", f"trap 'echo asked; exit 3' TERM; {_LOOP}"], policy) as sandbox:
        _paused(sandbox)
        status = sandbox.status()
    assert (status["reason"], status["rule"], sandbox.output.read_text()[-6:]) == (
        "timeout",
        "limits.timeout",
        "asked\n",
    )


def test_nobody_outlives_a_killed_supervisor(runner: Runner, measured: Callable[[str, object], None]) -> None:
    with pausable(runner, ["sh", "-c", f"(setsid sh -c '{_LOOP}' &); sleep 100 & {_LOOP}"]) as sandbox:
        _paused(sandbox)
        pidfds = [os.pidfd_open(one.pid) for one in marked(runner.marker)]
        assert len(pidfds) >= 5
        runner.may_leave_temporary = True
        began = time.monotonic()
        sandbox.process.kill()
        wait_dead(pidfds)
        measured("all_gone_after_ms", (time.monotonic() - began) * 1000)
        for fd in pidfds:
            os.close(fd)


# ---- who cannot be paused


@pytest.mark.one_user
def test_a_sandbox_that_may_trace_says_that_it_cannot_be_paused(runner: Runner) -> None:
    with pausable(runner, ["sh", "-c", _LOOP], _POLICY + '[syscalls]\nallow = ["ptrace"]\n') as sandbox:
        told = sandbox.order("pause")
        assert not told["is_paused"] and "gives ptrace to the program" in told["cannot"]
        sandbox.goes_on()


_HIDDEN = r"""
#include <sys/prctl.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	char byte;

	if (argc > 1 && (write(1, "x\n", 2) != 2 || read(0, &byte, 1) != 1))
		return 1;
	prctl(PR_SET_DUMPABLE, 0);
	if (write(1, "x\n", 2) != 2)
		return 1;
	for (;;)
		;
}
"""


@pytest.mark.parametrize("as_user", ["ordinary"], indirect=True)
def test_who_hides_its_memory_cannot_be_paused(runner: Runner) -> None:
    program = runner.compiler.compile(_HIDDEN)
    policy = f'{_POLICY}read = ["{program.parent}"]\n[syscalls]\nallow = ["dumpable"]\n'
    with pausable(runner, [program], policy) as sandbox:
        sandbox.begins()
        told = sandbox.order("pause")
        assert not told["is_paused"] and "cannot be held" in told["cannot"]
    with pausable(runner, [program, "later"], policy) as sandbox:
        sandbox.begins()
        sandbox.pause()
        sandbox.order("write", "x")  # and it has a moment for it
        status = sandbox.status()
    assert (status["reason"], status["signal"], status["rule"]) == ("killed", signal.SIGKILL, "pause")
