"""What else a call can be given that is wrong: descriptors instead of directories, flags, pointers, values.

Paths that are wrong are names.py.
"""

from __future__ import annotations

import ctypes
import os

from .vocabulary import (
    AT_EACCESS,
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_NO_AUTOMOUNT,
    AT_REMOVEDIR,
    AT_SYMLINK_FOLLOW,
    AT_SYMLINK_NOFOLLOW,
    O_PATH,
    Argument,
    Calls,
    Programs,
)

PROGRAMS = Programs()
program = PROGRAMS

_TIMES = (0, 0, 0, 0)
_NOWHERE = 8  # no program has memory there


def _times(*numbers: int) -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(
        b"".join(number.to_bytes(8, "little", signed=True) for number in numbers)
    )


def _call(s: Calls, name: str, *arguments: Argument) -> None:
    shown = [
        argument for argument in arguments if isinstance(argument, (int, str, bytes)) or argument is None
    ]
    s.told(name, shown, s.silently(name, *arguments))


def _at_calls(s: Calls, dirfd: int, path: str | None, *, flags: int = 0) -> None:
    """Every call with a directory descriptor. flags: for those that have any."""
    status = ctypes.create_string_buffer(256)
    _call(s, "newfstatat", dirfd, path, status, flags)
    _call(s, "statx", dirfd, path, flags, 0x7FF, status)
    _call(s, "faccessat", dirfd, path, os.R_OK)
    _call(s, "faccessat2", dirfd, path, os.R_OK, flags)
    _call(s, "readlinkat", dirfd, path, status, 100)
    _call(s, "fchmodat", dirfd, path, 0o600)
    _call(s, "fchmodat2", dirfd, path, 0o600, flags)
    _call(s, "fchownat", dirfd, path, -1, -1, flags)
    _call(s, "futimesat", dirfd, path, _times(*_TIMES))
    _call(s, "utimensat", dirfd, path, _times(*_TIMES), flags)
    _call(s, "mkdirat", dirfd, path, 0o755)
    _call(s, "mknodat", dirfd, path, 0o100644, 0)
    _call(s, "symlinkat", "x", dirfd, path)
    _call(s, "linkat", dirfd, path, AT_FDCWD, "linked", flags)
    _call(s, "linkat", AT_FDCWD, "big", dirfd, path, 0)
    _call(s, "renameat", dirfd, path, AT_FDCWD, "renamed")
    _call(s, "renameat2", AT_FDCWD, "empty", dirfd, path, 0)
    s.tried(["openat", dirfd, path, os.O_RDONLY, 0], ["openat", dirfd, path, os.O_WRONLY | os.O_CREAT, 0o644])
    s.tried(["openat", dirfd, path, O_PATH, 0], ["openat", dirfd, path, os.O_TMPFILE | os.O_RDWR, 0o600])
    _call(s, "unlinkat", dirfd, path, flags)


@program
def a_descriptor_that_is_none(s: Calls) -> None:
    for dirfd in (99, -1, -5):
        _at_calls(s, dirfd, "file")


@program
def a_descriptor_of_a_file(s: Calls) -> None:
    _at_calls(s, s.open("file", os.O_RDONLY, 0), "x")


@program
def a_descriptor_of_a_new_file(s: Calls) -> None:
    s.put("new")
    _at_calls(s, s.open("new", os.O_RDONLY, 0), "x")


@program
def a_descriptor_of_a_removed_directory(s: Calls) -> None:
    for path in ("empty-dir", "made"):
        s.mkdir("made", 0o755)
        fd = s.open(path, os.O_RDONLY | os.O_DIRECTORY, 0)
        s.rmdir(path)
        _at_calls(s, fd, "x")
        s.close(fd)


@program
def a_descriptor_that_only_names_a_directory(s: Calls) -> None:
    _at_calls(s, s.open("dir", O_PATH, 0), "a")


@program
def a_descriptor_and_an_absolute_path(s: Calls) -> None:
    _at_calls(s, 99, s.root.decode() + "/file")


