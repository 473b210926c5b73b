"""A pause of a whole sandbox: init holds all that compute (native/throttle.c). Here is what is said when it cannot."""

from __future__ import annotations

import errno
import os

from sandlockd.kernel import launching

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandlockd.kernel.engine import Engine

PROGRAM_TRACES = (
    "the sandbox cannot be paused: whoever computes is held by ptrace(2), and syscalls.allow gives ptrace to the"
    " program: take that out"
)
_NO_ANSWER = "the sandbox cannot be paused now: its init did not answer in time; try again"
_UNHELD = (
    "the sandbox cannot be paused: a process in it cannot be held: it is another user's, or its file can be executed"
    " and not read; or ptrace(2) is forbidden to sandlockd here"
)


class CannotPause(Exception):
    """One line for a person. Everything in the sandbox runs as before."""


def pause(control_fd: int, engine: Engine) -> None:
    """Raises CannotPause; OSError EPIPE, ECONNRESET: init is gone."""
    try:
        done = launching.order_pause(control_fd, engine)
    except (BrokenPipeError, ConnectionResetError):
        raise
    except OSError as error:
        if error.errno == errno.EPERM:
            raise CannotPause(_UNHELD) from None
        raise CannotPause(
            f"the sandbox cannot be paused now: {os.strerror(error.errno or 0)}; try again"
        ) from None
    if not done:
        launching.order_resume(control_fd)  # it may come to it later
        raise CannotPause(_NO_ANSWER)
