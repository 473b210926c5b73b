"""The connections of clients: HTTP/1.1 and WebSocket by Hypercorn's protocols, on connections of our own.

Nobody's silence, slowness or size is another's trouble: connections are few per user, idle ones end, heads come within
their time, what is written to a client that does not read ends with it, and one that has gone is found out whatever
its connection is waiting for.
"""

from __future__ import annotations

import collections
import select
from contextlib import suppress
from functools import partial
from typing import Any

import h11
import msgspec
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config as HypercornConfig
from hypercorn.events import Closed, RawData, Updated
from hypercorn.protocol.events import Data
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.protocol.ws_stream import WSStream
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from wsproto.connection import ConnectionState as WebSocketState

from sandlockd.control.access import Refused, peer_of
from sandlockd.control.http import PROBLEM, application
from sandlockd.control.problems import Forbidden, Problem, TooMany, problem_of_protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from socket import socket

    from hypercorn.events import Event
    from hypercorn.protocol.events import Event as StreamEvent
    from structlog.typing import FilteringBoundLogger

    from sandlockd.control.access import Peer
    from sandlockd.control.service import Service

_WRITE_PATIENCE_S = 60.0
_LINGER_S = 1.0
_GONE_PAUSE_S = 5.0
_QUEUED = 2  # parts of a body or messages that wait for whoever reads them
_MESSAGE_BYTES = 256 << 10
_encoder = msgspec.json.Encoder()


class _Tasks:
    """What Hypercorn's protocols run requests with. Unlike its own, none here waits for an application that has
    ended, or does not read what its client has sent: who is told of the client's end is told so by the end of it.
    """

    def __init__(self, nursery: trio.Nursery, log: FilteringBoundLogger) -> None:
        self._nursery = nursery
        self._log = log

    async def spawn_app(
        self, app: Any, config: HypercornConfig, scope: Any, send: Callable[[Any], Awaitable[None]]
    ) -> Callable[[Any], Awaitable[None]]:
        to_app, from_client = trio.open_memory_channel[Any](_QUEUED)
        disconnect = {"type": f"{scope['type']}.disconnect", "code": 1006}

        async def receive() -> Any:
            try:
                return await from_client.receive()
            except trio.EndOfChannel:
                return disconnect

        async def put(event: Any) -> None:
            if event["type"] == disconnect["type"]:
                to_app.close()
                return
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await to_app.send(event)

        self._nursery.start_soon(
            self._run_app, partial(app, scope, receive, send, None, None), from_client, send
        )
        return put

    async def _run_app(
        self,
        app: Callable[[], Awaitable[None]],
        from_client: trio.MemoryReceiveChannel[Any],
        send: Callable[[Any], Awaitable[None]],
    ) -> None:
        with from_client:
            try:
                await app()
            except Exception:
                self._log.exception("an answer was given up")
        await send(None)

    def spawn(self, function: Any, *arguments: Any) -> None:
        self._nursery.start_soon(function, *arguments)


class _Protocol(H11Protocol):
    """HTTP/1.1 and nothing else: no other version by upgrade, no compression, by which a little can be very much."""

    async def _check_protocol(self, event: h11.Request) -> None:
        pass

    async def _create_stream(self, request: h11.Request) -> None:
        headers = [(name, value) for name, value in request.headers if name != b"sec-websocket-extensions"]
        await super()._create_stream(
            h11.Request(
                method=request.method,
                headers=headers,
                target=request.target,
                http_version=request.http_version,
            )
        )

    async def stream_send(self, event: StreamEvent) -> None:
        """One that we have closed (a message was too long) does not wait for the client to close it as well."""
        await super().stream_send(event)
        stream = self.stream
        if isinstance(event, Data) and isinstance(stream, WSStream):
            if stream.connection.state is WebSocketState.LOCAL_CLOSING:
                await self._close_stream()
                await self.send(Closed())

    async def _send_error_response(self, status_code: int) -> None:
        head, content = _whole(problem_of_protocol(status_code))
        await self._send_h11_event(h11.Response(status_code=status_code, headers=head))
        await self._send_h11_event(h11.Data(data=content))
        await self._send_h11_event(h11.EndOfMessage())


def _whole(problem: Problem) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """An answer that ends its connection: headers and content."""
    content = _encoder.encode(problem.document())
    length = b"%d" % len(content)
    kind = (b"content-type", PROBLEM.encode())
    return [kind, (b"content-length", length), (b"connection", b"close")], content


