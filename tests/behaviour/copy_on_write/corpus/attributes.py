"""Extended attributes by path, not followed, and by descriptor; POSIX ACLs as the bytes that they are."""

from __future__ import annotations

import ctypes
import functools
import os
import struct

from .fixture import ACCESS_ACL, DEFAULT_ACL, acl
from .vocabulary import O_PATH, XATTR_CREATE, XATTR_REPLACE, Calls, Programs

PROGRAMS = Programs()
program = PROGRAMS

_NO_ID = 0xFFFFFFFF
_ACCESS, _DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
_TARGETS = (
    *(
        "file",
        "attributes",
        "secret",
        "read-only",
        "write-only",
        "other",
        "other-writable",
        "hard-1",
        "fifo",
        "socket",
    ),
    *(
        "dir",
        "closed/in",
        "no-search/in",
        "no-write/in",
        "other-dir",
        "sticky",
        "to-file",
        "to-dir",
        "dangling",
    ),
    *("loop-1", "missing", "file/x", "file/", "dir/", "", "n" * 256, b"\xff\xfe\x80", ".", "acl", "acl-dir"),
)


def _set(s: Calls, path: str | bytes) -> None:
    s.setxattr(path, "user.new", b"value")


def _set_not_following(s: Calls, path: str | bytes) -> None:
    s.lsetxattr(path, "user.new", b"value")


def _get(s: Calls, path: str | bytes) -> None:
    s.getxattr(path, "user.one")
    s.getxattr(path, _ACCESS)


def _get_not_following(s: Calls, path: str | bytes) -> None:
    s.lgetxattr(path, "user.one")


def _list(s: Calls, path: str | bytes) -> None:
    s.listxattr(path)


def _list_not_following(s: Calls, path: str | bytes) -> None:
    s.llistxattr(path)


def _remove(s: Calls, path: str | bytes) -> None:
    s.removexattr(path, "user.one")
    s.removexattr(path, "user.missing")


def _remove_not_following(s: Calls, path: str | bytes) -> None:
    s.lremovexattr(path, "user.one")


def _everywhere(s: Calls, act: object) -> None:
    for path in _TARGETS:
        act(s, path)  # type: ignore[operator]
    for path in ("file", "dir", "fifo", "to-file", "attributes"):
        s.llistxattr(path)


_ACTS = (_set, _set_not_following, _get, _get_not_following, _list, _list_not_following)
for _act in (*_ACTS, _remove, _remove_not_following):
    program.add(_act.__name__[1:] + "_everywhere", functools.partial(_everywhere, act=_act))


@program
def by_descriptor(s: Calls) -> None:
    for path, flags in (
        ("file", os.O_RDONLY),
        ("attributes", os.O_RDWR),
        ("dir", os.O_RDONLY),
        ("big", O_PATH),
    ):
        fd = s.open(path, flags, 0)
        s.fsetxattr(fd, "user.x", b"1")
        s.fgetxattr(fd, "user.x")
        s.flistxattr(fd)
        s.getxattr(path, "user.x")
        s.fremovexattr(fd, "user.x")
        s.fremovexattr(fd, "user.x")
        s.listxattr(path)
    s.fsetxattr(99, "user.x", b"1")
    s.fgetxattr(99, "user.x")


@program
def by_a_read_only_descriptor_then_written(s: Calls) -> None:
    fd = s.open("file", os.O_RDONLY, 0)
    s.fsetxattr(fd, "user.x", b"1")
    s.put("file", b"later\n")
    s.pread(fd, 10, 0)
    s.fgetxattr(fd, "user.x")
    s.setxattr("file", "user.y", b"2")
    s.flistxattr(fd)


@program
def flags(s: Calls) -> None:
    for flags in (XATTR_CREATE, XATTR_REPLACE, XATTR_CREATE | XATTR_REPLACE, 4):
        s.setxattr("attributes", "user.one", b"a", flags)
        s.setxattr("attributes", "user.missing", b"b", flags)
        s.setxattr("file", "user.one", b"c", flags)
    s.listxattr("attributes")
    s.listxattr("file")


@program
def values(s: Calls) -> None:
    for number, value in enumerate((b"", b"\0", b"\xff" * 100, b"v" * 1000)):
        s.setxattr("file", f"user.{number}", value)
        s.getxattr("file", f"user.{number}")
        s.getxattr("file", f"user.{number}", 0)
        s.getxattr("file", f"user.{number}", 10)
    s.told("too long", (), s.silently("setxattr", "file", "user.x", bytes(70000), 70000, 0))
    s.told("no value", (), s.silently("setxattr", "file", "user.x", None, 5, 0))
    s.listxattr("file", 0)
    s.listxattr("file", 3)
    s.listxattr("file")


