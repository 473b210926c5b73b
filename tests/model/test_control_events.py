"""The ring of events: read by number, with what has gone told, beside a list that has all of them."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from sandlockd.control import events as module
from sandlockd.control.events import Events
from sandlockd.control.records import Event


def _events(numbers: Iterable[int]) -> list[Event]:
    return [Event(number, 0, f"s{number % 3}", number % 2, "running") for number in numbers]


def _read_all(events: Events, cursor: int, uid: int, max_events: int = 1000) -> tuple[list[int], int]:
    """Numbers, and how many were dropped."""
    found, dropped = [], 0
    while True:
        batch = events.read(cursor, lambda event: event.uid == uid, max_events)
        dropped += batch.dropped
        found += [event.number for event in batch.events]
        if batch.cursor >= events.end:
            return found, dropped
        assert batch.cursor > cursor, "it goes on"
        cursor = batch.cursor


@given(
    before=st.sets(st.integers(1, 60)),
    new=st.integers(0, 40),
    cursor=st.integers(0, 120),
    uid=st.integers(0, 1),
    at_once=st.integers(1, 7),
    kept=st.integers(1, 50),
)
def test_every_reader_gets_what_is_there_and_is_told_what_is_not(
    before: set[int], new: int, cursor: int, uid: int, at_once: int, kept: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "EVENTS_KEPT", kept)
        events = Events(_events(sorted(before)))
        every = sorted(before)
        for _ in range(new):
            event = events.happened("x", events.end % 2, "running")
            every.append(event.number)
        ring = every[-kept:]
        found, dropped = _read_all(events, cursor, uid, at_once)
    # The owner of an event is told by its number here.
    assert found == [number for number in ring if number >= cursor and number % 2 == uid]
    first = ring[0] if ring else events.end
    assert dropped == (max(first - cursor, 0) if cursor else 0)


def test_each_is_stored_with_the_number_of_the_oldest_that_is_kept() -> None:
    stored: list[tuple[int, int]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "EVENTS_KEPT", 2)
        events = Events((), lambda event, oldest: stored.append((event.number, oldest)))
        for _ in range(4):
            events.happened("x", 0, "running")
    assert stored == [(1, 1), (2, 1), (3, 2), (4, 3)]


@pytest.mark.trio
async def test_who_waits_is_woken_by_the_next_one() -> None:
    events = Events()
    seen: list[int] = []

    async def follow() -> None:
        await events.beyond(1)
        seen.append(events.read(1, lambda event: True).events[0].number)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow)
        await trio.testing.wait_all_tasks_blocked()
        assert not seen
        events.happened("x", 0, "running")
    assert seen == [1]
