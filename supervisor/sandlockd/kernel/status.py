"""What stat(2), statx(2) and statfs(2) put into a program's memory: structures of the kernel, as bytes."""

from __future__ import annotations

import os
import struct

from sandlockd.kernel.native import check, ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandlockd.kernel.fds import OwnedFd

STATX_BASIC = 0x7FF
STATX_BORN = 0x800
STATX_MOUNT_IDS = 0x5000  # STATX_MNT_ID and, of Linux 6.8, STATX_MNT_ID_UNIQUE
_STATX_BYTES = 256
# struct statx (linux/stat.h) up to stx_mnt_id: mask blksize attributes nlink uid gid mode _ ino size blocks
# attributes_mask, four times (s, ns, _), rdev major minor, dev major minor
_STATX = struct.Struct("=IIQIIIHHQQQQ" + "qIi" * 4 + "IIII")
_MASK, _NLINK, _UID, _GID, _MODE, _INO = 0, 3, 4, 5, 6, 8
_TIMES = 12  # accessed, born, changed, modified
_BORN, _CHANGED, _MODIFIED = _TIMES + 3, _TIMES + 6, _TIMES + 9
_RDEV, _DEV = 24, 26
_MOUNT_BYTES = 8


class Status:
    """What statx says of an opened object, some of it changed."""

    def __init__(self, opened: OwnedFd, mask: int = STATX_BASIC, flags: int = 0) -> None:
        """flags: of the AT_STATX_ kind. Raises OSError."""
        buffer = ffi.new("char[]", _STATX_BYTES)
        check(lib.slk_statx(opened.fd, mask, flags, buffer))
        raw = bytes(ffi.buffer(buffer, _STATX_BYTES))
        self._fields = list(_STATX.unpack_from(raw))
        self._rest = raw[_STATX.size :]

    @property
    def links(self) -> int:
        return int(self._fields[_NLINK])

    def set_links(self, links: int) -> None:
        self._fields[_NLINK] = links

    @property
    def mode(self) -> int:
        return int(self._fields[_MODE])

    @property
    def inode(self) -> int:
        return int(self._fields[_INO])

    @property
    def mount_ids(self) -> int:
        """Those of STATX_MOUNT_IDS that it tells."""
        return int(self._fields[_MASK]) & STATX_MOUNT_IDS

    @property
    def born_ns(self) -> int | None:
        """None where the file system does not know, or it was not asked for."""
        if not self._fields[_MASK] & STATX_BORN:
            return None
        return int(self._fields[_BORN]) * 1_000_000_000 + int(self._fields[_BORN + 1])

    def set_number(self, device: int, inode: int) -> None:
        """Be that object, with what is told of this one."""
        self._fields[_INO] = inode
        self._fields[_DEV : _DEV + 2] = os.major(device), os.minor(device)

    def set_metadata(self, other: Status) -> None:
        """Have that one's owner, mode and times."""
        self._fields[_UID : _GID + 1] = other._fields[_UID : _GID + 1]
        self._fields[_MODE] = other._fields[_MODE]
        for time in (_TIMES, _CHANGED, _MODIFIED):
            self._fields[time : time + 3] = other._fields[time : time + 3]

    def set_mount(self, other: Status) -> None:
        """Be on that one's mount."""
        self._rest = other._rest[:_MOUNT_BYTES] + self._rest[_MOUNT_BYTES:]

    def statx(self) -> bytes:
        return _STATX.pack(*self._fields) + self._rest

    def stat(self) -> bytes:
        """struct stat of this machine (asm/stat.h)."""
        return _packed(self._fields)


def _device(fields: list[int], at: int) -> int:
    """As the kernel encodes it for programs: new_encode_dev (linux/kdev_t.h)."""
    major, minor = fields[at], fields[at + 1]
    return (minor & 0xFF) | major << 8 | (minor & ~0xFF) << 12


_X86_64 = struct.Struct("=QQQIIIIQqqq" + "qQ" * 3 + "qqq")
_GENERIC = struct.Struct("=QQIIIIQQqiiq" + "qQ" * 3 + "II")


def _packed(fields: list[int]) -> bytes:
    _, blksize, _, links, uid, gid, mode, _, inode, size, blocks, _ = fields[:_TIMES]
    accessed, changed, modified = (fields[_TIMES + at : _TIMES + at + 2] for at in (0, 6, 9))
    device, special = _device(fields, _DEV), _device(fields, _RDEV)
    times = (*accessed, *modified, *changed)
    if os.uname().machine == "x86_64":
        head = (device, inode, links, mode, uid, gid, 0, special, size, blksize, blocks)
        return _X86_64.pack(*head, *times, 0, 0, 0)
    generic = (device, inode, mode, links, uid, gid, special, 0, size, blksize, 0, blocks)
    return _GENERIC.pack(*generic, *times, 0, 0)


def statfs(opened: OwnedFd) -> bytes:
    """struct statfs of this machine. Raises OSError."""
    buffer = ffi.new("char[]", 120)
    check(lib.slk_statfs(opened.fd, buffer))
    return bytes(ffi.buffer(buffer, 120))
