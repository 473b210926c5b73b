"""Calls that tell of the machine, where limits change what it is to the program: what the kernel says, changed.

Nothing is left to the kernel but listings in which nothing is hidden.
"""

from __future__ import annotations

import errno
import os
from functools import partial

from sandlockd.handlers import lookup, metadata, rows
from sandlockd.handlers.answers import ENOENT, Backstop, Continue, Errno, Write
from sandlockd.handlers.context import Caller
from sandlockd.handlers.limited import texts
from sandlockd.kernel import machine
from sandlockd.overlay.entries import FsError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sandlockd.handlers.answers import Answer, Later
    from sandlockd.handlers.context import Context
    from sandlockd.handlers.limited.view import View
    from sandlockd.kernel.engine import Request
    from sandlockd.kernel.fds import OwnedFd
    from sandlockd.overlay.listing import Row

    Handler = Callable[[Context, Request], Answer | Later]

_LISTED = Continue(Backstop.ONLY_TELLS)
_END = 1 << 30  # sysfs takes none above 2^31 (s_maxbytes)


def around(view: View, handlers: Mapping[str, Handler]) -> dict[str, Handler]:
    """Handlers by name, with those of here around them."""
    found: dict[str, Handler] = {**handlers, "sysinfo": partial(_information, view)}
    if view.processors:
        found["sched_getaffinity"] = partial(_affinity, view, handlers.get("sched_getaffinity"))
        for name in ("getdents", "getdents64"):
            found[name] = partial(_list, view, handlers.get(name))
    return found


def _information(view: View, context: Context, request: Request) -> Answer:
    """sysinfo(info)."""
    used = None if view.memory is None else view.used()
    threads = _count_threads(context) if view.counts_processes else None
    structure = texts.system_information(machine.information(), used, threads)
    return Write(request.args[0], structure, 0)


def _count_threads(context: Context) -> int:
    from sandlockd.handlers.private import members  # where own processes are, too

    return members.count_threads(members.leaders(context))


def _affinity(view: View, before: Handler | None, context: Context, request: Request) -> Answer | Later:
    """sched_getaffinity(pid, size, mask). before: knows who does not exist for the program."""
    answer = _LISTED if before is None else before(context, request)
    if not isinstance(answer, Continue):
        return answer
    caller = Caller(context, request)
    number = lookup.as_int(request.args[0])
    try:
        mask = machine.affinity(number or caller.tid, request.args[1] & 0xFFFFFFFF)
    except OSError as error:
        return Errno(error.errno or errno.EINVAL)
    told = texts.affinity(mask, view.processors)
    return Write(request.args[2], told, len(told))


def _list(view: View, before: Handler | None, context: Context, request: Request) -> Answer | Later:
    caller = Caller(context, request)
    try:
        with metadata.by_descriptor(caller, 0) as opened:
            path = _path_of(caller, opened)
        if view.hides(path):
            return ENOENT
        if view.tells_listing(path):
            return rows.tell(caller, lambda *_: _rows(view, path), _END)
    except FsError as error:
        return Errno(error.errno)
    except OSError as error:
        return Errno(error.errno or errno.EIO)
    return _LISTED if before is None else before(context, request)


def _path_of(caller: Caller, opened: OwnedFd) -> bytes:
    """b"": longer than anybody can tell, so none of those of which something is told."""
    try:
        return caller.describe(opened).path
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return b""


def _rows(view: View, directory: bytes) -> list[Row]:
    names = sorted(os.listdir(directory))
    hidden = view.hidden_in(directory, names)
    shown = (b".", b"..", *(name for name in names if name not in hidden))
    found = (rows.row(directory, place, name) for place, name in enumerate(shown))
    return [row for row in found if row is not None]