@program
def names_of_attributes(s: Calls) -> None:
    for name in (
        "user.",
        "user",
        "",
        "u" * 300,
        "user." + "n" * 250,
        "user." + "n" * 251,
        b"user.\xff\n",
        "foo.bar",
    ):
        s.setxattr("file", name, b"1")
        s.getxattr("file", name)
    s.listxattr("file")


@program
def names_of_other_classes(s: Calls) -> None:
    for name in ("system.x", "security.x", "trusted.x", "system.posix_acl", "USER.x"):
        s.getxattr("file", name)
        s.removexattr("file", name)
    s.listxattr("file")


@program
def reserved_for_overlays(s: Calls) -> None:
    """Names that a copy-on-write tree might keep for itself exist for the program like any other."""
    for name in ("user.overlay.opaque", "user.overlay.whiteout", "user.overlay.x", "user.sandlockd.x"):
        s.setxattr("dir", name, b"y")
        s.getxattr("dir", name)
    s.ls("dir")
    s.listxattr("dir")
    s.setxattr("file", "user.overlay.whiteout", b"y")
    s.ls(".")
    s.removexattr("dir", "user.overlay.opaque")
    s.getxattr("dir", "user.overlay.opaque")


@program
def kept_by_everything_else(s: Calls) -> None:
    s.put("attributes", b"changed\n")
    s.listxattr("attributes")
    s.chmod("attributes", 0o600)
    s.rename("attributes", "dir/moved")
    s.link("dir/moved", "linked")
    s.listxattr("linked")
    s.getxattr("linked", "user.two")
    s.truncate("linked", 0)
    s.getxattr("dir/moved", "user.one")
    s.rename("dir", "moved-dir")
    s.getxattr("moved-dir", "user.of-dir")


@program
def keep_content_and_times(s: Calls) -> None:
    for path in ("file", "big", "sparse", "dir", "hard-1"):
        s.setxattr(path, "user.x", b"1")
        s.lstat(path)
        s.changed(path)
    s.cat("file")
    s.getxattr("hard-2", "user.x")


@program
def removed_and_set_again(s: Calls) -> None:
    s.removexattr("attributes", "user.one")
    s.getxattr("attributes", "user.one")
    s.listxattr("attributes")
    s.setxattr("attributes", "user.one", b"again", XATTR_CREATE)
    s.getxattr("attributes", "user.one")
    s.removexattr("attributes", "user.two")
    s.lstat("attributes")


@program
def of_what_was_replaced(s: Calls) -> None:
    s.unlink("attributes")
    s.put("attributes")
    s.listxattr("attributes")
    s.put("x")
    s.setxattr("x", "user.x", b"1")
    s.rename("x", "file")
    s.listxattr("file")


@program
def by_proc(s: Calls) -> None:
    fd, path = s.open("file", os.O_RDONLY, 0), s.open("attributes", O_PATH, 0)
    s.setxattr(f"/proc/self/fd/{fd}", "user.x", b"1")
    s.setxattr(f"/proc/self/fd/{path}", "user.x", b"2")
    s.getxattr(f"/proc/self/fd/{path}", "user.one")
    s.setxattr("/proc/self/cwd/dir", "user.x", b"3")
    for name in ("file", "attributes", "dir"):
        s.getxattr(name, "user.x")


@program
def of_a_removed_file(s: Calls) -> None:
    fd = s.open("attributes", os.O_RDONLY, 0)
    s.unlink("attributes")
    s.fgetxattr(fd, "user.one")
    s.fsetxattr(fd, "user.x", b"1")
    s.flistxattr(fd)


@program
def access_acl(s: Calls) -> None:
    s.getxattr("acl", _ACCESS)
    s.setxattr("file", _ACCESS, ACCESS_ACL)
    s.getxattr("file", _ACCESS)
    s.lstat("file")
    s.chmod("file", 0o666)
    s.getxattr("file", _ACCESS)
    s.lstat("file")
    s.put("file", b"changed\n")
    s.getxattr("file", _ACCESS)
    s.removexattr("file", _ACCESS)
    s.getxattr("file", _ACCESS)
    s.lstat("file")


@program
def access_acl_over_copy_up(s: Calls) -> None:
    s.put("acl", b"changed\n")
    s.getxattr("acl", _ACCESS)
    s.lstat("acl")
    s.rename("acl", "moved")
    s.chmod("moved", 0o600)
    s.getxattr("moved", _ACCESS)
    s.listxattr("moved")


