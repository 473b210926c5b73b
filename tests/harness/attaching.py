"""A client that is attached to a sandbox of a service (WebSocket).

with attached(served, made["id"]) as client:
    client.write(b"hello\\n")
    client.until(b"hello")
    assert client.end()["exit_status"] == 0
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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

from harness.service import Answer, Served
from harness.waiting import PATIENCE_S

_HEAD = struct.Struct(">BQ")


class Refused(Exception):
    """With `answer`."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer)
        self.answer = answer


class Attached:
    """output: by stream (1, 2, 3). cursor: behind the last of it. words: JSON that came. closed: the close code."""

    def __init__(self, line: socket.socket, target: str) -> None:
        self.line = line
        self.output: dict[int, bytes] = {1: b"", 2: b"", 3: b""}
        self.cursor = 0
        self.words: list[dict[str, Any]] = []
        self.closed: int | None = None
        self._protocol = WSConnection(ConnectionType.CLIENT)
        self._partial: bytes | str | None = None
        self._accepted = False
        self._refusal: RejectConnection | None = None
        self._refused = b""
        self.line.sendall(self._protocol.send(Request(host="localhost", target=target)))
        while not self._accepted:
            self._take()

    def _take(self) -> None:
        data = self.line.recv(1 << 16)
        self._protocol.receive_data(data or None)
        if not data:
            raise ConnectionResetError("it was closed without a word")
        for event in self._protocol.events():
            self._happened(event)

    def _happened(self, event: object) -> None:
        match event:
            case AcceptConnection():
                self._accepted = True
            case RejectConnection():
                self._refusal = event
            case RejectData():
                self._refused += event.data
                if event.body_finished and self._refusal is not None:
                    headers = {name.decode(): value.decode() for name, value in self._refusal.headers}
                    raise Refused(Answer(self._refusal.status_code, headers, self._refused))
            case Message():
                self._partial = event.data if self._partial is None else self._partial + event.data
                if event.message_finished:
                    whole, self._partial = self._partial, None
                    self._message(whole)
            case CloseConnection():
                self.closed = event.code
            case Ping():
                self.line.sendall(self._protocol.send(event.response()))

    def _message(self, message: bytes | str) -> None:
        if isinstance(message, str):
            self.words.append(json.loads(message))
            return
        stream, self.cursor = _HEAD.unpack_from(message)
        self.output[stream] += message[_HEAD.size :]

    def write(self, data: bytes) -> None:
        self.line.sendall(self._protocol.send(BytesMessage(data=data)))

    def say(self, text: str = "", **word: Any) -> None:
        """text: in place of JSON."""
        self.line.sendall(self._protocol.send(TextMessage(data=text or json.dumps(word))))

    def until(self, wanted: bytes, stream: int = 1) -> None:
        while wanted not in self.output[stream]:
            self._take()

    def end(self) -> dict[str, Any]:
        """All that still comes, and how it ended."""
        while self.closed is None:
            self._take()
        assert self.words[-1]["type"] == "exit", self.words
        return self.words[-1]

    def until_closed(self) -> int:
        while self.closed is None:
            self._take()
        return self.closed


@contextmanager
def attached(served: Served, identifier: str, query: str = "") -> Iterator[Attached]:
    """Raises Refused."""
    with served.connected(PATIENCE_S) as line:
        yield Attached(line, f"/v1/sandboxes/{identifier}/attach{query}")
