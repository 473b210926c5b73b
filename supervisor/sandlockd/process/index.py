"""ProcessIndex: the single home of membership.

A process enters when it first asks something (fork is not trapped) and leaves when its watcher sees it end.
"""

from __future__ import annotations

import time

from sandlockd.kernel import pidfd as pidfds
from sandlockd.kernel import procfs
from sandlockd.process.key import PidKey, Tgid
from sandlockd.process.state import PerProcessState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandlockd.kernel.fds import OwnedFd


class ProcessIndex:
    """Processes by the number of their leader; a number leads to one living process at most."""

    def __init__(self, init_pid: int) -> None:
        """init_pid: everything in the sandbox descends from it (native/init.c is the subreaper)."""
        self._init_pid = init_pid
        self._entries: dict[int, PerProcessState] = {}
        self.registered = 0  # ever
        self.on_register: Callable[[PerProcessState], None] | None = None
        self.on_unregister: Callable[[PerProcessState], None] | None = None  # its pidfd is still open

    def register(self, pid: int) -> PidKey | None:
        """Take a process in, by its leader's id.

        Returns: its key; None when it is not positive, does not exist, has ended, or is not in the sandbox.
        """
        if pid <= 0:
            return None
        known = self._entries.get(pid)
        if known is not None:
            if not pidfds.is_dead(known.pidfd.fd):
                return known.key
            self.unregister(known.key)  # the number may be somebody else's by now
        try:
            pidfd = pidfds.open_pidfd(pid)
        except OSError:
            return None
        try:
            key = PidKey(pid, pidfds.birth_of(pid, pidfd.fd))
            # Asked after opening: the descriptor holds the process, so the chain that we read is its own if it
            # still lives when we are done.
            member = pid == self._init_pid or procfs.member_leader(pid, self._init_pid) == pid
        except OSError:
            member = False
        if not member or pidfds.is_dead(pidfd.fd):
            pidfd.close()
            return None
        return self._enter(key, pidfd)

    def _enter(self, key: PidKey, pidfd: OwnedFd) -> PidKey:
        entry = PerProcessState(key, pidfd, time.monotonic())
        self._entries[key.tgid] = entry
        self.registered += 1
        if self.on_register is not None:
            self.on_register(entry)
        return key

    def register_thread(self, tid: int) -> PidKey | None:
        """As register, from the id of any of its threads. A thread maps to its leader."""
        tgid = self.leader_of(tid)
        if tgid is None:
            return None
        key = self.register(tgid)
        if key is not None:
            self._entries[tgid].threads.add(tid)
        return key

    def leader_of(self, tid: int) -> Tgid | None:
        """The process that a thread belongs to, asked of the kernel each time: exec gives a thread another id."""
        if tid <= 0:
            return None
        try:
            return Tgid(procfs.tgid_of(tid))
        except (OSError, ValueError):
            return None

    def key_for(self, pid: int) -> PidKey | None:
        entry = self._entries.get(pid)
        return None if entry is None else entry.key

    def entry_for(self, key: PidKey) -> PerProcessState | None:
        entry = self._entries.get(key.tgid)
        return entry if entry is not None and entry.key == key else None

    def contains(self, key: PidKey) -> bool:
        return self.entry_for(key) is not None

    def pids_snapshot(self) -> tuple[int, ...]:
        return tuple(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def unregister(self, key: PidKey) -> bool:
        """Let exactly this process go; False when it is not (or no longer) the one under its number."""
        entry = self.entry_for(key)
        if entry is None:
            return False
        del self._entries[key.tgid]
        if self.on_unregister is not None:
            self.on_unregister(entry)
        entry.close()
        return True

    def prune_dead(self) -> int:
        """The backstop of the watchers: let every process go that has ended. Returns how many."""
        dead = [entry.key for entry in self._entries.values() if pidfds.is_dead(entry.pidfd.fd)]
        return sum(self.unregister(key) for key in dead)

    def clear(self) -> None:
        for entry in list(self._entries.values()):
            self.unregister(entry.key)
