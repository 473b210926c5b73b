"""How a process of ours ends: with a status, and with one line where something went wrong that nobody foresaw.

What is imported late can fail late: a package that is being replaced, no memory, no descriptors left. That is an
error of the sandbox like any other, never a traceback; where it was met is in the line.

Whoever reads our output may go before we are done, as `head` does. A verb that is cut off in its middle then ends as
other programs do, by SIGPIPE; one that knows its status already ends with that. Nothing is said of it.
"""

from __future__ import annotations

import os
import signal
import sys

from sandlockd.sandbox.result import INTERRUPTED
from sandlockd.sandbox.words import unforeseen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

BROKEN = 125


# Those of 0 to 2 that we were started without. Whatever is opened later must not get their numbers: what is written to
# standard error would go into it.
closed_streams: set[int] = set()


def end(name: str, act: Callable[[], int]) -> NoReturn:
    """Act, and end with its status at once: taking every module down takes Python 5 ms."""
    os._exit(_status_of(name, act))


def _status_of(name: str, act: Callable[[], int]) -> int:
    status = None
    try:
        _settle_in()
        status = _acted(act)
        sys.stdout.flush()
    except BrokenPipeError:
        if status is None:
            _die_of_sigpipe()
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        reason = getattr(error, "strerror", None) or error
        say(name, unforeseen(error) if status is None else f"standard output: {reason}")
        return BROKEN
    return BROKEN if status is None else status


def _acted(act: Callable[[], int]) -> int:
    try:
        return act()
    except SystemExit as ended:  # argparse: --help, or used wrongly
        return ended.code if isinstance(ended.code, int) else 0


def _settle_in() -> None:
    """Whatever we were started with."""
    # Where it is ignored, no child leaves a status (wait(2)): neither init's end nor a probe's would be known.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            closed_streams.add(fd)
            # Each gets the lowest free number, its own. Writing to the second is an error, to the third none.
            os.open("/dev/null", (os.O_RDWR, os.O_RDONLY, os.O_RDWR)[fd] | os.O_CLOEXEC)
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)
    # What cannot be shown gets an escape, whatever the locale.
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def _die_of_sigpipe() -> NoReturn:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGPIPE,))
    os.kill(os.getpid(), signal.SIGPIPE)
    os._exit(128 + signal.SIGPIPE)


def say(name: str, text: str) -> None:
    try:
        os.write(2, f"{name}: {text}\n".encode("utf-8", "backslashreplace"))
    except OSError:
        pass  # a closed stderr is no reason to fail
