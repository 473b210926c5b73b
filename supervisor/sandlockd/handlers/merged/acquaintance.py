"""What is known of the sandbox's AF_UNIX sockets beyond what the kernel tells: who connected, who has an abstract name.

One for each sandbox. Handlers on the loop and workers use it: each entry is put or taken in one step.
"""

from __future__ import annotations

import os

from sandlockd.kernel import procfs, sockets
from sandlockd.kernel.fds import OwnedFd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple

    class Peer(NamedTuple):
        """Whose connection it is, as SO_PEERCRED is to tell. birth: of the process that made it on its behalf."""

        pid: int
        uid: int
        gid: int
        birth: int

else:  # without importing typing
    import collections

    Peer = collections.namedtuple("Peer", "pid uid gid birth")

_PEERS_MAX = 65536
_NAMES_MAX = 65536


class Acquaintance:
    """init_pid: everything in the sandbox descends from it."""

    def __init__(self, init_pid: int) -> None:
        self._init_pid = init_pid
        self._peers: dict[int, Peer] = {}
        self._names: dict[tuple[bytes, int], tuple[int, int]] = {}  # of a type: (inode, process)

    # ---- connections made on behalf

    def connects(self, pid: int, peer: Peer) -> None:
        """A process of ours, with this number, is about to connect somebody's socket."""
        self._peers.pop(pid, None)  # the newest stand last
        self._peers[pid] = peer
        while len(self._peers) > _PEERS_MAX:
            self._peers.pop(next(iter(self._peers)), None)

    def peer(self, opened: OwnedFd, pid: int) -> Peer | None:
        """Who is meant, where the kernel says that the peer is `pid`; None: it is so."""
        peer = self._peers.get(pid)
        if peer is None:
            return None
        birth = sockets.peer_birth(opened)
        return peer if birth is None or birth == peer.birth else None

    # ---- abstract names

    def is_bound(self, opened: OwnedFd, tgid: int) -> None:
        """This socket of the sandbox has an abstract name now. Who had it before has it no longer."""
        name = sockets.own_address(opened)
        if not name.startswith(b"\0"):
            return
        key = name, sockets.kind_of(opened)[1]
        self._names.pop(key, None)  # the newest stand last
        self._names[key] = os.fstat(opened.fd).st_ino, tgid
        while len(self._names) > _NAMES_MAX:
            self._names.pop(next(iter(self._names)), None)

    def holder(self, name: bytes, kind: int) -> OwnedFd | None:
        """A socket of the sandbox that has this abstract name, as ours: for as long as we hold it, nobody else has it.

        name: with its NUL. kind: its type; each type has names of its own. In a worker: it looks into many processes.
        """
        inode, tgid = self._names.get((name, kind), (0, 0))
        if not inode:
            return None
        for pid in (tgid, *(int(entry) for entry in os.listdir("/proc") if entry.isdigit())):
            found = _socket_of(pid, inode) if procfs.member_leader(pid, self._init_pid) else None
            if found is None:
                continue
            if sockets.kind_of(found) == (sockets.AF_UNIX, kind) and sockets.own_address(found) == name:
                return found
            found.close()
        return None


def _socket_of(pid: int, inode: int) -> OwnedFd | None:
    link = f"socket:[{inode}]"
    try:
        for entry in os.listdir(f"/proc/{pid}/fd"):
            if os.readlink(f"/proc/{pid}/fd/{entry}") == link:
                found = sockets.duplicate(pid, int(entry))
                if os.fstat(found.fd).st_ino == inode:
                    return found
                found.close()
    except OSError:
        pass  # it ended, or has closed it
    return None
