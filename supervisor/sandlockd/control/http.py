"""The API over HTTP: Starlette for routes, Hypercorn for the protocol, and for each connection who is at its other end.

Nobody's silence, slowness or size is another's trouble: connections are few per user, idle ones end, requests come
within their time and size, and what is written to a client that does not read ends with it.
"""

from __future__ import annotations

import collections
import time
from contextlib import aclosing
from typing import Any

import msgspec
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config as HypercornConfig
from hypercorn.events import Closed, RawData
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute

from sandlockd.control import attach
from sandlockd.control.access import Refused, peer_of
from sandlockd.control.calls import (
    EVENT_STREAM,
    LINES,
    Call,
    Endpoint,
    Reply,
    Streamed,
    body_of,
    query_of,
)
from sandlockd.control.problems import Broken, NotAllowed, NotFound, Problem
from sandlockd.control.routes import ENDPOINTS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from socket import socket

    from hypercorn.events import Event
    from starlette.requests import Request
    from starlette.websockets import WebSocket
    from structlog.typing import FilteringBoundLogger

    from sandlockd.control.access import Peer
    from sandlockd.control.service import Service

PROBLEM = "application/problem+json"
_WRITE_PATIENCE_S = 60.0
_IDLE_S = 15.0
_encoder = msgspec.json.Encoder()


# ---- requests


def application(service: Service, log: FilteringBoundLogger) -> Starlette:
    routes = [
        Route(endpoint.path, _served(endpoint, service, log), methods=[endpoint.method])
        for endpoint in ENDPOINTS
    ]
    attached = [WebSocketRoute(path, _attached(path, service, log)) for path in attach.PATHS]
    routes_of_all = [*_merged(routes), *attached]
    app = Starlette(
        routes=routes_of_all, exception_handlers={HTTPException: _unrouted, Exception: _unforeseen}
    )
    app.router.redirect_slashes = False
    return app


def _merged(routes: list[Route]) -> list[Route]:
    """One for each path: a method that is not there is 405 then, not what the last route says."""
    by_path: dict[str, dict[str, Any]] = {}
    for route in routes:
        for method in (route.methods or set()) - {"HEAD"}:
            by_path.setdefault(route.path, {})[method] = route.endpoint
    return [Route(path, _by_method(path, found), methods=list(found)) for path, found in by_path.items()]


def _by_method(path: str, found: dict[str, Any]) -> Any:
    async def endpoint(request: Request) -> Response:
        response: Response = await found["GET" if request.method == "HEAD" else request.method](request)
        return response

    return endpoint


def _served(endpoint: Endpoint, service: Service, log: FilteringBoundLogger) -> Any:
    async def serve(request: Request) -> Response:
        began = time.monotonic()
        try:
            response = _response(await _answer(endpoint, service, request), request)
        except Problem as problem:
            response = _problem(problem)
        except Exception as error:
            log.exception("a request was given up", route=endpoint.path)
            response = _problem(Broken(f"the service failed: {type(error).__name__}; its log says more"))
        took_s = None if endpoint.is_long else time.monotonic() - began
        service.metrics.requested(endpoint.path, endpoint.method, response.status_code, took_s)
        return response

    return serve


async def _answer(endpoint: Endpoint, service: Service, request: Request) -> Reply | Streamed:
    query = query_of(request, endpoint.query)
    body = await body_of(request, endpoint.body) if endpoint.method == "POST" else None
    names = {name: str(value) for name, value in request.path_params.items()}
    return await endpoint.handler(Call(service, request.state.peer, names, query, body, request))


def _response(reply: Reply | Streamed, request: Request) -> Response:
    if isinstance(reply, Reply):
        content = reply.body if isinstance(reply.body, bytes) else _encoder.encode(reply.body)
        headers = {"cache-control": "no-store", **(reply.headers or {})}
        if reply.status == 204:
            return Response(status_code=204, headers=headers)
        return Response(content, reply.status, headers, media_type=reply.content_type)
    is_events = reply.content_type is None and EVENT_STREAM in request.headers.get("accept", "")
    kind = reply.content_type or (EVENT_STREAM if is_events else LINES)
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(_encoded(reply, is_events=is_events), 200, headers, media_type=kind)


async def _encoded(reply: Streamed, *, is_events: bool) -> AsyncIterator[bytes]:
    async with aclosing(reply.items) as items:  # type: ignore[type-var]
        async for item in items:
            if isinstance(item, bytes):
                yield item
            elif is_events:
                cursor = getattr(item, "cursor", None)
                number = b"" if cursor is None else b"id: %d\n" % cursor
                yield number + b"data: " + _encoder.encode(item) + b"\n\n"
            else:
                yield _encoder.encode(item) + b"\n"


