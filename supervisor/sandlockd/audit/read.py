"""A run's audit log, read back: the newest count of each event, and what the file itself has lost.

Only `explain` and the like import this; no run does. Believes nothing about the file: a line that is torn
(the supervisor was killed) or not one of our records is told of, and the rest is read.
"""

from __future__ import annotations

import json
import os
from base64 import b64decode
from dataclasses import dataclass, field

from sandlockd.audit import state

Record = dict[str, object]

# Far more than any record that the log writes: nothing larger is held in memory.
_LINE_BYTES_MAX = 1_000_000


@dataclass(frozen=True, slots=True)
class RunLog:
    """events: refusals, errors, notes, allowed calls, `more` counts, by their first occurrence."""

    run_id: str
    header: Record | None
    events: list[Record]
    end: Record | None
    damaged: int
    cut_short: bool  # the last line has no end: its writer was killed
    running: bool


@dataclass(slots=True)
class _Collected:
    header: Record | None = None
    end: Record | None = None
    damaged: int = 0
    cut_short: bool = False
    events: dict[int, Record] = field(default_factory=dict)


def read_run(directory: bytes, run_id: str) -> RunLog:
    """Read a run that has ended or still goes on.

    Raises:
        FileNotFoundError: there is no such run.
        state.StateError, OSError.
    """
    log_fd = state.open_log(directory, run_id)
    found = _Collected()
    with os.fdopen(log_fd, "rb") as log:
        # Asked before reading: a run that ends meanwhile is shown as going on, not as cut off in its middle.
        running = state.is_running(log_fd)
        while line := log.readline(_LINE_BYTES_MAX):
            _collect(found, line)
    return RunLog(
        run_id=run_id,
        header=found.header,
        events=list(found.events.values()),
        end=found.end,
        damaged=found.damaged,
        cut_short=found.cut_short,
        running=running,
    )


def text(record: Record, name: str) -> str:
    """A text field; empty if it is absent or null."""
    value = record.get(name)
    return value if isinstance(value, str) else ""


def number(record: Record, name: str) -> int:
    value = record.get(name)
    return value if isinstance(value, int) else 0


def exact_bytes(record: Record, name: str) -> bytes | None:
    """The bytes of a path or target as the program gave them; None if it has none."""
    if not isinstance(record.get(name), str):
        return None
    if encoded := text(record, f"{name}_b64"):
        return b64decode(encoded)
    return text(record, name).encode("utf-8", "surrogateescape")


def _collect(found: _Collected, line: bytes) -> None:
    if not line.endswith(b"\n"):
        found.cut_short = True
        return
    found.cut_short = False
    if line == b"\n":
        return  # written after a line that the disk took only a part of
    record = _parsed(line)
    if record is None:
        found.damaged += 1
        return
    match record["kind"]:
        case "run":
            found.header = record
        case "end":
            found.end = record
        case _:
            # The same number again is the same event, counted further. It keeps the first one's place.
            found.events[number(record, "number")] = record


def _parsed(line: bytes) -> Record | None:
    try:
        record = json.loads(line)
    # RecursionError: a file that is not ours, nested to break the parser.
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and isinstance(record.get("kind"), str) else None
