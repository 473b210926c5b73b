"""Workdirs that cannot be one, or do not stay what they were: one line with the reason, and nothing is broken."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

from harness.interpreter import SANDLOCKCTL
from harness.running import Ended, Runner
from harness.waiting import line_of


def _refused(runner: Runner, *options: Any, **more: Any) -> str:
    ended = runner.sandboxed(["true"], options=["--on-exit", "keep", *options], **more)
    assert ended.returncode == 125, ended
    lines = ended.stderr.decode().splitlines()
    assert len(lines) == 1, lines
    assert not list(runner.place.state.glob("runs/*/tree"))
    return lines[0]


def test_the_root_is_none(runner: Runner) -> None:
    assert "'/'" in _refused(runner, "--workdir", "/") or "/ " in _refused(runner, "--workdir", "/")


def test_one_that_contains_the_storage_is_refused(runner: Runner) -> None:
    assert "contains the storage of its changes" in _refused(
        runner, "--workdir", runner.place.root, env={"TMPDIR": "/tmp"}
    )


def test_one_in_the_storage_is_refused(runner: Runner) -> None:
    inside = runner.place.state / "work"
    inside.mkdir(mode=0o755)
    runner.place.give(runner.place.state)
    assert "law.state" in _refused(runner, "--workdir", inside)


def _while_running(runner: Runner, script: str, change: Any) -> Ended:
    """The script says `ready`, and waits for a line after which `change` was made."""
    line = runner.command_line(
        ["sh", "-c", script, runner.work], options=["--workdir", runner.work, "--on-exit", "keep"]
    )
    with runner.started(line) as process:
        assert process.stdout is not None and process.stdin is not None
        assert line_of(process.stdout.fileno()) == b"ready\n"
        change()
        output, errors = process.communicate(b"\n", timeout=20)
    return Ended(process.returncode, output, errors)


def _control(runner: Runner, *words: str) -> subprocess.CompletedProcess[bytes]:
    arguments = runner.popen_arguments(cwd=runner.place.root, stdin=subprocess.DEVNULL)
    return subprocess.run([SANDLOCKCTL, *words], capture_output=True, check=False, **arguments)


def _only_run(runner: Runner) -> str:
    (run,) = runner.place.state.glob("runs/*")
    return str(run.name)


def _moved(path: Path) -> Path:
    other = path.with_name("elsewhere")
    path.rename(other)
    return other


# By absolute names: whoever is in a directory that goes, or moves, is there, as bare.
_CHANGES = (
    'cd /; echo new > "$0/made"; echo more >> "$0/file"; echo ready; read -r line; echo after > "$0/late";'
    ' cat "$0/made" "$0/late" "$0/file"; cat "$0/other" 2>/dev/null || echo none'
)


def test_one_that_is_deleted_while_a_program_runs(runner: Runner) -> None:
    runner.place.file("work/file", "old\n")
    ended = _while_running(runner, _CHANGES, lambda: shutil.rmtree(runner.work))
    assert ended.stdout == b"new\nafter\nold\nmore\nnone\n", ended
    assert ended.returncode == 125 and b"cannot be the workdir" in ended.stderr, ended
    refused = _control(runner, "commit", _only_run(runner))
    assert refused.returncode == 125 and str(runner.work).encode() in refused.stderr, refused


def test_one_that_is_replaced_while_a_program_runs(runner: Runner) -> None:
    """The program goes on in the one that it was given; nothing is done to the other one."""
    runner.place.file("work/file", "old\n")

    def replace() -> None:
        _moved(runner.work)
        runner.place.file("work/other", "other\n")

    ended = _while_running(runner, _CHANGES, replace)
    assert ended.stdout == b"new\nafter\nold\nmore\nnone\n", ended
    assert b"the workdir was replaced" in ended.stderr, ended
    refused = _control(runner, "commit", _only_run(runner))
    assert refused.returncode == 125 and b"replaced" in refused.stderr, refused
    assert sorted(path.name for path in runner.work.iterdir()) == ["other"]
    assert (runner.place.root / "elsewhere/file").read_text() == "old\n"


def test_a_lower_tree_that_is_changed_under_a_running_program(runner: Runner) -> None:
    """What it has not changed it sees as it is now; what both changed is a conflict, and nothing is lost."""
    for name in ("file", "untouched", "gone", "becomes"):
        runner.place.file(f"work/{name}", f"{name}\n")

    def change() -> None:
        for name in ("file", "untouched"):
            runner.place.file(f"work/{name}", "theirs\n")
        (runner.work / "gone").unlink()
        (runner.work / "becomes").unlink()
        runner.place.file("work/becomes/in", "in\n")

    script = (
        "cat untouched gone becomes > /dev/null; echo mine > file; echo ready; read -r line;"
        " cat file untouched becomes/in; ls; cat gone 2>/dev/null || echo missing; echo x > becomes/in; rm untouched"
    )
    ended = _while_running(runner, script, change)
    assert ended.returncode == 0, ended
    assert ended.stdout == b"mine\ntheirs\nin\nbecomes\nfile\nuntouched\nmissing\n", ended
    refused = _control(runner, "commit", _only_run(runner))
    assert refused.returncode == 1 and b"file" in refused.stderr, refused
    assert (runner.work / "file").read_text() == "theirs\n"
    assert (runner.work / "becomes/in").read_text() == "in\n"
