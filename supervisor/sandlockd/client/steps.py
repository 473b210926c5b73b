"""Talking HTTP without doing it: each exchange is a generator of steps, which whoever has the socket takes for it.

So the plain client and that for trio differ only in how a step is taken. HTTP itself is h11's. Each exchange has a
connection of its own: a kept one may be closed by the service while the next request is on its way, and nobody could
tell whether that was done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import h11
import msgspec

from sandlockd.client.errors import ApiError, ConnectionBroke, NoService


class Open(NamedTuple):
    """Connect; what was connected before is closed."""

    path: str


class Send(NamedTuple):
    data: bytes


class Receive(NamedTuple):
    """Answered with bytes; none at the end."""


class Pause(NamedTuple):
    seconds: float


class Give(NamedTuple):
    """One item of a stream, to whoever reads it."""

    item: Any


Step = Open | Send | Receive | Pause | Give
R = TypeVar("R")
# Who takes the steps sends back what was received, and throws an OSError in where a step failed.
Steps = Generator[Step, bytes | None, R]


class Request(NamedTuple):
    """query: values are text, True (as `true`), or several; None and False are left out. body: encoded as JSON."""

    method: str
    path: str
    query: Mapping[str, Any] = MappingProxyType({})
    body: Any = None


class Tries:
    """How often something is tried again: so many failures within so many seconds are too many.

    Long enough for a service to be started anew.
    """

    MOST = 10
    WITHIN_S = 30.0
    _FIRST_S, _LONGEST_S = 0.05, 2.0

    def __init__(self) -> None:
        self._failed_at: list[float] = []

    def failed(self) -> float | None:
        """How many seconds to wait before the next try; None: there is none."""
        now = time.monotonic()
        self._failed_at = [when for when in self._failed_at if when > now - self.WITHIN_S] + [now]
        number = len(self._failed_at)
        return None if number > self.MOST else min(self._FIRST_S * 2 ** (number - 1), self._LONGEST_S)


def mapped(steps: Steps[R], each: Callable[[Any], Iterable[Any]]) -> Steps[R]:
    """The same, but that what is given is what `each` makes of it."""
    answer: bytes | None = None
    error: OSError | None = None
    while True:
        try:
            step = steps.throw(error) if error is not None else steps.send(answer)
        except StopIteration as over:
            return over.value  # type: ignore[no-any-return]
        answer, error = None, None
        if isinstance(step, Give):
            for item in each(step.item):
                yield Give(item)
            continue
        try:
            answer = yield step
        except OSError as failed:
            error = failed


# ---- one request


def exchange(socket: str, request: Request) -> Steps[bytes]:
    """The content of the answer. Raises NoService, ConnectionBroke, ApiError."""
    parts: list[bytes] = []

    def put(part: bytes) -> tuple[()]:
        parts.append(part)
        return ()

    yield from mapped(stream(socket, request), put)
    return b"".join(parts)


def patient_exchange(socket: str, request_now: Callable[[], Request]) -> Steps[bytes]:
    """Asked again when the connection breaks. Only for what may be asked twice."""
    tries = Tries()
    while True:
        try:
            return (yield from exchange(socket, request_now()))
        except (NoService, ConnectionBroke):
            wait_s = tries.failed()
            if wait_s is None:
                raise
            yield Pause(wait_s)


def stream(socket: str, request: Request) -> Steps[None]:
    """The content of the answer, given as it comes. Raises NoService, ConnectionBroke, ApiError."""
    connection = h11.Connection(h11.CLIENT)
    yield from opened(socket)
    try:
        yield Send(_encoded(connection, request))
    except OSError:
        pass  # who refuses us may have done so without listening: it says why
    status = 0
    problem: list[bytes] = []
    try:
        while True:
            match connection.next_event():
                case h11.NEED_DATA:
                    connection.receive_data((yield Receive()) or b"")
                case h11.Response(status_code=status):
                    pass
                case h11.Data(data=data) if status < 400:
                    yield Give(bytes(data))
                case h11.Data(data=data):
                    problem.append(bytes(data))
                case h11.EndOfMessage():
                    break
                case _:
                    pass  # 1xx
    except h11.RemoteProtocolError:
        raise ConnectionBroke("the service ended the connection before its answer was whole") from None
    except OSError as error:
        raise ConnectionBroke(f"the connection to the service broke: {error.strerror}") from None
    if status >= 400:
        raise ApiError(status, problem_of(b"".join(problem), status))


def opened(socket: str) -> Steps[None]:
    """Raises NoService."""
    try:
        yield Open(socket)
    except OSError as error:
        raise NoService(socket, error) from None


def problem_of(content: bytes, status: int) -> dict[str, Any]:
    try:
        document = msgspec.json.decode(content)
    except msgspec.DecodeError:
        document = None
    if isinstance(document, dict):
        return document
    return {"status": status, "detail": content[:200].decode("utf-8", "replace") or f"status {status}"}


def _encoded(connection: h11.Connection, request: Request) -> bytes:
    content = b"" if request.body is None else msgspec.json.encode(request.body)
    headers = [("host", "localhost"), ("connection", "close")]
    if content:
        headers += [("content-type", "application/json"), ("content-length", str(len(content)))]
    elif request.method == "POST":
        headers.append(("content-length", "0"))
    head = h11.Request(method=request.method, target=target_of(request), headers=headers)
    parts = [connection.send(head)]
    if content:
        parts.append(connection.send(h11.Data(data=content)))
    parts.append(connection.send(h11.EndOfMessage()))
    return b"".join(part for part in parts if part is not None)


def target_of(request: Request) -> str:
    """Path and query."""
    pairs = []
    for name, value in request.query.items():
        for one in value if isinstance(value, (list, tuple)) else (value,):
            if one is not None and one is not False:
                pairs.append(f"{name}={quoted('true' if one is True else str(one))}")
    return request.path + ("?" + "&".join(pairs) if pairs else "")


_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-~")


def quoted(text: str) -> str:
    """RFC 3986, without importing urllib."""
    content = text.encode("utf-8", "surrogateescape")
    return "".join(chr(byte) if byte in _PLAIN else f"%{byte:02X}" for byte in content)


# ---- streams of lines


def lines(socket: str, request: Request, decode: Callable[[bytes], Any]) -> Steps[None]:
    """Each line, decoded. Raises NoService, ConnectionBroke, ApiError."""
    rest = b""

    def split(data: bytes) -> list[Any]:
        nonlocal rest
        *whole, rest = (rest + data).split(b"\n")
        return [decode(line) for line in whole if line]

    yield from mapped(stream(socket, request), split)
    if rest:
        yield Give(decode(rest))


def followed_lines(
    socket: str, request: Request, decode: Callable[[bytes], Any], *, ends: bool = True
) -> Steps[None]:
    """Lines that have a cursor: when the connection breaks, those behind the last one are asked for again.

    ends: a stream that is whole is at its end; else it is one that never ends.
    """
    tries = Tries()

    def noted(item: Any) -> tuple[Any]:
        nonlocal request
        cursor = getattr(item, "cursor", None)
        if cursor is not None:
            query = {name: value for name, value in request.query.items() if name != "tail"}
            request = request._replace(query={**query, "after": cursor})
        return (item,)

    while True:
        broke: NoService | ConnectionBroke = ConnectionBroke("the service ended the stream")
        try:
            yield from mapped(lines(socket, request, decode), noted)
            if ends:
                return
        except (NoService, ConnectionBroke) as failed:
            broke = failed
        wait_s = tries.failed()
        if wait_s is None:
            raise broke
        yield Pause(wait_s)
