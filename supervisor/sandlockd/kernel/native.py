"""The one place that turns C results into Python ones."""

from __future__ import annotations

import os

from sandlockd._native import ffi, lib

__all__ = ["check", "ffi", "lib"]


def check(result: int, what: bytes | str | None = None) -> int:
    """Pass a result >= 0 on; raise OSError for -errno."""
    if result < 0:
        if what is None:
            raise OSError(-result, os.strerror(-result))
        raise OSError(-result, os.strerror(-result), what)
    return result
