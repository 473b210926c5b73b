"""Calls that make, move and remove names, and truncate by path.

Landlock judges them wherever it grants; here are those that C did not leave to it: in a spine directory (done on
behalf, in the opened directory and nowhere else), or refused (recorded). Execution is judged here too: Landlock
has the last word, the record is ours.
"""

from __future__ import annotations

import errno
import os
import stat
from functools import partial

from sandlockd.handlers import lookup, record
from sandlockd.handlers.answers import (
    LANDLOCK_FILES,
    LANDLOCK_NAMES,
    LOOKUP_FAILS,
    Errno,
    Later,
    Value,
    when_over_or_blocked,
)
from sandlockd.handlers.context import Caller
from sandlockd.kernel import acts, memory
from sandlockd.kernel.aside import Unfinished
from sandlockd.kernel.fds import OwnedFd
from sandlockd.policy.verdict import FileIdentity, Verdict, Want

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from sandlockd.handlers.answers import Answer
    from sandlockd.handlers.context import Context
    from sandlockd.kernel.engine import Request

_EXECUTE, _TRUNCATE = 1 << 0, 1 << 14  # LANDLOCK_ACCESS_FS_*
_AT_REMOVEDIR = 0x200
_AT_SYMLINK_FOLLOW = 0x400
_AT_EMPTY_PATH = 0x1000
_RENAME_EXCHANGE = 2


class Entry:
    """A name in an opened directory, and what it stands for now. Owns the directory.

    written: the name with a slash behind it where the program wrote one. Only the kernel knows what that means for each
    call (path_resolution(7)); none that makes or takes names follows a link because of it.
    """

    __slots__ = ("child", "in_proc", "name", "parent", "path", "served", "written")

    def __init__(self, context: Context, parent: OwnedFd, name: bytes, *, slash: bool) -> None:
        """Takes the directory over, if it does not raise."""
        self.parent = parent
        self.name = name
        self.written = name + b"/" if slash else name
        directory = context.files.run(acts.describe, parent)
        self.in_proc = directory.proc
        self.path = lookup.child_path(directory, name)
        self.served = context.instead is not None or not context.kernel_grants_names_in(directory.path)
        self.child = lookup.describe_child(context.files, parent, name) if name else directory

    @property
    def identity(self) -> FileIdentity | None:
        return FileIdentity(self.child.device, self.child.inode) if self.child is not None else None

    def close(self) -> None:
        self.parent.close()

    def __enter__(self) -> Entry:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _entry(caller: Caller, text: bytes, which: int) -> Entry:
    """Raises OSError: the lookup of the directory failed."""
    place = lookup.place_of(caller, text, lookup.dirfd_of(caller, which))
    parent, name = lookup.open_parent(caller, place)
    try:
        return Entry(caller.context, parent, name, slash=text.endswith(b"/"))
    except BaseException:
        parent.close()
        raise


def _judge(context: Context, entry: Entry, want: Want, *, new_directory: bool = False) -> Verdict:
    above = context.rules.hole_beneath(entry.path)
    if above is not None and Want.CREATE in want and not new_directory:
        # A link, or a directory with grants of its own, would lead whoever stores the secret later elsewhere.
        return Verdict(False, above, None)
    directory = entry.child is not None and stat.S_ISDIR(entry.child.mode)
    return context.rules.judge(entry.path, want, entry.identity, directory=directory)


def handle(context: Context, request: Request) -> Answer | Later:
    """mkdir, rmdir, unlink, rename, link, symlink, mknod, truncate and their *at forms."""
    caller = Caller(context, request)
    name = record.call_name(context, request)
    try:
        return _FAMILIES[name](caller)
    except OSError as error:
        if error.errno in _LOOKUP_ERRORS and context.instead is None:
            return LOOKUP_FAILS
        return Errno(error.errno or errno.EIO)


# What the kernel's own lookup will find again, after which Landlock judges.
_LOOKUP_ERRORS = frozenset(
    (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EBADF, errno.EACCES)
)


def _in_place(
    caller: Caller,
    text: bytes,
    which: int,
    want: Want,
    act: Callable[..., None],
    *args: Any,
    new_directory: bool = False,
) -> Answer:
    """act: of kernel/acts.py, on a name in an opened directory. args: what else it takes."""
    with _entry(caller, text, which) as entry:
        if not entry.name or entry.in_proc:
            return LANDLOCK_NAMES
        verdict = _judge(caller.context, entry, want, new_directory=new_directory)
        if not verdict.allowed:
            return _refused(caller, entry, verdict, want)
        if not entry.served:
            return LANDLOCK_NAMES
        return _done(caller, act, entry.parent, entry.written, *args)


def _done(caller: Caller, act: Callable[..., None], *args: Any) -> Answer:
    """The kernel's own answer to what is done on behalf; not one after which it should look for itself."""
    if caller.context.engine.is_kept and _nothing_is_against(caller, act, args):
        caller.context.engine.acts(caller.request)
    try:
        caller.act(act, *args)
    except OSError as error:
        return Errno(error.errno or errno.EIO)
    return Value(0)