def _problem(problem: Problem) -> Response:
    content = _encoder.encode(problem.document())
    return Response(content, problem.status, {"cache-control": "no-store"}, media_type=PROBLEM)


def _attached(path: str, service: Service, log: FilteringBoundLogger) -> Any:
    async def serve(socket: WebSocket) -> None:
        status = 101
        try:
            await attach.attach(service, socket)
        except Problem as problem:
            status = problem.status
            await socket.send_denial_response(_problem(problem))
        except Exception:
            log.exception("an attached client was given up")
            status = 500
        service.metrics.requested(path, "GET", status, None)

    return serve


async def _unrouted(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        response = _problem(NotAllowed(f"{request.method} is not for {request.url.path[:200]}"))
        response.headers.update(error.headers or {})
        return response
    return _problem(NotFound(f"there is no {request.url.path[:200]}; /v1/openapi.json tells what there is"))


async def _unforeseen(request: Request, error: Exception) -> Response:
    return _problem(Broken(f"the service failed: {type(error).__name__}; its log says more"))


# ---- connections


class _Connection(TCPServer):
    """One of a known peer."""

    async def protocol_send(self, event: Event) -> None:
        if not isinstance(event, RawData):
            await super().protocol_send(event)
            return
        async with self.send_lock:
            deadline = trio.current_time() + _WRITE_PATIENCE_S
            try:
                with trio.CancelScope(deadline=deadline, shield=True) as patience:
                    await self.stream.send_all(event.data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                await self.protocol.handle(Closed())
                return
        if patience.cancelled_caught:
            await self.protocol.handle(Closed())
            await trio.aclose_forcefully(self.stream)


class Connections:
    """All that are open, counted by user."""

    def __init__(self, service: Service, log: FilteringBoundLogger) -> None:
        self._service = service
        self._log = log
        self._by_user: collections.Counter[int] = collections.Counter()
        app = application(service, log)
        app.state.connections = self.count
        self._wrapper = ASGIWrapper(app)  # type: ignore[arg-type]
        self._config = HypercornConfig()
        self._config.keep_alive_timeout = _IDLE_S
        self._config.accesslog = None
        self._config.errorlog = None
        self._config.include_server_header = False
        self._config.websocket_max_message_size = 1 << 20
        self._context = WorkerContext(None)

    def count(self) -> int:
        return self._by_user.total()

    async def serve(self, sockets: list[socket]) -> None:
        """Until it is cancelled."""
        listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(one)) for one in sockets]
        await trio.serve_listeners(self._serve_one, listeners)

    async def _serve_one(self, stream: trio.SocketStream) -> None:
        """Of one connection: whatever goes wrong ends that one."""
        try:
            peer = await trio.to_thread.run_sync(self._peer_of, stream)
        except Refused as error:
            self._log.warning("a connection was refused", why=str(error))
            await _refuse(stream, str(error))
            return
        if self._by_user[peer.uid] >= self._service.config.per_user.connections:
            self._log.warning("a user has too many connections", uid=peer.uid)
            await stream.aclose()
            return
        self._by_user[peer.uid] += 1
        try:
            await self._serve_peer(stream, peer)
        except Exception:
            self._log.exception("a connection was given up", uid=peer.uid)
        finally:
            self._by_user[peer.uid] -= 1
            if not self._by_user[peer.uid]:
                del self._by_user[peer.uid]
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(stream)

    def _peer_of(self, stream: trio.SocketStream) -> Peer:
        """Raises Refused."""
        raw = stream.socket._sock  # type: ignore[attr-defined]
        return peer_of(raw, self._service.config.access.admin_group)

    async def _serve_peer(self, stream: trio.SocketStream, peer: Peer) -> None:
        state = ConnectionState({"peer": peer})
        await _Connection(self._wrapper, self._config, self._context, state, stream)  # type: ignore[arg-type]


async def _refuse(stream: trio.SocketStream, why: str) -> None:
    """A word for whoever did not know, and an end."""
    body = _encoder.encode(
        {
            "type": "urn:sandlockd:problem:forbidden",
            "title": "You may not",
            "status": 403,
            "detail": f"this connection is refused: {why}",
        }
    )
    fields = f"content-type: {PROBLEM}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n"
    head = f"HTTP/1.1 403 Forbidden\r\n{fields}\r\n"
    with trio.move_on_after(1):
        try:
            await stream.send_all(head.encode() + body)
            await stream.send_eof()
            # What was asked is read: else the kernel would take our answer back with a reset.
            while await stream.receive_some(1 << 16):
                pass
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
    await trio.aclose_forcefully(stream)
