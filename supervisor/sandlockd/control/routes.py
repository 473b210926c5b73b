"""What the API can be asked for: a table of endpoints, and what each does."""

from __future__ import annotations

import base64
import json
import os
import re
from contextlib import aclosing
from functools import cache
from typing import Any

import msgspec
import trio

from sandlockd import __version__
from sandlockd.control import metrics
from sandlockd.control.calls import EVENT_STREAM, LINES, TEXT, Call, Endpoint, Reply, Streamed
from sandlockd.control.logs import Stream
from sandlockd.control.objects import (
    API_VERSION,
    CommitRequest,
    DiscardRequest,
    Dropped,
    EventObject,
    ExecObject,
    ExecRequest,
    LogRecord,
    RunRequest,
    SandboxList,
    SandboxObject,
    SignalRequest,
    StopRequest,
    Version,
    WaitRequest,
    event_object,
    rfc3339,
    sandbox_object,
)
from sandlockd.control.problems import Conflict, Forbidden, Invalid, UpgradeNeeded
from sandlockd.control.queries import (
    AttachQuery,
    ChangesQuery,
    DeleteQuery,
    DenialsQuery,
    EventsQuery,
    ListQuery,
    LogsQuery,
)
from sandlockd.control.states import Request, State
from sandlockd.control.translating import signal_number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sandlockd.control.further import Further
    from sandlockd.control.logs import Log
    from sandlockd.control.logs import Record as LogEntry
    from sandlockd.control.sandboxes import Sandbox

_LABEL = re.compile(r"([^=]+)(?:=(.*))?", re.DOTALL)


class Healthy(msgspec.Struct):
    status: str


class Processes(msgspec.Struct):
    """cpu: seconds. memory: bytes."""

    processes: list[dict[str, Any]]


def _found(call: Call) -> Sandbox:
    return call.service.find(call.peer, call.names["id"])


def _object(sandbox: Sandbox) -> SandboxObject:
    keeper = None if sandbox.supervisor is None else sandbox.supervisor.keeper_pid
    return sandbox_object(sandbox.record, sandbox.denials, keeper, sandbox.deaths)


# ---- sandboxes


async def _create(call: Call) -> Reply:
    sandbox = await call.service.create(call.peer, call.body)
    return Reply(_object(sandbox), 201, headers={"location": f"/v1/sandboxes/{sandbox.id}"})


async def _list(call: Call) -> Reply:
    query: ListQuery = call.query
    wanted = [_label(text) for text in query.label]
    found: list[SandboxObject] = []
    after = None
    for sandbox in call.service.visible(call.peer):
        record = sandbox.record
        if query.after is not None and record.id >= query.after:
            continue
        if query.state is not None and record.state is not query.state:
            continue
        if not all(_has_label(record.labels, key, value) for key, value in wanted):
            continue
        if len(found) == query.limit:
            after = found[-1].id
            break
        found.append(_object(sandbox))
    return Reply(SandboxList(found, after))


def _label(text: str) -> tuple[str, str | None]:
    found = _LABEL.fullmatch(text)
    if found is None:
        raise Invalid(f"{text[:100]!r} is no label: key or key=value")
    return found[1], found[2]


def _has_label(labels: dict[str, str], key: str, value: str | None) -> bool:
    return key in labels and value in (None, labels[key])


async def _inspect(call: Call) -> Reply:
    return Reply(_object(_found(call)))


async def _delete(call: Call) -> Reply:
    await call.service.remove(_found(call), force=call.query.force)
    return Reply(b"", 204)


async def _stop(call: Call) -> Reply:
    sandbox = _found(call)
    grace_s = call.body.grace_s
    await sandbox.stop(float(call.service.config.stop_grace_s) if grace_s is None else grace_s)
    return Reply(_object(sandbox))


async def _kill(call: Call) -> Reply:
    sandbox = _found(call)
    await sandbox.kill()
    return Reply(_object(sandbox))


async def _pause(call: Call) -> Reply:
    sandbox = _found(call)
    await sandbox.pause()
    return Reply(_object(sandbox))


async def _resume(call: Call) -> Reply:
    sandbox = _found(call)
    await sandbox.resume()
    return Reply(_object(sandbox))


async def _signal(call: Call) -> Reply:
    sandbox = _found(call)
    sandbox.signal(signal_number(call.body.signal), to_group=call.body.group)
    return Reply(_object(sandbox))


async def _wait(call: Call) -> Reply:
    """Its end, or how it is when the time is up: `ended` says which."""
    sandbox = _found(call)
    with trio.move_on_after(float("inf") if call.body.timeout_s is None else call.body.timeout_s):
        await _while_it_is_wanted(call, sandbox.over)
    return Reply(_object(sandbox))