class _Connection:
    def __init__(self, stream: trio.SocketStream, idle_s: float) -> None:
        self._stream = stream
        self._idle_s = idle_s
        self._sending = trio.Lock()
        self._is_ending = False
        self._all = trio.CancelScope()
        self._idle = trio.CancelScope()

    async def run(self, make: Callable[..., _Protocol], log: FilteringBoundLogger) -> None:
        """Until it is closed, from here or there."""
        with self._all:
            async with trio.open_nursery() as self._nursery:
                self._protocol = make(task_group=_Tasks(self._nursery, log), send=self._send)
                self._idle.deadline = trio.current_time() + self._idle_s
                with self._idle:
                    await self._read()
                if self._idle.cancelled_caught:
                    self.end()
                # What is being answered already is answered: the client may have closed its half only.
                await self._protocol.handle(Closed())

    async def _read(self) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while data := await self._stream.receive_some(1 << 16):
                if not self._is_ending:
                    await self._protocol.handle(RawData(bytes(data)))

    async def _send(self, event: Event) -> None:
        match event:
            case RawData():
                await self._write(event.data)
            case Updated():
                self._idle.deadline = trio.current_time() + self._idle_s if event.idle else float("inf")
            case Closed() if not self._is_ending:
                self._is_ending = True
                self._idle.deadline = float("inf")
                self._nursery.start_soon(self._linger)
            case _:
                pass

    async def _write(self, data: bytes) -> None:
        with trio.move_on_after(_WRITE_PATIENCE_S) as patience:
            async with self._sending:
                try:
                    await self._stream.send_all(data)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    self.end()
        if patience.cancelled_caught:
            self.end()

    async def _linger(self) -> None:
        """Closed with something unread in it, a connection takes back what it was answered (unix(7): a reset)."""
        async with self._sending:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await self._stream.send_eof()
        await trio.sleep(_LINGER_S)
        self.end()

    @property
    def fd(self) -> int:
        """-1: closed."""
        return self._stream.socket.fileno()

    def end(self) -> None:
        """At once, with all that goes on for it."""
        self._all.cancel()


class Connections:
    """All that are open, counted by user."""

    def __init__(self, service: Service, log: FilteringBoundLogger) -> None:
        self._service = service
        self._log = log
        self._open: dict[int, set[_Connection]] = collections.defaultdict(set)
        app = application(service, log)
        app.state.connections = self.count
        self._wrapper = ASGIWrapper(app)  # type: ignore[arg-type]
        self._config = HypercornConfig()
        self._config.accesslog = None
        self._config.errorlog = None
        self._config.include_server_header = False
        self._config.websocket_max_message_size = _MESSAGE_BYTES
        self._context = WorkerContext(None)

    def count(self) -> int:
        return sum(map(len, self._open.values()))

    async def serve(self, sockets: list[socket]) -> None:
        """Until it is cancelled."""
        listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(one)) for one in sockets]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._end_those_that_are_gone)
            await trio.serve_listeners(self._serve_one, listeners)

    async def _serve_one(self, stream: trio.SocketStream) -> None:
        """Of one connection: whatever goes wrong ends that one."""
        try:
            peer = await trio.to_thread.run_sync(self._peer_of, stream)
        except Refused as error:
            self._log.warning("a connection was refused", why=str(error))
            await _refuse(stream, Forbidden(f"this connection is refused: {error}"))
            return
        theirs, most = self._open[peer.uid], self._service.config.per_user.connections
        if len(theirs) >= most:
            self._log.warning("a user has too many connections", uid=peer.uid)
            await _refuse(stream, TooMany(f"you have {most} connections already (per_user.connections)"))
            return
        connection = _Connection(stream, self._service.config.idle_s)
        theirs.add(connection)
        try:
            await connection.run(partial(self._protocol, peer), self._log)
        except Exception:
            self._log.exception("a connection was given up", uid=peer.uid)
        finally:
            theirs.discard(connection)
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(stream)

    def _peer_of(self, stream: trio.SocketStream) -> Peer:
        """Raises Refused."""
        raw = stream.socket._sock  # type: ignore[attr-defined]
        return peer_of(raw, self._service.config.access.admin_group)

    def _protocol(self, peer: Peer, **more: Any) -> _Protocol:
        return _Protocol(
            self._wrapper,
            self._config,
            self._context,
            connection_state=ConnectionState({"peer": peer}),
            ssl=False,
            client=None,
            server=None,
            **more,
        )

    async def _end_those_that_are_gone(self) -> None:
        """Also where nobody reads or writes, because it is another's turn: the kernel tells without either."""
        while True:
            await trio.sleep(_GONE_PAUSE_S)
            by_fd = {one.fd: one for theirs in self._open.values() for one in theirs if one.fd >= 0}
            waiting = select.poll()
            for fd in by_fd:
                waiting.register(fd, 0)  # POLLHUP is told always: both halves are closed
            for fd, _ in waiting.poll(0):
                by_fd[fd].end()


async def _refuse(stream: trio.SocketStream, problem: Problem) -> None:
    """A word for whoever did not know, and an end."""
    fields, body = _whole(problem)
    head = b"".join(b"%b: %b\r\n" % field for field in fields)
    with trio.move_on_after(_LINGER_S):
        try:
            await stream.send_all(b"HTTP/1.1 %d \r\n%b\r\n%b" % (problem.status, head, body))
            await stream.send_eof()
            # What was asked is read: else the kernel would take our answer back with a reset.
            while await stream.receive_some(1 << 16):
                pass
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
    await trio.aclose_forcefully(stream)
