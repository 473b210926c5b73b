"""The tree that every program of the corpus starts in.

file empty read-only(0444) write-only(0222) secret(0000) other(somebody else's) other-writable(somebody else's, 0666)
script(0755) big(20,000 bytes) sparse(256 KiB, of which 4 bytes are there) hard-1 = hard-2 = dir/hard-3
attributes(user.one, user.two) acl(an access ACL) acl-dir(a default ACL) fifo socket
dir/(a, sub/(b, deep/(c)), hard-3, up) full/(one, two) empty-dir/
closed/(0000: in) no-search/(0644: in) no-write/(0555: in, sub/) no-read/(0311: in)
sticky/(1777 of somebody else: own, other) setgid/(2775, another group) other-dir/(0755 of somebody else: in)
to-file to-dir to-link(to-file) to-slash(dir/) to-root(absolute: file) to-outside to-outside-dir dangling
dangling-in(empty-dir/new) loop-1 loop-2 self(self) up(../NAME/file) to-closed to-fifo dir/up(../file)
names that are not UTF-8, with a newline, with spaces, of 255 bytes

Root makes what belongs to somebody else; without root everything is the user's own. Every object has a modification
time of its own, long ago.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Callable

LONG_AGO_S = 1_000_000_000
LONGEST = b"n" * 255
OTHER, OTHER_GROUP = 4242, 4343

_ACL_UNDEFINED = 0xFFFFFFFF


def acl(*entries: tuple[int, int, int]) -> bytes:
    """An ACL as the attribute holds it: (tag, permissions, id) each."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER_OBJ = 1, 2, 4, 8, 16, 32
ACCESS_ACL = acl(
    (USER_OBJ, 6, _ACL_UNDEFINED),
    (USER, 4, OTHER),
    (GROUP_OBJ, 4, _ACL_UNDEFINED),
    (MASK, 4, _ACL_UNDEFINED),
    (OTHER_OBJ, 0, _ACL_UNDEFINED),
)
DEFAULT_ACL = acl(
    (USER_OBJ, 7, _ACL_UNDEFINED),
    (USER, 7, OTHER),
    (GROUP_OBJ, 5, _ACL_UNDEFINED),
    (MASK, 7, _ACL_UNDEFINED),
    (OTHER_OBJ, 0, _ACL_UNDEFINED),
)

_FILES: tuple[tuple[bytes, int, bytes], ...] = (
    (b"file", 0o644, b"content\n"),
    (b"empty", 0o644, b""),
    (b"read-only", 0o444, b"read\n"),
    (b"write-only", 0o222, b"write\n"),
    (b"secret", 0o000, b"secret\n"),
    (b"script", 0o755, b'#!/bin/sh\necho "$0" "$@"\n'),
    (b"big", 0o644, bytes(range(250)) * 80),
    (b"hard-1", 0o640, b"hard\n"),
    (b"attributes", 0o644, b"attributes\n"),
    (b"acl", 0o640, b"acl\n"),
    (b"dir/a", 0o644, b"a\n"),
    (b"dir/sub/b", 0o600, b"b\n"),
    (b"dir/sub/deep/c", 0o644, b"c\n"),
    (b"full/one", 0o644, b"one\n"),
    (b"full/two", 0o644, b"two\n"),
    (b"closed/in", 0o644, b"in\n"),
    (b"no-search/in", 0o644, b"in\n"),
    (b"no-write/in", 0o644, b"in\n"),
    (b"no-read/in", 0o644, b"in\n"),
    (b"sticky/own", 0o644, b"own\n"),
    (b"\xff\xfe\x80", 0o644, b"not UTF-8\n"),
    (b"new\nline", 0o644, b"newline\n"),
    (b" two  spaces ", 0o644, b"spaces\n"),
    (LONGEST, 0o644, b"longest\n"),
)
_OTHERS_FILES: tuple[tuple[bytes, int, bytes], ...] = (
    (b"other", 0o644, b"other\n"),
    (b"other-writable", 0o666, b"other\n"),
    (b"sticky/other", 0o666, b"other\n"),
    (b"other-dir/in", 0o644, b"in\n"),
)
_DIRECTORIES = (
    *(b"dir", b"dir/sub", b"dir/sub/deep", b"full", b"empty-dir", b"closed", b"no-search", b"no-write"),
    *(b"no-write/sub", b"no-read", b"sticky", b"setgid", b"other-dir", b"acl-dir"),
)
_MODES = {
    b"closed": 0o000,
    b"no-search": 0o644,
    b"no-write": 0o555,
    b"no-read": 0o311,
    b"sticky": 0o1777,
    b"setgid": 0o2775,
}


