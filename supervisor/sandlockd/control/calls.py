"""One request of the API: what its handler is given, and what it may answer. And the table that the handlers are in,
which the routes and the OpenAPI document are made from.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, NamedTuple

import msgspec
import trio
from starlette.requests import ClientDisconnect

from sandlockd.control.objects import MAX_BODY_BYTES
from sandlockd.control.problems import Forbidden, Invalid, TooLarge, TooSlow, Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from starlette.requests import HTTPConnection
    from starlette.requests import Request as HttpRequest

    from sandlockd.control.access import Peer
    from sandlockd.control.service import Service

_REST_PATIENCE_S = 1.0
_REPEATABLE = ("label", "path")  # in a query
JSON = "application/json"
_OF_CURL = "application/x-www-form-urlencoded"  # what `curl -d` says of any body; it is JSON all the same
LINES = "application/x-ndjson"
EVENT_STREAM = "text/event-stream"
TEXT = "text/plain; charset=utf-8"


class Reply(NamedTuple):
    """body: an object that is encoded as JSON, or bytes as they are."""

    body: Any
    status: int = 200
    content_type: str = JSON
    headers: dict[str, str] | None = None


class Streamed(NamedTuple):
    """Objects, each a line or an event; or bytes as they come, of that content type."""

    items: AsyncIterator[Any]
    content_type: str | None = None


class Call(NamedTuple):
    """query, body: as the endpoint's types have them; None where it has none."""

    service: Service
    peer: Peer
    names: dict[str, str]
    query: Any
    body: Any
    http: HttpRequest


class Endpoint(NamedTuple):
    """names: of the parts of the path in braces. response: type of what is answered; a list of one type: a stream of
    it.

    is_long: it waits or follows: how long it takes says nothing.
    """

    method: str
    path: str
    handler: Callable[[Call], Awaitable[Reply | Streamed]]
    summary: str
    response: Any
    status: int = 200
    query: Any = None
    body: Any = None
    is_long: bool = False
    content_type: str = JSON
    problems: tuple[int, ...] = ()


def require_no_page(request: HTTPConnection) -> None:
    """No browser reaches a Unix socket. Where somebody relays to it, a page of elsewhere must not ask with the relay's
    rights: a browser says where a request is from, of all that it sends without asking first (CORS), and of WebSockets.

    Raises Forbidden.
    """
    origin = request.headers.get("origin")
    is_own = origin is None or origin.partition("://")[2].lower() == request.headers.get("host", "").lower()
    if not is_own or request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        raise Forbidden("a web page may not ask that")


async def body_of(request: HttpRequest, kind: Any, patience_s: float) -> Any:
    """Raises Invalid, TooLarge, TooSlow, Unsupported."""
    whole = bytearray()  # however small the pieces are that it comes in
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > MAX_BODY_BYTES:
        raise TooLarge(f"a body is at most {MAX_BODY_BYTES} bytes")
    try:
        with trio.fail_after(patience_s):
            async for chunk in request.stream():
                whole += chunk
                if len(whole) > MAX_BODY_BYTES:
                    raise TooLarge(f"a body is at most {MAX_BODY_BYTES} bytes")
    except trio.TooSlowError:
        raise TooSlow(f"the body did not come within {patience_s:.0f} s") from None
    except ClientDisconnect:
        raise Invalid("the client has gone") from None
    content = bytes(whole)
    if not content and kind is not None:
        content = b"{}"
    if kind is None:
        if content.strip() not in (b"", b"{}"):
            raise Invalid("this request has no body")
        return None
    given = request.headers.get("content-type", JSON)
    if given.split(";")[0].strip().lower() not in (JSON, _OF_CURL):
        raise Unsupported(
            f"a body is {JSON}, not {given[:100]}: say so with the header `content-type: {JSON}`"
        )
    try:
        # By its type, no deeper than that is: a body that is nested deep costs nothing.
        return msgspec.json.decode(content, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(f"the body: {error}") from None


async def read_rest(request: HttpRequest) -> None:
    """What nobody wants of a body: answered before it has come, its connection would have to be closed."""
    size = 0
    with (
        trio.move_on_after(_REST_PATIENCE_S),
        suppress(ClientDisconnect, RuntimeError),
    ):  # it was read already
        async for chunk in request.stream():
            size += len(chunk)
            if size > MAX_BODY_BYTES:
                return


def query_of(request: HTTPConnection, kind: Any) -> Any:
    """Raises Invalid."""
    given: dict[str, Any] = {}
    for name, value in request.query_params.multi_items():
        if name in _REPEATABLE:
            given.setdefault(name, []).append(value)
        elif name in given:
            raise Invalid(f"{name} is given twice")
        else:
            given[name] = value
    if kind is None:
        if given:
            raise Invalid(f"there is no {next(iter(given))[:100]!r} here")
        return None
    try:
        return msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as error:
        raise Invalid(f"the query: {error}") from None
