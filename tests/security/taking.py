"""What the tests of `limits.memory` share: the program that takes memory, and its ways (attacks/takers.c)."""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import ledger
from harness.running import Runner

MEGA = 1 << 20

# Refused in time: what is asked for is more than there is.
ASKS = ("brk", "brk-in-steps", "mmap", "private-file", "memfd-allocated", "shared", "mremap", "mprotect")
# Nobody is asked, or what was granted is touched later.
TAKES = (
    *("small-pieces", "granted-then-touched", "not-reserved", "memfd-written", "memfd-mapped"),
    *(
        "memfd-on-its-way",
        "memfd-by-path",
        "memfd-reopened",
        "mprotect-in-pieces",
        "many-children",
        "stacks",
        "grows-down",
    ),
    *("first-thread-has-ended", "written-after-fork", "passed-on-by-fork", "named-like-init"),
)
# By the one or the other.
EITHER = ("threads", "shared-let-go", "shared-small-let-go", "shared-of-zero", "thread-stacks")
IN_SHM = ("shm-file", "shm-file-without-a-name", "empty-files")


# ---- builds with one check removed

NO_WATCHER = """
from sandlockd.kernel import memlimit
memlimit.Memory.watch = lambda self, *a: None
"""

NO_HANDLERS = """
from sandlockd.launch import filter_plan as plan
decide = plan._decide
out = {*plan._ASKS, *plan._UNCOUNTED, "fallocate"}
plan._decide = lambda row, given: plan._PASS if row.name in out else decide(row, given)
"""


@contextlib.contextmanager
def directory_in_memory(runner: Runner) -> Iterator[Path]:
    """A directory of the user's on a tmpfs."""
    if not os.path.ismount("/dev/shm"):
        pytest.skip("there is no tmpfs at /dev/shm")
    with ledger.directory("shm", Path("/dev/shm")) as directory:
        runner.place.give(directory)
        yield directory


def takers(runner: Runner) -> Path:
    return runner.compiler.compile((Path(__file__).parent / "attacks" / "takers.c").read_text())


def taken_of(counter: Path) -> int:
    """How many bytes have been taken so far, by the file that it counts in."""
    try:
        return int(struct.unpack("=Q", counter.read_bytes()[:8])[0])
    except (FileNotFoundError, struct.error):
        return 0  # not begun
