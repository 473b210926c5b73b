"""The memory of a thread that waits for an answer (process_vm_readv(2)).

Whoever reads asks afterwards whether the notification is still valid: the thread may have died and its number been
given to a stranger.
"""

from __future__ import annotations

from sandlockd.kernel.native import check, ffi, lib

PATH_MAX = 4096


def read_path(tid: int, address: int) -> bytes:
    """Copy a path.

    Returns: the path without its NUL, at most 4095 bytes.
    Raises OSError: EFAULT unreadable, ENAMETOOLONG no NUL in 4096 bytes, EPERM the process hides its memory,
        ESRCH it is gone.
    """
    return read_string(tid, address, PATH_MAX)


def read_string(tid: int, address: int, capacity: int) -> bytes:
    buffer = ffi.new("char[]", capacity)
    length = check(lib.slk_read_string(tid, address, capacity, buffer))
    return bytes(ffi.unpack(buffer, length)) if length else b""


def read_memory(tid: int, address: int, size: int) -> bytes:
    """Exactly size bytes. The caller bounds size: it comes from the program."""
    if size == 0:
        return b""
    buffer = ffi.new("char[]", size)
    check(lib.slk_read_memory(tid, address, size, buffer))
    return bytes(ffi.buffer(buffer, size))


def write_memory(tid: int, address: int, data: bytes) -> None:
    if data:
        check(lib.slk_write_memory(tid, address, len(data), data))
