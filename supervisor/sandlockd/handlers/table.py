"""The one table from call number to handler."""

from __future__ import annotations

import errno
import os
from functools import partial

from sandlockd.handlers import crowded, metadata, naming, opening, record, targets
from sandlockd.handlers.answers import Fd
from sandlockd.kernel.engine import REASON_CROWDED
from sandlockd.kernel.syscalls import ROWS, Treatment, number_of
from sandlockd.kernel.syscalls_arguments import OWN_PIDS
from sandlockd.policy.syscalls import refusal
from sandlockd.policy.verdict import Verdict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sandlockd.handlers.answers import Answer, Later
    from sandlockd.handlers.context import Context
    from sandlockd.kernel.engine import Request

_OPENERS = ("open", "openat", "creat", "openat2")  # openat2 comes with trees only


def build(context: Context) -> dict[int, Callable[[Request], Answer | Later]]:
    """Handlers by number, for this machine's architecture."""
    by_name: dict[str, Callable[[Context, Request], Answer | Later]] = {
        **dict.fromkeys(_OPENERS, opening.handle),
        **dict.fromkeys(naming.NAMES, naming.handle),
        **dict.fromkeys(("execve", "execveat"), naming.handle_execute),
        **dict.fromkeys(metadata.NAMES, metadata.handle),
        **dict.fromkeys(metadata.ATTRIBUTES, metadata.handle_attributes),
        **dict.fromkeys(targets.PROCESS_CALLS, targets.handle_process),
        **dict.fromkeys(targets.TIMER_CALLS, targets.handle_timer),
        "seccomp": targets.handle_seccomp,
        "prctl": targets.handle_prctl,
    }
    if context.hidden is not None:
        by_name = _Private(by_name).by_name()
    if context.view is not None:
        from sandlockd.handlers.limited.calls import around as around_limited  # only where it is wanted

        by_name = around_limited(context.view, by_name)
    if context.trees:
        from sandlockd.handlers.merged.table import around  # only where there are trees

        by_name = around(by_name)
    if context.memory is not None:
        from sandlockd.handlers import memory  # only where it is limited

        by_name = memory.around(context.memory, by_name)
    return _numbered(context, by_name)


_LISTS = ("getdents", "getdents64")


class _Private:
    """The handlers with those of the private /proc asked first: brought when the first of them is asked.

    Most programs never ask Python anything that it would need them for, and their start would pay for it.
    """

    def __init__(self, bare: dict[str, Callable[[Context, Request], Answer | Later]]) -> None:
        self._bare = bare
        self._made: Mapping[str, Callable[[Context, Request], Answer | Later]] = {}

    def by_name(self) -> dict[str, Callable[[Context, Request], Answer | Later]]:
        """Of those names only that it has a handler for: whoever is put around these tells the others by that."""
        looks = (row.name for row in ROWS if row.treatment is Treatment.SEE and row.paths)
        return {name: partial(self._handle, name) for name in (*self._bare, *OWN_PIDS, *looks, *_LISTS)}

    def _handle(self, name: str, context: Context, request: Request) -> Answer | Later:
        if not self._made:
            from sandlockd.handlers.private.table import around

            self._made = around(self._bare)
        return self._made[name](context, request)


def _numbered(
    context: Context, by_name: dict[str, Callable[[Context, Request], Answer | Later]]
) -> dict[int, Callable[[Request], Answer | Later]]:
    return {
        number_of(name): partial(handler, context)
        for name, handler in by_name.items()
        if number_of(name) >= 0  # an architecture may lack the older forms
    }


def refused_by_table(context: Context, request: Request) -> None:
    """C has answered; put it on record."""
    if request.reason == REASON_CROWDED:
        crowded.tell(context, request)
        return
    rule = context.rule_for(request.nr, request.args)
    verdict = refusal(rule, record.call_name(context, request))
    error = context.errno_for(request.nr, request.args)
    refused = record.refuse(verdict, target=_detail(context, request), error=error)
    record.refused(context, request, refused)


def _detail(context: Context, request: Request) -> bytes | None:
    name = record.call_name(context, request)
    if name == "socket":
        return b"family %d type %d" % (request.args[0] & 0xFFFFFFFF, request.args[1] & 0xF)
    if name == "ioctl":
        return b"request 0x%x" % (request.args[1] & 0xFFFFFFFF)
    if name in ("clone", "unshare"):
        return b"flags 0x%x" % request.args[0]
    return None


def unreadable(context: Context, request: Request) -> None:
    """The process hides its memory (PR_SET_DUMPABLE, or a program file that it may not read): refused."""
    verdict = Verdict(False, "law.unreadable", None)
    refused = record.refuse(
        verdict,
        target=os.strerror(request.path_error).encode(),
        wanted="be judged without being read",
    )
    record.refused(context, request, refused)


_ERRORS_REFUSE = Verdict(False, "law.errors_refuse", None)


def failed(context: Context, request: Request, error: Exception, answer: int) -> None:
    """A handler raised; the program was refused with this errno."""
    import traceback

    text = "".join(traceback.format_exception(error))
    record.failed(context, request, _ERRORS_REFUSE, answer, text)


def unserved(context: Context, request: Request) -> None:
    """C could not serve the call, and has refused it."""
    if request.path_error == errno.ENOMEM:
        text = "too many calls wait for an answer at the same time: the ledger is full"
    elif request.is_resumed:
        text = "three supervisors have died of it within ten seconds"
    else:
        text = f"it could not be received or answered: {os.strerror(request.path_error)}"
    record.failed(context, request, _ERRORS_REFUSE, request.path_error, text)


def unsent(context: Context, request: Request, answer: Answer, error: int) -> None:
    """The answer did not reach the program as it was meant; it got an error instead."""
    if isinstance(answer, Fd) and error == errno.EMFILE:
        name = record.call_name(context, request)
        text = f"{name} got EMFILE, as bare: the program has as many descriptors as its RLIMIT_NOFILE allows"
        record.note(context, request, "descriptor-limit", text)
        return
    what = (
        "the descriptor could not be handed over"
        if isinstance(answer, Fd)
        else "the answer could not be sent"
    )
    record.failed(context, request, _ERRORS_REFUSE, errno.EIO, f"{what}: {os.strerror(error)}")
