"""bind, connect and SO_PEERCRED of AF_UNIX sockets.

Nothing of the kernel's judges whom a program connects to by a name, and the address lies in memory that another thread
may rewrite. So neither call ever goes on: the address is read once, the name is looked up in the merged tree, and what
was found there is bound or connected to, on a duplicate of the program's socket. A name in a tree leads to a socket of
this sandbox if it is one of the upper; in the real tree it would be somebody's outside. Abstract names are connected to
where we hold the socket that has it and know it to be of the sandbox: so long it is nobody else's.

There are stream and seqpacket sockets only: an address in sendmsg(2), which only a datagram socket heeds, would have
every sendmsg of every program trapped.
"""

from __future__ import annotations

import errno
import os
import struct

from sandlockd.handlers import lookup, record
from sandlockd.handlers.answers import Backstop, Continue, Errno, Later, Value, Write
from sandlockd.handlers.merged.acquaintance import Peer
from sandlockd.handlers.merged.doing import Call, change, denied
from sandlockd.handlers.merged.places import Elsewhere, resolve
from sandlockd.kernel import acts, beneath, memory, procfs, sockets
from sandlockd.kernel.fds import OwnedFd
from sandlockd.kernel.files import MayWait
from sandlockd.kernel.paths import AT_FDCWD
from sandlockd.overlay import plans
from sandlockd.overlay.entries import FsError, Kind
from sandlockd.overlay.lookup import Goal
from sandlockd.policy.verdict import Verdict, Want
from sandlockd.store.binding import Binding

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandlockd.handlers.answers import Answer, Refused
    from sandlockd.handlers.merged.acquaintance import Acquaintance
    from sandlockd.handlers.merged.places import Place

_OUTSIDE = Verdict(False, "network.unix", None)
_FAMILY = Verdict(False, "network", None)
_DONE = Value(0)
_SEEN = Continue(Backstop.ONLY_TELLS)
_INT_BYTES = 4


def bind(call: Call) -> Answer | Later:
    with _socket(call) as opened:
        address = _address(call)
        refusal = _other_family(opened)
        if refusal is not None:
            return refusal
        is_auto = len(address) == sockets.FAMILY_BYTES
        _require_unix(address, may_be_empty=is_auto)
        if is_auto or not _path_of(address):
            # On our duplicate, at once: an abstract name is nobody's file, and what is bound is the same socket.
            sockets.bind(opened, address, root=None, directory=None, umask=0, identity=call.caller.identity)
            _acquaintance(call).is_bound(opened, call.caller.tgid)
            return _DONE
        return _bind_path(call, opened, address)


def _bind_path(call: Call, opened: OwnedFd, address: bytes) -> Answer | Later:
    path = _path_of(address)
    place = resolve(call.caller, path, AT_FDCWD, Goal.NAME)
    if isinstance(place, Elsewhere):
        return _bind_outside(call, place.text or path)
    if place.found.kind is None:
        refusal = denied(call, place, Want.CREATE)
        if refusal is not None:
            return refusal

    def steps() -> plans.Steps:
        try:
            return plans.create(place.found, Kind.SOCKET)
        except FsError as error:
            raise FsError(errno.EADDRINUSE if error.errno == errno.EEXIST else error.errno) from None

    making = call.making(0, binding=Binding(opened, address))
    return change(call, place, steps, lambda _: _DONE, making)


def _bind_outside(call: Call, path: bytes) -> Answer:
    """Never made; what the name or its directory is missing is told as bare."""
    caller = call.caller
    place = lookup.place_of(caller, path, AT_FDCWD)
    try:
        parent, name = lookup.open_parent(caller, place)
        with parent:
            if not name or lookup.describe_child(caller.context.files, parent, name) is not None:
                return Errno(errno.EADDRINUSE)
    except MayWait:
        pass  # a slow server is not asked: it is refused anyway
    return record.refuse(_OUTSIDE, path=place.shown, wanted=Want.CREATE)


def connect(call: Call) -> Answer | Later:
    opened = _socket(call)
    try:
        address = _address(call)
        refusal = _other_family(opened)
        if refusal is not None:
            return refusal
        _require_unix(address)
        path = _path_of(address)
        if not path:
            return _connect_abstract(call, opened, address)
        target = _target(call, path)
        if not isinstance(target, OwnedFd):
            return target
        return _connecting(call, opened, target)
    finally:
        opened.close()  # a second time does nothing: a worker may have taken it


def _target(call: Call, path: bytes) -> OwnedFd | Answer:
    """The object to connect to, opened and checked."""
    place = resolve(call.caller, path, AT_FDCWD, Goal.FOLLOW)
    if isinstance(place, Elsewhere):
        return _outside(call, place.text or path)
    found = place.found
    if found.kind is None:
        return Errno(errno.ENOENT)
    if found.slash and found.kind is not Kind.DIRECTORY:
        return Errno(errno.ENOTDIR)
    refusal = denied(call, place, Want.WRITE)
    if refusal is not None:
        return refusal
    with place.tree.open_described(found) as described:
        if not call.caller.act(beneath.may_access, described, os.W_OK):
            return Errno(errno.EACCES)
        if found.kind is not Kind.SOCKET:
            return Errno(errno.ECONNREFUSED)
        if found.lower is not None:
            return _of_the_real_tree(place)
        return OwnedFd(described.take())


def _of_the_real_tree(place: Place) -> Refused:
    """Whoever listens there is outside. To the program it is what was left in its tree: nobody does."""
    return record.refuse(_OUTSIDE, path=place.path, wanted="connect", error=errno.ECONNREFUSED)


