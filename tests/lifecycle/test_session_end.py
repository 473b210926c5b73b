"""A test session that is interrupted, or killed, leaves nothing behind; one that leaves something fails.

Sessions of their own, with the fixtures of this one, and with tests of a few lines.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import booted
from harness.ledger import ledgers
from harness.survivors import MARKER, marked
from harness.waiting import until

_TESTS = Path(__file__).parents[1]
_HEAD = """
import json, os, subprocess, uuid
from pathlib import Path
import pytest
from harness import groups, ledger

def tell(runner, **more):
    user = runner.place.user
    told = {"session": ledger.own().session, "root": str(runner.place.root), "user": user.name, **more}
    path = Path(os.environ["TOLD"], uuid.uuid4().hex)
    path.with_suffix(".new").write_text(json.dumps(told))
    path.with_suffix(".new").rename(path)
"""
# In each worker: a user of its own, a place, a compiled program, a sandbox that does not end by itself.
_ENDLESS = """
def endless(runner):
    runner.compiler.compile("int main(void) { return 0; }")
    script = "echo $$ > started; exec sleep 1000"
    with runner.started(runner.command_line(["sh", "-c", script], options=["--write", runner.work])) as process:
        while not (runner.work / "started").exists() or not (runner.work / "started").read_text():
            pass
        left = []
        if os.geteuid() == 0:  # as if it were a run of root's, which is killed with its init
            (run,) = os.listdir(runner.place.state / "runs")
            left = [place / f"sandlockd-{run}" for place in groups.places()[:1]]
            for group in left:
                group.mkdir()
        tell(runner, groups=[str(group) for group in left])
        process.wait()

@pytest.mark.parametrize("as_user", ["ordinary"], indirect=True)
def test_that_takes_for_ever(runner):
    endless(runner)

@pytest.mark.parametrize("as_user", ["ordinary"], indirect=True)
def test_for_the_other_worker(runner):
    endless(runner)
"""


class _Session:
    def __init__(self, directory: Path, tests: str, workers: int) -> None:
        self.told = directory / "told"
        self.told.mkdir()
        (directory / "test_it.py").write_text(_HEAD + tests)
        line: list[str | Path] = [sys.executable, "-m", "pytest", "-p", "conftest", "-p", "no:cacheprovider"]
        line += [
            "-c",
            _TESTS.parent / "pyproject.toml",
            f"--rootdir={directory}",
            f"--numprocesses={workers}",
        ]
        self.process = subprocess.Popen(
            [*line, directory / "test_it.py"],
            env={**_without_marker(), "PYTHONPATH": str(_TESTS), "TOLD": str(self.told)},
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def wait_for(self, count: int) -> list[dict[str, Any]]:
        """What so many processes of the session have told."""

        def all_told() -> list[dict[str, Any]] | None:
            assert self.process.poll() is None, self.output()
            told = [json.loads(path.read_text()) for path in self.told.iterdir() if not path.suffix]
            return told if len(told) == count else None

        until(all_told, "the tests to begin", limit_s=60)
        return all_told() or []

    def output(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.read().decode(errors="replace")


def _without_marker() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != MARKER and "PYTEST" not in name}


@contextlib.contextmanager
def _session(directory: Path, tests: str, workers: int) -> Iterator[_Session]:
    made = _Session(directory, tests, workers)
    try:
        yield made
    finally:
        made.process.kill()
        made.process.wait()
        assert made.process.stdout is not None
        made.process.stdout.close()


def _left(told: list[dict[str, Any]]) -> list[str]:
    session = told[0]["session"]
    found = [str(one) for one in marked(session)]
    found += [str(ledger.path) for ledger in ledgers() if ledger.session == session]
    found += [one["root"] for one in told if os.path.lexists(one["root"])]
    found += [group for one in told for group in one.get("groups", ()) if os.path.lexists(group)]
    names = {entry.pw_name for entry in pwd.getpwall()}
    return found + [one["user"] for one in told if one["user"] in names and one["user"].startswith("slt")]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_session_that_is_interrupted_leaves_nothing(
    tmp_path: Path, number: signal.Signals, workers: int
) -> None:
    """The first process alone is told, not its group, as by a shell's `kill`."""
    with _session(tmp_path, _ENDLESS, workers) as session:
        told = session.wait_for(max(workers, 1))
        session.process.send_signal(number)
        output = session.output()
        assert session.process.wait(timeout=30) == pytest.ExitCode.INTERRUPTED, output
        assert _left(told) == []
        assert "left behind" not in output


