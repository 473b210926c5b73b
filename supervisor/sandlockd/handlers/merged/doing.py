"""What the calls of this package have in common: whether the rules allow it, and how a plan is carried out."""

from __future__ import annotations

import contextlib
import errno
import os
from functools import partial

from sandlockd.handlers import lookup, record
from sandlockd.handlers.answers import Errno, Later
from sandlockd.handlers.merged import waiting
from sandlockd.handlers.merged.places import Place
from sandlockd.handlers.merged.places import resolve as find
from sandlockd.kernel import acts, memory, procfs
from sandlockd.kernel.copying import Stopped
from sandlockd.overlay.entries import FsError, Kind
from sandlockd.overlay.steps import Link, Make, Move
from sandlockd.policy.verdict import FileIdentity, Verdict, Want
from sandlockd.store.holding import NoRoom
from sandlockd.store.making import Making
from sandlockd.store.tree import is_object

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandlockd.handlers.answers import Answer, Refused
    from sandlockd.handlers.context import Caller
    from sandlockd.handlers.merged.places import Elsewhere
    from sandlockd.kernel.disk import Disk
    from sandlockd.kernel.fds import OwnedFd
    from sandlockd.overlay.lookup import Goal
    from sandlockd.overlay.plans import Steps

DISK_RULE = "limits.disk"


class Call:
    """One call under way.

    is_lifted: its copies were made beforehand, whatever is left of them is made at once. has_waited: for the locks of
    the files that it changes. trees_are_given: another thread has their lock now, and releases it.
    """

    __slots__ = ("_again", "caller", "has_waited", "is_lifted", "name", "trees_are_given")

    def __init__(
        self,
        caller: Caller,
        name: str,
        again: Callable[..., Answer | Later],
        *,
        is_lifted: bool,
        has_waited: bool,
    ) -> None:
        self.caller = caller
        self.name = name
        self._again = again
        self.is_lifted = is_lifted
        self.has_waited = has_waited
        self.trees_are_given = False

    def start_again(self) -> Answer | Later:
        return self._again(is_lifted=self.is_lifted, has_waited=self.has_waited)

    def start_lifted(self) -> Answer | Later:
        return self._again(is_lifted=True, has_waited=self.has_waited)

    def start_patiently(self) -> Answer | Later:
        return self._again(is_lifted=self.is_lifted, has_waited=True)

    def arg(self, position: int) -> int:
        return int(self.caller.request.args[position])

    def int_arg(self, position: int) -> int:
        """As the kernel takes an int."""
        return lookup.as_int(self.arg(position))

    def text(self, which: int = 0) -> bytes:
        """A path of the call. Raises OSError, Gone."""
        caller = self.caller
        if which == 0 and caller.request.path:
            return bytes(caller.request.path)
        address = caller.request.args[lookup.operand(caller, which).position]
        text = memory.read_path(caller.tid, address)
        caller.require_alive()
        return text

    def place(self, goal: Goal, which: int = 0, *, resolve: int = 0) -> Place | Elsewhere:
        """resolve: RESOLVE_* of openat2(2)."""
        return find(self.caller, self.text(which), lookup.dirfd_of(self.caller, which), goal, resolve=resolve)

    def making(self, mode: int, **more: object) -> Making:
        return Making(mode=mode, umask=self.caller.status.umask, identity=self.caller.identity, **more)  # type: ignore[arg-type]


def denied(
    call: Call, place: Place, want: Want, *, target: bytes | None = None, error: int = errno.EACCES
) -> Refused | None:
    """What a `deny` in the tree, or a grant without execution, refuses; None: the rules allow it."""
    if place.found.path in place.found.view.passages:
        return None  # a mount point to the program: busy, or there already, whatever the rules say
    visible = place.found.visible
    identity = None if visible is None else FileIdentity(visible.device, visible.inode)
    verdict = call.caller.context.rules_inside.judge(place.path, want, identity)
    if verdict.allowed or not place.found.path:
        return None  # the root of the tree: names in it are judged one by one
    return record.refuse(verdict, path=place.path, wanted=want, target=target, error=error)


def change(
    call: Call,
    place: Place,
    plan: Callable[[], Steps],
    finish: Callable[[OwnedFd | None], Answer | Later],
    making: Making | None = None,
    *,
    more_bytes: int = 0,
    freed_bytes: int = 0,
) -> Answer | Later:
    """Carry out what a call comes to, and answer. Copies that take long are made elsewhere first.

    more_bytes: what the call may take besides its steps, at most; freed_bytes: what it gives back first. They count
    where what the upper holds is limited.
    """
    try:
        steps = plan()
    except FsError as error:
        return Errno(error.errno)
    tree, side = place.tree, place.side
    slow = () if call.is_lifted else tree.slow_steps(side, steps)
    if slow:
        lift = partial(_lift, tree.lift, side, slow)
        return Later(
            lift, lambda done: call.start_lifted() if done else _refused(place, steps), _nothing, is_busy=True
        )
    if not tree.has_room(side, steps, more_bytes=more_bytes, freed_bytes=freed_bytes):
        return _refused(place, steps)
    call.caller.require_alive()
    if call.is_lifted and tree.are_written(steps):
        return waiting.copy(call, place, steps)
    locked, large = waiting.changed_files(call, place, steps, making)
    with contextlib.ExitStack() as held:
        for opened in large:
            held.enter_context(opened)
        if locked:
            return waiting.carry_out(call, place, steps, making or Making(), finish, locked)
        made = waiting.carried_out(call, place, steps, making or Making())
        return waiting.when_freed(large, finish(made))


def no_room(disk: Disk) -> Verdict:
    """The trees would hold more than the policy lets them. It is ENOSPC, as on a full disk."""
    return Verdict(False, DISK_RULE, f"[limits] disk = {2 * disk.limit_bytes}")


def _refused(place: Place, steps: Steps) -> Refused:
    assert place.tree.holding is not None
    wanted = Want.CREATE if any(isinstance(step, (Make, Link, Move)) for step in steps) else Want.WRITE
    return record.refuse(no_room(place.tree.holding.disk), path=place.path, wanted=wanted, error=errno.ENOSPC)


def _lift(lift: Callable[..., None], *args: object) -> bool:
    """False: there is no room for all of it, and nothing was done."""
    try:
        lift(*args)
    except NoRoom:
        return False
    except Stopped:
        raise OSError(errno.EINTR, os.strerror(errno.EINTR)) from None
    return True


def _nothing() -> None:
    """There is nothing to release: a copy that was begun is swept with the work directory."""


def is_being_executed(place: Place) -> bool:
    """Whether writing to a file of the lower is ETXTBSY: the kernel says so of the original, and we write to a copy."""
    found = place.found
    if found.upper is not None or found.lower is None or found.kind is not Kind.FILE:
        return False
    with place.tree.open_described(found) as opened:
        status = os.fstat(opened.fd)
    return bool(status.st_mode & 0o111) and procfs.is_being_executed(place.tree.root, place.path, status)


def kernel_finds(call: Call, place: Place, *, follow: bool, in_upper: bool = False) -> bool:
    """Would the kernel find the object that shows, by the path as it is written?

    in_upper: what lies there counts too. A magic link of /proc leads to it.
    """
    found = place.found
    shown = found.upper if in_upper and found.lower is None else found.lower
    if shown is None:
        return False
    caller = call.caller
    try:
        written = lookup.place_of(caller, call.text(), lookup.dirfd_of(caller))
        with lookup.open_object(caller, written, follow=follow) as opened:
            return is_object(shown, caller.context.files.run(acts.number_of, opened))
    except OSError:
        return False
