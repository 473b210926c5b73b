"""`limits.timeout` and `limits.cpu_time`: how a run ends by them, and that nothing else changes."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Sequence

import pytest
from harness.running import Argument, Ended, Runner, require
from harness.waiting import line_of

_HINT = "sandlockd: limits.timeout: everything was ended: it had not come to an end within {} s\n"


def _timed_out(ended: Ended) -> bool:
    assert ended.status is not None
    assert ended.status["rule"] == ("limits.timeout" if ended.reason == "timeout" else None)
    return (ended.returncode, ended.reason) == (124, "timeout")


def _run(runner: Runner, timeout: str, command: Sequence[Argument], *options: Argument) -> Ended:
    return runner.sandboxed(command, options=["--timeout", timeout, *options])


def test_a_program_that_goes_on_is_ended_as_timeout_does_it(runner: Runner) -> None:
    require("timeout")
    assert runner.bare(["timeout", "0.2", "sleep", "1000"]).returncode == 124
    ended = _run(runner, "200ms", ["sleep", "1000"])
    assert _timed_out(ended)
    assert ended.status is not None
    assert (ended.status["exit_code"], ended.status["signal"]) == (None, signal.SIGTERM)
    assert ended.stderr.decode() == _HINT.format("0.2")


def test_the_reason_is_on_record_and_explained(runner: Runner) -> None:
    ended = _run(runner, "200ms", ["sleep", "1000"], "--quiet")
    end, note = ended.audit[-1], ended.audit[-2]
    assert (end["reason"], end["rule"], end["exit_status"]) == ("timeout", "limits.timeout", 124)
    assert (note["kind"], note["subject"]) == ("note", "limits.timeout")
    explained = runner.sandlockd("explain", "--last").stdout.decode()
    assert "timeout by signal 15 (limits.timeout)" in explained


@pytest.mark.one_user
def test_the_clock_of_a_long_run_is_the_same_one(runner: Runner) -> None:
    """Served by the loop, which a short run never has."""
    ended = _run(runner, "2300ms", ["sh", "-c", "while :; do : < /proc/self/status; done"])
    assert _timed_out(ended) and ended.status is not None
    assert ended.status["usage"]["wall"] >= 2.3


@pytest.mark.one_user
def test_a_program_may_clean_up_when_it_is_asked_to_end(runner: Runner) -> None:
    """What it says then is told, and is no success."""
    script = "trap 'echo cleaned; exit 0' TERM; while :; do sleep 0.01; done"
    ended = _run(runner, "1s", ["sh", "-c", script])
    assert _timed_out(ended) and ended.stdout == b"cleaned\n"
    assert ended.status is not None
    assert (ended.status["exit_code"], ended.status["signal"]) == (0, None)


_ALL_ARE_ASKED = """
(trap 'echo child; exit' TERM; while :; do sleep 0.01; done) &
setsid sh -c 'trap "echo session; exit" TERM; while :; do sleep 0.01; done' &
trap 'wait; exit 3' TERM
while :; do sleep 0.01; done
"""


@pytest.mark.one_user
def test_every_process_is_asked_and_not_only_the_first(runner: Runner) -> None:
    require("setsid")
    ended = _run(runner, "1s", ["sh", "-c", _ALL_ARE_ASKED])
    assert _timed_out(ended) and ended.status is not None
    assert sorted(ended.stdout.split()) == [b"child", b"session"]
    assert ended.status["exit_code"] == 3


@pytest.mark.one_user
def test_a_stopped_program_is_ended_at_its_time_too(runner: Runner) -> None:
    """The clock goes on, and the program goes on when it is over, to be able to end."""
    ended = _run(runner, "1s", ["sh", "-c", "trap 'echo awake; exit 1' TERM; kill -STOP $$; sleep 1000"])
    assert _timed_out(ended) and ended.stdout == b"awake\n"


@pytest.mark.one_user
def test_a_stopped_sandlockd_keeps_nobody_alive(runner: Runner) -> None:
    line = runner.command_line(["sh", "-c", "echo ready; sleep 1000"], options=["--timeout", "1s"])
    with runner.started(line) as process:
        assert process.stdout is not None
        line_of(process.stdout.fileno())
        os.kill(process.pid, signal.SIGSTOP)
        assert process.stdout.read() == b""  # nobody has it open any more
        os.kill(process.pid, signal.SIGCONT)
        assert process.wait() == 124
    status = runner.status()
    assert status is not None and status["reason"] == "timeout"


@pytest.mark.one_user
def test_who_was_asked_to_end_before_ends_for_that(runner: Runner) -> None:
    script = "trap 'sleep 1.2; exit 7' TERM; echo ready; while :; do sleep 0.01; done"
    line = runner.command_line(["sh", "-c", script], options=["--timeout", "1s"])
    with runner.started(line) as process:
        assert process.stdout is not None
        line_of(process.stdout.fileno())
        process.terminate()
        process.wait()
    status = runner.status()
    assert status is not None
    assert (status["reason"], status["rule"]) == ("killed", None)


def test_a_program_that_is_faster_has_its_own_status(runner: Runner) -> None:
    assert runner.bare(["sh", "-c", "exit 3"]).returncode == 3
    ended = _run(runner, "1m", ["sh", "-c", "exit 3"])
    assert (ended.returncode, ended.reason, ended.stderr) == (3, "exited", b"")


def test_where_both_come_at_once_one_of_them_is_told_and_not_half_of_each(runner: Runner) -> None:
    for _ in range(6):
        ended = _run(runner, "3ms", ["sh", "-c", "exit 3"])
        assert ended.status is not None
        if not _timed_out(ended):
            assert (ended.returncode, ended.reason, ended.status["exit_code"]) == (3, "exited", 3)


@pytest.mark.one_user
def test_what_it_changed_is_disposed_of_as_an_error(runner: Runner) -> None:
    work = runner.place.empty_work()
    script = "echo half > file; sleep 1000"
    ended = _run(runner, "1s", ["sh", "-c", script], "--workdir", work, "--on-exit", "commit")
    assert _timed_out(ended)
    assert list(work.iterdir()) == []
    assert ended.status is not None and ended.status["changes"]["state"] == "discarded"


@pytest.mark.parametrize("limit", ["timeout", "cpu_time"])
def test_a_program_within_its_limits_notices_nothing(runner: Runner, limit: str) -> None:
    script = "i=0; while [ $i -lt 300 ]; do /bin/true; i=$((i+1)); done; ulimit -n; trap; exit 4"
    bare = runner.bare(["sh", "-c", script])
    policy = f'[filesystem]\nbase = true\n[limits]\n{limit} = "100s"\n'
    ended = runner.sandboxed(["sh", "-c", script], policy=policy)
    assert (ended.returncode, ended.stdout, ended.stderr) == (bare.returncode, bare.stdout, bare.stderr)
    assert ended.reason == "exited"


def test_what_processes_used_together_ends_them(runner: Runner) -> None:
    policy = '[filesystem]\nbase = true\n[limits]\ncpu_time = "300ms"\n'
    ended = runner.sandboxed(
        ["sh", "-c", "(while :; do :; done) & (while :; do :; done) & wait"], policy=policy
    )
    assert ended.status is not None
    assert (ended.returncode, ended.reason, ended.status["rule"]) == (137, "killed", "limits.cpu_time")
    assert (ended.status["exit_code"], ended.status["signal"]) == (None, signal.SIGKILL)
    (line,) = ended.stderr.decode().splitlines()
    said = "sandlockd: limits.cpu_time: everything was ended: its processes had used (.*) s of processors together,"
    told = re.fullmatch(said + " and 0.3 s is the limit", line)
    assert told is not None and float(told[1]) >= 0.3, line
    assert ended.audit[-2]["subject"] == "limits.cpu_time"
