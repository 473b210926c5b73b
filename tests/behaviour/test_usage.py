"""`usage` in the status file: what a run used, and how long its calls waited for their answer."""

from __future__ import annotations

from typing import Any

from harness.running import Runner, system_python

MEGA = 1 << 20
_WRITES = "head -c 3000000 /dev/zero > file; (head -c 2000000 /dev/zero | cat > /dev/null); sync file"


def _usage(runner: Runner, *command: str, **more: Any) -> dict[str, Any]:
    status = runner.sandboxed(command, **more).status
    assert status is not None
    return dict(status["usage"])


def test_times_are_told_apart_and_add_up(runner: Runner) -> None:
    usage = _usage(runner, "sh", "-c", "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done")
    assert usage["user"] > 0 and usage["system"] >= 0
    assert abs(usage["cpu"] - usage["user"] - usage["system"]) < 1e-5


def test_what_all_processes_wrote_is_counted(runner: Runner) -> None:
    """Into the file, into the pipe, and from it to nowhere."""
    usage = _usage(runner, "sh", "-c", _WRITES, options=["--write", str(runner.work)])
    assert 7_000_000 <= usage["written"] < 7_100_000
    assert usage["written_to_storage"] >= 0


def test_what_is_copied_because_it_is_changed_is_counted(runner: Runner) -> None:
    for name in ("changed", "read"):
        (runner.work / name).write_bytes(b"x" * 300_000)
        runner.place.give(runner.work / name)
    script = "echo y >> changed; cat read > /dev/null; echo new > made"
    usage = _usage(
        runner, "sh", "-c", script, options=["--workdir", str(runner.work), "--on-exit", "discard"]
    )
    assert usage["copied_up"] == 300_000
    assert _usage(runner, "true")["copied_up"] is None


def test_nothing_written_is_nothing(runner: Runner) -> None:
    usage = _usage(runner, "true")
    assert (usage["written"], usage["written_to_storage"]) == (0, 0)


_OPENS = """
import os
for _ in range(200):
    os.close(os.open("/proc/self/status", os.O_RDONLY))
    os.close(os.open("/etc/hostname", os.O_RDONLY))
"""


def test_each_kind_of_call_has_its_times_by_who_answered_it(runner: Runner) -> None:
    usage = _usage(runner, system_python(), "-S", "-c", _OPENS)
    assert usage["calls"]["received"] >= 400
    rows = {(row["call"], row["by"]): row for row in usage["handlers"]}
    assert rows["execve", "c"]["calls"] == 1
    assert rows["openat", "python"]["calls"] >= 200 and rows["openat", "c"]["calls"] >= 200
    for row in rows.values():
        assert 0 < row["p50"] <= row["p99"] < 20
    assert rows["openat", "c"]["p50"] < rows["openat", "python"]["p50"]
    assert sum(row["calls"] for row in rows.values()) <= usage["calls"]["received"]


def test_a_run_that_was_not_started_has_none(runner: Runner) -> None:
    usage = _usage(runner, "/nonexistent")
    assert (usage["calls"], usage["handlers"], usage["written"]) == ({}, [], None)
