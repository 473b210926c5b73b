"""Whoever is killed between two system calls of a step leaves the tree as it was, or as it was to be."""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
from harness.disk_pair import Disk
from harness.file_operations import Operation
from harness.forked import in_child
from harness.places import Place
from harness.store_scenarios import (
    BEFORE,
    SCENARIOS,
    WATCHED_SCENARIOS,
    build_lower,
    do,
    shown_tree,
    watch_all,
)

from sandlockd.kernel import beneath, copying

_CALLS = [
    (beneath, name)
    for name in (
        "attribute create_file make_directory make_node make_symlink link rename unlink remove_directory"
        " set_attribute set_times set_owner_and_mode open_directory open_below"
    ).split()
] + [(copying, name) for name in ("open_source", "copy_data", "copy_metadata")]


def _counted(limit: int) -> Callable[[], int]:
    """Kill this process before its call number `limit`; returns how to ask how many there were."""
    count = 0

    def before(act: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **named: Any) -> Any:
            nonlocal count
            if count == limit:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1
            return act(*args, **named)

        return counted

    for module, name in _CALLS:
        setattr(module, name, before(getattr(module, name)))
    return lambda: count


@pytest.mark.one_user
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_kill_before_any_system_call_leaves_the_old_or_the_new_tree(place: Place, scenario: str) -> None:
    _kill_everywhere(place, SCENARIOS[scenario], watched=False)


@pytest.mark.one_user
@pytest.mark.parametrize("scenario", WATCHED_SCENARIOS)
def test_a_kill_where_somebody_watches_leaves_the_old_or_the_new_tree(place: Place, scenario: str) -> None:
    _kill_everywhere(place, WATCHED_SCENARIOS[scenario], watched=True)


@pytest.mark.soak
@pytest.mark.one_user
@pytest.mark.parametrize("scenario", WATCHED_SCENARIOS)
def test_whoever_puts_it_right_may_be_killed_as_well(place: Place, scenario: str) -> None:
    _kill_everywhere(place, WATCHED_SCENARIOS[scenario], watched=True, again=True)


def _open_until_it_lives(work: bytes, path: bytes) -> None:
    """Killed before each of its calls in turn, and each time on what the one before it left."""

    def attempt(number: int) -> None:
        asked = _counted(number)
        Disk(work, path, create=False)
        assert asked() <= number
        os._exit(3)

    number = 0
    while (status := in_child(functools.partial(attempt, number))) == -signal.SIGKILL:
        number += 1
    assert status == 3 and number > 1


def _kill_everywhere(place: Place, operation: Operation, *, watched: bool, again: bool = False) -> None:
    work = build_lower(place)

    def begun(name: str) -> Disk:
        path = os.fsencode(place.root / "state" / name)
        os.mkdir(path, 0o700)
        disk = Disk(work, path, create=True)
        for before in BEFORE:
            assert disk.call(before) == 0
        if watched:
            watch_all(disk)
        return disk

    def attempt(number: int) -> None:
        disk = begun(str(number))
        asked = _counted(number)
        do(disk, operation)
        assert asked() <= number
        os._exit(3)

    def all_attempts() -> None:
        disk = begun("whole")
        old = shown_tree(disk)
        do(disk, operation)
        new = shown_tree(disk)
        disk.close()
        number, seen = 0, set()
        while (status := in_child(functools.partial(attempt, number))) == -signal.SIGKILL:
            path = os.fsencode(place.root / "state" / str(number))
            if again:
                _open_until_it_lives(work, path)
            left = Disk(work, path, create=False)
            shown = shown_tree(left)
            assert shown in (old, new), (
                number,
                [path for path in old | new if shown.get(path) != old.get(path)],
            )
            seen.add(shown == new)
            work_names = os.listdir(place.root / "state" / str(number) / "work")
            assert sorted(work_names) == ["stage", "whiteout"]
            left.close()
            number += 1
        assert status == 3
        assert number > 1 and (old == new or False in seen)

    assert in_child(all_attempts, place.user) == 0
