"""A fork that `limits.processes` has refused. C counts, decides and answers (native/forks.c); this tells of it."""

from __future__ import annotations

import errno

from sandlockd.handlers import record
from sandlockd.policy.verdict import Verdict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandlockd.handlers.context import Context
    from sandlockd.kernel.engine import Request

RULE = "limits.processes"
_CLONE_THREAD = 0x10000  # linux/sched.h


def tell(context: Context, request: Request) -> None:
    is_thread = record.call_name(context, request) == "clone" and request.args[0] & _CLONE_THREAD
    limit = context.engine.process_limit or 0
    verdict = Verdict(False, RULE, f"[limits] processes = {2 * limit}")
    wanted = "make a thread" if is_thread else "make a process"
    refused = record.refuse(verdict, wanted=wanted, error=errno.EAGAIN)
    record.refused(context, request, refused)
