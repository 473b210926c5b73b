"""One task per process: it waits for the pidfd to become readable and takes the process out of the index.

Event-driven; only a kernel without pidfd_open (before 5.3) would have to poll, and that one lacks the notification
features that sandlockd needs anyway, so there is no such fallback: doctor says so.
"""

from __future__ import annotations

import collections

import trio

from sandlockd.kernel import pidfd as pidfds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandlockd.process.index import ProcessIndex
    from sandlockd.process.state import PerProcessState

PRUNE_EVERY_S = 300

# code: the exit status, or None. signal: the number that killed it, or None. Both None: the kernel did not tell.
Exit = collections.namedtuple("Exit", "key code signal")


def exit_from_status(key: object, status: int | None) -> Exit:
    """Read a wait(2) status."""
    if status is None:
        return Exit(key, None, None)
    if status & 0x7F:
        return Exit(key, None, status & 0x7F)
    return Exit(key, (status >> 8) & 0xFF, None)


async def watch(
    index: ProcessIndex, entry: PerProcessState, on_exit: Callable[[Exit], None] | None = None
) -> None:
    """Wait for one process to end, then let it go.

    The entry owns the pidfd. Whoever unregisters it from elsewhere tells trio first (`notify_closing`).
    """
    if index.entry_for(entry.key) is not entry:
        return  # somebody let it go before this task had its first turn: its pidfd is closed
    pidfd = entry.pidfd.fd
    try:
        await trio.lowlevel.wait_readable(pidfd)
    except trio.ClosedResourceError:
        return  # somebody else let it go: prune_dead, or a reused number
    if on_exit is not None:
        on_exit(exit_from_status(entry.key, pidfds.exit_status(entry.key.tgid, pidfd)))
    index.unregister(entry.key)


async def prune_now_and_then(index: ProcessIndex) -> None:
    """The sweep every five minutes."""
    while True:
        await trio.sleep(PRUNE_EVERY_S)
        index.prune_dead()
