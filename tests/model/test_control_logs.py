"""The log of what a program wrote, beside a list that has all of it."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from sandlockd.control import logs
from sandlockd.control.logs import Log, Record, Stream

_SEGMENT = 256  # bytes; of a log in these tests
_RECORD = 100
_MARK = 60


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a few lines fill it."""
    monkeypatch.setattr(logs, "_RECORD_BYTES", _RECORD)
    monkeypatch.setattr(logs, "_MARK_BYTES", _MARK)


@pytest.fixture
def directory(tmp_path: Path) -> str:
    return str(tmp_path / "logs")


def _log(directory: str) -> Log:
    return Log(directory, 4 * _SEGMENT)


def _all(log: Log, cursor: int = 0, max_bytes: int = 1 << 18) -> tuple[list[Record], int]:
    """Records, and the bytes of log that had gone."""
    found: list[Record] = []
    dropped = 0
    is_boundary = False  # a client's may be anywhere
    while True:
        batch = log.read(cursor, max_bytes, is_boundary=is_boundary)
        is_boundary = True
        dropped += batch.dropped
        found += batch.records
        if not batch.records and not batch.dropped:
            assert batch.cursor == log.end or cursor > log.end
            return found, dropped
        assert batch.cursor > cursor
        cursor = batch.cursor


class _Oracle:
    """All that was ever appended: start, end, stream, data."""

    def __init__(self) -> None:
        self.records: list[tuple[int, int, Stream, bytes]] = []
        self.end = 0

    def append(self, stream: Stream, data: bytes) -> None:
        for start in range(0, len(data), _RECORD):
            part = data[start : start + _RECORD]
            end = self.end + logs._HEADER.size + len(part)
            self.records.append((self.end, end, stream, part))
            self.end = end

    def since(self, position: int) -> list[tuple[Stream, bytes]]:
        return [(stream, data) for start, _, stream, data in self.records if start >= position]


_steps = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(Stream), st.binary(max_size=3 * _RECORD)),
        st.just("restart"),
        st.integers(1, _RECORD),  # so many bytes of a record that was not finished, and a restart
    ),
    max_size=30,
)


@given(steps=_steps, cursor=st.integers(0, 4000), at_once=st.integers(1, 500), count=st.integers(0, 12))
@settings(max_examples=150)
def test_it_has_what_was_written_but_for_the_oldest(
    steps: list[object], cursor: int, at_once: int, count: int
) -> None:
    with tempfile.TemporaryDirectory() as root, pytest.MonkeyPatch.context() as patch:
        patch.setattr(logs, "_RECORD_BYTES", _RECORD)
        patch.setattr(logs, "_MARK_BYTES", _MARK)
        directory, oracle = f"{root}/logs", _Oracle()
        log = _log(directory)
        for step in steps:
            if isinstance(step, tuple):
                log.append(*step)
                oracle.append(*step)
                continue
            log.finish()
            if isinstance(step, int) and log._bases:
                _tear(directory, step)
            log = _log(directory)
        assert log.end == oracle.end
        first = log._bases[0] if log._bases else 0
        assert len(list(Path(directory).iterdir())) <= 4
        # A record more than the cap of each segment, at most.
        assert log.end - first <= 4 * (_SEGMENT + _RECORD + logs._HEADER.size)
        found, dropped = _all(log, cursor, at_once)
        assert [(record.stream, record.data) for record in found] == oracle.since(max(cursor, first))
        assert dropped == max(first - cursor, 0)
        kept = oracle.since(first)
        tail, _ = _all(log, log.last(count))
        assert [(record.stream, record.data) for record in tail] == (kept[-count:] if count else [])
        log.finish()


