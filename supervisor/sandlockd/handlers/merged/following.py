"""A descriptor of the original becomes one of the copy, where its holder says that he wants to follow the file.

`tail -f` opens a file, reads it, and then watches it; what is written later goes to the copy, and the descriptor would
stay at the original. When it asks for the watch, it waits for us, with its descriptors.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os

from sandlockd.kernel import acts, procfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandlockd.handlers.context import Caller
    from sandlockd.handlers.merged.places import Place
    from sandlockd.kernel.fds import OwnedFd
    from sandlockd.kernel.procfs import Descriptor

_F_DUPFD_QUERY = 1027  # Linux 6.10
# Those that stay with an open file, and O_PATH.
_KEPT = os.O_NONBLOCK | os.O_NOATIME | os.O_DIRECT
_PATH = 0o10000000


def follow(caller: Caller, place: Place, copy: OwnedFd) -> None:
    """What the caller has open of the original for reading only is the copy from now on, at the same position.

    Not where another thread could use its descriptors meanwhile, nor where a lock would be lost with the old one.
    """
    with contextlib.suppress(OSError):  # it is watched all the same
        if not procfs.lone_thread(caller.tgid):
            return
        held = procfs.descriptors_of(caller.tgid, place.path)
        caller.require_alive()
        if any(one.is_locked or one.flags & (os.O_ACCMODE | _PATH) for one in held) or not _all_alike(
            caller, held
        ):
            return
        if held:
            _exchange(caller, held, copy)


def _all_alike(caller: Caller, held: list[Descriptor]) -> bool:
    """Are these duplicates of each other? They share a position."""
    if len(held) < 2:
        return True
    with acts.duplicate_of(caller.tgid, held[0].fd) as first:
        for other in held[1:]:
            with acts.duplicate_of(caller.tgid, other.fd) as second:
                try:
                    if not fcntl.fcntl(first.fd, _F_DUPFD_QUERY, second.fd):
                        return False
                except OSError as error:
                    if error.errno != errno.EINVAL:
                        raise
                    return False  # an older kernel, which does not tell
    return True


def _exchange(caller: Caller, held: list[Descriptor], copy: OwnedFd) -> None:
    with caller.act(acts.reopen_at_once, copy, os.O_RDONLY | held[0].flags & _KEPT) as opened:
        os.lseek(opened.fd, held[0].position, os.SEEK_SET)
        for one in held:
            close_on_exec = bool(one.flags & os.O_CLOEXEC)
            engine = caller.context.engine
            engine.exchange_fd(caller.request.slot, opened.fd, one.fd, close_on_exec=close_on_exec)
