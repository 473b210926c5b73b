"""Who belongs to the sandbox: asked of the kernel, since forking is not trapped and a process may never have asked.

Its init and the supervisor do not. A number is judged with the process that has it now; each answer that lets a call go
on with it names what the kernel does if it is another's by then.
"""

from __future__ import annotations

import errno
import os

from sandlockd.kernel import procfs
from sandlockd.kernel.files import Many

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandlockd.handlers.context import Context

_ON_THE_LOOP_MAX = 128  # 5 to 10 ms


def belongs(context: Context, pid: int) -> bool:
    """Is this the number of a process of the sandbox, or of a thread of one? Zombies are processes. Raises OSError.

    The index is only sooner: whoever is in it is held by a descriptor, so that nobody else has the number.
    """
    index = context.index
    if index is not None and index.key_for(pid) is not None and index.register(pid) is not None:
        return True
    return procfs.member_leader(pid, context.init_pid) != 0


def leaders(context: Context) -> list[int]:
    """The processes of the sandbox, by number. Whoever is there all the while is among them. Raises OSError, Many."""
    if context.index is None:  # in a worker
        return procfs.members(context.init_pid)
    try:
        return procfs.members(context.init_pid, _ON_THE_LOOP_MAX)
    except OSError as error:
        if error.errno != errno.E2BIG:
            raise
        raise Many from None


def is_leader(context: Context, pid: int) -> bool:
    """Is it the number of one of those still?"""
    return procfs.member_leader(pid, context.init_pid) == pid


def count_threads(leaders: list[int]) -> int:
    """A zombie is one, too."""
    return sum(len(procfs.threads_of(leader)) for leader in leaders)


def threads(context: Context) -> Iterator[int]:
    """Of all processes of the sandbox. Raises OSError, Many."""
    count = 0
    for leader in leaders(context):
        for tid in procfs.threads_of(leader):
            count += 1
            if count > _ON_THE_LOOP_MAX and context.index is not None:
                raise Many
            yield tid


def has_group(context: Context, group: int) -> bool:
    """Is a process of the sandbox in this process group? Most of the time the one whose number it has.

    The one that the program was started in stays one: a shell that made another one goes back to it, and gives
    the terminal back.
    """
    if group == _group_of(context.init_pid) or (belongs(context, group) and _group_of(group) == group):
        return True
    return any(_group_of(leader) == group for leader in leaders(context))


def _group_of(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except OSError:
        return 0


def of_group(context: Context, group: int) -> list[int]:
    """Threads of the sandbox in this process group."""
    return [tid for tid in threads(context) if _group_of(tid) == group]


def of_user(context: Context, uid: int) -> list[int]:
    """Threads of the sandbox whose real user this is."""
    found = []
    for tid in threads(context):
        try:
            if procfs.status(tid).uids[0] == uid:
                found.append(tid)
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended
    return found
