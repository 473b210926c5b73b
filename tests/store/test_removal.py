"""What goes is gone whole: however deep, closed or oddly named the program left it."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest
from harness.forked import in_child
from harness.places import Place

from sandlockd.kernel.paths import AT_FDCWD, openat2
from sandlockd.store.removal import remove

_DEPTH = 5000


def _make_deep(path: Path, depth: int = _DEPTH) -> None:
    path.mkdir()
    here = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    for level in range(depth):
        os.mkdir("d", dir_fd=here)
        os.close(os.open(f"f{level}", os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=here))
        below = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)


def _remove(path: Path) -> None:
    with openat2(AT_FDCWD, os.fsencode(path.parent), os.O_RDONLY | os.O_DIRECTORY) as parent:
        remove(parent, os.fsencode(path.name))


@pytest.mark.one_user
def test_directories_are_removed_deeper_than_any_recursion_or_limit_of_open_files(place: Place) -> None:
    def check() -> None:
        _make_deep(place.work / "top")
        resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))
        _remove(place.work / "top")
        assert os.listdir(place.work) == []

    assert in_child(check, place.user) == 0


def test_closed_directories_and_names_like_our_own_are_removed(place: Place) -> None:
    def check() -> None:
        top = place.work / "top"
        for name in ("a/#0/b", "#0/#1/#2", "#1/x", "c/d/e/f"):
            (top / name).mkdir(parents=True)
        (top / "link").symlink_to(place.home)
        for name in ("c/d/e", "c/d", "c", "#0", "."):
            (top / name).chmod(0)
        _remove(top)
        assert os.listdir(place.work) == [] and place.home.is_dir()

    assert in_child(check, place.user) == 0


@pytest.mark.parametrize("kind", ["nothing", "file", "link", "empty", "fifo"])
def test_whatever_has_the_name_is_removed(place: Place, kind: str) -> None:
    def check() -> None:
        path = place.work / "it"
        if kind == "file":
            path.touch()
        elif kind == "link":
            path.symlink_to(place.home)
        elif kind == "empty":
            path.mkdir()
        elif kind == "fifo":
            os.mkfifo(path)
        _remove(path)
        assert os.listdir(place.work) == [] and place.home.is_dir()

    assert in_child(check, place.user) == 0
