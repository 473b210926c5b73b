"""openat2: the ways to resolve a path, and what a bad request gets."""

from __future__ import annotations

import functools
import os

from .vocabulary import (
    AT_FDCWD,
    O_PATH,
    O_TMPFILE,
    RESOLVE_BENEATH,
    RESOLVE_CACHED,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
    Calls,
    Programs,
)

PROGRAMS = Programs()
program = PROGRAMS

_PATHS = (
    *(
        "file",
        "dir/a",
        "dir/../file",
        "dir/sub/../a",
        "to-file",
        "to-dir/a",
        "to-link",
        "to-root",
        "to-outside",
    ),
    *(
        "to-outside-dir/file",
        "dangling",
        "loop-1",
        "up",
        "dir/up",
        "..",
        "../missing",
        ".",
        "missing",
        "to-slash",
    ),
    *("/proc/self/fd", "/proc/self/cwd/file", "closed/in", ""),
)
_RESOLVES = {
    "anything": 0,
    "beneath": RESOLVE_BENEATH,
    "in_root": RESOLVE_IN_ROOT,
    "no_symlinks": RESOLVE_NO_SYMLINKS,
    "no_magic_links": RESOLVE_NO_MAGICLINKS,
    "no_other_device": RESOLVE_NO_XDEV,
    "beneath_without_symlinks": RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS,
}


def _reading(s: Calls, resolve: int) -> None:
    directory = s.open("dir", os.O_RDONLY, 0)
    confined = resolve & (RESOLVE_BENEATH | RESOLVE_IN_ROOT)
    for path in (*_PATHS, "/" if confined else "/usr"):
        for dirfd in (AT_FDCWD, directory):
            fd = s.openat2(dirfd, path, os.O_RDONLY, 0, resolve)
            if fd >= 0:
                s.close(fd)


def _creating(s: Calls, resolve: int) -> None:
    for path in (
        "new",
        "dir/new",
        "to-dir/newer",
        "dangling-in",
        "dangling",
        "dir/../newest",
        "../outwards/x",
        "/x/y",
    ):
        fd = s.openat2(AT_FDCWD, path, os.O_WRONLY | os.O_CREAT, 0o640, resolve)
        if fd >= 0:
            s.write(fd, b"made\n")
            s.close(fd)


def _writing(s: Calls, resolve: int) -> None:
    for path in ("file", "to-root", "dir/sub/b", "to-link", "hard-1", "read-only", "dir/../empty"):
        fd = s.openat2(AT_FDCWD, path, os.O_RDWR | os.O_TRUNC, 0, resolve)
        if fd >= 0:
            s.write(fd, b"written\n")
            s.close(fd)


for _name, _resolve in _RESOLVES.items():
    program.add(f"reading_{_name}", functools.partial(_reading, resolve=_resolve))
    program.add(f"creating_{_name}", functools.partial(_creating, resolve=_resolve))
    program.add(f"writing_{_name}", functools.partial(_writing, resolve=_resolve))


@program
def paths_only(s: Calls) -> None:
    for path in ("file", "dir", "to-file", "dangling", "missing"):
        for flags in (O_PATH, O_PATH | os.O_NOFOLLOW, O_PATH | os.O_DIRECTORY):
            for resolve in (0, RESOLVE_NO_SYMLINKS, RESOLVE_BENEATH):
                fd = s.openat2(AT_FDCWD, path, flags, 0, resolve)
                if fd >= 0:
                    s.fstat(fd)
                    s.close(fd)


@program
def bad_requests(s: Calls) -> None:
    s.openat2(AT_FDCWD, "file", os.O_RDONLY, 0o644)
    s.openat2(AT_FDCWD, "file", os.O_WRONLY | os.O_CREAT, 0o10000)
    s.openat2(AT_FDCWD, "file", 1 << 30)
    s.openat2(AT_FDCWD, "file", 1 << 40)
    s.openat2(AT_FDCWD, "file", os.O_RDONLY, 0, 1 << 10)
    s.openat2(AT_FDCWD, "file", os.O_RDONLY, 0, RESOLVE_BENEATH | RESOLVE_IN_ROOT)
    s.openat2(AT_FDCWD, "file", O_PATH | os.O_TRUNC)
    s.openat2(AT_FDCWD, "new", os.O_RDONLY | os.O_CREAT | os.O_DIRECTORY, 0o755)
    s.openat2(AT_FDCWD, "dir", O_TMPFILE | os.O_RDONLY, 0o600)
    s.openat2(99, "file", os.O_RDONLY)
    s.lstat("new")


