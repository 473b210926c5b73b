"""sandlockd started where something is unusual: it works, or one line says what is wrong and nothing was started."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from harness.interpreter import SANDLOCKCTL, SANDLOCKD
from harness.running import Argument, Ended, Runner

_IGNORING = """
import os, signal, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
os.execvp(sys.argv[1], sys.argv[1:])
"""


def _refused(ended: Ended, *words: bytes, status: int = 125) -> None:
    assert (ended.returncode, ended.stdout) == (status, b""), ended
    assert ended.stderr.count(b"\n") == 1 and all(word in ended.stderr for word in words), ended


@pytest.mark.parametrize("command", [["sh", "-c", "(exit 3); exit 5"], ["true"]], ids=["fails", "succeeds"])
def test_who_started_us_may_ignore_its_children(runner: Runner, command: list[str]) -> None:
    """Then no child leaves a status, init neither."""
    wrap = [sys.executable, "-c", _IGNORING]
    bare = runner.bare([*wrap, *command])
    ended = runner.sandboxed(command, wrap=wrap)
    assert (ended.returncode, ended.stdout, ended.stderr) == (bare.returncode, b"", b"")
    assert ended.reason == "exited" and ended.status is not None and ended.status["error"] is None
    assert runner.run([*wrap, SANDLOCKD, "doctor", "--json"]).returncode == 0


@pytest.mark.parametrize("home", [None, "", "relative"])
def test_without_a_home_nothing_is_made_in_the_working_directory(runner: Runner, home: str | None) -> None:
    if os.geteuid() != 0:
        pytest.skip("to be somebody whom the user database does not know takes root")
    runner.work.chmod(0o777)
    unknown = {"user": 54321, "group": 54321, "extra_groups": []}
    wrap = ["env", "-u", "SANDLOCKD_STATE_DIR", *(["-u", "HOME"] if home is None else [f"HOME={home}"])]
    lines: list[list[Argument]] = [
        [SANDLOCKD, "--", "true"],
        [SANDLOCKD, "explain"],
        [SANDLOCKCTL, "ps"],
    ]
    for line in lines:
        ended = runner.run([*wrap, *line], **unknown)
        _refused(ended, b"no home directory", b"SANDLOCKD_STATE_DIR")
    assert list(runner.work.iterdir()) == []


def test_where_files_may_not_be_written_it_is_said(runner: Runner) -> None:
    ended = runner.run(["sh", "-c", 'ulimit -f 0; exec "$@"', "sh", SANDLOCKD, "--", "echo", "ran"])
    _refused(ended, b"ulimit -f", b"needs")
    bare = runner.bare(["sh", "-c", "ulimit -f 0; echo ran"])
    within = runner.sandboxed(["sh", "-c", "ulimit -f 0; echo ran"])
    assert within.stdout == bare.stdout == b"ran\n"


@pytest.mark.parametrize("tree", [False, True], ids=["without-tree", "with-tree"])
def test_in_a_sandbox_of_its_own_it_says_that_there_is_none_in_another(runner: Runner, tree: bool) -> None:
    prefix = Path(sys.executable).parent.parent
    options: list[Argument] = ["--quiet", "--read", prefix, "--env", "SANDLOCKD_STATE_DIR=/tmp/state"]
    if tree:
        options += ["--workdir", runner.work, "--on-exit", "discard"]
    ended = runner.sandboxed([SANDLOCKD, "--", "echo", "ran"], options=options)
    _refused(ended, b"there is none in another")


@pytest.mark.parametrize("verb", [[], ["run"]])
def test_an_empty_command_is_not_found(runner: Runner, verb: list[str]) -> None:
    bare = runner.bare(["env", ""])
    ended = runner.run([SANDLOCKD, *verb, "--", ""])
    assert bare.returncode == 127
    _refused(ended, b"empty", status=127)


def test_the_empty_name_of_a_policy_is_no_directory(runner: Runner) -> None:
    _refused(runner.run([SANDLOCKD, "--policy", "", "--", "true"]), b"empty")


@pytest.mark.parametrize(
    "kind", ["fifo", "link", "dangling link", "directory", "device", "nowhere", "nothing"]
)
def test_a_status_file_takes_the_place_of_nothing_but_a_status_file(runner: Runner, kind: str) -> None:
    """As root it once was renamed over /dev/full. What is wrong is said before anything is started."""
    path, made = runner.work / "status", runner.work / "made"
    match kind:
        case "fifo":
            os.mkfifo(path)
        case "link":
            path.symlink_to(runner.place.file("target", "kept"))
        case "dangling link":
            path.symlink_to("nowhere")
        case "directory":
            path.mkdir()
        case "device":
            if os.geteuid() != 0:
                pytest.skip("making a device takes root")
            os.mknod(path, 0o20666, os.makedev(1, 3))
        case "nowhere":
            path = runner.work / "nowhere" / "status"
        case _:
            path = Path(str(path) + "/")
    runner.place.give(runner.work)
    before = os.lstat(path) if os.path.lexists(path) else None
    shown = "" if kind == "nothing" else str(path)
    options = ["--status-file", shown, "--write", str(runner.work)]
    ended = runner.run([SANDLOCKD, *options, "--", "touch", made])
    _refused(ended, b"--status-file")
    assert not made.exists()
    after = os.lstat(path) if os.path.lexists(path) else None
    assert (before is None) == (after is None)
    if before is not None and after is not None:
        assert (before.st_ino, before.st_mode, before.st_rdev) == (after.st_ino, after.st_mode, after.st_rdev)


@pytest.mark.parametrize("where", [".", "below"])
def test_a_relative_directory_for_temporary_files_is_found_from_everywhere(
    runner: Runner, where: str
) -> None:
    (runner.work / "below").mkdir()
    runner.place.give(runner.work)
    script = 'cd / && echo found > "$TMPDIR/x" && cat "$TMPDIR/x" && echo "$TMPDIR"'
    ended = runner.sandboxed(["sh", "-c", script], env={"TMPDIR": where})
    found, told = ended.stdout.decode().splitlines()
    assert (found, ended.returncode) == ("found", 0)
    assert told.startswith(str(runner.work))
    assert [path.name for path in runner.work.rglob("*")] == ["below"]


def test_a_name_with_a_newline_is_one_line(runner: Runner) -> None:
    _refused(runner.sandboxed(["true"], env={"TMPDIR": "/none\n\x1b[31mred"}), rb"/none\n\x1b[31mred")


@pytest.mark.parametrize("option", [["--dry-run"], ["--on-exit", "discard"], ["--on-exit", "commit"]])
def test_what_is_to_become_of_changes_is_not_said_of_a_run_that_writes_for_good(
    runner: Runner, option: list[str]
) -> None:
    kept = runner.place.file("work/kept", "kept")
    ended = runner.sandboxed(["rm", kept], options=[*option, "--write", runner.work])
    _refused(ended, option[0].encode(), b"--workdir")
    assert kept.exists()
    within = runner.sandboxed(["rm", kept], options=[*option, "--workdir", runner.work])
    assert within.returncode == 0 and kept.exists() == (option[-1] != "commit")