def _nothing_is_against(caller: Caller, act: Callable[..., None], args: tuple[Any, ...]) -> bool:
    """Whoever finds it done later may take it for ours."""
    there: list[tuple[OwnedFd, bytes]] = []
    missing: list[tuple[OwnedFd, bytes]] = []
    if act is acts.rename:
        there = [] if args[4] else [args[0:2]]
    elif act in (acts.remove_directory, acts.remove_file):
        there = [args[0:2]]
    else:
        missing = [args[1:3] if act is acts.make_link else args[0:2]]
    return (
        bool(there or missing)
        and all(_exists(caller, *name) for name in there)
        and not any(_exists(caller, *name) for name in missing)
    )


def _exists(caller: Caller, parent: OwnedFd, name: bytes) -> bool:
    try:
        caller.act(acts.open_at, parent, name.rstrip(b"/"), os.O_PATH | os.O_NOFOLLOW).close()
    except OSError:
        return False
    return True


def _refused(
    caller: Caller, entry: Entry, verdict: Verdict, want: Want, *, error: int = errno.EACCES
) -> Answer:
    """The kernel finds "exists" and "does not exist" before it asks Landlock."""
    if want & Want.CREATE and not want & Want.DELETE and entry.child is not None:
        return Errno(errno.EEXIST)
    if want & Want.DELETE and entry.child is None:
        return Errno(errno.ENOENT)
    return record.refuse(verdict, path=entry.path, wanted=want, error=error)


def _mode(caller: Caller, position: int) -> int:
    return int(caller.request.args[position] & 0o7777 & ~caller.status.umask)


def _mkdir(caller: Caller) -> Answer:
    mode = _mode(caller, lookup.operand(caller).position + 1)
    return _in_place(
        caller, caller.request.path, 0, Want.CREATE, acts.make_directory, mode, new_directory=True
    )


def _mknod(caller: Caller) -> Answer:
    position = lookup.operand(caller).position + 1
    kind = stat.S_IFMT(caller.request.args[position] & 0xFFFF) or stat.S_IFREG  # a umode_t
    mode = _mode(caller, position)
    if mode & 0o6000:
        verdict = Verdict(False, "law.setuid", None)
        return record.refuse(
            verdict,
            path=caller.request.path,
            wanted=Want.CREATE,
            error=errno.EPERM,
        )
    if kind in (stat.S_IFCHR, stat.S_IFBLK):
        # No policy grants device files: Landlock refuses them everywhere.
        with _entry(caller, caller.request.path, 0) as entry:
            verdict = Verdict(False, "law.devices", None)
            return _refused(caller, entry, verdict, Want.CREATE, error=errno.EPERM)
    return _in_place(caller, caller.request.path, 0, Want.CREATE, acts.make_node, kind | mode)


def _rmdir(caller: Caller) -> Answer:
    return _in_place(caller, caller.request.path, 0, Want.DELETE, acts.remove_directory)


def _unlink(caller: Caller) -> Answer:
    return _in_place(caller, caller.request.path, 0, Want.DELETE, acts.remove_file)


def _unlinkat(caller: Caller) -> Answer:
    return _rmdir(caller) if caller.request.args[2] & _AT_REMOVEDIR else _unlink(caller)


def _second_path(caller: Caller) -> bytes:
    text = memory.read_path(caller.tid, caller.request.args[lookup.operand(caller, 1).position])
    caller.require_alive()
    return text


def _symlink(caller: Caller) -> Answer:
    """The target is text: where it leads is judged when somebody goes there."""
    target = memory.read_path(caller.tid, caller.request.args[0])
    caller.require_alive()
    return _in_place(caller, caller.request.path, 0, Want.CREATE, acts.make_symlink, target)


def _truncate(caller: Caller) -> Answer | Later:
    place = lookup.place_of(caller, caller.request.path, lookup.dirfd_of(caller))
    with lookup.open_object(caller, place, follow=True) as opened:
        found = caller.describe(opened)
        if found.proc:
            return LANDLOCK_FILES
        verdict = caller.context.rules.judge(found.path, Want.WRITE, FileIdentity(found.device, found.inode))
        if not verdict.allowed:
            return record.refuse(verdict, path=found.path, wanted=Want.WRITE)
        kernel_looks = caller.context.instead is None
        if kernel_looks and (found.deleted or caller.context.kernel_grants(found.path, _TRUNCATE)):
            return LANDLOCK_FILES
        if stat.S_ISDIR(found.mode):
            return Errno(errno.EISDIR)
        if not stat.S_ISREG(found.mode):
            return Errno(errno.EINVAL)
        length = caller.request.args[1]
        if length >= 1 << 63:
            return Errno(errno.EINVAL)
        return truncate_served(caller, opened, length)


