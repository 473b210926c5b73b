"""getdents of /proc itself, and of what has a name for each network interface: what there is for the program. Every
other directory there the kernel lists.

A name has its place for ever: `.` and `..`, what is the machine's, `self`, `thread-self`, and a process by its number.
So whoever seeks, rewinds or reads with a small buffer finds each name that was there all the time once, whatever comes
and goes. The position is that of the program's own descriptor.
"""

from __future__ import annotations

import errno
import os
import time
from bisect import bisect_left
from functools import partial
from typing import NamedTuple

from sandlockd.handlers import lookup, metadata, procfiles, rows
from sandlockd.handlers.answers import ENOENT, Backstop, Continue, Errno, Later
from sandlockd.handlers.context import Caller
from sandlockd.handlers.private import members, walk
from sandlockd.kernel import acts, procfs
from sandlockd.kernel.files import Many
from sandlockd.overlay import listing
from sandlockd.overlay.entries import FsError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandlockd.handlers.answers import Answer
    from sandlockd.handlers.context import Context
    from sandlockd.kernel.engine import Request
    from sandlockd.overlay.listing import Row

_LISTED = Continue(Backstop.ONLY_TELLS)
# As the kernel has it: FIRST_PROCESS_ENTRY and TGID_OFFSET of fs/proc, PID_MAX_LIMIT.
_SELF, _THREAD_SELF, _FIRST_PROCESS, _PIDS_MAX = 256, 257, 258, 1 << 22
_END = _FIRST_PROCESS + _PIDS_MAX
_PROC = b"/proc"
NAMES = ("getdents", "getdents64")
_LOOK_HOLDS_S = 1.0
_SIZE_MAX = 8192  # of one answer: some 250 processes
_LOOKS_MAX = 4  # listings under way that are remembered


def handle(context: Context, request: Request, found: list[int] | None = None) -> Answer | Later:
    """found: who was looked for since it was asked, by a worker."""
    caller = Caller(context, request)
    try:
        with metadata.by_descriptor(caller, 0) as opened:
            if not caller.context.files.run(acts.is_procfs, opened):
                return _LISTED  # also where its path is longer than anybody can tell
            inside = procfiles.below_mount(caller.describe(opened).path)
            if inside is None or (inside and not walk.exists(caller, inside)):
                return ENOENT  # as of a process that has ended
            if walk.lists_interfaces(inside):
                return rows.tell(caller, lambda *_: _of_interfaces(caller, inside), _END)
            return _LISTED if inside else _list(caller, found)
    except Many:
        # What is remembered of a listing is the loop's.
        look = partial(procfs.members, context.init_pid)
        return Later(look, lambda leaders: handle(context, request, leaders), _nothing)
    except FsError as error:
        return Errno(error.errno)
    except OSError as error:
        return Errno(error.errno or errno.EIO)


def _nothing() -> None:
    """There is nothing to release."""


def _list(caller: Caller, found: list[int] | None) -> Answer:
    """No more of them at once than others may wait for; the program asks again."""
    return rows.tell(caller, lambda offset, size: _rows(caller, offset, size, found), _END, _SIZE_MAX)


def _of_interfaces(caller: Caller, inside: bytes) -> list[Row]:
    directory = _PROC + b"/" + inside
    names = (name for name in sorted(os.listdir(directory)) if walk.exists(caller, inside + b"/" + name))
    found = (rows.row(directory, place, name) for place, name in enumerate((b".", b"..", *names)))
    return [row for row in found if row is not None]


class Look(NamedTuple):
    """Who was found for a descriptor that is being listed, and from where on it was asked for last."""

    leaders: Sequence[int]
    offset: int
    end: int  # where the part that was asked for ended
    at_s: float


def _leaders(caller: Caller, offset: int, found: list[int] | None) -> tuple[Sequence[int], bool]:
    """The processes of the sandbox; and whether they are those that were found for a part of the listing before.

    With a small buffer a listing is asked for in many parts: to look for all processes for each would take the square
    of their number. Whoever goes on within a second, from where his last part ended, is told of those that were there
    then, and are there still. Whoever was there when he began is among them. Whoever rewinds or seeks begins anew, as
    does whoever has opened it anew, unless he seeks to that very place at once.
    """
    if caller.context.index is None:
        return members.leaders(caller.context), False  # in a worker: what is remembered is the loop's
    looks, now_s = caller.context.looks, time.monotonic()
    key = _key(caller)
    look = looks.pop(key, None)
    goes_on = look is not None and look.offset < offset == look.end and now_s < look.at_s + _LOOK_HOLDS_S
    if look is None or not goes_on:
        found = members.leaders(caller.context) if found is None else found
        look = Look(found, offset, offset, now_s)
    while len(looks) >= _LOOKS_MAX:
        del looks[next(iter(looks))]
    looks[key] = look._replace(offset=offset)
    return look.leaders, goes_on


def _ended(caller: Caller, taken: Sequence[Row]) -> None:
    looks, key = caller.context.looks, _key(caller)
    if taken and key in looks:
        looks[key] = looks[key]._replace(end=taken[-1].offset + 1)


def _key(caller: Caller) -> tuple[int, int]:
    return caller.tgid, lookup.as_int(caller.request.args[0])


def _rows(caller: Caller, offset: int, size: int, known: list[int] | None) -> list[Row]:
    """No more than fill a buffer of this size and one row."""
    found = [] if offset >= _FIRST_PROCESS else _of_machine(caller)
    leaders, are_old = _leaders(caller, offset, known)
    asked = size
    for at in range(bisect_left(leaders, offset - _FIRST_PROCESS), len(leaders)):
        if size < 0:
            break
        pid = leaders[at]
        if are_old and not members.is_leader(caller.context, pid):
            continue
        # By now it may have ended, and another one have its number: it was one of the sandbox's when it was asked.
        row = rows.row(_PROC, pid + _FIRST_PROCESS, b"%d" % pid)
        if row is not None:
            found.append(row)
            size -= listing.record_size(row.name)
    if caller.context.index is not None:
        _ended(caller, listing.take(found, offset, asked))
    return found


def _of_machine(caller: Caller) -> list[Row]:
    """Of what cannot be opened nothing is said."""
    view = caller.context.view
    refused = {
        name for name in procfiles.shared_names() if view is not None and view.refuses(b"/proc/" + name)
    }
    names = [name for name in procfiles.shared_names() if name not in refused and walk.exists(caller, name)]
    places = [(0, b"."), (1, b".."), *enumerate(names, 2)]
    places += [(_SELF, b"self"), (_THREAD_SELF, b"thread-self")]
    return [row for place, name in places if (row := rows.row(_PROC, place, name)) is not None]