@program
def no_path(s: Calls) -> None:
    _at_calls(s, AT_FDCWD, None)
    for name in (
        "stat",
        "lstat",
        "access",
        "chmod",
        "mkdir",
        "rmdir",
        "unlink",
        "chdir",
        "truncate",
        "creat",
    ):
        _call(s, name, None, 0)
    for name in ("rename", "link", "symlink"):
        _call(s, name, None, "x")
        _call(s, name, "file", None)


for _flags in (
    AT_SYMLINK_NOFOLLOW,
    AT_REMOVEDIR,
    AT_SYMLINK_FOLLOW,
    AT_NO_AUTOMOUNT,
    AT_EMPTY_PATH,
    0x2000,
    0x4000,
    0x6000,
    0x8000,
    1,
    0x40000000,
    1 << 32,
):

    def _with_flags(s: Calls, flags: int = _flags) -> None:
        # With AT_EMPTY_PATH the empty one would be the directory that we are in, which chmod closes.
        for path in ("file", "to-file", "empty-dir", "" if flags != AT_EMPTY_PATH else "dir"):
            _at_calls(s, AT_FDCWD, path, flags=flags)

    PROGRAMS.add(f"flags_{_flags:#x}", _with_flags)


@program
def flags_of_the_others(s: Calls) -> None:
    for mode in (8, 0o10, -1, 7):
        s.access("file", mode)
        s.faccessat2(AT_FDCWD, "file", mode, 0)
    s.faccessat2(AT_FDCWD, "to-file", os.W_OK, AT_EACCESS | AT_SYMLINK_NOFOLLOW)
    for flags in (3, 6, 7, 8, 0x80000000):  # of 4, leaving a whiteout, see renaming.py
        s.renameat2(AT_FDCWD, "file", AT_FDCWD, "missing-too", flags)
        s.renameat2(AT_FDCWD, "missing-too", AT_FDCWD, "file", 0)
    for mask in (0, 1 << 31, 0xFFF, 0x80000000 | 0x7FF):
        _call(s, "statx", AT_FDCWD, "file", 0, mask, ctypes.create_string_buffer(256))
    s.mknod("made", 0o170644, 0)
    s.mknod("made", 0o040644, 0)
    s.mknod("made", 0o120644, 0)
    s.truncate("file", -1)
    s.truncate("dir", 0)
    s.truncate("fifo", 0)


@program
def results_with_no_place(s: Calls) -> None:
    """EFAULT, where the object is there; what is missing is missing first."""
    for path in ("file", "missing"):
        for name in ("stat", "lstat"):
            _call(s, name, path, _NOWHERE)
        _call(s, "newfstatat", AT_FDCWD, path, _NOWHERE, 0)
        _call(s, "statx", AT_FDCWD, path, 0, 0x7FF, _NOWHERE)
        _call(s, "statfs", path, _NOWHERE)
        _call(s, "getxattr", path, "user.x", _NOWHERE, 10)
        _call(s, "getxattr", path, None, None, 0)
        _call(s, "listxattr", path, _NOWHERE, 10)
        _call(s, "setxattr", path, "user.x", _NOWHERE, 10, 0)
        _call(s, "setxattr", path, None, None, 0, 0)
        _call(s, "removexattr", path, None)
        _call(s, "utimensat", AT_FDCWD, path, _NOWHERE, 0)
        _call(s, "utimes", path, _NOWHERE)
        _call(s, "utime", path, _NOWHERE)
    _call(s, "readlink", "to-file", _NOWHERE, 10)
    _call(s, "readlink", "to-file", _NOWHERE, 0)
    _call(s, "readlink", "to-file", _NOWHERE, -1)
    _call(s, "getcwd", _NOWHERE, 4096)
    _call(s, "getcwd", _NOWHERE, 1)
    _call(s, "getdents64", s.open("dir", os.O_RDONLY, 0), _NOWHERE, 4096)


