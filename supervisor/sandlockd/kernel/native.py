"""The one place that turns C results into Python ones."""

from __future__ import annotations

import os

from sandlockd._native import ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["check", "created", "ffi", "lib"]


def created(create: Callable[[int, ffi.CData], int], kind: str, number: int) -> ffi.CData:
    """What a function of C makes that writes where it is. kind: a structure's name. Raises OSError."""
    holder = ffi.new(f"struct {kind} **")
    check(create(number, holder))
    made: ffi.CData = holder[0]
    return made


def check(result: int, what: bytes | str | None = None) -> int:
    """Pass a result >= 0 on; raise OSError for -errno."""
    if result < 0:
        if what is None:
            raise OSError(-result, os.strerror(-result))
        raise OSError(-result, os.strerror(-result), what)
    return result
