"""Landlock rulesets (landlock(7)): created and filled here, entered between fork and exec by native/child.c."""

from __future__ import annotations

import os

from sandlockd.kernel.fds import OwnedFd
from sandlockd.kernel.native import check, lib

# LANDLOCK_ACCESS_FS_*, linux/landlock.h
EXECUTE = 1 << 0
WRITE_FILE = 1 << 1
READ_FILE = 1 << 2
READ_DIR = 1 << 3
REMOVE_DIR = 1 << 4
REMOVE_FILE = 1 << 5
MAKE_CHAR = 1 << 6
MAKE_DIR = 1 << 7
MAKE_REG = 1 << 8
MAKE_SOCK = 1 << 9
MAKE_FIFO = 1 << 10
MAKE_BLOCK = 1 << 11
MAKE_SYM = 1 << 12
REFER = 1 << 13  # ABI 2
TRUNCATE = 1 << 14  # ABI 3
IOCTL_DEV = 1 << 15  # ABI 5

FS_ALL = (1 << 16) - 1
# What a rule on something that is not a directory may name; the kernel answers EINVAL to the rest.
FS_FILE = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV

NET_BIND_TCP = 1 << 0  # ABI 4
NET_CONNECT_TCP = 1 << 1

SCOPE_ABSTRACT_UNIX_SOCKET = 1 << 0  # ABI 6
SCOPE_SIGNAL = 1 << 1


def abi() -> int:
    """The ABI version, 0 where the kernel has no Landlock or it is switched off."""
    version = lib.slk_landlock_abi()
    return int(max(version, 0))


def supported_fs(version: int) -> int:
    """The file system rights that an ABI version knows."""
    rights = FS_ALL
    if version < 5:
        rights &= ~IOCTL_DEV
    if version < 3:
        rights &= ~TRUNCATE
    if version < 2:
        rights &= ~REFER
    return rights if version >= 1 else 0


def seccomp_flags_error(flags: int) -> int:
    """The errno with which seccomp(2) refuses a filter with these SECCOMP_FILTER_FLAG_*; 0: it takes them."""
    return -int(lib.slk_seccomp_flags(flags))


class Ruleset:
    """A ruleset under construction, and the descriptor that a child enters."""

    def __init__(self, *, handled_fs: int, handled_net: int = 0, scoped: int = 0) -> None:
        self.handled_fs = handled_fs
        self.owned = OwnedFd(check(lib.slk_landlock_create(handled_fs, handled_net, scoped)))

    @property
    def fd(self) -> int:
        return self.owned.fd

    def allow_beneath(self, path_fd: int, rights: int) -> None:
        """Grant rights on the opened object and all beneath it.

        Raises OSError: EINVAL for directory rights on a file, EBADFD for an object of a kernel-internal mount.
        """
        rights &= self.handled_fs
        if rights:
            check(lib.slk_landlock_add_path(self.fd, path_fd, rights))

    def allow_path(self, path: bytes, rights: int) -> tuple[int, int]:
        """Open and grant: (st_dev, st_ino) of what was granted."""
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            status = os.fstat(fd)
            if (status.st_mode & 0o170000) != 0o040000:
                rights &= FS_FILE
            self.allow_beneath(fd, rights)
            return status.st_dev, status.st_ino
        finally:
            os.close(fd)

    def close(self) -> None:
        self.owned.close()