@program
def ways_to_open_that_are_none(s: Calls) -> None:
    _call(s, "openat2", AT_FDCWD, "file", _NOWHERE, 24)
    for size in (0, 8, 23, 32, 5000):
        _call(s, "openat2", AT_FDCWD, "file", s.open_how(0).ljust(size, b"\0"), size)
    _call(s, "openat2", AT_FDCWD, "file", s.open_how(0) + b"\1" * 8, 32)


@program
def times_that_are_none(s: Calls) -> None:
    for numbers in ((0, 1_000_000_000, 0, 0), (0, -1, 0, 0), (0, 0, 0, (1 << 30) - 3), (-5, 0, 1 << 40, 0)):
        _call(s, "utimensat", AT_FDCWD, "file", _times(*numbers), 0)
    for numbers in ((0, 1_000_000, 0, 0), (0, -1, 0, 0)):
        _call(s, "utimes", "file", _times(*numbers))
        _call(s, "futimesat", AT_FDCWD, "file", _times(*numbers))
    s.lstat("file")


@program
def calls_on_the_wrong_kind_of_descriptor(s: Calls) -> None:
    """Of the lower, copied, new; for reading, writing, of a directory, and for nothing."""
    s.put("new")
    s.put("big", b"x", 0)
    data = ctypes.create_string_buffer(64)
    for path, flags in (
        ("file", os.O_RDONLY),
        ("big", os.O_WRONLY),
        ("new", os.O_RDONLY),
        ("new", os.O_WRONLY),
        ("dir", os.O_RDONLY),
        ("file", O_PATH),
        ("new", O_PATH),
    ):
        fd = s.open(path, flags, 0)
        _call(s, "read", fd, data, 1)
        _call(s, "write", fd, b"", 0)
        _call(s, "pread64", fd, data, 1, -1)
        _call(s, "ftruncate", fd, 1)
        _call(s, "ftruncate", fd, -1)
        _call(s, "fallocate", fd, 0, 0, 1)
        _call(s, "fallocate", fd, 0, 0, 0)
        _call(s, "fallocate", fd, 0x80, 0, 1)
        _call(s, "fchmod", fd, 0o755)
        _call(s, "fchown", fd, -1, -1)
        _call(s, "fsync", fd)
        _call(s, "fchdir", fd)
        _call(s, "fsetxattr", fd, "user.y", b"1", 1, 0)
        _call(s, "fgetxattr", fd, "user.y", data, 64)
        _call(s, "fremovexattr", fd, "user.y")
        _call(s, "getdents64", fd, data, 8)
        _call(s, "lseek", fd, 0, 99)
        _call(s, "lseek", fd, -1, 0)
        _call(s, "flock", fd, 1)
        _call(s, "fadvise64", fd, 0, 0, 4)
        _call(s, "readahead", fd, 0, 10)
        _call(s, "sync_file_range", fd, 0, 0, 7)
        _call(s, "inotify_add_watch", fd, "file", 2)
        s.chdir(s.root)
        s.close(fd)


@program
def copying_between_descriptors(s: Calls) -> None:
    s.put("new", b"0123456789")
    reader, writer = s.open("big", os.O_RDONLY, 0), s.open("file", os.O_RDWR, 0)
    new, directory = s.open("new", os.O_RDWR, 0), s.open("dir", os.O_RDONLY, 0)
    appending = s.open("empty", os.O_WRONLY | os.O_APPEND, 0)
    for source, target in (
        (reader, writer),
        (writer, reader),
        (new, writer),
        (new, new),
        (directory, new),
        (new, directory),
        (reader, appending),
        (99, new),
    ):
        _call(s, "copy_file_range", source, None, target, None, 5, 0)
        _call(s, "copy_file_range", source, None, target, None, 5, 1)
        _call(s, "sendfile", target, source, None, 5)
    for path in ("file", "new", "empty"):
        s.cat(path)


@program
def entering_a_directory_that_was_closed(s: Calls) -> None:
    fd = s.open("dir", os.O_RDONLY, 0)
    s.fchmod(fd, 0o600)
    s.fchdir(fd)
    s.chdir("dir")
