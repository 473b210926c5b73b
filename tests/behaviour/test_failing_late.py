"""What is imported or opened late can fail late: it is said, without a traceback, the status is 125, the program ended.

The package is copied and a module really taken away; memory and descriptors are really limited.
"""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

import pytest
from harness.interpreter import SANDLOCKCTL, SANDLOCKD
from harness.running import Ended, Runner
from harness.survivors import marked

import sandlockd

_START = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); from sandlockd.cli.{module} import command; command()"
)


def _without(runner: Runner, name: str, module: str, *words: str | Path) -> Ended:
    """A command of a sandlockd that has lost a module."""
    package = runner.place.root / "lib" / "sandlockd"
    shutil.copytree(Path(sandlockd.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / name).unlink()
    runner.place.give(package.parent)
    return runner.run([sys.executable, "-I", "-c", _START.format(module=module), package.parent, *words])


def _require_said(ended: Ended, *words: str) -> None:
    lines = ended.stderr.decode().splitlines()
    assert ended.returncode == 125, ended
    assert len(lines) == 1 and all(word in lines[0] for word in words), ended.stderr


@pytest.mark.parametrize(
    "name",
    [
        "cli/run.py",
        "sandbox/run.py",
        "policy/load.py",
        "launch/filter.py",
        "notify/dispatch.py",
        "handlers/table.py",
    ],
)
def test_a_module_that_is_gone_is_named_and_nothing_runs(runner: Runner, name: str) -> None:
    made = runner.work / "made"
    options = ("--status-file", runner.status_path, "--write", runner.work)
    ended = _without(runner, name, "main", *options, "--", "touch", made)
    _require_said(
        ended, "sandlockd: internal error", name.rpartition("/")[2].removesuffix(".py"), "Install it anew"
    )
    assert not made.exists()
    if name in ("notify/dispatch.py", "handlers/table.py"):  # the others are missed before there is a run
        status = runner.status()
        assert (
            status is not None and status["reason"] == "sandbox_error" and "internal error" in status["error"]
        )


def test_the_log_of_a_run_that_nobody_foresaw_to_fail_says_that_it_never_started(runner: Runner) -> None:
    ended = _without(runner, "sandbox/trees.py", "main", "--workdir", runner.work, "--", "true")
    _require_said(ended, "sandbox.trees")
    end = runner.audit()[-1]
    assert (end["kind"], end["reason"], end["has_run"], end["exit_status"]) == (
        "end",
        "sandbox_error",
        False,
        125,
    )
    assert "sandbox.trees" in end["error"]
    assert b"it was not started, exit status 125" in runner.sandlockd("explain").stdout


def test_what_fails_in_disposing_is_added_to_the_status_of_the_run(runner: Runner) -> None:
    options = ("--status-file", runner.status_path, "--workdir", runner.work)
    ended = _without(
        runner, "review/changelist.py", "main", *options, "--", "sh", "-c", "cat /etc/shadow; exit 7"
    )
    assert ended.returncode == 7 and b"review.changelist" in ended.stderr
    status = runner.status()
    assert status is not None and "review.changelist" in status["error"]
    assert (status["reason"], status["exit_code"], status["denials"]) == ("exited", 7, 1)
    assert status["run"] == runner.audit()[0]["run"] and status["usage"]["wall"] > 0


def test_a_program_that_succeeded_does_not_succeed_when_disposing_fails(runner: Runner) -> None:
    options = ("--status-file", runner.status_path, "--workdir", runner.work)
    ended = _without(runner, "review/changelist.py", "main", *options, "--", "true")
    _require_said(ended, "review.changelist")
    status = runner.status()
    assert status is not None and "review.changelist" in status["error"]
    assert (status["reason"], status["exit_code"]) == ("exited", 0)


@pytest.mark.one_user
def test_a_module_that_is_missed_while_the_program_runs_ends_it(runner: Runner) -> None:
    began = time.monotonic()
    ended = _without(runner, "notify/loop.py", "main", "--", "sleep", "60")
    _require_said(ended, "notify.loop")
    assert time.monotonic() - began < 20
    assert marked(runner.marker) == []
    end = runner.audit()[-1]
    assert (end["reason"], end["has_run"]) == ("sandbox_error", True) and "notify.loop" in end["error"]


@pytest.mark.one_user
def test_the_changes_of_a_program_that_is_ended_so_are_kept(runner: Runner) -> None:
    command = ("sh", "-c", "echo 1 > new; sleep 60")
    ended = _without(runner, "notify/loop.py", "main", "--workdir", runner.work, "--", *command)
    first, second = ended.stderr.decode().splitlines()
    assert ended.returncode == 125 and "kept: sandlockctl diff" in first and "notify.loop" in second
    assert b"new" in runner.run([SANDLOCKCTL, "diff", first.split()[-1]]).stdout


def test_a_storage_of_a_program_that_never_ran_is_not_kept(runner: Runner) -> None:
    ended = _without(runner, "handlers/merged/table.py", "main", "--workdir", runner.work, "--", "true")
    _require_said(ended, "handlers.merged.table")
    assert runner.run([SANDLOCKCTL, "ps"]).stdout == b""


def test_sandlockctl_and_the_other_verbs_say_it_too(runner: Runner) -> None:
    _require_said(
        _without(runner, "review/kept.py", "control", "ps"), "sandlockctl: internal error", "review.kept"
    )


@pytest.mark.one_user
def test_with_too_few_descriptors_it_is_said_and_no_storage_stays(runner: Runner) -> None:
    outcomes = set()
    for limit in range(7, 40):
        limited = ["sh", "-c", f'ulimit -n {limit}; exec "$@"', "sh"]
        ended = runner.run([*limited, SANDLOCKD, "--quiet", "--workdir", runner.work, "--", "true"])
        assert ended.returncode in (0, 125) and b"Traceback" not in ended.stderr, (limit, ended)
        if ended.returncode == 125:
            assert b"oo many open files" in ended.stderr or b"descriptors" in ended.stderr, (limit, ended)
        outcomes.add(ended.returncode)
    assert outcomes == {0, 125}


@pytest.mark.one_user
def test_with_too_little_memory_it_is_said(runner: Runner) -> None:
    outcomes = set()
    imported = [sys.executable, "-c", "import sandlockd.cli.main, sandlockd.cli.run"]
    for limit_kb in (*range(17_000, 24_000, 250), 30_000, 40_000):
        limited = ["sh", "-c", f'ulimit -v {limit_kb}; exec "$@"', "sh"]
        if runner.run(["timeout", "5", *limited, *imported]).returncode != 0:
            continue  # Python itself, which may also hang, where it finds no memory for an import
        ended = runner.run([*limited, SANDLOCKD, "--quiet", "--workdir", runner.work, "--", "true"])
        assert ended.returncode in (0, 125) and b"Traceback" not in ended.stderr, (limit_kb, ended)
        outcomes.add(ended.returncode)
    assert 0 in outcomes
