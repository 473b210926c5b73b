"""What the kernel tells of the machine, as it tells it: structures for those who tell it on."""

from __future__ import annotations

from sandlockd.kernel.native import check, ffi, lib

_MASK_BYTES_MAX = 4096  # of 32,768 processors; no kernel is built for more than 8,192


def information() -> bytes:
    """struct sysinfo of sysinfo(2). Raises OSError."""
    info = ffi.new("char[]", lib.SLK_SYSINFO_BYTES)
    check(lib.slk_sysinfo(info))
    return bytes(ffi.buffer(info, lib.SLK_SYSINFO_BYTES))


def affinity(tid: int, size_bytes: int) -> bytes:
    """sched_getaffinity(2) with a buffer of this size: as much of it as the kernel fills. Raises OSError."""
    size_bytes = min(size_bytes, _MASK_BYTES_MAX | size_bytes & 7)  # what is no multiple of 8 stays none
    mask = ffi.new("char[]", size_bytes or 1)
    length = check(lib.slk_affinity(tid, size_bytes, mask))
    return bytes(ffi.buffer(mask, length))
