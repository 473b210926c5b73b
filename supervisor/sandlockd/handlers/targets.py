"""Calls on a process by number, and calls that change how we are called: prlimit, scheduling, seccomp, prctl.

Landlock's scopes do not cover limits, priorities and affinity, so a program may only name itself there.
"""

from __future__ import annotations

import errno

from sandlockd.handlers import record
from sandlockd.handlers.answers import OWN_PROCESS, Backstop, Continue
from sandlockd.handlers.context import Caller
from sandlockd.policy.verdict import Verdict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandlockd.handlers.answers import Answer
    from sandlockd.handlers.context import Context
    from sandlockd.kernel.engine import Request

_FILTER_NEW_LISTENER = 1 << 3
_PR_SET_SECCOMP, _PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_SECUREBITS = 22, 4, 24, 28
_SCOPES = {
    "setpriority": (0, 0),
    "ioprio_set": (0, 1),
}  # call -> (position of `which`, its "one process" value)


def handle_process(context: Context, request: Request) -> Answer:
    """Only the caller's own process: its number cannot change while it waits in this call."""
    caller = Caller(context, request)
    row = context.rows[request.nr]
    if row.name in context.given_back:
        return Continue(Backstop.LANDLOCK_PROCESSES)
    if row.pids and _whole_process_or_thread(request, row.name):
        target = request.args[row.pids[0]] & 0xFFFFFFFF
        targets = [request.args[position] & 0xFFFFFFFF for position in row.pids]
        if all(_is_own(caller, number) for number in targets):
            return OWN_PROCESS
    else:
        target = 0
    verdict = Verdict(False, "law.process_access", None)
    return record.refuse(verdict, target=b"process %d" % target, wanted="control", error=errno.EPERM)


def _whole_process_or_thread(request: Request, name: str) -> bool:
    scope = _SCOPES.get(name)
    return scope is None or request.args[scope[0]] & 0xFFFFFFFF == scope[1]


def _is_own(caller: Caller, number: int) -> bool:
    """The caller itself or its leader. Another thread of it may end and its number be given to a stranger."""
    return number in (0, caller.tid, caller.tgid)


def handle_seccomp(context: Context, request: Request) -> Answer:
    """A filter of the program's own narrows what it may do; it can also hide calls from us: noted."""
    if request.args[1] & _FILTER_NEW_LISTENER and record.call_name(context, request) == "seccomp":
        verdict = Verdict(False, "law.seccomp", None)
        return record.refuse(verdict, target=b"a listener of its own", wanted="supervise", error=errno.EBUSY)
    record.note(
        context,
        request,
        "stacked-filter",
        "the program installed a seccomp filter of its own; calls that it answers are not seen here",
    )
    return Continue(Backstop.FILTERS_ONLY_NARROW)


def handle_prctl(context: Context, request: Request) -> Answer:
    option = request.args[0] & 0xFFFFFFFF
    if option == _PR_SET_SECCOMP:
        return handle_seccomp(context, request)
    if option in (_PR_CAPBSET_DROP, _PR_SET_SECUREBITS):
        context.engine.ids_changed()
        return Continue(Backstop.ONLY_NOTICED)
    verdict = Verdict(False, context.rule_for(request.nr, request.args), None)
    wanted = "hide its memory" if option == _PR_SET_DUMPABLE else f"prctl {option}"
    return record.refuse(verdict, wanted=wanted, error=errno.EPERM)


def handle_timer(context: Context, request: Request) -> Answer:
    """Signals come at a pace from now on: they must not make this process's other calls fail."""
    context.trace(int(request.tid))
    return Continue(Backstop.ONLY_NOTICED)


TIMER_CALLS = ("alarm", "setitimer", "timer_settime")
PROCESS_CALLS = (
    "setpriority",
    "sched_setparam",
    "sched_setscheduler",
    "sched_setaffinity",
    "sched_setattr",
    "ioprio_set",
    "migrate_pages",
    "move_pages",
    "prlimit64",
    "process_vm_readv",
    "process_vm_writev",
    "kcmp",
    "process_madvise",
    "process_mrelease",
)
