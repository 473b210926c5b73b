"""Telling the audit log what was not refused, at level `all`. Decides nothing, and exists at that level only.

What a handler asked of the rules is what the record says: the rules are replaced by some that judge the same and
remember it. What C would have let through comes here first (REASON_GRANTED), so that the record is written while its
caller still waits.
"""

from __future__ import annotations

import errno
import os
from typing import NamedTuple, assert_never

from sandlockd.audit.records import Allowed, errno_name
from sandlockd.handlers import lookup, opening, record
from sandlockd.handlers.answers import (
    COUNTED,
    LANDLOCK_FILES,
    LANDLOCK_NAMES,
    Backstop,
    Continue,
    Errno,
    Fd,
    Kill,
    Restart,
    Value,
    Write,
)
from sandlockd.handlers.context import Caller
from sandlockd.kernel import memory
from sandlockd.kernel.files import MayWait
from sandlockd.kernel.paths import RESOLVE_CACHED, describe
from sandlockd.kernel.syscalls import Effect, Treatment
from sandlockd.policy.files import LAW_PROC, FileRules
from sandlockd.policy.verdict import Want

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandlockd.handlers.answers import Answer, Settled
    from sandlockd.handlers.context import Context
    from sandlockd.handlers.lookup import Place
    from sandlockd.kernel.engine import Request
    from sandlockd.policy.verdict import FileIdentity, Verdict

_EFFECTS = (
    (Effect.READ | Effect.LIST, Want.READ),
    (Effect.EXECUTE, Want.EXECUTE),
    (Effect.WRITE, Want.WRITE),
    (Effect.CREATE, Want.CREATE),
    (Effect.DELETE, Want.DELETE),
    (Effect.METADATA, Want.METADATA),
)


class _Judged(NamedTuple):
    path: bytes
    want: Want
    verdict: Verdict


class WitnessedRules(FileRules):
    """The same rules, which remember what the call that is being handled asked of them."""

    def __init__(self, rules: FileRules) -> None:
        self.__dict__.update(rules.__dict__)
        self.judged: list[_Judged] = []

    def judge(
        self, path: bytes, want: Want, identity: FileIdentity | None = None, *, directory: bool = False
    ) -> Verdict:
        verdict = super().judge(path, want, identity, directory=directory)
        self.judged.append(_Judged(path, want, verdict))
        return verdict


