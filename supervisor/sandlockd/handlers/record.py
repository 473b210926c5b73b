"""Telling the audit log. Nothing here decides, and only the loop's thread tells."""

from __future__ import annotations

import errno

from sandlockd.audit.records import Failure, Note, Refusal
from sandlockd.handlers.answers import Errno, Refused
from sandlockd.kernel import procfs
from sandlockd.process.key import PidKey

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandlockd.handlers.context import Context
    from sandlockd.kernel.engine import Request
    from sandlockd.policy.verdict import Verdict, Want


def who(context: Context, tid: int) -> tuple[PidKey, str]:
    """The process of a thread, and its name."""
    assert context.index is not None  # the loop's context, not a worker's
    key = context.index.register_thread(tid) or PidKey(tid, 0)  # 0: gone before it could be asked
    return key, procfs.command_of(key.tgid)


def _refusal(
    context: Context,
    request: Request,
    verdict: Verdict,
    path: bytes | None,
    wanted: Want | str,
    target: bytes | None,
    error: int,
) -> Refusal:
    key, command = who(context, request.tid)
    return Refusal(
        call=call_name(context, request),
        rule=verdict.rule,
        path=path,
        target=target,
        wanted=wanted,
        pid=key.tgid,
        birth=key.birth,
        tid=request.tid,
        command=command,
        errno=error,
        remedy=verdict.remedy,
    )


def call_name(context: Context, request: Request) -> str:
    row = context.rows.get(request.nr)
    return row.name if row is not None else str(request.nr)


def refuse(
    verdict: Verdict,
    *,
    path: bytes | None = None,
    wanted: Want | str = "",
    target: bytes | None = None,
    error: int = errno.EACCES,
) -> Refused:
    """The answer of a handler, in whatever thread it runs."""
    return Refused(verdict, path, wanted, target, error)


def refused(context: Context, request: Request, refused: Refused) -> Errno:
    """Put a refusal on record; the answer that goes with it."""
    _is_refused(context, request)
    verdict, path, wanted, target, error = refused
    context.audit.refuse(_refusal(context, request, verdict, path, wanted, target, error))
    return Errno(error)


def _is_refused(context: Context, request: Request) -> None:
    if context.allowed is not None:
        context.allowed.forget(request)


def failed(context: Context, request: Request, verdict: Verdict, error: int, traceback: str) -> None:
    """The program was refused because we failed, and this is why."""
    _is_refused(context, request)
    refusal = _refusal(context, request, verdict, request.path, "", None, error)
    context.audit.refuse(Failure(refusal=refusal, traceback=traceback))


def note(context: Context, request: Request, subject: str, text: str) -> None:
    key, command = who(context, request.tid)
    context.audit.note(
        Note(subject=subject, text=text, pid=key.tgid, birth=key.birth, tid=request.tid, command=command)
    )