async def _while_it_is_wanted(call: Call, event: trio.Event) -> None:
    """Or until the client has gone."""
    async with trio.open_nursery() as nursery:

        async def gone() -> None:
            while (await call.http.receive())["type"] != "http.disconnect":
                pass
            nursery.cancel_scope.cancel()

        nursery.start_soon(gone)
        await event.wait()
        nursery.cancel_scope.cancel()


def _further(call: Call) -> Further:
    return _found(call).further_of(int(call.names["number"]))


async def _exec(call: Call) -> Reply:
    sandbox = _found(call)
    further = await call.service.execute(sandbox, call.body)
    where = f"/v1/sandboxes/{sandbox.id}/exec/{further.number}"
    return Reply(further.as_object(), 201, headers={"location": where})


async def _execs(call: Call) -> Reply:
    return Reply([one.as_object() for one in _found(call).further])


async def _exec_inspect(call: Call) -> Reply:
    return Reply(_further(call).as_object())


async def _exec_wait(call: Call) -> Reply:
    further = _further(call)
    with trio.move_on_after(float("inf") if call.body.timeout_s is None else call.body.timeout_s):
        await _while_it_is_wanted(call, further.over)
    return Reply(further.as_object())


async def _exec_signal(call: Call) -> Reply:
    further = _further(call)
    if not further.is_alive:
        raise Conflict("it has ended", state="exited")
    further.signal(signal_number(call.body.signal), to_group=call.body.group)
    return Reply(further.as_object())


async def _exec_logs(call: Call) -> Streamed:
    return _streamed_log(_further(call).log, call.query)


async def _processes(call: Call) -> Reply:
    sandbox = _found(call)
    sandbox.require(Request.PROCESSES)
    return Reply(await sandbox.ask("processes"))


async def _stats(call: Call) -> Reply:
    sandbox = _found(call)
    sandbox.require(Request.STATS)
    if sandbox.supervisor is None or not sandbox.is_alive or sandbox.state is State.STARTING:
        return Reply({"state": sandbox.state.value, "usage": (sandbox.record.status or {}).get("usage")})
    return Reply({"state": sandbox.state.value, **await sandbox.ask("stats")})


async def _policy(call: Call) -> Reply:
    sandbox = _found(call)
    record = sandbox.record
    try:
        text = await trio.to_thread.run_sync(sandbox.effective_policy)
        effective = None if text is None else json.loads(text)
    except ValueError:
        effective = None  # that was no policy
    shown = {"policies": record.policies or ["base"], "digest": record.policy_digest, "effective": effective}
    return Reply(json.dumps(shown).encode())  # paths that are no UTF-8 are escaped


# ---- streams


async def _logs(call: Call) -> Streamed:
    return _streamed_log(_found(call).log, call.query)


def _streamed_log(log: Log, query: LogsQuery) -> Streamed:
    cursor = query.after if query.after is not None else 0 if query.tail is None else log.last(query.tail)
    wanted = None if query.stream is None else Stream[query.stream.upper()]

    async def items() -> AsyncIterator[Any]:
        reader = log.reader(cursor)
        while True:
            batch = reader.read()
            if batch.dropped and not query.raw:
                yield Dropped(batch.dropped)
            for entry in batch.records:
                if wanted is None or entry.stream is wanted:
                    yield entry.data if query.raw else log_record(entry)
            if not batch.records and not (query.follow and await reader.beyond()):
                return
            await trio.lowlevel.checkpoint()

    return Streamed(items(), "application/octet-stream" if query.raw else None)


def log_record(entry: LogEntry) -> LogRecord:
    time = rfc3339(entry.time_ns) or ""
    try:
        return LogRecord(entry.cursor, time, entry.stream.name.lower(), data=entry.data.decode())
    except UnicodeDecodeError:
        data = base64.b64encode(entry.data).decode()
        return LogRecord(entry.cursor, time, entry.stream.name.lower(), data_base64=data)


async def _attach(call: Call) -> Reply:
    """By plain HTTP; by WebSocket: control/attach.py."""
    _found(call)
    raise UpgradeNeeded("this is a WebSocket (RFC 6455): ask for the upgrade")


async def _events(call: Call) -> Streamed:
    query, peer = call.query, call.peer
    events = call.service.events
    cursor = query.after if query.after is not None else events.end if query.follow else 0
    return Streamed(_event_items(call, cursor, lambda event: peer.may_touch(event.uid)))


async def _events_of(call: Call) -> Streamed:
    sandbox = _found(call)
    return Streamed(_event_items(call, call.query.after or 0, lambda event: event.sandbox == sandbox.id))


