"""utime, utimes, futimesat, utimensat; and the times that other calls leave."""

from __future__ import annotations

import functools
import os

from .vocabulary import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_SYMLINK_NOFOLLOW,
    O_PATH,
    UTIME_NOW,
    UTIME_OMIT,
    Calls,
    Programs,
)

PROGRAMS = Programs()
program = PROGRAMS

_TARGETS = (
    *(
        "file",
        "secret",
        "read-only",
        "other",
        "other-writable",
        "hard-1",
        "fifo",
        "socket",
        "dir",
        "closed/in",
    ),
    *(
        "no-search/in",
        "no-write/in",
        "other-dir",
        "to-file",
        "to-dir",
        "dangling",
        "loop-1",
        "missing",
        "file/x",
    ),
    *("file/", "dir/", "", "n" * 256, b"\xff\xfe\x80", ".", "to-closed", "attributes", "sparse"),
)
_THEN = ((1111, 111), (2222, 222))


def _utime(s: Calls, path: str | bytes) -> None:
    s.utime(path, (1111, 2222))


def _utime_now(s: Calls, path: str | bytes) -> None:
    s.utime(path)


def _utimes(s: Calls, path: str | bytes) -> None:
    s.utimes(path, _THEN)


def _utimes_now(s: Calls, path: str | bytes) -> None:
    s.utimes(path)


def _futimesat(s: Calls, path: str | bytes) -> None:
    s.futimesat(AT_FDCWD, path, _THEN)


def _utimensat(s: Calls, path: str | bytes) -> None:
    s.utimensat(AT_FDCWD, path, _THEN)


def _utimensat_now(s: Calls, path: str | bytes) -> None:
    s.utimensat(AT_FDCWD, path)


def _utimensat_not_following(s: Calls, path: str | bytes) -> None:
    s.utimensat(AT_FDCWD, path, _THEN, AT_SYMLINK_NOFOLLOW)


def _utimensat_both_now(s: Calls, path: str | bytes) -> None:
    s.utimensat(AT_FDCWD, path, ((0, UTIME_NOW), (0, UTIME_NOW)))


def _utimensat_one_now(s: Calls, path: str | bytes) -> None:
    s.utimensat(AT_FDCWD, path, ((0, UTIME_OMIT), (0, UTIME_NOW)))


def _utimensat_omitted(s: Calls, path: str | bytes) -> None:
    s.utimensat(AT_FDCWD, path, ((0, UTIME_OMIT), (0, UTIME_OMIT)))


def _everywhere(s: Calls, change: object) -> None:
    for path in _TARGETS:
        change(s, path)  # type: ignore[operator]
        s.lstat(path)


_CHANGES = (_utime, _utime_now, _utimes, _utimes_now, _futimesat, _utimensat, _utimensat_now)
_PARTS = (_utimensat_not_following, _utimensat_both_now, _utimensat_one_now, _utimensat_omitted)
for _change in (*_CHANGES, *_PARTS):
    program.add(_change.__name__[1:] + "_everywhere", functools.partial(_everywhere, change=_change))


@program
def by_descriptor(s: Calls) -> None:
    for path, flags in (("file", os.O_RDONLY), ("big", os.O_WRONLY), ("dir", os.O_RDONLY), ("empty", O_PATH)):
        fd = s.open(path, flags, 0)
        s.utimensat(fd, None, _THEN)
        s.fstat(fd)
        s.utimensat(fd, "", ((3, 0), (4, 0)), AT_EMPTY_PATH)
        s.lstat(path)
        s.futimesat(fd, None, ((5, 0), (6, 0)))
        s.lstat(path)
    s.utimensat(99, None, _THEN)
    s.utimensat(AT_FDCWD, None, _THEN)
    s.utimensat(AT_FDCWD, "", _THEN, AT_EMPTY_PATH)


@program
def of_a_symlink_by_descriptor(s: Calls) -> None:
    fd = s.open("to-file", O_PATH | os.O_NOFOLLOW, 0)
    s.utimensat(fd, "", _THEN, AT_EMPTY_PATH)
    s.lstat("to-file")
    s.lstat("file")


@program
def bad_times(s: Calls) -> None:
    s.utimensat(AT_FDCWD, "file", ((0, -1), (0, 0)))
    s.utimensat(AT_FDCWD, "file", ((0, 0), (0, 1_000_000_000)))
    s.utimes("file", ((0, 1_000_000), (0, 0)))
    s.utimensat(AT_FDCWD, "file", _THEN, 0x80000)
    s.told("a bad pointer", (), s.silently("utimensat", AT_FDCWD, "file", 1, 0))
    s.lstat("file")