@program
def sizes_of_the_request(s: Calls) -> None:
    how = s.open_how(os.O_RDONLY)
    for size in (0, 8, 23, 24):
        s.told("size", (size,), s.silently("openat2", AT_FDCWD, "file", how, size))
    s.told("longer", (32,), s.silently("openat2", AT_FDCWD, "file", how + bytes(8), 32))
    s.told("longer, not zero", (32,), s.silently("openat2", AT_FDCWD, "file", how + b"\1" + bytes(7), 32))
    s.told("longer than a page", (4104,), s.silently("openat2", AT_FDCWD, "file", how + bytes(4080), 4104))
    s.told("no request", (24,), s.silently("openat2", AT_FDCWD, "file", None, 24))


@program
def from_the_cache_only(s: Calls) -> None:
    """EAGAIN is allowed at any time, but creating never works so."""
    for flags in (os.O_WRONLY | os.O_CREAT, os.O_WRONLY | os.O_TRUNC, O_TMPFILE | os.O_RDWR):
        s.openat2(AT_FDCWD, "dir/a", flags, 0o644 if flags & (os.O_CREAT | O_TMPFILE) else 0, RESOLVE_CACHED)


@program
def a_root_of_ones_own(s: Calls) -> None:
    s.symlink("/a", "dir/absolute")
    s.symlink("../../../a", "dir/sub/upwards")
    directory = s.open("dir", O_PATH, 0)
    for path in ("absolute", "sub/upwards", "/a", "../a", "/sub/b", "/../../sub/deep/c", "up"):
        for resolve in (RESOLVE_IN_ROOT, RESOLVE_BENEATH, 0):
            fd = s.openat2(directory, path, os.O_RDONLY, 0, resolve)
            if fd >= 0:
                s.read(fd)
                s.close(fd)


@program
def no_magic_links_by_proc(s: Calls) -> None:
    fd = s.open("dir", os.O_RDONLY, 0)
    for resolve in (0, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_NO_XDEV):
        got = s.openat2(AT_FDCWD, f"/proc/self/fd/{fd}/a", os.O_RDONLY, 0, resolve)
        if got >= 0:
            s.close(got)


@program
def temporary_files(s: Calls) -> None:
    for resolve in (0, RESOLVE_BENEATH, RESOLVE_IN_ROOT, RESOLVE_NO_SYMLINKS):
        for path in ("dir", "to-dir", "to-root", "..", "missing"):
            if (path, resolve) == ("..", 0):
                continue
            fd = s.openat2(AT_FDCWD, path, O_TMPFILE | os.O_RDWR, 0o600, resolve)
            if fd >= 0:
                s.write(fd, b"x")
                s.close(fd)


@program
def from_above_the_tree(s: Calls) -> None:
    """The directory that the walk may not leave is around the tree, or beside it."""
    s.put("file", b"changed\n")
    s.unlink("dir/a")
    s.put("dir/new")
    s.symlink("dir/new", "to-new")
    s.symlink("../file", "dir/to-file")
    inside = s.root.rpartition(b"/")[2]
    name = s.root.split(b"/")[-2] + b"/" + inside
    for around in (s.root + b"/..", s.root + b"/../.."):
        top = s.open(around, O_PATH, 0)
        for path in (
            b"file",
            b"dir/a",
            b"dir/new",
            b"dir/sub/../new",
            b"to-new",
            b"to-dir/new",
            b"dir/to-file",
            b"missing",
        ):
            below = (inside if around.count(b"/..") == 1 else name) + b"/" + path
            for resolve in (0, RESOLVE_BENEATH, RESOLVE_IN_ROOT, RESOLVE_NO_SYMLINKS, RESOLVE_NO_XDEV):
                fd = s.openat2(top, below, os.O_RDONLY, 0, resolve)
                if fd >= 0:
                    s.read(fd)
                    s.close(fd)
            fd = s.openat2(top, below, os.O_WRONLY | os.O_CREAT, 0o640, RESOLVE_BENEATH)
            if fd >= 0:
                s.write(fd, b"w")
                s.close(fd)
        s.openat2(top, b"/" + inside + b"/file", os.O_RDONLY, 0, RESOLVE_BENEATH)
        s.openat2(top, b"../x", os.O_RDONLY, 0, RESOLVE_BENEATH)


@program
def removed_names_beneath(s: Calls) -> None:
    s.unlink("dir/a")
    s.rename("dir/sub", "moved")
    for path in ("dir/a", "dir/sub/b", "moved/b", "dir/sub/../a", "moved/deep/../../file"):
        for resolve in (0, RESOLVE_BENEATH, RESOLVE_IN_ROOT, RESOLVE_NO_SYMLINKS):
            fd = s.openat2(AT_FDCWD, path, os.O_RDONLY, 0, resolve)
            if fd >= 0:
                s.close(fd)
