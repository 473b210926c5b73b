"""To be at a sandbox's streams (WebSocket, RFC 6455): what it writes from a position on, what is to go in, and how it
ended.

From the service: binary messages: one byte for the stream (1 output, 2 errors, 3 terminal), eight for the cursor
behind it (big-endian), then the data. Text messages, JSON: {"type": "dropped", "bytes"}, in the end {"type": "exit",
...}. From the client: binary messages are input. Text messages, JSON: {"type": "resize", "rows", "columns"}, {"type":
"eof"}, {"type": "signal", "signal", "group"}.

A client that goes away changes nothing for the program: its input stays open for the next one.
"""

from __future__ import annotations

import contextlib
import struct
from typing import Any, Final

import msgspec
import trio
from starlette.websockets import WebSocketDisconnect

from sandlockd.control.calls import query_of
from sandlockd.control.objects import Asked, Side, SignalRequest
from sandlockd.control.problems import Invalid, Problem
from sandlockd.control.queries import AttachQuery
from sandlockd.control.states import Request
from sandlockd.control.streams import InputClosed
from sandlockd.control.translating import signal_number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from starlette.websockets import WebSocket

    from sandlockd.control.logs import Log
    from sandlockd.control.service import Service
    from sandlockd.control.streams import Streams

    class Attached(Protocol):
        """A sandbox, or a further program in one."""

        streams: Streams | None
        over: trio.Event

        @property
        def log(self) -> Log: ...

        @property
        def is_alive(self) -> bool: ...

        def signal(self, number: int, *, to_group: bool = False) -> None: ...

        def ending(self) -> dict[str, Any]: ...


PATHS: Final = ("/v1/sandboxes/{id}/attach", "/v1/sandboxes/{id}/exec/{number:number}/attach")
HEAD: Final = struct.Struct(">BQ")
_INPUT_WAITING = 1  # messages
_LAST_INPUT_S = 1.0
_UNFIT = 1003  # close code: data of a kind that it cannot accept
_encoder = msgspec.json.Encoder()


class Resize(Asked, tag="resize"):
    rows: Side
    columns: Side


class EndOfInput(Asked, tag="eof"):
    pass


class SendSignal(SignalRequest, tag="signal"):
    pass


_words = msgspec.json.Decoder(Resize | EndOfInput | SendSignal)


async def attach(service: Service, socket: WebSocket) -> None:
    """Raises Problem, before it is accepted."""
    query = query_of(socket, AttachQuery)
    sandbox = service.find(socket.state.peer, socket.path_params["id"])
    number = socket.path_params.get("number")
    attached: Attached = sandbox if number is None else sandbox.further_of(number)
    if number is None:
        sandbox.require(Request.ATTACH)
    log = attached.log
    cursor = query.after if query.after is not None else 0 if query.tail is None else log.last(query.tail)
    await socket.accept()
    to_program, from_client = trio.open_memory_channel[bytes | None](_INPUT_WAITING)
    try:
        async with trio.open_nursery() as feeding:
            feeding.start_soon(_feed, attached, from_client)
            async with to_program, trio.open_nursery() as nursery:
                nursery.start_soon(_hear, attached, socket, to_program, nursery.cancel_scope)
                await _show(attached, socket, cursor)
                nursery.cancel_scope.cancel()
            # Of a client that has gone: what it has sent goes in, if the program reads.
            feeding.cancel_scope.deadline = trio.current_time() + _LAST_INPUT_S
    except* (WebSocketDisconnect, RuntimeError):
        pass  # it has gone, or was sent away, while something was being sent


async def _show(attached: Attached, socket: WebSocket, cursor: int) -> None:
    """All that it writes, and how it ended."""
    reader = attached.log.reader(cursor)
    while True:
        batch = reader.read()
        if batch.dropped:
            await socket.send_text(_text(type="dropped", bytes=batch.dropped))
        for entry in batch.records:
            await socket.send_bytes(HEAD.pack(entry.stream, entry.cursor) + entry.data)
        if not batch.records and not await reader.beyond():
            break
    await attached.over.wait()
    await socket.send_text(_text(type="exit", **attached.ending()))
    await socket.close()


async def _hear(
    attached: Attached, socket: WebSocket, to_program: Any, while_it_is_there: trio.CancelScope
) -> None:
    while True:
        try:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                while_it_is_there.cancel()
                return
            if message.get("bytes") is not None:
                await to_program.send(message["bytes"])
            else:
                await _obey(attached, message.get("text") or "", to_program)
        except (msgspec.MsgspecError, Problem, OSError) as error:
            await socket.close(_UNFIT, str(error)[:100])
            while_it_is_there.cancel()
            return


async def _obey(attached: Attached, text: str, to_program: Any) -> None:
    """Raises MsgspecError, Problem, OSError."""
    match _words.decode(text):
        case Resize(rows=rows, columns=columns):
            if attached.streams is not None:
                attached.streams.resize(rows, columns)
        case EndOfInput():
            await to_program.send(None)
        case SendSignal(signal=asked, group=to_group):
            if attached.is_alive:
                attached.signal(signal_number(asked), to_group=to_group)
        case _:
            raise Invalid("nobody knows what that means")


async def _feed(attached: Attached, from_client: Any) -> None:
    """What nobody reads any more is dropped, as by a pipe that was closed."""
    async for data in from_client:
        streams = attached.streams
        if streams is None:
            continue
        if data is None:
            streams.end_input()
        else:
            with contextlib.suppress(InputClosed):
                await streams.write(data)


def _text(**what: Any) -> str:
    return _encoder.encode(what).decode()
