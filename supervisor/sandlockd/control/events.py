"""What happened to sandboxes, for those who want to follow it: a ring of the last ones, read by number.

A reader that is slower than what happens finds the oldest gone, and is told how many. Nobody is kept waiting by it.
"""

from __future__ import annotations

import collections
import itertools
import time
from typing import Any, NamedTuple

import trio

from sandlockd.control.records import Event

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

EVENTS_KEPT = 10_000


class EventBatch(NamedTuple):
    """dropped: so many before these have gone. cursor: to go on from."""

    events: list[Event]
    cursor: int
    dropped: int


class Events:
    def __init__(
        self, before: Iterable[Event] = (), store: Callable[[Event, int], None] | None = None
    ) -> None:
        """before: in order. store: of a new one, and the number of the oldest that is kept."""
        self._ring = collections.deque(before, maxlen=EVENTS_KEPT)
        self._next = self._ring[-1].number + 1 if self._ring else 1
        self._store = store
        self._readers = trio.lowlevel.ParkingLot()

    @property
    def end(self) -> int:
        """The number of the next one."""
        return self._next

    def happened(self, sandbox: str, uid: int, kind: str, **data: Any) -> Event:
        event = Event(self._next, time.time_ns(), sandbox, uid, kind, data)
        self._next += 1
        self._ring.append(event)
        if self._store is not None:
            self._store(event, self._ring[0].number)
        self._readers.unpark_all()
        return event

    async def beyond(self, cursor: int) -> None:
        while cursor >= self._next:
            await self._readers.park()

    def read(self, cursor: int, wanted: Callable[[Event], bool], max_events: int = 1000) -> EventBatch:
        first = self._ring[0].number if self._ring else self._next
        dropped, cursor = max(first - cursor, 0) if cursor else 0, max(cursor, first)
        found: list[Event] = []
        # Of those before our own time some went with their sandbox.
        missing = self._next - first - len(self._ring)
        for event in itertools.islice(self._ring, max(cursor - first - missing, 0), None):
            if event.number < cursor:
                continue
            cursor = event.number + 1
            if wanted(event):
                found.append(event)
                if len(found) >= max_events:
                    break
        return EventBatch(found, cursor, dropped)
