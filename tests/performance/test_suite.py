"""The benchmark suite works: it measures every row, compares with bare, and says what fails. Nothing is timed here."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

_RUN = Path(__file__).with_name("run.py")
_NEEDED = ("cc", "make", "git", "bash", "dash", "python3")

# Runs what it is told to, without a sandbox, and something more.
_MEDDLING = """#!/bin/sh
while [ $# -gt 0 ] && [ "$1" != -- ]; do shift; done
[ $# -gt 0 ] || exit 0
shift
"$@"
status=$?
{more}
exit $status
"""

pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, _NEEDED)), reason=f"the suite needs {', '.join(_NEEDED)}"
)


def _suite(tmp_path: Path, *options: str) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """What it said, and its JSON."""
    found = tmp_path / "found.json"
    done = subprocess.run(
        [sys.executable, _RUN, "--quick", "--json", found, *options],
        capture_output=True,
        text=True,
        timeout=300,
    )
    return done, json.loads(found.read_text()) if found.exists() else {}


def _line(table: str, row: str) -> str:
    return next(line for line in table.splitlines() if line.startswith(f"| {row} "))


def _listed_rows() -> list[str]:
    done = subprocess.run([sys.executable, _RUN, "--list"], capture_output=True, text=True, check=True)
    rows = [line.partition(": ")[2] for line in done.stdout.splitlines() if ": " in line]
    return [row for row in rows if not row.endswith("_uncached")]


def test_every_row_is_measured_and_comes_out_as_bare(tmp_path: Path) -> None:
    done, found = _suite(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert found["failures"] == []
    assert [row["name"] for row in found["rows"]] == _listed_rows()
    for row in found["rows"]:
        assert _line(done.stdout, row["name"])
        subjects = (
            {"bare"} if row["name"] in ("start_python", "start_bwrap") else {"bare", "floor", "sandboxed"}
        )
        assert set(row["subjects"]) == subjects
        assert all(subject["median"] > 0 for subject in row["subjects"].values())
        assert (row["verdict"] is None) == (row["budget"] is None)
    assert found["imports"]
    assert found["facts"]["kernel"]


def _meddling(tmp_path: Path, more: str) -> str:
    program = tmp_path / "sandlockd"
    program.write_text(_MEDDLING.format(more=more))
    program.chmod(0o755)
    return str(program)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ("echo meddled", "output differs from bare: "),
        (": >meddled", "files differ from bare: meddled is "),
        ("status=3", "exit status 3"),
    ],
)
def test_a_sandbox_in_which_work_comes_out_otherwise_fails_the_suite(
    tmp_path: Path, more: str, told: str
) -> None:
    done, found = _suite(tmp_path, "--sandlockd", _meddling(tmp_path, more), "--only", "pipelines_dash")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "FAILED" in _line(done.stdout, "pipelines_dash")
    assert f"pipelines_dash, sandboxed: {told}" in found["failures"][0]


def test_a_sandbox_that_does_not_refuse_fails_the_suite(tmp_path: Path) -> None:
    done, found = _suite(tmp_path, "--sandlockd", _meddling(tmp_path, ":"), "--only", "open_refused", "stat")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "FAILED" in _line(done.stdout, "open_refused")
    assert "FAILED" not in _line(done.stdout, "stat")
    assert found["failures"] == ["open_refused, sandboxed: 5 of 5 were not refused"]


def test_a_peer_that_does_not_run_is_told_but_is_no_failure_of_the_suite(tmp_path: Path) -> None:
    done, found = _suite(tmp_path, "--peer", "false", "--only", "cp", "stat", "start_true")
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("cp", "stat", "start_true"):
        assert "FAILED" in _line(done.stdout, name)
        assert any(failure.startswith(f"{name}, peer: ") for failure in found["failures"])


def test_a_peer_is_measured_beside_the_others(tmp_path: Path) -> None:
    peers = ("--peer", "env BENCHMARK={write}", "--tree-peer", "env BENCHMARK={workdir}")
    done, found = _suite(
        tmp_path, *peers, "--only", "stat", "tree_stat_upper", "cp", "tree_cp_inside", "start_true"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for row in found["rows"]:
        assert row["ratios"]["peer/bare"]["median"] > 0


def test_a_tree_whose_changes_are_lost_fails_the_suite(tmp_path: Path) -> None:
    loses = _meddling(tmp_path, "rm -f source/program")
    done, found = _suite(tmp_path, "--sandlockd", loses, "--only", "tree_make_inside")
    assert done.returncode == 1, done.stdout + done.stderr
    assert (
        "tree_make_inside, sandboxed: files differ from bare: source/program is None" in found["failures"][0]
    )


def test_a_row_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    done, _ = _suite(tmp_path, "--only", "opne_absolute")
    assert done.returncode == 2
    assert "--only opne_absolute: no such row or group" in done.stderr
