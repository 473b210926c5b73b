"""Processes by descriptor: pidfd_open(2), the pidfs inode as identity, how a process ended."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import struct

from sandlockd.kernel.fds import OwnedFd

_PIDFD_GET_INFO = 0xC040FF0B  # _IOWR(0xFF, 11, 64 bytes of struct pidfd_info), linux/pidfd.h
_PIDFD_INFO_EXIT = 1 << 3  # Linux 6.15


def open_pidfd(pid: int) -> OwnedFd:
    """Raises OSError: ESRCH no such process, EINVAL not a leader or not positive."""
    if pid <= 0:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    return OwnedFd(os.pidfd_open(pid))


def birth_of(pid: int, pidfd: int) -> int:
    """What tells two processes of one number apart: the pidfs inode (Linux 6.9), else the start time in ticks.

    Raises OSError ESRCH/ENOENT when the process is gone and only the start time could tell.
    """
    status = os.fstat(pidfd)
    if _inode_is_identity():
        return status.st_ino
    return start_time(pid)


_pidfs: bool | None = None


def _inode_is_identity() -> bool:
    """Before pidfs every pidfd shares one anonymous inode; its link has another name."""
    global _pidfs
    if _pidfs is None:
        own = os.pidfd_open(os.getpid())
        try:
            target = os.readlink(f"/proc/self/fd/{own}")
        finally:
            os.close(own)
        _pidfs = target.startswith("pidfd:")
    return _pidfs


def start_time(pid: int) -> int:
    """Field 22 of /proc/<pid>/stat, in clock ticks since boot."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        text = file.read()
    return int(text[text.rindex(b")") + 2 :].split()[19])


def is_dead(pidfd: int) -> bool:
    """Has the process exited (reaped or not)?"""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def exit_status(pid: int, pidfd: int) -> int | None:
    """The wait(2) status of a process that has exited, or None where the kernel does not tell.

    Before it is reaped /proc has it (stat, field 52, for who may trace it); afterwards PIDFD_GET_INFO does.
    """
    status = _status_from_stat(pid)
    if status is not None and is_dead(pidfd):
        return status
    return _status_from_info(pidfd)


def _status_from_stat(pid: int) -> int | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except OSError:
        return None
    fields = text[text.rindex(b")") + 2 :].split()
    return int(fields[49]) if fields[0] in (b"Z", b"X") else None


def _status_from_info(pidfd: int) -> int | None:
    # struct pidfd_info: mask and cgroupid of 8 bytes, 11 ids of 4, then exit_code
    info = bytearray(struct.pack("=Q", _PIDFD_INFO_EXIT).ljust(64, b"\0"))
    try:
        fcntl.ioctl(pidfd, _PIDFD_GET_INFO, info)
    except OSError:
        return None  # before Linux 6.13, or not yet reaped
    (mask,) = struct.unpack_from("=Q", info)
    if not mask & _PIDFD_INFO_EXIT:
        return None
    return int(struct.unpack_from("=i", info, 60)[0])
