"""One end of the line between two processes of the service: packets (SOCK_SEQPACKET, unix(7)), with descriptors beside.

What is larger than a packet goes in a sealed memfd beside it: who gets that can neither be kept waiting by it, as by a
FIFO, nor find it changed under its eyes.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import socket

from sandlockd.control.messages import MAX_BYTES, Unfit, encoded
from sandlockd.kernel.fds import OwnedFd
from sandlockd.kernel.sealed import file_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandlockd.control.messages import Message

MAX_DESCRIPTORS = 4  # beside one message
_PACKET_BYTES = 32 << 10
_HERE, _BESIDE = b"h", b"b"  # where the message is
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_INTS = array.array("i").itemsize


class Closed(Exception):
    """The other end is."""


class Channel:
    """Owns the socket. Never blocks: who waits, waits for `fileno()` to be readable or writable first."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        end.setblocking(False)

    @classmethod
    def pair(cls) -> tuple[Channel, OwnedFd]:
        """One end, and the other to be given away."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(ours), OwnedFd(theirs.detach())

    @classmethod
    def of(cls, end: OwnedFd) -> Channel:
        return cls(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fileno=end.take()))

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, message: Message, fds: Sequence[int] = ()) -> None:
        """fds: duplicated; they stay the caller's.

        Raises:
            BlockingIOError: the other end does not read; nothing was sent.
            Closed.
        """
        data = encoded(message)
        if len(data) <= _PACKET_BYTES:
            self._send(_HERE + data, fds)
            return
        with file_of(data) as beside:
            self._send(_BESIDE, (*fds, beside.fd))

    def _send(self, packet: bytes, fds: Sequence[int]) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            self._socket.sendmsg([packet], rights, socket.MSG_NOSIGNAL)
        except (BrokenPipeError, ConnectionResetError):
            raise Closed from None

    def receive(self) -> tuple[bytes, list[OwnedFd]]:
        """The bytes of a message, and what came beside it, which is the caller's.

        Raises:
            BlockingIOError: nothing is there.
            Closed.
            Unfit: that is no message.
            OSError.
        """
        room = socket.CMSG_SPACE((MAX_DESCRIPTORS + 1) * _INTS)
        try:
            packet, found, flags, _ = self._socket.recvmsg(_PACKET_BYTES + 1, room, socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:
            raise Closed from None
        fds = _descriptors(found)
        try:
            if not packet:
                raise Closed
            # The room for descriptors is rounded up (CMSG_SPACE): one more than asked for may fit.
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC) or len(fds) > MAX_DESCRIPTORS + (
                packet == _BESIDE
            ):
                raise Unfit(
                    "a packet that is too long, or with too many descriptors, or there is no room for them"
                )
            if packet[:1] == _HERE:
                return packet[1:], fds
            if packet != _BESIDE or not fds:
                raise Unfit("a packet that is no message")
            with fds.pop() as beside:
                return _sealed_content(beside.fd), fds
        except BaseException:
            for fd in fds:
                fd.close()
            raise

    def shut(self) -> None:
        """For good, whoever else has an end of it."""
        with contextlib.suppress(OSError):  # the other end did so before
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._socket.close()


def _descriptors(found: list[tuple[int, int, bytes]]) -> list[OwnedFd]:
    numbers = array.array("i")
    for level, kind, data in found:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            numbers.frombytes(data[: len(data) - len(data) % _INTS])
    return [OwnedFd(number) for number in numbers]


def _sealed_content(fd: int) -> bytes:
    """Raises Unfit, OSError."""
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError:
        raise Unfit("a message beside its packet that is no memfd") from None
    size = os.fstat(fd).st_size
    if seals & _SEALS != _SEALS or size > MAX_BYTES:
        raise Unfit("a message beside its packet that is not sealed, or too large")
    content, at = b"", 0
    while at < size and (block := os.pread(fd, size - at, at)):
        content += block
        at += len(block)
    return content