def _outside(call: Call, path: bytes) -> Answer:
    caller = call.caller
    place = lookup.place_of(caller, path, AT_FDCWD)
    try:
        with lookup.open_object(caller, place, follow=True) as opened:
            found = caller.describe(opened)
            if not caller.act(beneath.may_access, opened, os.W_OK):
                return Errno(errno.EACCES)
            if not acts.is_socket(opened):
                return Errno(errno.ECONNREFUSED)
            return record.refuse(_OUTSIDE, path=found.path, wanted="connect")
    except MayWait:
        return record.refuse(_OUTSIDE, path=place.shown, wanted="connect")


def _connect_abstract(call: Call, opened: OwnedFd, address: bytes) -> Answer | Later:
    name = address[sockets.FAMILY_BYTES :]
    _, kind = sockets.kind_of(opened)
    socket, known = OwnedFd(opened.take()), _acquaintance(call)
    identity, began = call.caller.identity, _introduction(call)

    def work() -> bool:
        with socket.unless_interrupted():
            holder = known.holder(name, kind)
            if holder is None:
                return False
            with holder:
                sockets.connect_abstract(socket, address, identity, began)
        return True

    def then(is_ours: bool) -> Answer:
        if is_ours:
            return _DONE
        shown = b"@" + name[1:]
        return record.refuse(_OUTSIDE, path=shown, wanted="connect", error=errno.ECONNREFUSED)

    return Later(work, then, socket.close)


def _connecting(call: Call, opened: OwnedFd, target: OwnedFd) -> Later:
    """In a worker, for it may wait for a place in the backlog. Takes both."""
    socket, held = OwnedFd(opened.take()), OwnedFd(target.take())
    identity, began = call.caller.identity, _introduction(call)

    def work() -> None:
        with socket.unless_interrupted(), held.unless_interrupted():
            sockets.connect(socket, held, identity, began)

    def abandon() -> None:
        socket.close()
        held.close()

    return Later(work, lambda _: _DONE, abandon)


def _introduction(call: Call) -> Callable[[int, int], None]:
    """Notes whose connection the one is that a process of ours is about to make."""
    known, status = _acquaintance(call), call.caller.status

    def began(pid: int, birth: int) -> None:
        known.connects(pid, Peer(status.tgid, status.uids[1], status.gids[1], birth))

    return began


def peer(call: Call) -> Answer:
    """SO_PEERCRED of a connection that was made on behalf of somebody: it was his."""
    with _socket(call) as opened:
        if sockets.kind_of(opened)[0] != sockets.AF_UNIX:
            return _SEEN
        pid, _, _ = sockets.peer_credentials(opened)
        known = _acquaintance(call).peer(opened, pid)
        if known is None:
            return _peer_outside(call, opened)
        if call.arg(2) & 0xFFFFFFFF == sockets.SO_PEERPIDFD:
            return Errno(errno.ENOPROTOOPT)  # as before Linux 6.5: it would be the one who made it
        (length,) = struct.unpack("=i", memory.read_memory(call.caller.tid, call.arg(4), _INT_BYTES))
        call.caller.require_alive()
        if length < 0:
            return Errno(errno.EINVAL)
        data = sockets.packed_credentials(known.pid, known.uid, known.gid)[:length]
        memory.write_memory(call.caller.tid, call.arg(4), struct.pack("=i", len(data)))
        return Write(call.arg(3), data, 0)


def _peer_outside(call: Call, opened: OwnedFd) -> Answer:
    if call.caller.context.hidden is None:
        return _SEEN
    from sandlockd.handlers.private import peers  # only where it is wanted

    return peers.tell(call.caller, opened)


# ---- what they have in common


def _acquaintance(call: Call) -> Acquaintance:
    acquaintance = call.caller.context.acquaintance
    assert acquaintance is not None, "there are trees"
    return acquaintance


def _socket(call: Call) -> OwnedFd:
    """A duplicate of the socket that the call is about. Raises OSError: EBADF, ENOTSOCK."""
    caller, fd = call.caller, call.int_arg(0)
    try:
        link = os.readlink(procfs.directory_of(caller.tid, fd)) if fd >= 0 else b""
    except OSError:
        link = b""
    caller.require_alive()
    if not link:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    if not link.startswith(b"socket:"):  # closing a duplicate of something else might wait for its server
        raise OSError(errno.ENOTSOCK, os.strerror(errno.ENOTSOCK))
    opened = sockets.duplicate(call.caller.tid, call.int_arg(0))
    call.caller.require_alive()
    return opened


def _address(call: Call) -> bytes:
    length = sockets.address_length(call.arg(2))
    address = memory.read_memory(call.caller.tid, call.arg(1), length)
    call.caller.require_alive()
    return address


def _other_family(opened: OwnedFd) -> Refused | None:
    """Raises OSError ENOTSOCK."""
    family, kind = sockets.kind_of(opened)
    if family == sockets.AF_UNIX and kind in (sockets.SOCK_STREAM, sockets.SOCK_SEQPACKET):
        return None
    return record.refuse(_FAMILY, target=b"family %d type %d" % (family, kind))


def _require_unix(address: bytes, *, may_be_empty: bool = False) -> None:
    """unix_validate_addr of net/unix/af_unix.c."""
    shortest = sockets.FAMILY_BYTES + (0 if may_be_empty else 1)
    fits = shortest <= len(address) <= sockets.ADDRESS_MAX
    if not fits or sockets.family_of(address) != sockets.AF_UNIX:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))


def _path_of(address: bytes) -> bytes:
    """b"": it is abstract."""
    return address[sockets.FAMILY_BYTES :].partition(b"\0")[0]
