"""`limits.cpu`: that nobody sees how it is kept, and that everything else goes on beside it."""

from __future__ import annotations

import os

import pytest
from harness.running import Runner, require
from harness.terminal import open_terminal
from harness.waiting import line_of

_LIMITS = '[filesystem]\nbase = true\n[limits]\ncpu = "{}%"\n'
_LOOP = "while :; do :; done"

# A shell tells of each of its jobs that stops or goes on.
_JOBS = """
set -m
sh -c 'i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done' &
wait $!
echo $?
jobs
"""


def test_a_shell_with_job_control_sees_no_stop(runner: Runner) -> None:
    ended = runner.both(["sh", "-c", _JOBS], policy=_LIMITS.format(20))
    assert b"topped" not in ended.stdout


def test_a_pipeline_gives_what_it_gives_bare(runner: Runner) -> None:
    script = "head -c 300000 /dev/zero | od -An -tx1 | cksum; seq 3000 | sort -R | sort -n | cksum"
    runner.both(["sh", "-c", script], policy=_LIMITS.format(20))


@pytest.mark.one_user
def test_control_z_stops_who_is_held_and_it_goes_on(runner: Runner) -> None:
    require("bash")
    words = ["sh", "-c", f"trap 'echo en''ded; exit 3' TERM; echo be''gun; {_LOOP}"]
    line = runner.command_line(words, policy=_LIMITS.format(5), options=["--quiet"])
    environment = runner.environment({"PS1": "[prompt]", "TERM": "dumb"})
    shell = ["/bin/bash", "--norc", "--noprofile", "-i"]
    with open_terminal(
        shell, user=runner.place.user, cwd=str(runner.work), environment=environment
    ) as terminal:
        terminal.expect(rb"\[prompt\]")
        terminal.send(
            " ".join(
                f"'{os.fsdecode(word)}'" if " " not in str(word) else f'"{word}"' for word in line
            ).encode()
            + b"\r"
        )
        terminal.expect(b"\nbegun")
        for _ in range(2):
            terminal.send(b"\x1a")
            terminal.expect(b"Stopped")
            terminal.bring_to_front()
        terminal.send(b"\x1a")
        terminal.expect(b"Stopped")
        terminal.send(b"kill %1; fg; echo status=$?\r")
        terminal.expect(b"\nended")
        terminal.expect(b"status=")
        terminal.send(b"exit\r")


@pytest.mark.one_user
def test_who_is_held_dies_with_a_killed_sandlockd(runner: Runner) -> None:
    """The end of the pipe is the end of the last of them."""
    script = f"echo begun; for i in 1 2 3; do ({_LOOP}) & done; {_LOOP}"
    line = runner.command_line(["sh", "-c", script], policy=_LIMITS.format(1))
    with runner.started(line) as process:
        assert process.stdout is not None
        assert line_of(process.stdout.fileno()) == b"begun\n"
        runner.may_leave_temporary = True
        process.kill()
        assert process.stdout.read() == b""


@pytest.mark.one_user
def test_whoever_is_held_ends_when_it_is_asked_to(runner: Runner) -> None:
    script = f"trap 'echo asked; exit 4' TERM; {_LOOP}"
    ended = runner.sandboxed(
        ["sh", "-c", script], policy=_LIMITS.format(10), options=["--timeout", "300ms", "--quiet"]
    )
    assert (ended.returncode, ended.reason, ended.stdout) == (124, "timeout", b"asked\n")


@pytest.mark.one_user
def test_time_of_processors_is_counted_beside_it(runner: Runner) -> None:
    policy = _LIMITS.format(30) + 'cpu_time = "100ms"\n'
    ended = runner.sandboxed(["sh", "-c", _LOOP], policy=policy)
    assert ended.status is not None
    assert (ended.returncode, ended.status["rule"]) == (137, "limits.cpu_time")


@pytest.mark.one_user
def test_processes_are_counted_beside_it(runner: Runner) -> None:
    """Forks ask sandlockd, and their callers are held like all."""
    script = "i=0; while [ $i -lt 150 ]; do (exit 0) & wait $!; i=$((i+1)); done; echo $i"
    ended = runner.sandboxed(["sh", "-c", script], policy=_LIMITS.format(30) + "processes = 3\n", timeout=30)
    assert (ended.returncode, ended.stdout, ended.refusals) == (0, b"150\n", []), ended.stderr


@pytest.mark.one_user
def test_timers_and_restarted_calls_go_on_beside_it(runner: Runner) -> None:
    """Whose signals would interrupt calls is traced by init all the time, and so is held where it is."""
    script = """
import os, signal
ticks = 0
def tick(*_):
    global ticks
    ticks += 1
signal.signal(signal.SIGALRM, tick)
signal.siginterrupt(signal.SIGALRM, True)
signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
os.mkdir("made")
for _ in range(300):
    os.chdir("made"); os.chdir(".."); os.stat("made"); sum(range(2000))
signal.setitimer(signal.ITIMER_REAL, 0)
print(ticks > 3)
"""
    ended = runner.sandboxed(
        ["python3", "-S", "-c", script],
        policy=_LIMITS.format(20),
        options=["--workdir", str(runner.work), "--on-exit", "discard", "--quiet"],
    )
    assert (ended.returncode, ended.stdout) == (0, b"True\n"), ended.stderr
