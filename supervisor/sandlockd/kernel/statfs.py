"""Which file system an opened object lives on."""

from __future__ import annotations

from sandlockd.kernel.native import check, lib


def is_procfs(fd: int) -> bool:
    """Raises OSError: EBADF."""
    return bool(check(lib.slk_is_procfs(fd)))
