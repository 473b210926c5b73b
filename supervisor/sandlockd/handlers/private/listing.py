"""getdents of /proc itself: what there is for the program. Every other directory there the kernel lists.

A name has its place for ever: `.` and `..`, what is the machine's, `self`, `thread-self`, and a process by its number.
So whoever seeks, rewinds or reads with a small buffer finds each name that was there all the time once, whatever comes
and goes. The position is that of the program's own descriptor.
"""

from __future__ import annotations

import errno

from sandlockd.handlers import metadata, procfiles, rows
from sandlockd.handlers.answers import ENOENT, Backstop, Continue, Errno
from sandlockd.handlers.context import Caller
from sandlockd.handlers.private import members, walk
from sandlockd.kernel import acts
from sandlockd.overlay import listing
from sandlockd.overlay.entries import FsError

TYPE_CHECKING = False
if TYPE_CHECKING:
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


def handle(context: Context, request: Request) -> Answer:
    caller = Caller(context, request)
    try:
        with metadata.by_descriptor(caller, 0) as opened:
            if not caller.context.files.run(acts.is_procfs, opened):
                return _LISTED  # also where its path is longer than anybody can tell
            found = caller.describe(opened)
            inside = procfiles.below_mount(found.path)
            if inside is None or (inside and not walk.exists(caller, inside)):
                return ENOENT  # as of a process that has ended
            return _LISTED if inside else _list(caller)
    except FsError as error:
        return Errno(error.errno)
    except OSError as error:
        return Errno(error.errno or errno.EIO)


def _list(caller: Caller) -> Answer:
    return rows.tell(caller, lambda offset, size: _rows(caller, offset, size), _END)


def _rows(caller: Caller, offset: int, size: int) -> list[Row]:
    """No more than fill a buffer of this size and one row."""
    found = [] if offset >= _FIRST_PROCESS else _of_machine(caller)
    for pid in members.leaders(caller.context):
        if size < 0:
            break
        if pid + _FIRST_PROCESS < offset:
            continue
        # By now it may have ended, and another one have its number: it was one of the sandbox's when it was asked.
        row = rows.row(_PROC, pid + _FIRST_PROCESS, b"%d" % pid)
        if row is not None:
            found.append(row)
            size -= listing.record_size(row.name)
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
