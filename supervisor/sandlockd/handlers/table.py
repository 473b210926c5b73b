"""The one table from call number to handler."""

from __future__ import annotations

import errno
import os
from functools import partial

from sandlockd.handlers import metadata, naming, opening, record, targets
from sandlockd.kernel.syscalls import number_of
from sandlockd.policy.syscalls import refusal
from sandlockd.policy.verdict import Verdict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandlockd.handlers.answers import Answer, Later
    from sandlockd.handlers.context import Context
    from sandlockd.kernel.engine import Request

_OPENERS = ("open", "openat", "creat")


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
    return _numbered(context, by_name)


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
    rule = context.rule_for(request.nr, request.args)
    verdict = refusal(rule, record.call_name(context, request))
    error = context.rows[request.nr].errno or errno.EPERM
    record.refuse(context, request, verdict, target=_detail(context, request), error=error)


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
    record.refuse(
        context,
        request,
        verdict,
        target=os.strerror(request.path_error).encode(),
        wanted="be judged without being read",
    )


def failed(context: Context, request: Request, error: Exception) -> None:
    """A handler raised; the program was refused."""
    import traceback

    verdict = Verdict(False, "law.errors_refuse", None)
    text = "".join(traceback.format_exception(error))
    record.failed(context, request, verdict, errno.EIO if isinstance(error, OSError) else errno.EACCES, text)
