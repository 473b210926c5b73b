"""What a handler may answer: a closed type.

`Continue` lets the kernel run the call with arguments that another thread may have changed meanwhile. So it exists
only together with the kernel rule that makes the worst change harmless. Everything else is a value, an errno or an
object that the supervisor opened and checked.

NamedTuple rather than dataclass: importing dataclasses would cost every start 6 ms. Tell answers apart by type.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Callable
from typing import Any, Final, NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandlockd.kernel.aside import Turn, Unfinished
    from sandlockd.kernel.fds import OwnedFd
    from sandlockd.policy.verdict import Verdict, Want


class Backstop(enum.Enum):
    """The kernel rule that judges the call again, whatever its memory says by then."""

    LANDLOCK_FILES = "Landlock judges the opened path for reading, writing and executing (landlock(7))"
    LANDLOCK_NAMES = "Landlock judges making, moving and removing names (landlock(7))"
    LOOKUP_FAILS = "no such object now; if there is one by then, Landlock judges it"
    OWN_PROCESS = (
        "the target is the caller's own process, named by registers that cannot change while it waits"
    )
    LANDLOCK_PROCESSES = "Landlock lets a process trace or read only what is in its own domain (landlock(7))"
    FILTERS_ONLY_NARROW = "a stacked seccomp filter can only forbid more (seccomp(2), precedence of actions)"
    ONLY_NOTICED = "the call is allowed whatever its arguments; it is trapped to be known of"
    ONLY_TELLS = (
        "it changes and opens nothing; what it tells Landlock hides from nobody (landlock(7), limitations)"
    )
    OWN_DESCRIPTORS = "fchdir gives no right, and takes a program nowhere that its own fchdir would not"
    PATH_ONLY = (
        "an O_PATH descriptor gives no right to its object; what is done by it is judged or trapped (open(2))"
    )
    OWN_NUMBER = (
        "the process is named by registers, and was one of the sandbox: whoever has its number by then, Landlock lets"
        " no signal reach and no tracer (landlock(7)), and nothing else is changed"
    )
    SIGNAL_OWNER = (
        "whoever is the owner of a file's signals by then: Landlock lets none of them reach anybody outside"
        " (landlock(7))"
    )
    TERMINAL_GROUP = (
        "a terminal is given to no group of another session, whatever its number is by then (tty_ioctl(4))"
    )
    REGISTERS = "what it does is in its registers, which nobody can change while it waits; it is trapped to be counted"
    OWN_MEMORY = "mapping memory of its own gives a program nothing but that"
    MEMORY_COUNTED = (
        "what it takes is counted when it is there, and above the limit everything is ended (memlimit.c)"
    )


class Continue(NamedTuple):
    backstop: Backstop


class Errno(NamedTuple):
    error: int  # positive


class Value(NamedTuple):
    value: int  # what the call returns


class Fd(NamedTuple):
    fd: int  # given: whoever sends the answer closes it
    close_on_exec: bool
    take_back: Callable[[], None] | None = (
        None  # where the caller has no number left for it, before it is told so
    )


class Write(NamedTuple):
    """Put bytes into the caller's memory, then return a value."""

    address: int
    data: bytes
    value: int


