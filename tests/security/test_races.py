"""Another thread or process changes what a call is about, between its judging and its execution."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness.running import Ended, Runner
from security import broken
from security.canaries import changed, outside, snapshot
from security.raw_calls import program

KINDS = [
    "open",
    "openat",
    "openat2",
    "access-mode-three",
    "shared-memory",
    "chmod",
    "utimensat",
    "setxattr",
    "getxattr",
    "truncate",
    "execve",
    "rename",
    "link",
    "unlink",
    "symlink",
    "symlink-chmod",
    "directory",
    "dup2",
]


# Until the race is won. On a busy machine the two threads seldom run at once.
_LIMITS_MS = (100, 1000, 5000)


def _command(runner: Runner, kind: str, limit_ms: int, denied: Path) -> list[object]:
    runner.place.file("work/scratch/allowed", "allowed", 0o644)
    allowed = runner.work / "scratch/allowed"
    if kind == "execve":
        allowed = Path("/bin/true")
        denied = denied.with_name("script")
    runner.place.give(runner.work)
    return [program(runner, "races"), kind, str(limit_ms), allowed, denied, runner.work / "scratch"]


def _counts(ended: Ended) -> tuple[int, int]:
    assert ended.returncode == 0, ended
    calls, leaks = ended.stdout.split()
    return int(calls), int(leaks)


@pytest.mark.parametrize("where", ["outside", "in-a-hole", "readable"])
@pytest.mark.parametrize("kind", KINDS)
def test_swapping_the_object_of(runner: Runner, kind: str, where: str, soak: bool) -> None:
    """where the denied file lies: granted nowhere; below a grant for writing, denied; or granted for reading only
    (then only changing it counts)."""
    if where == "readable" and kind not in (
        "chmod",
        "utimensat",
        "setxattr",
        "truncate",
        "unlink",
        "dup2",
        "link",
    ):
        pytest.skip("reading is allowed there")
    directory = outside(runner, "work/hole" if where == "in-a-hole" else "outside")
    options = ["--write", runner.work]
    if where == "in-a-hole":
        options += ["--deny", directory]
    if where == "readable":
        options += ["--read", directory]
    command = _command(runner, kind, 10_000 if soak else 120, directory / "canary")
    before = snapshot(directory)
    calls, leaks = _counts(runner.sandboxed(command, options=options))
    assert calls > 10
    assert changed(before, snapshot(directory)) == set()
    if where != "readable":
        assert leaks == 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_race_can_be_won_where_nothing_stops_it(runner: Runner, kind: str) -> None:
    directory = outside(runner)
    before = snapshot(directory)
    for limit_ms in _LIMITS_MS:
        _, leaks = _counts(runner.bare(_command(runner, kind, limit_ms, directory / "canary")))
        if leaks > 0 or changed(before, snapshot(directory)):
            return
    pytest.fail("the race was never won")


@pytest.mark.parametrize(
    ("kind", "patch"),
    [
        (
            "chmod",
            "from sandlockd.handlers import metadata, answers\njudged = metadata._judged\n"
            "def judge(caller, opened, want, act, *, own):\n"
            "    answer = judged(caller, opened, want, lambda *_: answers.LANDLOCK_FILES, own=own)\n"
            "    return answer\n"
            "metadata._judged = judge\n",
        ),
        (
            "setxattr",
            "from sandlockd.handlers import metadata, answers\njudged = metadata._judged\n"
            "metadata._judged = lambda c, o, w, a, own: judged("
            "c, o, w, lambda *_: answers.LANDLOCK_FILES, own=own)\n",
        ),
        ("open", broken.OPEN_WALL),
    ],
)
def test_a_supervisor_that_continues_on_borrowed_words_loses_the_race(
    runner: Runner, kind: str, patch: str
) -> None:
    """Judge the path, then let the call go on: without a kernel rule behind it, the other thread wins."""
    directory = outside(runner)
    before = snapshot(directory)
    for limit_ms in _LIMITS_MS:
        command = _command(runner, kind, limit_ms, directory / "canary")
        _, leaks = _counts(broken.run(runner, patch, command, options=["--write", runner.work]))
        if leaks > 0 or changed(before, snapshot(directory)):
            return
    pytest.fail("the race was never won")
