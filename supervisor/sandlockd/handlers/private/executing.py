"""execve: what a script or a program names as its interpreter, the kernel opens, and of `#!/proc/1234/exe` it says
whether there is such a number. So what may be executed is read here first.

What another thread writes into the file meanwhile is not seen; nor is what may be executed and not be read, or lies
where a server may not answer: that is read by the kernel alone.
"""

from __future__ import annotations

import errno
import stat
from functools import partial

from sandlockd.handlers import interpreters, lookup
from sandlockd.handlers.answers import ENOENT, Continue
from sandlockd.handlers.context import Caller
from sandlockd.handlers.leased import Leased, read_at_once
from sandlockd.handlers.private import walk
from sandlockd.kernel import acts, procfs
from sandlockd.kernel.files import MayWait
from sandlockd.kernel.paths import AT_FDCWD

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sandlockd.handlers.answers import Answer, Later
    from sandlockd.handlers.context import Context
    from sandlockd.kernel.engine import Request
    from sandlockd.kernel.fds import OwnedFd

    Handler = Callable[[Context, Request], Answer | Later]

_INTERPRETERS_MAX = 5  # exec_binprm of fs/exec.c: then ELOOP
_AT_SYMLINK_NOFOLLOW = 0x100
# Of looking for what is executed: then it executes nothing either, or (EACCES) what may be executed and not be read.
_FOUND_BY_THE_KERNEL = frozenset(
    (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EACCES, errno.EBADF)
)


def around(handlers: Mapping[str, Handler]) -> dict[str, Handler]:
    """Handlers by name, with those that execute asked first."""
    return {**handlers, **{name: partial(_handle, handlers[name]) for name in ("execve", "execveat")}}


def _handle(bare: Handler, context: Context, request: Request) -> Answer | Later:
    answer = bare(context, request)
    if not isinstance(answer, Continue) or context.index is None:
        return answer  # in a worker: it takes a server to find it
    try:
        return ENOENT if _asks_for_nobody(Caller(context, request)) else answer
    except Leased as leased:
        return leased.then(partial(_handle, bare, context, request))


def _asks_for_nobody(caller: Caller) -> bool:
    """Does it, or its interpreter, name an interpreter by way of what does not exist for the caller?

    Raises Leased, and OSError where that cannot be told.
    """
    try:
        opened = _executed(caller)
        for _ in range(_INTERPRETERS_MAX):
            with opened:
                name = _interpreter(caller, opened)
            if not name:
                return False
            if not is_shown(caller, name):
                return True
            opened = lookup.open_object(caller, lookup.place_of(caller, name, AT_FDCWD), follow=True)
        opened.close()
    except MayWait:
        pass  # only a server could tell
    except OSError as error:
        if error.errno not in _FOUND_BY_THE_KERNEL:
            raise
    return False


def _executed(caller: Caller) -> OwnedFd:
    path, dirfd = caller.context.instead or caller.request.path, lookup.dirfd_of(caller)
    if not path:  # of a descriptor
        return caller.context.files.jump(procfs.directory_of(caller.tid, dirfd))
    row = caller.context.rows[caller.request.nr]
    flags = caller.request.args[row.flags] if row.flags >= 0 else 0
    follow = not flags & _AT_SYMLINK_NOFOLLOW
    return lookup.open_object(caller, lookup.place_of(caller, path, dirfd), follow=follow)


def _interpreter(caller: Caller, opened: OwnedFd) -> bytes:
    files = caller.context.files
    if files.run(acts.kind_of, opened) != stat.S_IFREG:
        return b""  # nor does the kernel execute it: opening a FIFO or a device would do something to it
    with read_at_once(opened, files.run, files.wait_for) as file:
        line = interpreters.of_script(files.run(acts.first_bytes, file, interpreters.FIRST_LINE))
        return loader(caller, file) if line is None else line[0]


def loader(caller: Caller, file: OwnedFd) -> bytes:
    """Of a program that is no script. file: opened for reading."""
    files = caller.context.files
    return interpreters.of_program(lambda offset, count: files.run(acts.bytes_at, file, offset, count))


def is_shown(caller: Caller, interpreter: bytes) -> bool:
    """Is there, for the caller, what the path of an interpreter comes by?"""
    return not interpreter or walk.missing(caller, interpreter, AT_FDCWD, follow=True) is None
