"""AF_UNIX sockets of the program: duplicates of them, addresses, and bind and connect on its behalf.

Whoever connects by a name opens the object first, checks it, and connects to that very object: `/proc/self/fd/N` is
looked up to it, whatever its name leads to by then. An abstract name leads nowhere but to other such names.
"""

from __future__ import annotations

import errno
import os
import struct

from sandlockd.kernel import procfs
from sandlockd.kernel.fds import OwnedFd
from sandlockd.kernel.native import check, ffi, lib
from sandlockd.kernel.paths import native_identity, self_link

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandlockd.kernel.paths import Identity

AF_UNIX = 1
SOCK_STREAM, SOCK_SEQPACKET = 1, 5
FAMILY_BYTES = 2  # of a sockaddr, before its path
ADDRESS_MAX = 110  # sizeof(struct sockaddr_un)
_STORAGE_MAX = 128  # sizeof(struct sockaddr_storage): longer ones are not even read
_PIDFD_THREAD = os.O_EXCL  # linux/pidfd.h, Linux 6.9
_SOL_SOCKET, _SO_TYPE, _SO_DOMAIN = 1, 3, 39
SO_PEERCRED, SO_PEERPIDFD = 17, 77
_CREDENTIALS = struct.Struct("=iII")  # struct ucred


def address_length(value: int) -> int:
    """An addrlen as the kernel takes it. Raises OSError EINVAL."""
    length = value & 0xFFFFFFFF
    if length > _STORAGE_MAX:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    return length


def address_of_path(path: bytes) -> bytes:
    return struct.pack("=H", AF_UNIX) + path


def family_of(address: bytes) -> int:
    """0 (AF_UNSPEC) of one that is too short to have one."""
    return int(struct.unpack_from("=H", address)[0]) if len(address) >= FAMILY_BYTES else 0


# ---- a thread's descriptor


def duplicate(tid: int, fd: int) -> OwnedFd:
    """A descriptor of a waiting thread's, as ours (pidfd_getfd(2)). Raises OSError: EBADF, EPERM, ESRCH."""
    try:
        pidfd = os.pidfd_open(tid, _PIDFD_THREAD)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        pidfd = os.pidfd_open(procfs.tgid_of(tid))  # all threads of a program that is not odd share them
    with OwnedFd(pidfd) as process:
        return OwnedFd(check(lib.slk_pidfd_getfd(process.fd, fd)))


def kind_of(opened: OwnedFd) -> tuple[int, int]:
    """(address family, type). Raises OSError ENOTSOCK."""
    import socket  # late: most programs make no socket

    duplicate_fd = os.dup(opened.fd)
    try:
        made = socket.socket(AF_UNIX, SOCK_STREAM, 0, fileno=duplicate_fd)
    except OSError:
        os.close(duplicate_fd)
        raise
    with made:
        return made.getsockopt(_SOL_SOCKET, _SO_DOMAIN), made.getsockopt(_SOL_SOCKET, _SO_TYPE)


def own_address(opened: OwnedFd) -> bytes:
    """What getsockname(2) says: b"" of what is not bound, an abstract name with its NUL in front."""
    import socket

    with socket.socket(AF_UNIX, SOCK_STREAM, 0, fileno=os.dup(opened.fd)) as made:
        name = made.getsockname()
    return name if isinstance(name, bytes) else os.fsencode(name)


def peer_credentials(opened: OwnedFd) -> tuple[int, int, int]:
    """(pid, uid, gid). Raises OSError."""
    import socket

    with socket.socket(AF_UNIX, SOCK_STREAM, 0, fileno=os.dup(opened.fd)) as made:
        data = made.getsockopt(_SOL_SOCKET, SO_PEERCRED, _CREDENTIALS.size)
    return _CREDENTIALS.unpack(data)


def packed_credentials(pid: int, uid: int, gid: int) -> bytes:
    return _CREDENTIALS.pack(pid, uid, gid)


def peer_birth(opened: OwnedFd) -> int | None:
    """The pidfs inode of the process that SO_PEERCRED names; None where the kernel does not tell (before 6.16)."""
    import socket

    with socket.socket(AF_UNIX, SOCK_STREAM, 0, fileno=os.dup(opened.fd)) as made:
        try:
            number = made.getsockopt(_SOL_SOCKET, SO_PEERPIDFD)
        except OSError:
            return None
    with OwnedFd(number) as pidfd:
        return os.fstat(pidfd.fd).st_ino


# ---- on behalf


class Refused(Exception):
    """This machine lets us have no root of our own."""


def bind(
    opened: OwnedFd,
    address: bytes,
    *,
    root: OwnedFd | None,
    directory: OwnedFd | None,
    umask: int,
    identity: Identity | None,
) -> None:
    """Bind a socket, with its address looked up from this root and this working directory. None: ours.

    Raises OSError; Refused.
    """
    _apart(opened, address, False, root, directory, umask, identity, _ignore)


def connect(
    opened: OwnedFd,
    target: OwnedFd,
    identity: Identity | None,
    began: Callable[[int, int], None],
) -> None:
    """Connect a socket to what was opened with O_PATH. May wait, until poked.

    began: told beforehand of the process that the peer will find in SO_PEERCRED: its number, and its pidfs inode.
    Raises OSError.
    """
    address = address_of_path(self_link(target.fd)) + b"\0"
    _apart(opened, address, True, None, None, 0, identity, began)


def connect_abstract(
    opened: OwnedFd, address: bytes, identity: Identity | None, began: Callable[[int, int], None]
) -> None:
    """As connect, by a name that is none of a file."""
    if address[FAMILY_BYTES : FAMILY_BYTES + 1] != b"\0":
        raise ValueError("the name of a file")
    _apart(opened, address, True, None, None, 0, identity, began)


def _apart(
    opened: OwnedFd,
    address: bytes,
    connects: bool,
    root: OwnedFd | None,
    directory: OwnedFd | None,
    umask: int,
    identity: Identity | None,
    began: Callable[[int, int], None],
) -> None:
    native, _groups = (ffi.NULL, None) if identity is None else native_identity(identity)
    text = ffi.new("char[]", address)  # with a NUL behind it, which the length does not count
    call = ffi.new("struct slk_apart *")
    call.socket_fd, call.connects = opened.fd, connects
    call.address, call.length = text, len(address)
    call.root_fd = -1 if root is None else root.fd
    call.directory_fd = -1 if directory is None else directory.fd
    call.umask, call.identity = umask, native
    pidfd = ffi.new("int32_t *")
    _checked(lib.slk_apart_begin(call, pidfd))
    try:
        with OwnedFd(pidfd[0]) as process:
            began(int(call.pid), os.fstat(process.fd).st_ino)
    except BaseException:
        lib.slk_apart_end(call, 0)
        raise
    _checked(lib.slk_apart_end(call, 1))


def _checked(result: int) -> None:
    if result == -errno.EOPNOTSUPP:
        raise Refused
    check(result)


def _ignore(_pid: int, _birth: int) -> None:
    """Nobody asks who has bound a socket."""