async def _event_items(call: Call, cursor: int, wanted: Any) -> AsyncIterator[EventObject | Dropped]:
    events = call.service.events
    while True:
        batch = events.read(cursor, wanted)
        cursor = batch.cursor
        if batch.dropped:
            yield Dropped(batch.dropped)
        for event in batch.events:
            yield event_object(event)
            if event.kind == "removed" and "id" in call.names:
                return
        if cursor >= events.end:
            if not call.query.follow:
                return
            await events.beyond(cursor)


# ---- what it has left


async def _changes(call: Call) -> Streamed | Reply:
    sandbox, query = _found(call), call.query
    sandbox.require(Request.CHANGES)
    if sandbox.state is not State.KEPT:
        return Reply({"state": sandbox.state.value, "changes": (sandbox.record.status or {}).get("changes")})
    verb = "changes" if query.diff in (None, "list") else "diff"
    as_text = query.diff in ("text", "list")
    chunks = call.service.left.work(sandbox, verb, paths=_encoded(query.path), as_text=as_text)
    return await _worked(chunks, TEXT if as_text else LINES)


async def _denials(call: Call) -> Streamed | Reply:
    sandbox = _found(call)
    as_text = call.query.format == "text"
    chunks = call.service.left.work(sandbox, "denials", as_text=as_text)
    return await _worked(chunks, TEXT if as_text else LINES)


async def _worked(chunks: AsyncIterator[bytes], content_type: str) -> Streamed | Reply:
    """What goes wrong before anything was written is a problem, not a stream that ends."""
    first = await anext(chunks, None)
    if first is None:
        return Reply(b"", content_type=content_type)

    async def items() -> AsyncIterator[bytes]:
        async with aclosing(chunks):  # type: ignore[type-var]
            yield first
            async for chunk in chunks:
                yield chunk

    return Streamed(items(), content_type)


async def _commit(call: Call) -> Reply:
    body: CommitRequest = call.body
    answer = await call.service.commit(
        _found(call),
        paths=_encoded(body.paths),
        force=_encoded(body.force),
        digest=body.digest,
        skip_marked=body.skip_marked,
    )
    return Reply(answer)


async def _discard(call: Call) -> Reply:
    return Reply(await call.service.discard(_found(call), paths=_encoded(call.body.paths)))


def _encoded(paths: list[str]) -> tuple[bytes, ...]:
    return tuple(map(os.fsencode, paths))


# ---- the service


async def _version(call: Call) -> Reply:
    return Reply(Version(__version__, API_VERSION))


async def _healthz(call: Call) -> Reply:
    return Reply(Healthy("ok"))


async def _readyz(call: Call) -> Reply:
    service = call.service
    if service.is_closing or service.registry.failure is not None:
        why = "the service is ending" if service.is_closing else service.registry.failure
        return Reply(Healthy(str(why)), 503)
    return Reply(Healthy("ok"))


async def _metrics(call: Call) -> Reply:
    if not call.peer.is_admin:
        raise Forbidden(
            "the numbers are of all users' sandboxes: for root, and members of access.admin_group"
        )
    service = call.service
    connections = call.http.app.state.connections
    text = service.metrics.text(service.counts(), connections(), service.pool.waiting)
    return Reply(text, content_type=metrics.CONTENT_TYPE)


async def _openapi(call: Call) -> Reply:
    return Reply(_document())


@cache
def _document() -> bytes:
    from sandlockd.control.openapi import document

    return msgspec.json.encode(document(ENDPOINTS))


