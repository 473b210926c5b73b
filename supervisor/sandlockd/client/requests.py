"""What the service can be asked for, as steps: the same for every client."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from sandlockd.client.steps import Request, Steps, exchange, followed_lines, lines, patient_exchange, quoted
from sandlockd.control.objects import (
    Dropped,
    EventObject,
    ExecObject,
    ExecRequest,
    LogRecord,
    RunRequest,
    SandboxList,
    SandboxObject,
    Version,
)

_ALL = "/v1/sandboxes"
_ROUND_S = 3600.0  # one question of `wait` lasts at most so long
_PAGE = 1000


# What has an end, and is waited for.
Program = TypeVar("Program", SandboxObject, ExecObject)


def where_is(identifier: str, execution: int | None = None) -> str:
    """A sandbox, or a further command in one, as all below want it."""
    where = f"{_ALL}/{quoted(identifier)}"
    return where if execution is None else f"{where}/exec/{execution}"


def _given(**options: Any) -> dict[str, Any]:
    """Those that say something: what is left out is as the service has it."""
    return {name: value for name, value in options.items() if value is not None}


def run(socket: str, command: Sequence[str], options: Mapping[str, Any]) -> Steps[SandboxObject]:
    """Raises TypeError, ValueError: it is no request, and the service was not asked."""
    request = _started(_ALL, RunRequest, command, options)
    return msgspec.json.decode((yield from exchange(socket, request)), type=SandboxObject)


def execute(socket: str, where: str, command: Sequence[str], options: Mapping[str, Any]) -> Steps[ExecObject]:
    """Raises TypeError, ValueError."""
    request = _started(f"{where}/exec", ExecRequest, command, options)
    return msgspec.json.decode((yield from exchange(socket, request)), type=ExecObject)


def executions(socket: str, where: str) -> Steps[list[ExecObject]]:
    content = yield from exchange(socket, Request("GET", f"{where}/exec"))
    return msgspec.json.decode(content, type=list[ExecObject])


def _started(
    path: str, kind: type[RunRequest | ExecRequest], command: Sequence[str], options: Mapping[str, Any]
) -> Request:
    """Raises TypeError, ValueError."""
    body = {"command": list(command), **_given(**options)}
    unknown = body.keys() - set(kind.__struct_fields__)
    if unknown:
        raise TypeError(f"there is no option {min(unknown)!r}")
    try:
        msgspec.convert(body, kind)
        content = msgspec.json.encode(body)
    except (msgspec.MsgspecError, UnicodeEncodeError) as error:
        raise ValueError(_told(error)) from None
    return Request("POST", path, body=msgspec.Raw(content))


def _told(error: Exception) -> str:
    if isinstance(error, UnicodeEncodeError):
        return f"{error.object!r} is not UTF-8: the service takes text only"
    return str(error)


def listed(socket: str, label: Sequence[str] = (), state: str | None = None) -> Steps[list[SandboxObject]]:
    found: list[SandboxObject] = []
    after = None
    while True:
        query = {"label": list(label), "state": state, "limit": _PAGE, "after": after}
        content = yield from exchange(socket, Request("GET", _ALL, query))
        page = msgspec.json.decode(content, type=SandboxList)
        found += page.sandboxes
        after = page.next
        if after is None:
            return found


def inspected(socket: str, where: str, kind: type[Program]) -> Steps[Program]:
    return msgspec.json.decode((yield from exchange(socket, Request("GET", where))), type=kind)


def asked(socket: str, where: str, kind: type[Program], verb: str, **body: Any) -> Steps[Program]:
    """stop, kill, pause, resume, signal: what it is afterwards."""
    request = Request("POST", f"{where}/{verb}", body=_given(**body) or None)
    return msgspec.json.decode((yield from exchange(socket, request)), type=kind)


def waited(socket: str, where: str, kind: type[Program], timeout_s: float | None) -> Steps[Program]:
    """Until it has ended, or the time is up. A broken connection is made again."""
    deadline = None if timeout_s is None else time.monotonic() + timeout_s

    def request() -> Request:
        left_s = _ROUND_S if deadline is None else max(min(deadline - time.monotonic(), _ROUND_S), 0.0)
        return Request("POST", f"{where}/wait", body={"timeout_s": left_s})

    while True:
        content = yield from patient_exchange(socket, request)
        found: Program = msgspec.json.decode(content, type=kind)
        if found.ended is not None or (deadline is not None and time.monotonic() >= deadline):
            return found


def removed(socket: str, where: str, *, force: bool) -> Steps[None]:
    yield from exchange(socket, Request("DELETE", where, {"force": force}))


def asked_for(socket: str, where: str, what: str) -> Steps[Any]:
    """processes, stats, policy."""
    return msgspec.json.decode((yield from exchange(socket, Request("GET", f"{where}/{what}"))))


def records(socket: str, where: str, what: str, **query: Any) -> Steps[None]:
    """denials, changes: JSON objects, a line each."""
    return lines(socket, Request("GET", f"{where}/{what}", query), msgspec.json.decode)


def text(socket: str, where: str, what: str, **query: Any) -> Steps[str]:
    """denials, changes: as people read it."""
    content = yield from exchange(socket, Request("GET", f"{where}/{what}", query))
    return content.decode("utf-8", "surrogateescape")


def acted(socket: str, where: str, verb: str, **body: Any) -> Steps[dict[str, Any]]:
    """commit, discard: what was done."""
    request = Request("POST", f"{where}/{verb}", body=_given(**body) or None)
    found: dict[str, Any] = msgspec.json.decode((yield from exchange(socket, request)))
    return found


_log_record = msgspec.json.Decoder(LogRecord)
_event = msgspec.json.Decoder(EventObject)
_dropped = msgspec.json.Decoder(Dropped)


def _record_of(line: bytes) -> LogRecord | Dropped:
    return _dropped.decode(line) if line.startswith(b'{"dropped"') else _log_record.decode(line)


def _event_of(line: bytes) -> EventObject | Dropped:
    return _dropped.decode(line) if line.startswith(b'{"dropped"') else _event.decode(line)


def logs(
    socket: str,
    where: str,
    *,
    follow: bool,
    stream: str | None,
    after: int | None,
    tail: int | None,
) -> Steps[None]:
    query = {"follow": follow, "stream": stream, "after": after, "tail": tail}
    request = Request("GET", f"{where}/logs", query)
    return (followed_lines if follow else lines)(socket, request, _record_of)


def events(socket: str, where: str | None, *, follow: bool, after: int | None) -> Steps[None]:
    """Of one sandbox, or of all; those of all have no end."""
    path = "/v1/events" if where is None else f"{where}/events"
    request = Request("GET", path, {"follow": follow, "after": after})
    if not follow:
        return lines(socket, request, _event_of)
    return followed_lines(socket, request, _event_of, ends=where is not None)


def version(socket: str) -> Steps[Version]:
    return msgspec.json.decode((yield from exchange(socket, Request("GET", "/v1/version"))), type=Version)