@pytest.mark.parametrize("workers", [0, 2])
def test_what_a_killed_session_left_goes_with_the_next_but_not_what_a_living_one_has(
    tmp_path: Path, workers: int
) -> None:
    for name in ("killed", "living", "next"):
        (tmp_path / name).mkdir()
    with (
        _session(tmp_path / "living", _ENDLESS, workers) as living,
        _session(tmp_path / "killed", _ENDLESS, workers) as killed,
    ):
        lives, left = living.wait_for(max(workers, 1)), killed.wait_for(max(workers, 1))
        killed.process.kill()
        killed.process.wait()
        # Its workers end by themselves when nobody listens to them.
        ours = [ledger for ledger in ledgers() if ledger.session == left[0]["session"]]
        for ledger in ours:
            with contextlib.suppress(ProcessLookupError):
                os.kill(ledger.pid, signal.SIGKILL)
        until(lambda: all(ledger.is_dead for ledger in ledgers() if ledger in ours), "the end of the workers")
        assert {name for one in left for name in (one["root"], *one["groups"])} <= set(_left(left))
        with _session(tmp_path / "next", "def test_nothing(): pass", 0) as after:
            output = after.output()
            assert after.process.wait() == 0, output
        assert _left(left) == []
        assert living.process.poll() is None
        assert all(os.path.isdir(one["root"]) for one in lives)
        assert len(marked(lives[0]["session"])) >= len(lives)
        living.process.send_signal(signal.SIGTERM)
        assert living.process.wait(timeout=30) == pytest.ExitCode.INTERRUPTED
        assert _left(lives) == []


# What a test leaves; only root can leave what comes after the first two. Returns: what a line about it says.
_LEAVING = """
import tempfile
import conftest
from harness import booted, users

conftest.on_its_way_out_s = 0.3  # nothing here is
kept = []

def leave_a_process(runner):
    subprocess.Popen(["sleep", "1000"], start_new_session=True).returncode = 0
    return "(sleep, S)"

def leave_a_directory(runner):
    return f"directory {ledger.make_directory('sandlockd-test-left', ledger.HOME)}"

def leave_a_mount(runner):
    path = ledger.make_directory("sandlockd-test-left", ledger.HOME)
    subprocess.run(["mount", "-t", "tmpfs", "none", path], check=True)
    return f"mount {path}"

def leave_a_user(runner):
    kept.append(users.temporary_user())
    return f"user {kept[0].__enter__().name}"

def leave_a_file_in_shared_memory(runner):
    path = tempfile.mkstemp(dir="/dev/shm")[1]
    os.chown(path, runner.place.user.uid, -1)
    return path

def leave_a_process_of_the_user(runner):
    process = subprocess.Popen(["sleep", "1000"], env={}, **runner.place.user.popen_arguments())
    process.returncode = 0
    return f"process {process.pid} (sleep)"

def leave_a_hierarchy(runner):
    path = ledger.make_hierarchy(booted.hierarchy())
    (path / "below").mkdir()
    return f"hierarchy {path}"

if booted.hierarchy() is None:
    del leave_a_hierarchy

@pytest.mark.parametrize("as_user", ["ordinary"], indirect=True)
@pytest.mark.parametrize("leave", [leave for name, leave in list(globals().items()) if name.startswith("leave_")])
def test_that_leaves(runner, leave):
    if os.geteuid() == 0 or leave in (leave_a_process, leave_a_directory):
        tell(runner, named=leave(runner))
"""
_WAYS_TO_LEAVE = 6 + (booted.hierarchy() is not None) if os.geteuid() == 0 else 2


@pytest.mark.parametrize("workers", [0, 2])
def test_a_session_that_leaves_something_fails_names_it_and_removes_it(tmp_path: Path, workers: int) -> None:
    with _session(tmp_path, _LEAVING, workers) as session:
        output = session.output()
        assert session.process.wait() == pytest.ExitCode.TESTS_FAILED, output
        told = [json.loads(path.read_text()) for path in session.told.iterdir()]
    assert len(told) == _WAYS_TO_LEAVE, output
    assert "left behind" in output
    assert [one["named"] for one in told if one["named"] not in output] == [], output
    assert _left(told) == []
    for kind, _, path in (one["named"].partition(" ") for one in told):
        assert kind not in ("directory", "mount", "hierarchy") or not os.path.lexists(path)
        assert not kind.startswith("/") or not os.path.lexists(kind)
