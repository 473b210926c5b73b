"""Ending this process before a system call of its own choosing, by number."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

from sandlockd.kernel import beneath, copying, flushing
from sandlockd.store.journal_file import JournalFile

# What a commit does that could be seen afterwards, one system call or record each.
CALLS: list[tuple[object, str]] = [
    *(
        (beneath, name)
        for name in (
            "create_file make_directory make_node make_symlink link rename unlink remove_directory"
            " set_attribute set_times set_owner_and_mode"
        ).split()
    ),
    (copying, "copy_data"),
    (copying, "copy_metadata"),
    (flushing, "flush"),
    (flushing, "flush_directory"),
    (JournalFile, "_append"),
    # The journal, and what is remembered of what was taken back.
    *((os, name) for name in ("write", "ftruncate", "posix_fallocate")),
]


def before_each(
    act_before: Callable[[int], None], calls: list[tuple[object, str]] = CALLS
) -> Callable[[], int]:
    """Call something with the number of each call before it is made. Returns: how to ask how many there were.

    For good: only in a process that ends soon.
    """
    count = 0

    def wrapped(act: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **named: Any) -> Any:
            nonlocal count
            number, count = count, count + 1  # also where it raises
            act_before(number)
            return act(*args, **named)

        return counted

    for owner, name in calls:
        setattr(owner, name, wrapped(getattr(owner, name)))
    return lambda: count


def killed_before(limit: int) -> Callable[[], int]:
    """kill -9 before the call of this number."""

    def kill(number: int) -> None:
        if number == limit:
            os.kill(os.getpid(), signal.SIGKILL)

    return before_each(kill)


def failing_at(limit: int, error: int) -> Callable[[], int]:
    """The call of this number fails, once."""

    def fail(number: int) -> None:
        if number == limit:
            raise OSError(error, os.strerror(error))

    return before_each(fail)
