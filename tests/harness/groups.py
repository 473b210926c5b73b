"""Cgroups that sandlockd made for runs of a test: named after the run, in a cgroup that the test is in itself."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from sandlockd.kernel import cgroup_places, cgroups
from sandlockd.kernel.paths import mounts

CONTROLLERS = (cgroups.MEMORY, cgroups.PIDS, cgroups.CPU)


def places() -> list[Path]:
    """Where sandlockd makes them, started from here."""
    found = mounts()
    own = [cgroup_places.own_place(controller, found) for controller in CONTROLLERS]
    return sorted({Path(os.fsdecode(place.path)) for place in own if place is not None})


def left_of(root: Path, where: Iterable[Path]) -> list[Path]:
    """Of runs that have their records below the root of a test's place."""
    runs = root / "state" / "runs"
    if not runs.is_dir():
        return []
    names = [os.fsdecode(cgroups.PREFIX) + run for run in os.listdir(runs)]
    paths = [place / f"{name}{suffix}" for place in where for name in names for suffix in ("", ".own")]
    return [path for path in paths if path.is_dir()]


def remove(groups: Iterable[Path]) -> None:
    """Those whose processes have ended."""
    for group in groups:
        with contextlib.suppress(FileNotFoundError):
            group.rmdir()
