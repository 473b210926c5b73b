"""getdents of /proc itself: what there is for the program. Every other directory there the kernel lists.

A name has its place for ever: `.` and `..`, what is the machine's, `self`, `thread-self`, and a process by its number.
So whoever seeks, rewinds or reads with a small buffer finds each name that was there all the time once, whatever comes
and goes. The position is that of the program's own descriptor.
"""

from __future__ import annotations

import errno
import os
import stat

from sandlockd.handlers import lookup, metadata, procfiles, record
from sandlockd.handlers.answers import ENOENT, Backstop, Continue, Errno, Value, Write
from sandlockd.handlers.context import Caller
from sandlockd.handlers.private import members, walk
from sandlockd.kernel import acts
from sandlockd.overlay import listing
from sandlockd.overlay.entries import FsError, Kind
from sandlockd.overlay.listing import Row

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandlockd.handlers.answers import Answer
    from sandlockd.handlers.context import Context
    from sandlockd.kernel.engine import Request

_LISTED = Continue(Backstop.ONLY_TELLS)
# As the kernel has it: FIRST_PROCESS_ENTRY and TGID_OFFSET of fs/proc, PID_MAX_LIMIT.
_SELF, _THREAD_SELF, _FIRST_PROCESS, _PIDS_MAX = 256, 257, 258, 1 << 22
_END = _FIRST_PROCESS + _PIDS_MAX
_SIZE_MAX = 1 << 20  # of one answer; the program asks again
_KINDS = {stat.S_IFDIR: Kind.DIRECTORY, stat.S_IFLNK: Kind.SYMLINK, stat.S_IFREG: Kind.FILE}
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
    args = caller.request.args
    size = min(args[2] & 0xFFFFFFFF, _SIZE_MAX)
    with acts.duplicate_of(caller.tgid, lookup.as_int(args[0])) as stream:
        caller.require_alive()
        offset = os.lseek(stream.fd, 0, os.SEEK_CUR)
        taken = listing.take(_rows(caller, offset, size), offset, size)
        is_old = record.call_name(caller.context, caller.request) == "getdents"
        encoded = listing.encode(taken) if is_old else listing.encode64(taken)
        os.lseek(stream.fd, taken[-1].offset + 1 if taken else _END, os.SEEK_SET)
    return Write(args[1], encoded, len(encoded)) if encoded else Value(0)


def _rows(caller: Caller, offset: int, size: int) -> list[Row]:
    """No more than fill a buffer of this size and one row."""
    rows = [] if offset >= _FIRST_PROCESS else _of_machine(caller)
    for pid in members.leaders(caller.context):
        if size < 0:
            break
        if pid + _FIRST_PROCESS < offset:
            continue
        # By now it may have ended, and another one have its number: it was one of the sandbox's when it was asked.
        row = _row(pid + _FIRST_PROCESS, b"%d" % pid)
        if row is not None:
            rows.append(row)
            size -= listing.record_size(row.name)
    return rows


def _of_machine(caller: Caller) -> list[Row]:
    """Of what cannot be opened nothing is said."""
    names = [name for name in procfiles.shared_names() if walk.exists(caller, name)]
    places = [(0, b"."), (1, b".."), *enumerate(names, 2)]
    places += [(_SELF, b"self"), (_THREAD_SELF, b"thread-self")]
    return [row for place, name in places if (row := _row(place, name)) is not None]


def _row(place: int, name: bytes) -> Row | None:
    try:
        status = os.lstat(b"/proc/" + name)
    except OSError:
        return None
    kind = _KINDS.get(stat.S_IFMT(status.st_mode), Kind.FILE)
    return Row(place, name, kind, status.st_ino, False)