@program
def minimal_acl(s: Calls) -> None:
    """One that a mode can say is no attribute."""
    s.setxattr("file", _ACCESS, acl((1, 6, _NO_ID), (4, 0, _NO_ID), (32, 4, _NO_ID)))
    s.lstat("file")
    s.getxattr("file", _ACCESS)
    s.listxattr("file")


@program
def default_acl(s: Calls) -> None:
    s.getxattr("acl-dir", _DEFAULT)
    s.setxattr("dir", _DEFAULT, DEFAULT_ACL)
    s.getxattr("dir", _DEFAULT)
    s.setxattr("file", _DEFAULT, DEFAULT_ACL)
    s.put("dir/new", mode=0o666)
    s.mkdir("dir/new-dir", 0o777)
    for path in ("dir/new", "dir/new-dir"):
        s.lstat(path)
        s.getxattr(path, _ACCESS)
        s.getxattr(path, _DEFAULT)
    s.removexattr("dir", _DEFAULT)
    s.put("dir/newer", mode=0o666)
    s.lstat("dir/newer")


@program
def bad_acls(s: Calls) -> None:
    for value in (b"", b"\2\0\0\0", b"\3\0\0\0", b"x", ACCESS_ACL[:-1], acl((1, 6, _NO_ID)), acl((2, 9, 5))):
        s.setxattr("file", _ACCESS, value)
        s.setxattr("dir", _DEFAULT, value)
    s.lstat("file")
    s.listxattr("dir")


@program
def acl_of_links_and_others(s: Calls) -> None:
    s.setxattr("to-file", _ACCESS, ACCESS_ACL)
    s.lsetxattr("to-file", _ACCESS, ACCESS_ACL)
    s.setxattr("fifo", _ACCESS, ACCESS_ACL)
    s.setxattr("other", _ACCESS, ACCESS_ACL)
    for path in ("file", "fifo", "other"):
        s.getxattr(path, _ACCESS)


@program
def acl_that_lets_in(s: Calls) -> None:
    """The named user of an ACL, whom the mode alone would keep out."""
    entries = (1, 0, _NO_ID), (2, 6, 4242), (4, 0, _NO_ID), (16, 6, _NO_ID), (32, 0, _NO_ID)
    s.setxattr("file", _ACCESS, acl(*entries))
    s.setxattr(
        "acl-dir",
        _ACCESS,
        acl((1, 7, _NO_ID), (2, 7, 4242), (4, 0, _NO_ID), (16, 7, _NO_ID), (32, 0, _NO_ID)),
    )
    if os.getuid() == 0:
        s.setresgid(4242, 4242, 4242)
        s.setresuid(4242, 4242, 4242)
    s.cat("file")
    s.access("file", os.R_OK | os.W_OK)
    s.put("file", b"by the ACL\n")
    s.put("acl-dir/new")
    s.lstat("acl-dir/new")


_GETFLAGS, _SETFLAGS, _FSGETXATTR, _FSSETXATTR = 0x80086601, 0x40086602, 0x801C581F, 0x401C5820
_NODUMP, _NOATIME = 0x40, 0x80


def _inode_flags(s: Calls, fd: int) -> int:
    buffer = ctypes.create_string_buffer(8)
    result = s.silently("ioctl", fd, _GETFLAGS, buffer)
    flags = struct.unpack_from("=I", buffer)[0] & (_NODUMP | _NOATIME)
    return s.told("ioctl GETFLAGS", (fd,), result, flags)


@program
def flags_of_inodes_by_a_read_only_descriptor(s: Calls) -> None:
    """As chattr sets them; they are no attributes for listxattr."""
    for path in ("file", "dir", "new"):
        fd = s.open(path, os.O_RDONLY | (os.O_CREAT if path == "new" else 0), 0o644)
        _inode_flags(s, fd)
        buffer = struct.pack("=Q", 0x80000 * (path != "dir") | _NODUMP)
        s.told("ioctl SETFLAGS", (fd,), s.silently("ioctl", fd, _SETFLAGS, buffer))
        _inode_flags(s, fd)
        _inode_flags(s, s.open(path, os.O_RDONLY, 0))
        s.lstat(path)


@program
def project_and_flags_by_a_read_only_descriptor(s: Calls) -> None:
    fd = s.open("file", os.O_RDONLY, 0)
    buffer = ctypes.create_string_buffer(28)
    s.told("ioctl FSGETXATTR", (fd,), s.silently("ioctl", fd, _FSGETXATTR, buffer))
    buffer[0:4] = struct.pack("=I", 0x40)  # FS_XFLAG_NOATIME
    s.told("ioctl FSSETXATTR", (fd,), s.silently("ioctl", fd, _FSSETXATTR, buffer))
    _inode_flags(s, fd)
