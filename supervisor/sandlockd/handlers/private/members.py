"""Who belongs to the sandbox: asked of the kernel, since forking is not trapped and a process may never have asked.

Its init and the supervisor do not. A number is judged with the process that has it now; each answer that lets a call go
on with it names what the kernel does if it is another's by then.
"""

from __future__ import annotations

import os

from sandlockd.kernel import procfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandlockd.handlers.context import Context

_LOOKS_MAX = 4  # while parents end, whoever they had is somebody else's child


def belongs(context: Context, pid: int) -> bool:
    """Is this the number of a process of the sandbox, or of a thread of one? Zombies are processes."""
    leader = _leader_of(pid)
    if not leader or leader == context.init_pid:
        return False
    index = context.index
    if index is not None and index.key_for(leader) is not None and index.register(leader) is not None:
        return True
    return _descends(leader, context.init_pid)


def _descends(pid: int, init_pid: int) -> bool:
    """A parent that ends while its ancestors are looked for hands its children over: then it is looked again."""
    for _ in range(_LOOKS_MAX):
        before = _parent_of(pid)
        if procfs.descends_from(pid, init_pid):
            return True
        if _parent_of(pid) == before:
            return False
    return False


def _parent_of(pid: int) -> int:
    try:
        return procfs.parent_of(pid)
    except (OSError, ValueError):
        return 0


def _leader_of(pid: int) -> int:
    """0: nobody."""
    if pid <= 0:
        return 0
    try:
        return procfs.tgid_of(pid)
    except (OSError, ValueError):
        return 0


def leaders(context: Context) -> list[int]:
    """The processes of the sandbox, by number. Whoever is there all the while is among them."""
    found: set[int] = set()
    for _ in range(_LOOKS_MAX):
        before = len(found)
        found |= _below(context.init_pid)
        if len(found) == before:
            break
    return sorted(found)


def _below(init_pid: int) -> set[int]:
    found: set[int] = set()
    todo = [init_pid]
    while todo:
        for child in procfs.children_of(todo.pop()):
            if child not in found:
                found.add(child)
                todo.append(child)
    return found


def count_threads(leaders: list[int]) -> int:
    """A zombie is one, too."""
    return sum(len(procfs.threads_of(leader)) for leader in leaders)


def threads(context: Context) -> Iterator[int]:
    """Of all processes of the sandbox."""
    for leader in leaders(context):
        yield from procfs.threads_of(leader)


def has_group(context: Context, group: int) -> bool:
    """Is a process of the sandbox in this process group?"""
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
        except OSError:
            continue  # it has ended
    return found
