"""Every call of the table that names something, while another thread or process changes what it names."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.running import Runner
from security import every_call
from security.canaries import changed, outside, snapshot
from security.every_call import Counted

Measured = Callable[[str, object], None]

_SOAK_MS, _SHORT_MS = 30_000, 700
# Again with those that were not won.
_BARE_MS = (1_000, 3_000, 6_000, 8_000, 8_000)


def test_every_call_of_the_table_is_raced_or_said_not_to_be() -> None:
    raced = {call.syscall for call in every_call.CALLS}
    not_raced = {name for names in every_call.NOT_RACED for name in names.split()}
    assert set(every_call.to_be_raced()) - raced - not_raced == set()


def _options(runner: Runner, where: str, denied: Path) -> list[object]:
    if where == "a-hole":
        return ["--write", runner.work, "--deny", denied]
    if where == "outside":
        return ["--write", runner.work]
    return ["--workdir", runner.work, "--on-exit", "discard"]


def _told(found: list[Counted], measured: Measured) -> None:
    """How often the races met: a swap came between the beginning and the end of a call."""
    for name in ("calls", "met", "began_allowed", "began_denied", "succeeded"):
        measured(name, sum(getattr(one, name) for one in found))
    measured("ways", len(found))
    measured("ways that met", sum(1 for one in found if one.met))
    measured("never", " ".join(f"{one.label}/{one.way}" for one in found if not one.met))


@pytest.mark.parametrize("mode", ["threads", "processes"])
@pytest.mark.parametrize("where", ["outside", "a-hole", "outside-a-tree", "the-lower-tree"])
def test_whatever_is_swapped_for_whatever_call_nothing_outside_is_touched(
    runner: Runner, where: str, mode: str, soak: bool, measured: Measured
) -> None:
    """where the denied files lie. In the lower tree they may be read, and changed as the program sees it."""
    name = {"a-hole": "work/hole", "the-lower-tree": "work/real"}.get(where, "outside")
    denied = outside(runner, name)
    every_call.prepare(runner, denied)
    before, tree = snapshot(denied), snapshot(runner.work)
    command = every_call.command(runner, mode, _SOAK_MS if soak else _SHORT_MS, denied)
    options = [*_options(runner, where, denied), "--read", runner.place.root / "plan"]
    found = every_call.counted(runner.sandboxed(command, options=options, timeout=120))
    _told(found, measured)
    assert sum(one.met for one in found) > 0
    if soak and "tree" in where:  # without one, openat2 is answered at once
        assert sum(1 for one in found if not one.met) <= len(found) // 20
    assert changed(before, snapshot(denied)) == set()
    if "tree" in where:
        assert changed(tree, snapshot(runner.work)) == set()
    if where != "the-lower-tree":
        assert [one for one in found if one.leaks] == []


# What does not follow a link in the last place has nothing to win by one.
_NOT_BY_A_LINK = {
    call.label
    for call in every_call.CALLS
    if call.syscall.startswith(("l", "rename", "unlink", "link", "symlink", "mkdir", "rmdir", "mknod"))
    or call.words.endswith(("i256", f"i{os.O_RDWR | os.O_CREAT | os.O_EXCL} i420"))
}
# Through a descriptor that was opened for reading: its size stays.
_NOT_BY_A_DESCRIPTOR = ("ftruncate", "fallocate", "ioctl")


@pytest.mark.one_user
@pytest.mark.parametrize("mode", ["threads", "processes"])
def test_bare_every_race_is_won(runner: Runner, mode: str, measured: Measured) -> None:
    """The oracle: every call, in every way, reads or changes what is outside where nothing stops it."""
    denied = outside(runner)
    every_call.prepare(runner, denied)
    # A file without a name shows nowhere.
    calls = [
        call
        for call in every_call.CALLS
        if not call.only_tells and str(os.O_TMPFILE | os.O_RDWR) not in call.words
    ]
    lost: dict[tuple[str, str], Counted] = {}
    for limit_ms in _BARE_MS:
        command = every_call.command(runner, mode, limit_ms, denied, calls, repair=True)
        found = every_call.counted(runner.bare(command, timeout=60))
        if limit_ms == _BARE_MS[0]:
            _told(found, measured)
            lost = {(one.label, one.way): one for one in found if _can_be_won(one)}
        for one in found:
            if one.leaks:
                lost.pop((one.label, one.way), None)
        if not lost:
            return
        calls = [call for call in calls if any(call.label == label for label, _ in lost)]
        runner.place.empty_work()
        every_call.prepare(runner, denied)
    pytest.fail(f"{len(lost)} were never won: {sorted(lost)[:12]}")


def _can_be_won(one: Counted) -> bool:
    if one.way == "l":
        return one.label not in _NOT_BY_A_LINK
    return one.way != "o" or not one.label.startswith(_NOT_BY_A_DESCRIPTOR)
