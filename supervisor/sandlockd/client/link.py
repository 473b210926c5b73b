"""Being attached to a sandbox's streams, without a socket: bytes in, what happened out, and the other way round
(control/attach.py tells the words of it; WebSocket itself is wsproto's).

A link that breaks can be made anew behind the last thing that came by it.
"""

from __future__ import annotations

import contextlib
import struct
from typing import Any

import msgspec
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Message,
    Ping,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from sandlockd.client.errors import ApiError, ConnectionBroke, NoService
from sandlockd.client.steps import Pause, Receive, Send, Steps, Tries, opened, problem_of, target_of
from sandlockd.client.steps import Request as Target

_HEAD = struct.Struct(">BQ")
_STREAMS = {1: "stdout", 2: "stderr", 3: "tty"}
_MOST_AT_ONCE = 1 << 16
_encode = msgspec.json.Encoder().encode


class Output(msgspec.Struct):
    """stream: stdout, stderr or tty. cursor: behind it."""

    stream: str
    data: bytes
    cursor: int


class Lost(msgspec.Struct):
    """So much of what it wrote was gone before it could be read: who reads is too slow."""

    bytes: int


class Exit(msgspec.Struct):
    """lines: what there is to say about the run, as the foreground would."""

    state: str
    exit_status: int | None = None
    exit_code: int | None = None
    signal: int | None = None
    reason: str | None = None
    rule: str | None = None
    error: str | None = None
    changes: dict[str, Any] | None = None
    lines: list[str] = []


Happened = Output | Lost | Exit


class Link:
    """One after the other as long as it takes: `begin` for each connection.

    where: as of requests.where_is. after, tail: from where on, the first time. is_terminal: the sandbox has one.
    """

    def __init__(
        self, where: str, *, after: int | None = None, tail: int | None = None, is_terminal: bool = False
    ) -> None:
        self._where = where
        self._after = after
        self._tail = tail
        self._is_terminal = is_terminal
        self._size: tuple[int, int] | None = None
        self._input_ended = False
        self._protocol: WSConnection | None = None
        self._parts: list[bytes] = []
        self._rejection: list[bytes] = []
        self._status = 0
        self.tries = Tries()
        self._happened: list[Happened] = []
        self.to_send = bytearray()
        self.is_accepted = False
        self.exit: Exit | None = None

    # ---- out

    def begin(self) -> None:
        """A new connection, from its first words on. What was to be sent by the one before is lost."""
        self._protocol = WSConnection(ConnectionType.CLIENT)
        self._parts, self._rejection, self._status, self.is_accepted = [], [], 0, False
        query = {"after": self._after, "tail": self._tail if self._after is None else None}
        path = f"{self._where}/attach"
        self.to_send[:] = self._protocol.send(
            Request(host="localhost", target=target_of(Target("GET", path, query)))
        )

    def _accepted(self) -> None:
        """Of a connection that is not the first: what the service is to know."""
        self.is_accepted = True
        if self._size is not None:
            self.resize(*self._size)
        # That of a terminal is a character, which would be typed twice.
        if self._input_ended and not self._is_terminal:
            self.end_of_input()

    def input(self, data: bytes) -> None:
        for at in range(0, len(data), _MOST_AT_ONCE):
            self._send(BytesMessage(data=data[at : at + _MOST_AT_ONCE]))

    def end_of_input(self) -> None:
        self._input_ended = True
        self._text(type="eof")

    def resize(self, rows: int, columns: int) -> None:
        self._size = rows, columns
        self._text(type="resize", rows=rows, columns=columns)

    def signal(self, signal: int | str, *, group: bool = False) -> None:
        self._text(type="signal", signal=signal, **({"group": True} if group else {}))

    def _text(self, **what: Any) -> None:
        self._send(TextMessage(data=_encode(what).decode()))

    def _send(self, message: Message[Any]) -> None:
        """Nothing, where the other side has closed already: its last words are on the way."""
        assert self._protocol is not None
        with contextlib.suppress(LocalProtocolError):
            self.to_send += self._protocol.send(message)

    # ---- in

    def received(self, data: bytes) -> None:
        """data: empty at the end. Raises ConnectionBroke, ApiError."""
        assert self._protocol is not None
        try:
            self._protocol.receive_data(data or None)
            for event in self._protocol.events():
                self._take(event)
        except (RemoteProtocolError, LocalProtocolError):
            raise ConnectionBroke("the connection to the sandbox's streams broke") from None
        if not data and self.exit is None:
            raise ConnectionBroke("the connection to the sandbox's streams ended")

    def taken(self) -> list[Happened]:
        """What has happened since the last time."""
        found, self._happened = self._happened, []
        return found

    def _take(self, event: Any) -> None:
        assert self._protocol is not None
        match event:
            case AcceptConnection():
                self._accepted()
            case RejectConnection(status_code=status, has_body=has_body):
                self._status = status
                if not has_body:
                    self._refused()
            case RejectData(data=data, body_finished=is_whole):
                self._rejection.append(bytes(data))
                if is_whole:
                    self._refused()
            case BytesMessage(data=data, message_finished=is_whole):
                self._parts.append(bytes(data))
                if is_whole:
                    self._happened.append(self._output())
            case TextMessage(data=text, message_finished=is_whole):
                self._parts.append(text.encode())
                if is_whole:
                    self._happened.append(self._told())
            case Ping():
                self.to_send += self._protocol.send(event.response())
            case CloseConnection(reason=reason):
                if self.exit is None:
                    raise ConnectionBroke(
                        f"the service ended the connection{': ' + reason if reason else ''}"
                    )
            case _:
                pass

    def _refused(self) -> None:
        raise ApiError(self._status, problem_of(b"".join(self._rejection), self._status))

    def _whole(self) -> bytes:
        content = b"".join(self._parts)
        self._parts = []
        return content

    def _output(self) -> Output:
        content = self._whole()
        stream, cursor = _HEAD.unpack_from(content)
        self._after = cursor
        return Output(_STREAMS[stream], content[_HEAD.size :], cursor)

    def _told(self) -> Lost | Exit:
        what = msgspec.json.decode(self._whole())
        if what["type"] == "dropped":
            return Lost(what["bytes"])
        self.exit = msgspec.convert(what, Exit)
        return self.exit


def connected(socket: str, link: Link) -> Steps[None]:
    """Connect, again and again if need be. Raises NoService, ConnectionBroke, ApiError."""
    while True:
        try:
            yield from _connected_once(socket, link)
            return
        except (NoService, ConnectionBroke):
            wait_s = link.tries.failed()
            if wait_s is None:
                raise
            yield Pause(wait_s)


def connected_again(socket: str, link: Link) -> Steps[None]:
    """After one that broke."""
    wait_s = link.tries.failed()
    if wait_s is None:
        raise ConnectionBroke("the connection to the sandbox's streams breaks again and again")
    yield Pause(wait_s)
    yield from connected(socket, link)


def _connected_once(socket: str, link: Link) -> Steps[None]:
    yield from opened(socket)
    link.begin()
    try:
        while not link.is_accepted:
            if link.to_send:
                yield Send(bytes(link.to_send))
                link.to_send.clear()
            link.received((yield Receive()) or b"")
    except OSError as error:
        raise ConnectionBroke(f"the connection to the service broke: {error.strerror}") from None
