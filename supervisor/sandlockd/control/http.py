"""The API over HTTP: Starlette's routes, made from the table of endpoints; answers and problems as bytes."""

from __future__ import annotations

import time
from contextlib import aclosing
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.convertors import Convertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute

from sandlockd.control import attach
from sandlockd.control.calls import (
    EVENT_STREAM,
    LINES,
    Call,
    Endpoint,
    Reply,
    Streamed,
    body_of,
    query_of,
    read_rest,
    require_no_page,
)
from sandlockd.control.problems import Broken, NotAllowed, NotFound, Problem
from sandlockd.control.routes import ENDPOINTS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request
    from starlette.websockets import WebSocket
    from structlog.typing import FilteringBoundLogger

    from sandlockd.control.service import Service

PROBLEM = "application/problem+json"
_encoder = msgspec.json.Encoder()


class _Number(Convertor[int]):
    """In a path. Starlette's own takes as many digits as there are, and fails with thousands of them."""

    regex = "[0-9]{1,9}"

    def convert(self, value: str) -> int:
        return int(value)

    def to_string(self, value: int) -> str:
        return str(value)


register_url_convertor("number", _Number())


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
            await read_rest(request)
            response = _problem(problem)
        except Exception as error:
            log.exception("a request was given up", route=endpoint.path)
            response = _problem(Broken(f"the service failed: {type(error).__name__}; its log says more"))
        took_s = None if endpoint.is_long else time.monotonic() - began
        service.metrics.requested(endpoint.path, endpoint.method, response.status_code, took_s)
        return response

    return serve


async def _answer(endpoint: Endpoint, service: Service, request: Request) -> Reply | Streamed:
    require_no_page(request)
    query = query_of(request, endpoint.query)
    body = await body_of(request, endpoint.body, service.config.body_s)
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
            require_no_page(socket)
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
    await read_rest(request)
    if error.status_code == 405:
        response = _problem(NotAllowed(f"{request.method} is not for {request.url.path[:200]}"))
        response.headers.update(error.headers or {})
        return response
    return _problem(NotFound(f"there is no {request.url.path[:200]}; /v1/openapi.json tells what there is"))


async def _unforeseen(request: Request, error: Exception) -> Response:
    return _problem(Broken(f"the service failed: {type(error).__name__}; its log says more"))
