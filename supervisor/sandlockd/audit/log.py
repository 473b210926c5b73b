"""One run's audit log: a line per refusal, repeats counted. What goes wrong here never reaches the program.

The first of a kind is written at once, with one write(2). Repeats are counted in memory and written at powers
of ten and at the end, so that even a killed supervisor leaves the order of magnitude. Memory and file are
bounded; what finds no place of its own is counted per call and rule, never dropped.

Refuses to raise into a handler: a full disk, a read-only or a broken one is kept in `failure`, tried again at
the end, and told by the run. Refuses to be shared: only the thread of the event loop calls it.
"""

from __future__ import annotations

import os
import time

from sandlockd.audit import state
from sandlockd.audit.records import (
    Allowed,
    Failure,
    Level,
    More,
    Note,
    Refusal,
    RunEnd,
    RunHeader,
    event_line,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Event = Refusal | Allowed | Failure | Note | More
    Key = tuple[object, ...]

LOG_BYTES_MAX = 50_000_000
KEYS_MAX = 10_000

# What is kept to count repeats by, all together: paths are chosen by the program and up to 4 KiB each.
_KEY_BYTES_MAX = 16 * 1024 * 1024
# What was allowed may take so much of all this: it comes in any number, and refusals are still to find room.
_ALLOWED_PART = 2

# The counts per call and rule and the end of the run still have room when the log is full.
_RESERVE_BYTES = 1_000_000

_REFUSED = frozenset({"refusal", "error"})


class _Entry:
    """One event and how often it happened. due: the count at which it is written next."""

    __slots__ = ("count", "due", "event", "first_ns", "last_ns", "number", "recorded")

    def __init__(self, event: Event, number: int, now_ns: int) -> None:
        self.event = event
        self.number = number
        self.first_ns = now_ns
        self.last_ns = now_ns
        self.count = 0
        self.recorded = 0  # the count in the newest line that reached the file
        self.due = 1


class AuditLog:
    """Writes `<directory>/runs/<run id>/audit.jsonl`.

    on_refusal: told of a refusal and its count whenever it is written, or would be; must not wait, nor raise.

    Raises:
        state.StateError: the directory belongs to, or may be written by, somebody else.
        FileExistsError: the given run id is taken.
    Any other error of making it (a full or read-only disk, no home) is kept in `failure`: the run goes on,
    counts, and tells.
    """

    def __init__(
        self,
        directory: bytes | str | os.PathLike[str],
        run_id: str | None = None,
        *,
        level: Level = Level.DENIALS,
        max_bytes: int = LOG_BYTES_MAX,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._directory = os.fsencode(directory)
        self._level = level
        self._max_bytes = max_bytes
        self._clock_ns = clock_ns
        self._log_fd: int | None = None
        self._size_bytes = 0
        self._torn = False
        self._entries: dict[Key, _Entry] = {}
        self._more: dict[Key, _Entry] = {}
        self._key_bytes = 0
        self._first_number = 0  # that was given before us
        self._header: bytes | None = None
        self._has_header = False
        self._has_end = False
        self._is_closed = False
        self.denials = 0
        self.allowed = 0
        self.on_refusal: Callable[[Refusal | Failure, int], None] | None = None
        self.failure: OSError | None = None
        self.run_id = run_id or state.new_run_id(clock_ns())
        if level is not Level.OFF:
            self._create(run_id)

    @property
    def unrecorded(self) -> int:
        """Refusals counted in `denials` but in no line of the file. Before `close` that includes repeats."""
        entries = [*self._entries.values(), *self._more.values()]
        return sum(entry.count - entry.recorded for entry in entries if _kind(entry.event) in _REFUSED)

    def begin(self, header: RunHeader) -> None:
        self._header = header.line(self._clock_ns())
        self._has_header = self._append(self._header)

    def resume(self) -> None:
        """Another process wrote this log since, and died: go on behind what it wrote."""
        if self._log_fd is None:
            return
        import json  # only where it is wanted

        try:
            with open(f"/proc/self/fd/{self._log_fd}", "rb") as file:
                text = file.read(self._max_bytes + _RESERVE_BYTES)
        except OSError as error:
            self.failure = self.failure or error
            return
        self._size_bytes = len(text)
        self._torn = bool(text) and not text.endswith(b"\n")
        counts: dict[int, int] = {}
        for line in text.split(b"\n"):
            try:
                record = json.loads(line)
                number = int(record["number"])
                self._first_number = max(self._first_number, number)
                if record["kind"] in _REFUSED:
                    counts[number] = int(record["count"])
            except (ValueError, KeyError, TypeError):
                continue  # no event, or torn
        self.denials = sum(counts.values())

    def refuse(self, refusal: Refusal | Failure) -> None:
        """Count a refusal, and write it if it is the first of its kind. Never raises OSError."""
        self.denials += 1
        if self._level is not Level.OFF or self.on_refusal is not None:
            self._count(refusal)

    def allow(self, allowed: Allowed) -> None:
        """Ask `records_allowed` first where building the record costs."""
        if self._level is Level.ALL:
            self.allowed += 1
            self._count(allowed)

    @property
    def records_allowed(self) -> bool:
        return self._level is Level.ALL

    def note(self, note: Note) -> None:
        if self._level is not Level.OFF:
            self._count(note)

    def close(self, end: RunEnd) -> None:
        """Write the counts that are only in memory, and the end of the run. A second call does nothing."""
        if self._is_closed or self._level is Level.OFF:
            return
        self._is_closed = True
        self._flush()
        line = end.line(
            self._clock_ns(),
            denials=self.denials,
            allowed=self.allowed if self._level is Level.ALL else None,
            unrecorded=self.unrecorded,
            log_failure=self._failure_words(),
        )
        self._has_end = self._append(line)
        if self._log_fd is not None:
            os.close(self._log_fd)  # gives the lock up: the run has ended
            self._log_fd = None
            self._prune()

    def closing_lines(self, *, failed: bool) -> list[str]:
        """What the foreground command says last, after `close`: refusals if it failed, any gap in the log."""
        lines = []
        if failed and self.denials:
            noun = "refusal" if self.denials == 1 else "refusals"
            lines.append(f"sandlockd: {self.denials} {noun}; {self._explanation()}")
        if gap := self._gap():
            lines.append(f"sandlockd: the audit log of this run is incomplete: {self._cause()}; {gap}")
        return lines

    def _gap(self) -> str | None:
        if self._level is Level.OFF:
            return None
        # A disk that was full for a while and then took everything leaves no gap to tell of.
        merged = sum(entry.count for entry in self._more.values() if _kind(entry.event) in _REFUSED)
        if merged:
            return f"{merged} of {self.denials} refusals have no record of their own"
        return "its end is not written" if self.failure is not None and not self._has_end else None

    def _cause(self) -> str:
        if self.failure is not None:
            return self._failure_words() or ""
        return "it is full" if self._is_full() else "too many different refusals"

    def _explanation(self) -> str:
        if self._level is Level.OFF:
            return 'to see them, set level = "denials" under [audit]'
        return f"to see why: sandlockd explain {self.run_id}"

    def _create(self, run_id: str | None) -> None:
        try:
            self.run_id, self._log_fd = state.create_run(self._directory, run_id, self._clock_ns())
        except FileExistsError:
            raise
        except OSError as error:
            self.failure = error  # a full or read-only disk, a home that does not exist: the run goes on

    def _count(self, event: Event) -> None:
        key = event.key()
        entry = self._entries.get(key)
        if entry is None:
            if not self._has_room_for(event):
                entry = self._more_entry(event, self._clock_ns())
                self._tally(entry, self._max_bytes + _RESERVE_BYTES)
                return
            entry = self._entries[key] = _Entry(event, self._next_number(), self._clock_ns())
            self._key_bytes += self._tally(entry, self._max_bytes)
        else:
            self._tally(entry, self._max_bytes)

    def _has_room_for(self, event: Event) -> bool:
        part = _ALLOWED_PART if isinstance(event, Allowed) else 1
        return (
            len(self._entries) < KEYS_MAX // part
            and self._key_bytes < _KEY_BYTES_MAX // part
            and self._size_bytes < self._max_bytes // part
        )

    def _more_entry(self, event: Event, first_ns: int) -> _Entry:
        more = _more_of(event)
        entry = self._more.get(more.key())
        if entry is None:
            entry = self._more[more.key()] = _Entry(more, self._next_number(), first_ns)
        return entry

    def _tally(self, entry: _Entry, limit_bytes: int) -> int:
        """Count one, and write at powers of ten. Returns the length of the line, 0 if none was due."""
        entry.count += 1
        entry.last_ns = self._clock_ns()
        if entry.count < entry.due:
            return 0
        entry.due *= 10
        if self.on_refusal is not None and isinstance(entry.event, Refusal | Failure):
            self.on_refusal(entry.event, entry.count)
        return self._record(entry, limit_bytes)

    def _record(self, entry: _Entry, limit_bytes: int) -> int:
        line = event_line(
            entry.event,
            number=entry.number,
            first_ns=entry.first_ns,
            last_ns=entry.last_ns,
            count=entry.count,
        )
        if self._size_bytes + len(line) <= limit_bytes and self._append(line):
            entry.recorded = entry.count
        return len(line)

    def _flush(self) -> None:
        if not self._has_header and self._header is not None:
            self._has_header = self._append(self._header)
        for entry in self._entries.values():
            if entry.count == entry.recorded:
                continue
            self._record(entry, self._max_bytes)
            # What still has no line, for want of room, goes into the count per call and rule: few lines.
            if missing := entry.count - entry.recorded:
                entry.count = entry.recorded
                more = self._more_entry(entry.event, entry.first_ns)
                more.count += missing
                more.last_ns = max(more.last_ns, entry.last_ns)
        for entry in self._more.values():
            if entry.count != entry.recorded:
                self._record(entry, self._max_bytes + _RESERVE_BYTES)

    def _append(self, line: bytes) -> bool:
        """Add one whole line to the file, or none of it."""
        if self._log_fd is None:
            return False
        whole = b"\n" + line if self._torn else line
        sent = 0
        try:
            while sent < len(whole):
                sent += os.write(self._log_fd, whole[sent:])
        except OSError as error:
            self.failure = self.failure or error
            if sent:
                self._take_back(sent)
            return False
        self._torn = False
        self._size_bytes += sent
        return True

    def _take_back(self, sent: int) -> None:
        """Remove a line that the disk took only the beginning of."""
        assert self._log_fd is not None
        try:
            os.ftruncate(self._log_fd, self._size_bytes)
        except OSError:
            # It stays as a damaged line, which readers tell; the next one begins after a newline.
            self._torn = True
            self._size_bytes += sent

    def _prune(self) -> None:
        try:
            state.prune(self._directory)
        except (OSError, state.StateError):
            return  # old logs stay; the next run tries again

    def _is_full(self) -> bool:
        return self._size_bytes >= self._max_bytes

    def _next_number(self) -> int:
        return self._first_number + len(self._entries) + len(self._more) + 1

    def _failure_words(self) -> str | None:
        if self.failure is None:
            return None
        return self.failure.strerror or str(self.failure)


def _kind(event: Event) -> str:
    return event.of if isinstance(event, More) else event.kind


def _more_of(event: Event) -> More:
    if isinstance(event, More):
        return event
    if isinstance(event, Failure):
        return More(of=event.kind, call=event.refusal.call, rule=event.refusal.rule)
    if isinstance(event, Note):
        return More(of=event.kind, call="", rule=event.subject)
    return More(of=event.kind, call=event.call, rule=event.rule)