class AllowedCalls:
    """What the dispatcher tells of each call: that it begins, and how it is answered."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._rules = WitnessedRules(context.rules)
        self._rules_inside = WitnessedRules(context.rules_inside)
        context.rules, context.rules_inside = self._rules, self._rules_inside
        context.allowed = self
        # What was asked of the rules by calls that are not answered yet. A call that waits for a worker stays here.
        self._asked: dict[int, list[_Judged]] = {}

    def begin(self, request: Request) -> None:
        self._rules.judged = self._rules_inside.judged = self._asked[request.notif_id] = []

    def granted(self, request: Request) -> Answer:
        """A call that C found granted: the kernel judges it. Asks the rules for nothing but the record."""
        caller = Caller(self._context, request)
        row = self._context.rows[request.nr]
        if row.treatment is Treatment.MEMORY:
            caller.require_alive()
            return Continue(Backstop.MEMORY_COUNTED)
        for which, operand in enumerate(row.paths):
            try:
                address = request.args[operand.position]
                text = request.path if which == 0 else memory.read_path(caller.tid, address)
                self._judge(caller, which, text)
            except (OSError, MayWait):
                continue  # the kernel will find the same, or knows more
        caller.require_alive()
        if not row.paths:
            return COUNTED
        names = (Effect.CREATE | Effect.DELETE) & row.paths[0].effect
        return LANDLOCK_NAMES if names and row.treatment is not Treatment.OPEN else LANDLOCK_FILES

    def _judge(self, caller: Caller, which: int, text: bytes) -> None:
        place = lookup.place_of(caller, text, lookup.dirfd_of(caller, which))
        row = self._context.rows[caller.request.nr]
        if row.treatment is Treatment.OPEN:
            how = opening.how_of(caller)
            path = _object_at(caller, place, follow=how.follow)
            want = Want(0) if how.flags & os.O_PATH else how.want
            if path is None and how.flags & os.O_CREAT:
                want |= Want.CREATE
        else:
            effect = row.paths[which].effect
            names = effect & (Effect.CREATE | Effect.DELETE)
            path = _name_at(caller, place) if names else _object_at(caller, place, follow=True)
            want = _want_of(effect)
        self._rules.judge(path or place.shown, want)

    def forget(self, request: Request) -> None:
        """It is refused, and on record as that."""
        self._asked.pop(request.notif_id, None)

    def tell(self, request: Request, answer: Settled) -> None:
        """Put it on record, unless it is a refusal, which is there already. Raises Gone."""
        judged = self._asked.pop(request.notif_id, None)
        if judged is not None:
            self._context.audit.allow(self._record(request, judged, answer))

    def interrupted(self, request: Request) -> Callable[[], None]:
        """Its caller is still there, and may be made to take its signals: what to do when it was. Raises Gone."""
        judged = self._asked.get(request.notif_id, [])
        told = self._record(request, judged, Errno(errno.EINTR))

        def tell() -> None:
            if self._asked.pop(request.notif_id, None) is not None:
                self._context.audit.allow(told)

        return tell

    def _record(self, request: Request, judged: list[_Judged], answer: Settled) -> Allowed:
        caller = Caller(self._context, request)
        caller.require_alive()
        paths: list[bytes | None] = list(dict.fromkeys(one.path for one in judged)) or [_shown(caller)]
        wanted = Want(0)
        for one in judged:
            wanted |= one.want
        key, command = record.who(self._context, request.tid)
        return Allowed(
            call=record.call_name(self._context, request),
            rule=_rule(judged, answer, paths[0]),
            path=paths[0],
            target=paths[1] if len(paths) > 1 else None,
            wanted=wanted if judged else "",
            pid=key.tgid,
            birth=key.birth,
            tid=request.tid,
            command=command,
            answer=_word(answer),
        )


def _object_at(caller: Caller, place: Place, *, follow: bool) -> bytes | None:
    """Its canonical name, as far as the kernel knows it without waiting: C has just looked."""
    try:
        with lookup.open_object(caller, place, follow=follow, resolve=RESOLVE_CACHED) as opened:
            return bytes(describe(opened.fd).path)
    except (OSError, MayWait):
        return None


def _name_at(caller: Caller, place: Place) -> bytes | None:
    try:
        parent, name = lookup.open_parent(caller, place, resolve=RESOLVE_CACHED)
        with parent:
            return lookup.child_path(describe(parent.fd), name)
    except (OSError, MayWait):
        return None


def _shown(caller: Caller) -> bytes | None:
    """The path of a call whose object was never judged: there is none, or it is the caller's own."""
    request = caller.request
    if not request.path:
        return None
    try:
        return bytes(lookup.place_of(caller, request.path, lookup.dirfd_of(caller)).shown)
    except (OSError, MayWait):
        return bytes(request.path)


def _want_of(effect: Effect) -> Want:
    want = Want(0)
    for some, means in _EFFECTS:
        if some & effect:
            want |= means
    return want


def _rule(judged: list[_Judged], answer: Settled, path: bytes | None) -> str:
    """What decided: the policy's rule, the rule of the kernel that judges instead of us, or that it is its own."""
    for one in judged:
        if one.verdict.allowed:
            return one.verdict.rule
    if isinstance(answer, Continue | Restart):
        return f"kernel.{answer.backstop.name.lower()}"
    if isinstance(answer, Errno):
        return "kernel.error"
    return LAW_PROC if path is not None and path.startswith(b"/proc/") else "own"


def _word(answer: Settled) -> str:
    match answer:
        case Continue():
            return "continued"
        case Errno(error):
            return errno_name(error)
        case Fd():
            return "descriptor"
        case Value() | Write():
            return "value"
        case Restart():
            return "restarted"
        case Kill():
            return "killed"
        case _:
            assert_never(answer)