@program
def before_1970_and_after_2038(s: Calls) -> None:
    for seconds in (-1, -1_000_000_000, 1 << 32, 1 << 33, 0):
        s.utimensat(AT_FDCWD, "file", ((seconds, 0), (seconds, 999_999_999)))
        s.lstat("file")


@program
def both_times_are_kept_apart(s: Calls) -> None:
    def accessed(path: str) -> None:
        s.say(path, "accessed:", os.lstat(path).st_atime_ns)

    s.utimensat(AT_FDCWD, "file", ((10, 1), (20, 2)))
    accessed("file")
    s.utimensat(AT_FDCWD, "file", ((30, 3), (0, UTIME_OMIT)))
    accessed("file")
    s.utimensat(AT_FDCWD, "file", ((0, UTIME_OMIT), (40, 4)))
    accessed("file")
    s.lstat("file")
    s.chmod("file", 0o600)
    accessed("file")
    s.link("file", "linked")
    accessed("linked")


@program
def writing_changes_times(s: Calls) -> None:
    fd = s.open("file", os.O_RDWR, 0)
    s.lstat("file")
    s.pwrite(fd, b"", 0)
    s.lstat("file")
    s.pwrite(fd, b"x", 0)
    s.lstat("file")
    s.changed("file")


@program
def set_times_stay_over_later_changes(s: Calls) -> None:
    s.put("new")
    s.utimensat(AT_FDCWD, "new", _THEN)
    s.chmod("new", 0o600)
    s.rename("new", "newer")
    s.link("newer", "linked")
    s.lstat("newer")
    fd = s.open("newer", os.O_WRONLY, 0)
    s.lstat("newer")
    s.utimensat(fd, None, ((7, 0), (8, 0)))
    s.close(fd)
    s.lstat("newer")


@program
def times_of_directories(s: Calls) -> None:
    for change in (
        lambda: s.put("dir/new"),
        lambda: s.put("dir/new", b"again"),
        lambda: s.chmod("dir/a", 0o600),
        lambda: s.put("dir/a", b"changed"),
        lambda: s.setxattr("dir/a", "user.x", b"1"),
        lambda: s.link("dir/a", "dir/b"),
        lambda: s.rename("dir/b", "b"),
        lambda: s.unlink("dir/a"),
        lambda: s.mkdir("dir/made", 0o755),
        lambda: s.rmdir("dir/made"),
        lambda: s.put("dir/sub/b", b"changed"),
        lambda: s.put("dir/sub/new"),
        lambda: s.symlink("x", "dir/x"),
        lambda: s.tried(["open", "dir", os.O_TMPFILE | os.O_RDWR, 0o600]),
        lambda: s.ls("dir"),
        lambda: s.chmod("dir", 0o700),
    ):
        s.utimensat(AT_FDCWD, "dir", ((100, 0), (200, 0)))
        s.utimensat(AT_FDCWD, "dir/sub", ((100, 0), (300, 0)))
        change()
        s.lstat("dir")
        s.lstat("dir/sub")


@program
def a_directory_keeps_its_times_when_what_is_in_it_is_copied_up(s: Calls) -> None:
    s.put("dir/sub/deep/c", b"changed\n")
    s.chmod("dir/a", 0o600)
    s.setxattr("full/one", "user.x", b"1")
    for path in ("dir", "dir/sub", "dir/sub/deep", "full", "."):
        s.lstat(path)


@program
def change_times_of_what_is_only_copied_up(s: Calls) -> None:
    """The one time that nobody can set."""
    s.tried(["open", "file", os.O_RDWR, 0])
    s.put("dir/sub/deep/c", b"changed\n")
    for path in ("file", "dir/sub/deep/c", "dir/sub/deep", "dir", ".", "dir/a"):
        s.changed(path)


@program
def of_a_file_written_by_a_mapping(s: Calls) -> None:
    import mmap

    fd = s.open("file", os.O_RDWR, 0)
    with mmap.mmap(fd, 8) as mapped:
        mapped[0:3] = b"MAP"
        mapped.flush()
    s.lstat("file")
    s.cat("file")


@program
def relative_to_descriptors(s: Calls) -> None:
    directory = s.open("dir", O_PATH, 0)
    s.utimensat(directory, "a", _THEN)
    s.futimesat(directory, "sub/b", _THEN)
    s.utimensat(directory, "../file", _THEN)
    s.utimensat(s.open("file", O_PATH, 0), "x", _THEN)
    s.utimensat(99, s.root + b"/big", _THEN)
    for path in ("dir/a", "dir/sub/b", "file", "big"):
        s.lstat(path)


@program
def by_proc(s: Calls) -> None:
    fd = s.open("file", os.O_RDONLY, 0)
    s.utimensat(AT_FDCWD, f"/proc/self/fd/{fd}", _THEN)
    s.utimes("/proc/self/cwd/dir", _THEN)
    s.lstat("file")
    s.lstat("dir")
