"""Flushing to the disk what was written."""

from __future__ import annotations

import ctypes
import errno
import os

from sandlockd.kernel.fds import OwnedFd

_libc = ctypes.CDLL(None, use_errno=True)


def flush_file_system(directory: OwnedFd) -> None:
    """All of the file system that a directory lies on.

    Through ctypes: Python has no syncfs(2). It tells of failed writes since Linux 5.8.
    Raises: OSError: EIO, ENOSPC ... of somebody's writes since it was opened.
    """
    with _reopened(directory) as readable:
        if _libc.syncfs(readable.fd) < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))


def flush(opened: OwnedFd) -> None:
    """One file or directory that is open for reading or writing."""
    try:
        os.fsync(opened.fd)
    except OSError as error:
        # fsync(2): a file system (FUSE, some network ones) that cannot, or a FIFO.
        if error.errno not in (errno.EINVAL, errno.EROFS):
            raise


def flush_directory(directory: OwnedFd) -> None:
    """Its names. One that we may not list cannot be flushed alone."""
    try:
        with _reopened(directory) as readable:
            flush(readable)
    except PermissionError:
        return


def _reopened(directory: OwnedFd) -> OwnedFd:
    return OwnedFd(os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory.fd))
