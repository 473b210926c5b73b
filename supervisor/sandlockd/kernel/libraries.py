"""Modules that ask ctypes.util.find_library where a library is: answered by name, without running anything.

The real one runs ldconfig, and where that knows nothing the compiler that comes first in PATH: in a supervisor whose
program may write to a directory of PATH, that would be the program's. And it costs 20 ms.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
import types
from collections.abc import Iterator


@contextlib.contextmanager
def known_libraries() -> Iterator[None]:
    """For as long as pyseccomp or trio is being imported. The loader finds a soname by itself.

    Both places are put back as they were.
    """
    stand_in = types.ModuleType("ctypes.util")
    sonames = {"c": "libc.so.6", "pthread": "libpthread.so.0", "seccomp": "libseccomp.so.2"}
    stand_in.__dict__["find_library"] = sonames.get
    places = [(sys.modules, "ctypes.util"), (vars(ctypes), "util")]
    replaced = [(names, key, names.get(key)) for names, key in places]
    for names, key in places:
        names[key] = stand_in
    try:
        yield
    finally:
        for names, key, previous in replaced:
            if previous is None:
                del names[key]
            else:
                names[key] = previous