Prepare = Callable[[bytes], list[bytes]]


def build(
    root: bytes, outside: bytes, uid: int, gid: int, prepare: Prepare | None = None, *, timed: int = 1
) -> None:
    """Make the tree at root, a new directory of the user's.

    prepare: makes more there, and returns the names. timed: one of so many gets a time of its own; others are new.
    """
    os.mkdir(root)
    # Shorter names, and nothing of where we are in them.
    here = os.open(".", os.O_RDONLY)
    os.chdir(root)
    mask = os.umask(0)
    try:
        _build(root, outside, uid, gid, prepare, timed)
    finally:
        os.umask(mask)
        os.fchdir(here)
        os.close(here)


def _set_time(path: bytes, number: int) -> None:
    time_ns = LONG_AGO_S * 10**9 + number * 1_000_000_001
    os.utime(path, ns=(time_ns, time_ns), follow_symlinks=False)


def _build(root: bytes, outside: bytes, uid: int, gid: int, prepare: Prepare | None, timed: int) -> None:
    is_root = os.geteuid() == 0
    made: list[bytes] = [b"."]
    for name in _DIRECTORIES:
        os.mkdir(name, 0o755)
        made.append(name)
    others = [] if not is_root else [b"sticky", b"other-dir", *(name for name, _, _ in _OTHERS_FILES)]
    for name, mode, content in _FILES + _OTHERS_FILES:
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        os.write(fd, content)
        os.close(fd)
        made.append(name)
    made += _special(root, outside)
    if prepare is not None:
        made += prepare(root)
    for name, value in ((b"user.one", b"1"), (b"user.two", b"\x00\xff")):
        os.setxattr(b"attributes", name, value)
    os.setxattr(b"dir", b"user.of-dir", b"d")
    if is_root:
        for name in made:
            owner = (OTHER, OTHER) if name in others else (uid, gid)
            if owner != (0, 0):
                os.lchown(name, *owner)
        os.lchown(b"setgid", -1, OTHER_GROUP)
    for name, mode in _MODES.items():
        os.chmod(name, mode)
    os.setxattr(b"acl", b"system.posix_acl_access", ACCESS_ACL)
    os.setxattr(b"acl-dir", b"system.posix_acl_default", DEFAULT_ACL)
    numbered = list(enumerate(reversed(made)))[::timed]
    if is_root:
        for number, name in numbered:
            _set_time(name, number)
    else:
        _set_times_unprivileged(numbered)


def _set_times_unprivileged(numbered: list[tuple[int, bytes]]) -> None:
    for name in _MODES:
        os.chmod(name, 0o755)
    for number, name in numbered:
        _set_time(name, number)
    for name, mode in _MODES.items():
        os.chmod(name, mode)


def _special(root: bytes, outside: bytes) -> list[bytes]:
    """Links and what is neither file nor directory. Returns their names."""
    for name in (b"hard-2", b"dir/hard-3"):
        os.link(b"hard-1", name)
    fd = os.open(b"sparse", os.O_WRONLY | os.O_CREAT, 0o644)
    os.pwrite(fd, b"end\n", (256 << 10) - 4)
    os.close(fd)
    os.mkfifo(b"fifo", 0o644)
    os.mknod(b"socket", stat.S_IFSOCK | 0o755)
    links = {
        b"to-file": b"file",
        b"to-dir": b"dir",
        b"to-link": b"to-file",
        b"to-slash": b"dir/",
        b"to-root": root + b"/file",
        b"to-outside": outside + b"/file",
        b"to-outside-dir": outside + b"/dir",
        b"dangling": b"nowhere",
        b"dangling-in": b"empty-dir/new",
        b"loop-1": b"loop-2",
        b"loop-2": b"loop-1",
        b"self": b"self",
        b"up": b"../" + os.path.basename(root) + b"/file",
        b"to-closed": b"closed/in",
        b"to-fifo": b"fifo",
        b"dir/up": b"../file",
    }
    for name, target in links.items():
        os.symlink(target, name)
    # hard-2 and hard-3 share what hard-1 has.
    return [b"sparse", b"fifo", b"socket", *links]