_ONE = "/v1/sandboxes/{id}"
_FURTHER = f"{_ONE}/exec/{{number:number}}"
ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        "POST",
        "/v1/sandboxes",
        _create,
        "Start a sandbox",
        SandboxObject,
        201,
        body=RunRequest,
        problems=(404, 409, 422, 429, 503, 507),
    ),
    Endpoint("GET", "/v1/sandboxes", _list, "Your sandboxes, the newest first", SandboxList, query=ListQuery),
    Endpoint("GET", _ONE, _inspect, "One sandbox", SandboxObject, problems=(404, 409)),
    Endpoint(
        "DELETE",
        _ONE,
        _delete,
        "Remove one that is over, with all it has left",
        None,
        204,
        query=DeleteQuery,
        problems=(404, 409),
    ),
    Endpoint(
        "POST",
        f"{_ONE}/stop",
        _stop,
        "Ask it to end, and end it after a grace; answered when it has ended",
        SandboxObject,
        body=StopRequest,
        is_long=True,
        problems=(404, 409),
    ),
    Endpoint("POST", f"{_ONE}/kill", _kill, "End it now", SandboxObject, is_long=True, problems=(404, 409)),
    Endpoint("POST", f"{_ONE}/pause", _pause, "Hold all its processes", SandboxObject, problems=(404, 409)),
    Endpoint("POST", f"{_ONE}/resume", _resume, "Let them go on", SandboxObject, problems=(404, 409)),
    Endpoint(
        "POST",
        f"{_ONE}/signal",
        _signal,
        "Send its program a signal",
        SandboxObject,
        body=SignalRequest,
        problems=(404, 409),
    ),
    Endpoint(
        "POST",
        f"{_ONE}/wait",
        _wait,
        "Answered when it has ended, or when the time is up",
        SandboxObject,
        body=WaitRequest,
        is_long=True,
        problems=(404, 409),
    ),
    Endpoint(
        "GET",
        f"{_ONE}/logs",
        _logs,
        "What it wrote",
        list[LogRecord | Dropped],
        query=LogsQuery,
        is_long=True,
        content_type=LINES,
        problems=(404, 409),
    ),
    Endpoint(
        "POST",
        f"{_ONE}/exec",
        _exec,
        "Start a further command in it",
        ExecObject,
        201,
        body=ExecRequest,
        problems=(404, 409, 422, 429, 503, 507),
    ),
    Endpoint(
        "GET", f"{_ONE}/exec", _execs, "Its further commands", tuple[ExecObject, ...], problems=(404, 409)
    ),
    Endpoint("GET", _FURTHER, _exec_inspect, "A further command", ExecObject, problems=(404, 409)),
    Endpoint(
        "POST",
        f"{_FURTHER}/wait",
        _exec_wait,
        "Answered when it has ended, or when the time is up",
        ExecObject,
        body=WaitRequest,
        is_long=True,
        problems=(404, 409),
    ),
    Endpoint(
        "POST",
        f"{_FURTHER}/signal",
        _exec_signal,
        "Send it a signal",
        ExecObject,
        body=SignalRequest,
        problems=(404, 409),
    ),
    Endpoint(
        "GET",
        f"{_FURTHER}/logs",
        _exec_logs,
        "What it wrote",
        list[LogRecord | Dropped],
        query=LogsQuery,
        is_long=True,
        content_type=LINES,
        problems=(404, 409),
    ),
    Endpoint(
        "GET",
        f"{_ONE}/attach",
        _attach,
        "Its streams, by WebSocket",
        None,
        101,
        query=AttachQuery,
        is_long=True,
        problems=(404, 409, 426),
    ),
    Endpoint(
        "GET", f"{_ONE}/processes", _processes, "Its processes now", Processes, problems=(404, 409, 503)
    ),
    Endpoint("GET", f"{_ONE}/stats", _stats, "What it uses now", dict[str, Any], problems=(404, 409, 503)),
    Endpoint(
        "GET", f"{_ONE}/policy", _policy, "The policies it runs under", dict[str, Any], problems=(404, 409)
    ),
    Endpoint(
        "GET",
        f"{_ONE}/denials",
        _denials,
        "What was refused, and what would allow it",
        list[dict[str, Any]],
        query=DenialsQuery,
        content_type=LINES,
        problems=(404, 409, 503),
    ),
    Endpoint(
        "GET",
        f"{_ONE}/events",
        _events_of,
        "What happened to it",
        list[EventObject | Dropped],
        query=EventsQuery,
        is_long=True,
        content_type=LINES,
        problems=(404, 409),
    ),
    Endpoint(
        "GET",
        f"{_ONE}/changes",
        _changes,
        "What it changed, and is kept",
        list[dict[str, Any]],
        query=ChangesQuery,
        content_type=LINES,
        problems=(404, 409, 503),
    ),
    Endpoint(
        "POST",
        f"{_ONE}/commit",
        _commit,
        "Put changes into the tree",
        dict[str, Any],
        body=CommitRequest,
        is_long=True,
        problems=(404, 409, 503),
    ),
    Endpoint(
        "POST",
        f"{_ONE}/discard",
        _discard,
        "Drop changes",
        dict[str, Any],
        body=DiscardRequest,
        is_long=True,
        problems=(404, 409, 503),
    ),
    Endpoint(
        "GET",
        "/v1/events",
        _events,
        "What happens to your sandboxes",
        list[EventObject | Dropped],
        query=EventsQuery,
        is_long=True,
        content_type=LINES,
    ),
    Endpoint("GET", "/v1/version", _version, "What answers here", Version),
    Endpoint("GET", "/v1/openapi.json", _openapi, "This document", dict[str, Any]),
    Endpoint("GET", "/healthz", _healthz, "It lives", Healthy),
    Endpoint("GET", "/readyz", _readyz, "It takes work", Healthy, problems=(503,)),
    Endpoint(
        "GET",
        "/metrics",
        _metrics,
        "For Prometheus",
        None,
        content_type=metrics.CONTENT_TYPE,
        problems=(403,),
    ),
)
STREAM_TYPES = (LINES, EVENT_STREAM)
