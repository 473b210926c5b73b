"""Requests over a Unix socket by nothing but the standard library. Also a program, to be run as another user:

python -I unix_http.py SOCKET '[[METHOD, PATH, BODY], ...]'        prints the answers as JSON; 1: why there are none
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content)

    @property
    def lines(self) -> list[Any]:
        """Of JSON Lines."""
        return [json.loads(line) for line in self.content.splitlines() if line]


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path | str, limit_s: float) -> None:
        super().__init__("localhost", timeout=limit_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(
            os.fspath(self._path)
        )  # without a limit: where many wait, one with a limit is EAGAIN
        self.sock.settimeout(self.timeout)


def ask(connection: UnixConnection, method: str, path: str, content: bytes | None, **headers: str) -> Answer:
    """content: JSON."""
    try:
        given = {"content-type": "application/json"} if content is not None else {}
        connection.request(method, path, content, {**given, **headers})
        response = connection.getresponse()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    finally:
        connection.close()


def _main(where: str, requests: str) -> int:
    try:
        answers = [
            ask(UnixConnection(where, 60), method, path, None if body is None else json.dumps(body).encode())
            for method, path, body in json.loads(requests)
        ]
    except OSError as error:
        print(type(error).__name__)
        return 1
    told = [(one.status, one.headers, one.content.decode("utf-8", "surrogateescape")) for one in answers]
    print(json.dumps(told))
    return 0


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
