"""Errors that nobody foresaw, in one line for a person: what, what may help, and where it was met."""

from __future__ import annotations

import errno
import os

_LIMITS = {
    errno.EMFILE: "raise the limit (`ulimit -n`)",
    errno.ENFILE: "the machine's table of open files is full (sysctl fs.file-max)",
    errno.ENOMEM: "more memory is needed than there is, or than `ulimit -v` allows",
    errno.EAGAIN: "no further process or thread is allowed (`ulimit -u`)",
    errno.ENOSPC: "make room on the disk",
}


def unforeseen(error: BaseException) -> str:
    """One line: what, what may help, and where it was met."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, MemoryError):
        return f"out of memory, or of what `ulimit -v` allows{_place(error)}"
    number = getattr(error, "errno", None)
    if number in _LIMITS:
        return f"{os.strerror(number)}: {_LIMITS[number]}{_place(error)}"
    said = " ".join(str(error).split())
    what = f"{type(error).__name__}: {said}" if said else type(error).__name__
    hint = (
        "; is sandlockd being replaced, or incomplete? Install it anew"
        if isinstance(error, ImportError)
        else ""
    )
    return f"internal error: {what}{hint}{_place(error)}"


def _place(error: BaseException) -> str:
    """The innermost line of ours."""
    found = ""
    at = error.__traceback__
    while at is not None:
        path = at.tb_frame.f_code.co_filename
        if f"{os.sep}sandlockd{os.sep}" in path:
            module = path.rpartition(f"{os.sep}sandlockd{os.sep}")[2]
            found = f" (in {module}:{at.tb_lineno})"
        at = at.tb_next
    return found
