"""What the service can be asked for, as steps: the same for every client."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from sandlockd.client.steps import Request, Steps, exchange, followed_lines, lines, patient_exchange
from sandlockd.control.objects import (
    Dropped,
    EventObject,
    LogRecord,
    RunRequest,
    SandboxList,
    SandboxObject,
    Version,
)

_ALL = "/v1/sandboxes"
_ROUND_S = 3600.0  # one question of `wait` lasts at most so long
_PAGE = 1000


def _one(identifier: str, what: str = "") -> str:
    from sandlockd.client.steps import quoted

    return f"{_ALL}/{quoted(identifier)}{'/' + what if what else ''}"


def _given(**options: Any) -> dict[str, Any]:
    """Those that say something: what is left out is as the service has it."""
    return {name: value for name, value in options.items() if value is not None}


def run(socket: str, command: Sequence[str], options: Mapping[str, Any]) -> Steps[SandboxObject]:
    """Raises TypeError, ValueError: it is no request, and the service was not asked."""
    body = {"command": list(command), **_given(**options)}
    unknown = body.keys() - set(RunRequest.__struct_fields__)
    if unknown:
        raise TypeError(f"run() has no option {min(unknown)!r}")
    try:
        msgspec.convert(body, RunRequest)
        content = msgspec.json.encode(body)
    except (msgspec.MsgspecError, UnicodeEncodeError) as error:
        raise ValueError(_told(error)) from None
    answer = yield from exchange(socket, Request("POST", _ALL, body=msgspec.Raw(content)))
    return msgspec.json.decode(answer, type=SandboxObject)


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


def inspected(socket: str, identifier: str) -> Steps[SandboxObject]:
    return _sandbox((yield from exchange(socket, Request("GET", _one(identifier)))))


def _sandbox(content: bytes) -> SandboxObject:
    return msgspec.json.decode(content, type=SandboxObject)


def asked(socket: str, identifier: str, verb: str, **body: Any) -> Steps[SandboxObject]:
    """stop, kill, pause, resume, signal: what it is afterwards."""
    request = Request("POST", _one(identifier, verb), body=_given(**body) or None)
    return _sandbox((yield from exchange(socket, request)))


def waited(socket: str, identifier: str, timeout_s: float | None) -> Steps[SandboxObject]:
    """Until it has ended, or the time is up. A broken connection is made again."""
    deadline = None if timeout_s is None else time.monotonic() + timeout_s

    def request() -> Request:
        left_s = _ROUND_S if deadline is None else max(min(deadline - time.monotonic(), _ROUND_S), 0.0)
        return Request("POST", _one(identifier, "wait"), body={"timeout_s": left_s})

    while True:
        found = _sandbox((yield from patient_exchange(socket, request)))
        if found.ended is not None or (deadline is not None and time.monotonic() >= deadline):
            return found


def removed(socket: str, identifier: str, *, force: bool) -> Steps[None]:
    yield from exchange(socket, Request("DELETE", _one(identifier), {"force": force}))


def asked_for(socket: str, identifier: str, what: str) -> Steps[Any]:
    """processes, stats, policy."""
    return msgspec.json.decode((yield from exchange(socket, Request("GET", _one(identifier, what)))))


def records(socket: str, identifier: str, what: str, **query: Any) -> Steps[None]:
    """denials, changes: JSON objects, a line each."""
    return lines(socket, Request("GET", _one(identifier, what), query), msgspec.json.decode)


def text(socket: str, identifier: str, what: str, **query: Any) -> Steps[str]:
    """denials, changes: as people read it."""
    content = yield from exchange(socket, Request("GET", _one(identifier, what), query))
    return content.decode("utf-8", "surrogateescape")


def acted(socket: str, identifier: str, verb: str, **body: Any) -> Steps[dict[str, Any]]:
    """commit, discard: what was done."""
    request = Request("POST", _one(identifier, verb), body=_given(**body) or None)
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
    identifier: str,
    *,
    follow: bool,
    stream: str | None,
    after: int | None,
    tail: int | None,
) -> Steps[None]:
    query = {"follow": follow, "stream": stream, "after": after, "tail": tail}
    request = Request("GET", _one(identifier, "logs"), query)
    return (followed_lines if follow else lines)(socket, request, _record_of)


def events(socket: str, identifier: str | None, *, follow: bool, after: int | None) -> Steps[None]:
    """Of one sandbox, or of all; those of all have no end."""
    path = "/v1/events" if identifier is None else _one(identifier, "events")
    request = Request("GET", path, {"follow": follow, "after": after})
    if not follow:
        return lines(socket, request, _event_of)
    return followed_lines(socket, request, _event_of, ends=identifier is not None)


def version(socket: str) -> Steps[Version]:
    return msgspec.json.decode((yield from exchange(socket, Request("GET", "/v1/version"))), type=Version)