class Restart(NamedTuple):
    """Have the caller make another call in the place of its own, with nothing but its registers changed.

    Another thread may put something else in the place of an injected descriptor before the kernel uses it: so this
    exists together with the kernel rule that makes that harmless, as Continue does.
    """

    backstop: Backstop
    nr: int
    args: tuple[
        int, ...
    ]  # six; that of fd_argument is the number of the injected descriptor, where there is one
    fd: int  # whoever sends the answer closes it, when it was sent or is given up (abandon); -1: none
    returns: bool  # else the call ends in another program (execve), or fails with the descriptor left open
    again: bool = False  # the old call is made again after it, and Engine.restart_result has the result
    opens: bool = False  # it is openat, and what it opens takes the number of the injected descriptor
    enters: bool = False  # it is openat, and what it opens is entered (fchdir), and closed
    is_retry: bool = False
    fd_argument: int = 0

    def abandon(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


class Kill(NamedTuple):
    """End the whole sandbox."""

    rule: str


class Refused(NamedTuple):
    """A refusal that is owed a record: it is on record before the program sees the errno."""

    verdict: Verdict
    path: bytes | None
    wanted: Want | str
    target: bytes | None
    error: int  # positive


class Later(NamedTuple):
    """What was asked may wait for something that is not the program: `work` does so in a worker thread.

    work: touches nothing that the loop owns. Where it was interrupted in its wait, and nothing was done, it raises
    InterruptedError and may be called again. then: back on the loop, makes the answer of what work returned; not
    called when work raised OSError (its errno is the answer). is_busy: it works and waits for nobody, so that signals
    end it as little as they end a write to a disk, and nobody looks for any. has_begun: what is waited for is made
    already (kernel/aside.py), so that the call is never answered as if it were not. until: no worker is needed; when
    this is free, `work` is called on the loop, and does not wait. No signal ends that, as none ends a wait for a lock.
    """

    work: Callable[[], Any]
    then: Callable[[Any], Answer | Later]
    abandon: Callable[[], None]  # releases what work would have; harmless when it has; never while it runs
    is_busy: bool = False
    has_begun: bool = False
    until: Turn | None = None


def when_free(turn: Turn, then: Callable[[], Answer | Later]) -> Later:
    """Nothing was done: it is asked for anew when this is free."""
    return Later(_nothing, lambda _: then(), _nothing, until=turn)


def when_over(unfinished: Unfinished, then: Callable[[Any], Answer | Later]) -> Later:
    """What goes on without the loop is answered when it is over (kernel/aside.py)."""
    job = unfinished.job
    return Later(job.wait, then, job.abandon, has_begun=True, until=job)


def holding(unfinished: Unfinished, held: OwnedFd, then: Callable[[Any], Answer | Later]) -> Later:
    """As when_over. held: closed where `then` does not come to it."""

    def work() -> Any:
        try:
            return unfinished.job.wait()
        except BaseException:
            held.close()
            raise

    def give_up() -> None:
        unfinished.job.abandon()
        held.close()

    return Later(work, then, give_up, has_begun=True, until=unfinished.job)


def when_over_or_blocked(
    unfinished: Unfinished,
    then: Callable[[Any], Answer],
    blocked: Callable[[], Later],
    abandon: Callable[[], None],
) -> Later:
    """As when_over. blocked: where it would have had to wait for somebody, and did nothing (BlockingIOError).

    abandon: releases what `blocked` would take.
    """

    def work() -> tuple[Any, bool]:
        try:
            return unfinished.job.wait(), False
        except BlockingIOError:
            return None, True
        except BaseException:
            abandon()
            raise

    def decide(found: tuple[Any, bool]) -> Answer | Later:
        result, is_blocked = found
        if is_blocked:
            return blocked()
        abandon()
        return then(result)

    def give_up() -> None:
        unfinished.job.abandon()
        abandon()

    return Later(work, decide, give_up, has_begun=True, until=unfinished.job)


def _nothing() -> None:
    """There is nothing to wait for any more, or to release."""


Settled = Continue | Errno | Value | Fd | Write | Restart | Kill
Answer = Settled | Refused

EACCES: Final = Errno(13)
EPERM: Final = Errno(1)
ENOENT: Final = Errno(2)
EIO: Final = Errno(5)
EFAULT: Final = Errno(14)
EBADF: Final = Errno(9)
EINVAL: Final = Errno(22)
LANDLOCK_FILES: Final = Continue(Backstop.LANDLOCK_FILES)
LANDLOCK_NAMES: Final = Continue(Backstop.LANDLOCK_NAMES)
LOOKUP_FAILS: Final = Continue(Backstop.LOOKUP_FAILS)
COUNTED: Final = Continue(Backstop.REGISTERS)
OWN_PROCESS: Final = Continue(Backstop.OWN_PROCESS)
