"""Calls with paths, where a path may come by a process that does not exist for the program.

Such a call is answered as if the number were free: by the same handler, with a number in its place that never is a
process, and without the kernel, which knows better. Others go on as ever.
"""

from __future__ import annotations

import errno
from functools import partial

from sandlockd.handlers import lookup, opening
from sandlockd.handlers.answers import ENOENT, Backstop, Continue, Errno
from sandlockd.handlers.context import Caller
from sandlockd.handlers.private import walk
from sandlockd.kernel import acts, memory
from sandlockd.kernel.syscalls import BY_NAME, Follow, Treatment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sandlockd.handlers.answers import Answer, Later
    from sandlockd.handlers.context import Context
    from sandlockd.kernel.engine import Request
    from sandlockd.kernel.syscalls import PathOperand, Syscall

    Handler = Callable[[Context, Request], Answer | Later]

_SEEN = Continue(Backstop.ONLY_TELLS)
_NOBODY = b"/proc/0"  # name_to_int of fs/proc/util.c; no process has it
_SEES = (
    *("stat", "lstat", "newfstatat", "statx", "access", "faccessat", "faccessat2", "readlink", "readlinkat"),
    *("chdir", "statfs", "name_to_handle_at"),
)
_AT_STAT = 0x100 | 0x800 | 0x1000 | 0x6000
_AT_STATX_SYNC_TYPE = 0x6000
_AT_ACCESS = 0x100 | 0x200 | 0x1000
_AT_HANDLE = (
    0x400 | 0x1000 | 0x200 | 0x1 | 0x2
)  # AT_HANDLE_FID, AT_HANDLE_MNT_ID_UNIQUE, AT_HANDLE_CONNECTABLE


def around(handlers: Mapping[str, Handler]) -> dict[str, Handler]:
    """Handlers by name, with each that may be asked for a path asked by way of here."""
    names = (name for name in (*handlers, *_SEES) if BY_NAME[name].paths)
    return {**handlers, **{name: partial(_handle, name, handlers.get(name)) for name in names}}


def _handle(name: str, bare: Handler | None, context: Context, request: Request) -> Answer | Later:
    caller = Caller(context, request)
    row = context.rows[request.nr]
    text = _first_text(caller, row)
    if text:
        follow, in_root = _follows(caller, row, row.paths[0]), name == "openat2" and _is_confined(caller)
        missing = walk.missing(caller, text, lookup.dirfd_of(caller), follow=follow, in_root=in_root)
        if missing is not None:
            return _as_if_free(name, bare, caller, text, is_last=missing == "last")
        if len(row.paths) > 1 and bare is not None:
            return _with_second(bare, caller, row, text)
    return _SEEN if bare is None else bare(context, request)


def _first_text(caller: Caller, row: Syscall) -> bytes:
    """b"": none, or an error that the handler finds as well."""
    if caller.context.instead is not None:
        return caller.context.instead
    if row.treatment is not Treatment.SLOW:
        return bytes(caller.request.path or b"")
    return _text(caller, row.paths[0])


def _text(caller: Caller, operand: PathOperand) -> bytes:
    address = caller.request.args[operand.position]
    if not address:
        return b""
    try:
        text = memory.read_path(caller.tid, address)
    except OSError:
        return b""
    caller.require_alive()
    return text


def _follows(caller: Caller, row: Syscall, operand: PathOperand) -> bool:
    if operand.follow is Follow.OPEN:
        try:
            return opening.how_of(caller).follow
        except OSError:
            return True
    flags = caller.request.args[row.flags] if row.flags >= 0 else 0
    if operand.follow is Follow.IF_FLAG:
        return bool(flags & operand.follow_flag)
    if operand.follow is Follow.UNLESS_FLAG:
        return not flags & operand.follow_flag
    return operand.follow is Follow.ALWAYS


def _is_confined(caller: Caller) -> bool:
    """RESOLVE_IN_ROOT of openat2(2)."""
    try:
        return bool(opening.how_of(caller).resolve & 0x10)
    except OSError:
        return False


def _with_second(bare: Handler, caller: Caller, row: Syscall, first: bytes) -> Answer | Later:
    """rename, link."""
    text = _text(caller, row.paths[1])
    missing = walk.missing(caller, text, lookup.dirfd_of(caller, 1), follow=False) if text else None
    if missing is None:
        return bare(caller.context, caller.request)
    if missing == "last" and row.name.startswith("rename"):
        return _renamed_over(caller, first, 0)
    try:  # what the kernel finds first
        place = lookup.place_of(caller, first, lookup.dirfd_of(caller, 0))
        if row.name.startswith("link"):
            lookup.open_object(caller, place, follow=_follows(caller, row, row.paths[0])).close()
        else:
            lookup.open_parent(caller, place)[0].close()
    except OSError as error:
        return Errno(error.errno or errno.EIO)
    return ENOENT


def _renamed_over(caller: Caller, text: bytes, which: int) -> Answer:
    """One name is a free number in /proc. text: the other path, the which-th. Mounts are compared before names."""
    try:
        parent, _ = lookup.open_parent(caller, lookup.place_of(caller, text, lookup.dirfd_of(caller, which)))
        with parent:
            return ENOENT if caller.context.files.run(acts.is_procfs, parent) else Errno(errno.EXDEV)
    except OSError as error:
        return Errno(error.errno or errno.EIO)


def _as_if_free(
    name: str, bare: Handler | None, caller: Caller, text: bytes, *, is_last: bool
) -> Answer | Later:
    if bare is None:
        return Errno(errno.EINVAL) if _is_wrong(name, caller.request.args) else ENOENT
    if is_last and name.startswith("rename"):
        row = caller.context.rows[caller.request.nr]
        return _renamed_over(caller, _text(caller, row.paths[1]), 1)
    slash = b"/" if text.endswith(b"/") else b""
    other = caller.context.copied()
    other.instead = _NOBODY + (b"" if is_last else b"/x") + slash
    answer = bare(other, caller.request._replace(path=other.instead))
    return ENOENT if isinstance(answer, Continue) else answer  # nor is anything made there


def _is_wrong(name: str, args: tuple[int, ...]) -> bool:
    """What the kernel looks at before the path."""
    low = [argument & 0xFFFFFFFF for argument in args]
    if name == "newfstatat":
        return bool(low[3] & ~_AT_STAT)
    if name == "statx":
        is_odd = low[2] & _AT_STATX_SYNC_TYPE == _AT_STATX_SYNC_TYPE
        return bool(low[2] & ~_AT_STAT or low[3] & 1 << 31 or is_odd)
    if name in ("access", "faccessat", "faccessat2"):
        mode = low[1 if name == "access" else 2]
        return bool(mode & ~7 or (name == "faccessat2" and low[3] & ~_AT_ACCESS))
    if name in ("readlink", "readlinkat"):
        return not 0 < low[2 if name == "readlink" else 3] < 1 << 31
    return name == "name_to_handle_at" and bool(low[4] & ~_AT_HANDLE)