def test_who_asks_has_little_looked_through_however_short_records_are(
    directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is everybody's loop that looks: 190,000 records of a byte are in a segment of a log of 10M."""
    looked = 0
    before = Log._segment

    def counted(self: Log, *given: int) -> Iterator[Record]:
        nonlocal looked
        for record in before(self, *given):
            looked += 1
            yield record

    monkeypatch.setattr(Log, "_segment", counted)
    monkeypatch.setattr(logs, "_MARK_BYTES", 1000)
    written = Log(directory, 4 * 20_000)
    for number in range(5000):
        written.append(Stream.STDOUT, b"%d" % (number % 10))
    short = logs._HEADER.size + 1
    first = written._bases[0]
    for log in (written, Log(directory, 4 * 20_000)):
        for cursor in (0, first + 1, log.end - 10_001, log.end - 1):
            looked = 0
            batch = log.read(cursor, 2000)
            assert len(batch.records) <= 2000 // short + 1
            assert looked <= (1000 + 2000) // short + 2
        for count in (1, 7, 1000, 4000):
            looked = 0
            assert log.last(count) == log.end - count * short
            assert looked <= 1000 // short + 2
        looked = 0
        assert log.last(10**6) == first and looked == 0
        log.finish()


def test_a_segment_without_a_whole_record_is_passed_by(directory: str) -> None:
    log = _log(directory)
    for _ in range(12):
        log.append(Stream.STDOUT, b"x" * 50)
    log.finish()
    oldest = min(Path(directory).iterdir())
    oldest.write_bytes(oldest.read_bytes()[:20])
    log = _log(directory)
    second = log._bases[1]
    for cursor in (0, 1, 30):
        found, _ = _all(log, cursor)
        assert [record.start for record in found[:1]] == [second] and len(found) < 12
    assert log.last(100) == 0 and log.last(1) == log.end - 63
    log.finish()


def _tear(directory: str, size: int) -> None:
    """As if the service had been killed while it wrote a record of 100 bytes."""
    whole = logs._HEADER.pack(_RECORD, Stream.STDOUT, 0) + b"x" * _RECORD
    with open(max(Path(directory).iterdir()), "ab") as file:
        file.write(whole[:size])


def test_what_finds_no_room_is_counted_and_what_was_there_stays(directory: str) -> None:
    log = _log(directory)
    log.append(Stream.STDOUT, b"before")
    real = os.write

    def full(fd: int, data: bytes) -> int:
        if len(data) > 20:
            return real(fd, data[:20])  # half of it, as a disk does that fills up
        raise OSError(errno.ENOSPC, "no space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logs.os, "write", full)
        log.append(Stream.STDOUT, b"lost" * 10)
    assert log.lost_bytes == 40
    log.append(Stream.STDERR, b"after")
    assert [record.data for record in _all(log)[0]] == [b"before", b"after"]
    assert [record.data for record in _all(_log(directory))[0]] == [b"before", b"after"]


@pytest.mark.trio
async def test_who_follows_is_woken_by_what_comes_and_by_the_end(directory: str) -> None:
    log = _log(directory)
    seen: list[bytes] = []

    async def follow() -> None:
        cursor = 0
        while await log.beyond(cursor):
            batch = log.read(cursor)
            cursor = batch.cursor
            seen.extend(record.data for record in batch.records)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow)
        for text in (b"a", b"b"):
            await trio.testing.wait_all_tasks_blocked()
            log.append(Stream.STDOUT, text)
        await trio.testing.wait_all_tasks_blocked()
        log.finish()
    assert seen == [b"a", b"b"]


def test_a_link_in_place_of_a_segment_is_not_followed(directory: str, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"")
    log = _log(directory)
    os.symlink(victim, f"{directory}/{0:020d}")
    log.append(Stream.STDOUT, b"x")
    assert log.lost_bytes == 1 and victim.read_bytes() == b""


def test_a_reader_whose_segment_goes_meanwhile_goes_on_with_the_next(directory: str) -> None:
    log = _log(directory)
    log.append(Stream.STDOUT, b"first")
    cursor = log.read(0).cursor
    for number in range(40):
        log.append(Stream.STDOUT, b"%03d" % number * 30)
    found, dropped = _all(log, cursor)
    assert dropped > 0 and found[-1].data == b"039" * 30


def _files(directory: str) -> Iterator[Path]:
    yield from Path(directory).iterdir()


def test_files_are_for_nobody_else(directory: str) -> None:
    log = _log(directory)
    log.append(Stream.STDOUT, b"x")
    assert {path.stat().st_mode & 0o777 for path in _files(directory)} == {0o600}
    assert os.stat(directory).st_mode & 0o777 == 0o700