def truncate_served(
    caller: Caller, opened: OwnedFd, length: int, *, is_watched: bool = False
) -> Answer | Later:
    """A lease on the file would make us wait for its holder: then a worker does.

    is_watched: it is not to be opened, of which a watch would be told.
    """

    def patiently(held: OwnedFd) -> Later:
        def wait_and_truncate() -> None:
            with held.unless_interrupted():
                caller.wait_for(acts.truncate_unopened, held, length)

        return Later(wait_and_truncate, lambda _: Value(0), held.close)

    try:
        if not is_watched:
            caller.act(acts.truncate, opened, length, os.O_NONBLOCK)
            return Value(0)
    except Unfinished as unfinished:
        held = OwnedFd(opened.take())
        return when_over_or_blocked(unfinished, lambda _: Value(0), partial(patiently, held), held.close)
    except BlockingIOError:
        pass
    return patiently(OwnedFd(opened.take()))


def _rename(caller: Caller) -> Answer:
    context = caller.context
    name = record.call_name(context, caller.request)
    flags = int(caller.request.args[4]) & 0xFFFFFFFF if name == "renameat2" else 0
    new_text = _second_path(caller)
    with _entry(caller, caller.request.path, 0) as old, _entry(caller, new_text, 1) as new:
        if not old.name or not new.name:
            return LANDLOCK_NAMES
        for entry, want in (
            (old, Want.DELETE | (Want.CREATE if flags & _RENAME_EXCHANGE else Want(0))),
            (new, Want.CREATE | (Want.DELETE if new.child is not None else Want(0))),
        ):
            verdict = _judge(context, entry, want)
            if not verdict.allowed:
                if old.child is None:
                    return Errno(errno.ENOENT)
                return record.refuse(verdict, path=old.path, target=new.path, wanted=want)
        if not (old.served or new.served):
            return LANDLOCK_NAMES
        return _done(caller, acts.rename, old.parent, old.written, new.parent, new.written, flags)


def _link(caller: Caller) -> Answer:
    context = caller.context
    name = record.call_name(context, caller.request)
    flags = int(caller.request.args[4]) if name == "linkat" else 0
    if flags & _AT_EMPTY_PATH and not caller.request.path:
        return LANDLOCK_NAMES  # of a descriptor: Landlock judges where the file is and where it goes
    new_text = _second_path(caller)
    place = lookup.place_of(caller, caller.request.path, lookup.dirfd_of(caller))
    with (
        lookup.open_object(caller, place, follow=bool(flags & _AT_SYMLINK_FOLLOW)) as opened,
        _entry(caller, new_text, 1) as new,
    ):
        if not new.name:
            return LANDLOCK_NAMES  # it exists, finds the kernel
        found = caller.describe(opened)
        # A second name must not give more than the first did.
        first = context.rules.judge(found.path, Want.WRITE, FileIdentity(found.device, found.inode))
        verdict = _judge(context, new, Want.CREATE) if first.allowed else first
        if not verdict.allowed:
            return record.refuse(verdict, path=found.path, target=new.path, wanted=Want.CREATE)
        if not new.served and context.kernel_grants_names_in(found.path.rpartition(b"/")[0] or b"/"):
            return LANDLOCK_NAMES
        return _done(caller, acts.make_link, opened, new.parent, new.written)


def handle_execute(context: Context, request: Request) -> Answer:
    """execve, execveat: Landlock decides; what it will refuse is recorded."""
    caller = Caller(context, request)
    if not request.path:
        return LANDLOCK_FILES  # execveat of a descriptor
    try:
        place = lookup.place_of(caller, request.path, lookup.dirfd_of(caller))
        opened = lookup.open_object(caller, place, follow=True)
    except OSError:
        return LOOKUP_FAILS
    with opened:
        found = caller.describe(opened)
        if not found.path.startswith(b"/") or found.deleted:
            return LANDLOCK_FILES  # a memfd, or what has no name any more
        verdict = context.rules.judge(
            found.path,
            Want.EXECUTE,
            FileIdentity(found.device, found.inode),
            directory=stat.S_ISDIR(found.mode),
        )
    if verdict.allowed and not context.kernel_grants(found.path, _EXECUTE):
        verdict = Verdict(False, "law.new_beside_denied", None)
    if verdict.allowed:
        return LANDLOCK_FILES
    return record.refuse(verdict, path=found.path, wanted=Want.EXECUTE)


_FAMILIES: dict[str, Callable[[Caller], Answer | Later]] = {
    "mkdir": _mkdir,
    "mkdirat": _mkdir,
    "mknod": _mknod,
    "mknodat": _mknod,
    "rmdir": _rmdir,
    "unlink": _unlink,
    "unlinkat": _unlinkat,
    "rename": _rename,
    "renameat": _rename,
    "renameat2": _rename,
    "link": _link,
    "linkat": _link,
    "symlink": _symlink,
    "symlinkat": _symlink,
    "truncate": _truncate,
}
NAMES = tuple(_FAMILIES)
