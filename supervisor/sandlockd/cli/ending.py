"""How a process of ours ends: with a status, and with one line where something went wrong that nobody foresaw.

What is imported late can fail late: a package that is being replaced, no memory, no descriptors left. That is an
error of the sandbox like any other, never a traceback; where it was met is in the line.
"""

from __future__ import annotations

import errno
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

BROKEN, INTERRUPTED = 125, 130
_LIMITS = {
    errno.EMFILE: "raise the limit (`ulimit -n`)",
    errno.ENFILE: "the machine's table of open files is full (sysctl fs.file-max)",
    errno.ENOMEM: "more memory is needed than there is, or than `ulimit -v` allows",
    errno.EAGAIN: "no further process or thread is allowed (`ulimit -u`)",
    errno.ENOSPC: "make room on the disk",
}


def end(name: str, act: Callable[[], int]) -> NoReturn:
    """Act, and end with its status at once: taking every module down takes Python 5 ms."""
    status = 0
    try:
        status = act()
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:  # it was closed when we were started
                stream.flush()
    except BrokenPipeError:
        pass  # whoever read has seen enough; what was found out before stays so
    except KeyboardInterrupt:
        status = INTERRUPTED
    except Exception as error:
        status = BROKEN
        say(name, unforeseen(error))
    os._exit(status)


def say(name: str, text: str) -> None:
    try:
        os.write(2, f"{name}: {text}\n".encode("utf-8", "backslashreplace"))
    except OSError:
        pass  # a closed stderr is no reason to fail


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
