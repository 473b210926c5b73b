"""Paths as the kernel sees them: opened objects, their identity and their real name.

Whoever authorises an access opens the object first (O_PATH), asks here what it is, and acts on that very object:
through `/proc/self/fd/N`, never through the name again.
"""

from __future__ import annotations

import collections
import errno
import os
import stat

from sandlockd.kernel.fds import OwnedFd
from sandlockd.kernel.native import check, ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple

AT_FDCWD = -100

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_CACHED = 0x20

if TYPE_CHECKING:

    class Object(NamedTuple):
        path: bytes  # the canonical name (b"pipe:[7]" and the like for what has none)
        device: int
        inode: int
        mode: int
        deleted: bool  # no name leads there any more
        special: int  # st_rdev
        proc: bool  # of procfs, whatever path led to it and wherever procfs is mounted

    class Identity(NamedTuple):
        """What setfsuid(2), setfsgid(2), setgroups(2) and capset(2) take."""

        fsuid: int
        fsgid: int
        groups: tuple[int, ...]
        capabilities: int  # effective; those that we lack are not gained

    class Mount(NamedTuple):
        point: bytes
        kind: bytes
        device: int
        root: bytes  # what of the file system is mounted: b"/" is all of it
        mount_id: int
        options: bytes  # of the file system; of a cgroup of version 1, its controllers are among them

else:  # without importing typing
    Object = collections.namedtuple("Object", "path device inode mode deleted special proc")
    Identity = collections.namedtuple("Identity", "fsuid fsgid groups capabilities")
    Mount = collections.namedtuple("Mount", "point kind device root mount_id options")


def openat2(
    dirfd: int,
    path: bytes,
    flags: int,
    *,
    mode: int = 0,
    resolve: int = 0,
    identity: Identity | None = None,
) -> OwnedFd:
    """openat2(2), with the file system identity of somebody else where given. Raises OSError."""
    native, _groups = (ffi.NULL, None) if identity is None else native_identity(identity)
    return OwnedFd(check(lib.slk_openat2(dirfd, path, flags | os.O_CLOEXEC, mode, resolve, native), path))


def native_identity(identity: Identity) -> tuple[ffi.CData, ffi.CData]:
    """The second is the memory that the first points into: it is to be kept for as long."""
    native = ffi.new("struct slk_identity *")
    native.fsuid, native.fsgid = identity.fsuid, identity.fsgid
    native.capabilities = identity.capabilities
    groups = ffi.new("uint32_t[]", identity.groups)
    native.groups, native.group_count = groups, len(identity.groups)
    return native, groups


class acting_as:
    """Take the identity on in this thread for the length of the block (None: stay ourselves).

    Nothing in the block may await: the thread is not itself meanwhile.
    """

    __slots__ = ("_identity",)

    def __init__(self, identity: Identity | None) -> None:
        self._identity = identity

    def __enter__(self) -> None:
        if self._identity is not None:
            native, _groups = native_identity(self._identity)
            check(lib.slk_identity_enter(native))

    def __exit__(self, *exc_info: object) -> None:
        if self._identity is not None and lib.slk_identity_leave() < 0:
            os.abort()  # going on with the program's identity would make every later answer wrong


def self_link(fd: int) -> bytes:
    """The magic link to an object that we hold open."""
    return b"/proc/self/fd/%d" % fd


DELETED = b" (deleted)"  # what the kernel puts behind a name that is none any more


def describe(fd: int) -> Object:
    """What an open descriptor is."""
    status = os.fstat(fd)
    path = os.readlink(self_link(fd))
    deleted = status.st_nlink == 0 or (path.endswith(DELETED) and not _leads_to(path, status))
    if deleted:
        path = path.removesuffix(DELETED)
    proc = bool(check(lib.slk_is_procfs(fd)))
    return Object(path, status.st_dev, status.st_ino, status.st_mode, deleted, status.st_rdev, proc)


_LEVELS_MAX = 1024  # that a path may be deeper than the kernel can tell


def describe_at_length(fd: int) -> Object:
    """As describe, also of a directory whose path is longer than the kernel can tell.

    Names are then looked for upwards, one directory after the other.
    Raises OSError: ENAMETOOLONG where that fails, too.
    """
    try:
        return describe(fd)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
    status = os.fstat(fd)
    if not stat.S_ISDIR(status.st_mode):
        raise too_long()
    path = b"" if status.st_nlink == 0 else _path_upwards(fd)
    return Object(path, status.st_dev, status.st_ino, status.st_mode, not path, 0, False)


def too_long() -> OSError:
    return OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))


def _path_upwards(fd: int) -> bytes:
    rest = b""
    at = OwnedFd(os.dup(fd))
    try:
        for _ in range(_LEVELS_MAX):
            above = openat2(at.fd, b"..", os.O_RDONLY | os.O_DIRECTORY)
            below, at = at, above
            with below:
                rest = b"/" + _name_in(above, os.fstat(below.fd)) + rest
            try:
                return os.readlink(self_link(above.fd)) + rest
            except OSError as error:
                if error.errno != errno.ENAMETOOLONG:
                    raise
    finally:
        at.close()
    raise too_long()


def _name_in(directory: OwnedFd, status: os.stat_result) -> bytes:
    with os.scandir(directory.fd) as entries:
        for entry in entries:
            if entry.inode() == status.st_ino and entry.is_dir(follow_symlinks=False):
                return os.fsencode(entry.name)
    raise too_long()


def _leads_to(path: bytes, status: os.stat_result) -> bool:
    """A file may really be called "x (deleted)"."""
    try:
        named = os.lstat(path)
    except OSError:
        return False
    return (named.st_dev, named.st_ino) == (status.st_dev, status.st_ino)


def mounts() -> list[Mount]:
    """Every mount that we see, from /proc/self/mountinfo (proc_pid_mountinfo(5))."""
    found = []
    with open("/proc/self/mountinfo", "rb") as file:
        for line in file:
            left, _, right = line.partition(b" - ")
            fields = left.split()
            major, minor = fields[2].split(b":")
            device = os.makedev(int(major), int(minor))
            kind, *_, options = right.rstrip(b"\n").split(b" ")
            found.append(
                Mount(unescape(fields[4]), kind, device, unescape(fields[3]), int(fields[0]), options)
            )
    return found


def unescape(text: bytes) -> bytes:
    r"""mountinfo writes space, tab, newline and backslash as \ooo."""
    if b"\\" not in text:
        return text
    parts = text.split(b"\\")
    return parts[0] + b"".join(bytes([int(part[:3], 8)]) + part[3:] for part in parts[1:])
