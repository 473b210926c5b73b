"""What is to be read before it is executed, and on which somebody holds a lease: the kernel, too, would wait for the
holder to give it up, and executes nothing before."""

from __future__ import annotations

import os

from sandlockd.handlers.answers import Later
from sandlockd.kernel import acts
from sandlockd.kernel.fds import OwnedFd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandlockd.handlers.answers import Answer


class Leased(Exception):
    """It cannot be read at once.

    held: the object. wait_for: how to open it for reading (kernel/files.py), from a worker.
    """

    def __init__(self, held: OwnedFd, wait_for: Callable[..., OwnedFd]) -> None:
        super().__init__()
        self._held = held
        self._wait_for = wait_for

    def then(self, again: Callable[[], Answer | Later]) -> Later:
        """When it is given up. again: all that was looked at, from the start: it may be something else by then."""
        held, wait_for = self._held, self._wait_for

        def wait() -> None:
            with held.unless_interrupted():
                wait_for(acts.reopen, held, os.O_RDONLY).close()

        return Later(wait, lambda _: again(), held.close)


def read_at_once(opened: OwnedFd, run: Callable[..., OwnedFd], wait_for: Callable[..., OwnedFd]) -> OwnedFd:
    """That object, opened for reading. Raises OSError, and Leased, which has taken it."""
    try:
        return run(acts.reopen_at_once, opened, os.O_RDONLY)
    except BlockingIOError:
        raise Leased(OwnedFd(opened.take()), wait_for) from None
