"""Directories that their owner may not write, list or search, removed and replaced from above: their mode is no matter.

Only who moves one to another directory must be able to write to it, for its `..`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from .vocabulary import AT_FDCWD, RENAME_EXCHANGE, Calls, Programs

PROGRAMS = Programs()
program = PROGRAMS

_MODES = (0o555, 0o444, 0o111, 0o000, 0o577)


def _emptied(s: Calls, mode: int) -> None:
    """`full`, of the lower tree, without what was in it."""
    s.unlink("full/one")
    s.unlink("full/two")
    s.chmod("full", mode)


def _told(s: Calls, *paths: str) -> None:
    for path in paths:
        s.lstat(path)
        s.access(path + "/x", 0)


def _rmdir_of_an_emptied_one(s: Calls, mode: int) -> None:
    _emptied(s, mode)
    s.rmdir("full")
    _told(s, "full")
    s.mkdir("full", 0o755)


def _rmdir_of_others(s: Calls, mode: int) -> None:
    s.mkdir("new", mode)
    s.mkdir("dir/new", mode)
    s.chmod("empty-dir", mode)
    for path in ("new", "dir/new", "empty-dir", "no-write/sub", "no-write"):
        s.rmdir(path)
        _told(s, path)


def _mkdir_where_one_was(s: Calls, mode: int) -> None:
    s.rmdir("empty-dir")
    s.mkdir("empty-dir", mode)
    _told(s, "empty-dir")
    _emptied(s, 0o755)
    s.rmdir("full")
    s.mkdir("full", mode)
    _told(s, "full")
    s.chmod("full", 0o755)


def _rename_over_an_emptied_one(s: Calls, mode: int) -> None:
    _emptied(s, mode)
    s.mkdir("new", 0o755)
    s.put("new/file", b"new\n")
    s.rename("new", "full")
    _told(s, "new", "full")


def _rename_a_lower_one_over_an_emptied_one(s: Calls, mode: int) -> None:
    _emptied(s, mode)
    s.rename("dir/sub", "full")
    _told(s, "dir/sub", "full")


def _rename_over_an_empty_one(s: Calls, mode: int) -> None:
    s.chmod("empty-dir", mode)
    s.rename("dir/sub", "empty-dir")
    _told(s, "dir/sub", "empty-dir")
    s.mkdir("new", mode)
    s.rename("dir", "new")
    _told(s, "dir", "new")


def _rename_one_to_another_place(s: Calls, mode: int) -> None:
    s.chmod("full", mode)
    s.mkdir("new", mode)
    for old, new in (
        ("full", "dir/full"),
        ("new", "dir/new"),
        ("full", "here"),
        ("new", "there"),
        ("here", "empty-dir"),
    ):
        s.rename(old, new)
        _told(s, old, new)


def _rename_one_to_where_one_was(s: Calls, mode: int) -> None:
    s.rmdir("empty-dir")
    s.unlink("file")
    s.chmod("full", mode)
    s.mkdir("new", mode)
    s.rename("full", "empty-dir")
    s.rename("new", "file")
    _told(s, "full", "empty-dir", "new", "file")


def _exchange(s: Calls, mode: int) -> None:
    s.chmod("full", mode)
    s.mkdir("new", mode)
    s.mkdir("dir/new", mode)
    for one, other in (
        ("full", "new"),
        ("full", "file"),
        ("full", "dir/a"),
        ("dir/new", "new"),
        ("dir", "file"),
    ):
        s.renameat2(AT_FDCWD, one, AT_FDCWD, other, RENAME_EXCHANGE)
        _told(s, one, other)


_WAYS: tuple[Callable[[Calls, int], None], ...] = (
    _rmdir_of_an_emptied_one,
    _rmdir_of_others,
    _mkdir_where_one_was,
    _rename_over_an_emptied_one,
    _rename_a_lower_one_over_an_emptied_one,
    _rename_over_an_empty_one,
    _rename_one_to_another_place,
    _rename_one_to_where_one_was,
    _exchange,
)


def _watched(s: Calls, way: Callable[[Calls, int], None], mode: int) -> None:
    fd = s.inotify_init1(0o4000)
    s.inotify_add_watch(fd, ".", 0xFC0)
    s.inotify_add_watch(fd, "dir", 0xFC0)
    way(s, mode)
    s.events(fd)


for _way in _WAYS:
    for _mode in _MODES:
        program.add(f"{_way.__name__[1:]}_{_mode:o}", functools.partial(_way, mode=_mode))
    program.add(f"{_way.__name__[1:]}_watched", functools.partial(_watched, way=_way, mode=0o555))
