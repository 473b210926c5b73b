"""Who is at the other end of a connection, and what that user may touch.

A user id alone proves nothing: a program in a sandbox has that of its owner. So whoever is below the init of any
sandbox is refused, ours or not. The kernel says who connected (SO_PEERCRED, unix(7)), and a pidfd of it (SO_PEERPIDFD,
Linux 6.5) makes sure that its number was not somebody else's by the time that we looked.
"""

from __future__ import annotations

import array
import errno
import grp
import os
import pwd
import select
import socket
import struct
from typing import Final

from sandlockd.kernel.fds import OwnedFd
from sandlockd.kernel.procfs import long_status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_SO_PEERPIDFD: Final = 77
_SO_PEERGROUPS: Final = 59
_CREDENTIALS: Final = struct.Struct("3i")
_GROUPS_BYTES: Final = 1024  # more than that socket.getsockopt() does not take
_INIT_NAME: Final = "sandlockd-init"
_LOOKS_MAX: Final = 3
_DEPTH_MAX: Final = 4096


class Refused(Exception):
    """Nothing is to be said to this peer. One line."""


class Peer:
    """Whose requests come by this connection."""

    def __init__(self, pid: int, uid: int, *, is_admin: bool) -> None:
        self.pid = pid
        self.uid = uid
        self.is_admin = is_admin

    def may_touch(self, uid: int) -> bool:
        """What belongs to that user."""
        return self.is_admin or self.uid == uid

    def __repr__(self) -> str:
        return f"Peer(pid={self.pid}, uid={self.uid}, is_admin={self.is_admin})"


def peer_of(connection: socket.socket, admin_group: str | None) -> Peer:
    """admin_group: whose members administer, of a service of the system's; a user's own serves that user and root.

    Raises:
        Refused: it is inside a sandbox, is nobody that is served here, or nobody can tell.
    """
    try:
        pid, uid, gid = _CREDENTIALS.unpack(
            connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        )
        groups = {gid, *_groups_of(connection, pid)}
    except OSError as error:
        raise Refused(f"who it is cannot be told: {error}") from None
    if pid <= 0:
        raise Refused("it is a process of another PID namespace")
    _require_outside(connection, pid)
    own = os.geteuid()
    if own != 0:
        if uid not in (0, own):
            raise Refused(f"user {uid} is not served here")
        return Peer(pid, own, is_admin=True)  # what root asks for is done as that user, too
    return Peer(pid, uid, is_admin=uid == 0 or _is_admin(groups, admin_group))


def owner_name(uid: int) -> str:
    """As the user database has it, or the number."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _groups_of(connection: socket.socket, pid: int) -> Sequence[int]:
    try:
        data = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS_BYTES)
    except OSError as error:
        if error.errno == errno.ENODATA:
            return ()
        if error.errno == errno.ERANGE:  # more than 256
            return long_status(pid).groups
        raise
    return array.array("I", data).tolist()


def _is_admin(groups: set[int], admin_group: str | None) -> bool:
    if admin_group is None:
        return False
    try:
        return grp.getgrnam(admin_group).gr_gid in groups
    except KeyError:
        return False


def _require_outside(connection: socket.socket, pid: int) -> None:
    """Raises Refused."""
    pidfd = _pidfd_of(connection, pid)
    with pidfd:
        for _ in range(_LOOKS_MAX):
            inside = _is_inside(pid)
            if _has_ended(pidfd):
                raise Refused("it has ended")
            if inside is False:
                return
            if inside:
                raise Refused("it is inside a sandbox")
    raise Refused("its ancestors cannot be told")


def _pidfd_of(connection: socket.socket, pid: int) -> OwnedFd:
    """Raises Refused."""
    try:
        return OwnedFd(connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD))
    except OSError as error:
        if error.errno not in (errno.ENOPROTOOPT, errno.EINVAL):
            raise Refused(f"who it is cannot be told: {error.strerror}") from None
    try:  # before Linux 6.5
        return OwnedFd(os.pidfd_open(pid))
    except OSError:
        raise Refused("it has ended") from None


def _has_ended(pidfd: OwnedFd) -> bool:
    waiting = select.poll()
    waiting.register(pidfd.fd, select.POLLIN)
    return bool(waiting.poll(0))


def _is_inside(pid: int) -> bool | None:
    """None: somebody on the way has ended meanwhile. Who is in a sandbox is below its init, the subreaper, for ever."""
    for _ in range(_DEPTH_MAX):
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                text = file.read()
        except OSError:
            return None
        name = text[text.index(b"(") + 1 : text.rindex(b")")]
        if name == _INIT_NAME.encode():
            return True
        parent = int(text[text.rindex(b")") + 2 :].split()[1])
        if parent == 0:
            return False
        pid = parent
    return None
