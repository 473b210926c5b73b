"""A descriptor that the supervisor opened and handed over is like one that the program opened itself."""

from __future__ import annotations

import fcntl
import itertools
import os
from pathlib import Path

import pytest
from harness.running import Runner
from security.raw_calls import AT_EMPTY_PATH, AT_FDCWD, Buffer, Outcome, Script

_MADE = os.O_WRONLY | os.O_CREAT | os.O_EXCL


def _made(script: Script, path: Path, mode: int, text: bytes = b"content") -> None:
    """By the program, so that it lies on the spine and is served."""
    fd = script.openat(AT_FDCWD, path, _MADE, mode)
    script.write(fd, text, len(text))
    script.close(fd)


def _bare_and_served(runner: Runner, script: Script) -> tuple[list[Outcome], list[Outcome]]:
    bare = script.bare(runner)
    runner.place.empty_work()
    runner.place.file("work/denied", "denied")
    options = ["--write", runner.work, "--deny", runner.work / "denied"]
    return bare, script.sandboxed(runner, *options)[0]


def test_its_flags_are_those_that_were_asked_for(runner: Runner) -> None:
    """Also where the supervisor opened with O_NONBLOCK so as not to wait, and took that back: all others stay."""
    script = Script()
    file, directory = runner.work / "file", runner.work / "directory"
    _made(script, file, 0o644)
    script.mkdir(directory, 0o755)
    extras = (
        os.O_APPEND,
        os.O_NONBLOCK,
        os.O_CLOEXEC,
        os.O_DSYNC,
        os.O_SYNC,
        os.O_NOFOLLOW,
        os.O_NOCTTY,
        os.O_CREAT,
    )
    extras += (os.O_NOATIME, os.O_ASYNC)
    for access, one, other in itertools.product(
        (os.O_RDONLY, os.O_WRONLY, os.O_RDWR), (0, *extras), (0, *extras)
    ):
        fd = script.openat(AT_FDCWD, file, access | one | other, 0o600)
        script.fcntl(fd, fcntl.F_GETFL)
        script.fcntl(fd, fcntl.F_GETFD)
        script.close(fd)
    for flags in (0, os.O_DIRECTORY, os.O_NONBLOCK, os.O_CLOEXEC, os.O_DIRECTORY | os.O_NOATIME):
        fd = script.openat(AT_FDCWD, directory, flags)
        script.fcntl(fd, fcntl.F_GETFL)
        script.fcntl(fd, fcntl.F_GETFD)
    bare, served = _bare_and_served(runner, script)
    assert _flags(served) == _flags(bare)


def _flags(outcomes: list[Outcome]) -> list[int]:
    """O_NOFOLLOW apart: it matters only for finding the object, and what is served was found before."""
    return [outcome.result & ~os.O_NOFOLLOW if outcome.ok else outcome.result for outcome in outcomes]


@pytest.mark.parametrize("close_on_exec", [False, True])
def test_a_script_that_is_executed_by_its_descriptor(runner: Runner, close_on_exec: bool) -> None:
    """By a descriptor that closes on exec its interpreter cannot open it, as bare (execveat(2), BUGS)."""
    path = runner.place.file("script/run", "#!/bin/sh\necho executed\n", 0o755)
    script = Script()
    script.openat(AT_FDCWD, path, os.O_RDONLY | (os.O_CLOEXEC if close_on_exec else 0))
    script.each_alone = True
    script.execveat(3, b"", 0, 0, AT_EMPTY_PATH)
    bare = script.bare(runner)[1]
    assert script.sandboxed(runner)[0][1] == bare
    assert (bare.data == b"executed\n") is not close_on_exec


def test_it_has_a_position_of_its_own(runner: Runner) -> None:
    script = Script()
    file = runner.work / "file"
    _made(script, file, 0o644)
    first = script.openat(AT_FDCWD, file, os.O_RDWR)
    second = script.openat(AT_FDCWD, file, os.O_RDONLY)
    script.read(first, Buffer(3), 3)
    script.read(second, Buffer(7), 7)
    script.read(first, Buffer(7), 7)
    script.lseek(second, 0, os.SEEK_CUR)
    bare, served = _bare_and_served(runner, script)
    assert served == bare
