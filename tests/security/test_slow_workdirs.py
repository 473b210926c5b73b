"""A workdir whose lookups might wait for a server: none is taken, and what becomes one during a run is left alone.

The handlers of a tree look at it on the loop, which never waits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from harness.fuse import Call, FileSystem
from harness.interpreter import SANDLOCKCTL
from harness.running import Runner
from harness.users import User
from security.test_slow_file_systems import _can_mount, new_file_system, next_line, say_line  # noqa: F401


@pytest.mark.parametrize("where", ["", "mounted", "deep/mounted"])
def test_a_slow_workdir_is_refused(runner: Runner, as_user: User, where: str) -> None:
    (runner.work / "deep").mkdir()
    with FileSystem(runner.work / where, as_user) as slow:
        workdir = runner.work
        ended = runner.sandboxed(
            ["true"], options=["--workdir", workdir, "--on-exit", "keep"], wrap=slow.wrap(), **slow.popen()
        )
    assert ended.returncode == 125
    (line,) = ended.stderr.decode().splitlines()
    assert "may not wait for the server of a file system (fuse)" in line
    assert (f"mounted in it: {slow.point}" in line) == bool(where)
    assert not list(runner.place.state.glob("runs/*/tree"))


_MEANWHILE = """
cat old/file; ln -s old/late way; {copied}; echo ready; read -r line
cat old/late; ls old; ls -ld old; echo new > old/new; mkdir old/x; mv old gone; rm -r old; chmod 700 old; cat way
cd old; ls; find . | sort; echo more > made; cat made; mv made other; ls; ln other third; rm other; cat third; echo over
"""


@pytest.mark.parametrize("copied", ["true", "chmod 750 old"], ids=["lower", "merged"])
@pytest.mark.parametrize("hangs", [(Call.LOOKUP, "late"), (Call.GETATTR, ""), (Call.OPENDIR, "")])
def test_what_is_mounted_in_a_workdir_during_a_run(
    runner: Runner, as_user: User, hangs: Any, copied: str
) -> None:
    """Names at and below it give EIO; all else in the tree is what it was, and nobody waits."""
    runner.place.give(runner.place.file("work/old/file", "old\n").parent)
    with new_file_system(runner, as_user) as slow:
        line = runner.command_line(
            ["sh", "-c", _MEANWHILE.format(copied=copied)],
            options=["--workdir", runner.work, "--on-exit", "discard", "--quiet"],
            wrap=slow.wrap(mounted=False),
        )
        hung = slow.hang(*hangs)
        with runner.started(line, **slow.popen()) as process, hung:
            assert [next_line(process) for _ in range(2)] == ["old", "ready"]
            slow.mount_for(process.pid, Path(runner.work / "old"))
            say_line(process)
            assert process.stdout is not None and process.stderr is not None
            told = [next_line(process)]
            while told[-1] != "over":
                told.append(next_line(process))
            assert process.pid not in hung.pids
            listed = ["old", "way", ".", "./old", "./way"]
            assert told == [*listed, "more", "old", "other", "way", "more", "over"]
            # Nor does whoever discards the changes, which has nothing to look for there.
            assert process.wait(10) == 0
            errors = process.stderr.read().decode().splitlines()
            assert len(errors) == 11, errors
            assert all("Input/output error" in error or "can't cd" in error for error in errors), errors


def test_changes_where_something_slow_is_mounted_are_kept_and_named(runner: Runner, as_user: User) -> None:
    """The server is silent: neither the end of the run nor anybody afterwards waits for it."""
    runner.place.give(runner.place.file("work/old/file", "old\n").parent)
    options = ["--workdir", runner.work, "--on-exit", "commit"]
    with new_file_system(runner, as_user) as slow:
        script = "echo new > old/file; echo more > beside; echo ready; read -r line"
        line = runner.command_line(["sh", "-c", script], options=options, wrap=slow.wrap(mounted=False))
        hung = slow.hang(Call.GETATTR, "")
        with runner.started(line, **slow.popen()) as process, hung:
            assert next_line(process) == "ready"
            slow.mount_for(process.pid, Path(runner.work / "old"))
            say_line(process)
            assert process.stderr is not None
            process.wait(10)
            told = process.stderr.read().decode()
            assert "'old': a file system that waits for a server is mounted there: unmount it" in told
            assert not hung.pids
    assert (runner.work / "old/file").read_text() == "old\n"
    ended = runner.bare([SANDLOCKCTL, "ps"], env={"SANDLOCKD_STATE_DIR": str(runner.place.state)})
    assert b"  kept  " in ended.stdout, ended
