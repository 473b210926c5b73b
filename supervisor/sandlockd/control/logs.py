"""What a program wrote, on disk: a log of records in segments, of which the oldest go when it is over its cap.

    <directory>/00000000000000000000     a segment, named by the position of its first byte in all that was ever logged
    <directory>/00000000000002621453     the next one

Whoever follows a log reads it from here, at a pace of its own, by a cursor: a position in all that was ever logged.
One that is too slow finds the oldest gone, and is told how much. So nobody's reading takes memory, or keeps anybody
waiting.
"""

from __future__ import annotations

import contextlib
import enum
import os
import shutil
import struct
import time
from bisect import bisect_right
from typing import NamedTuple

import trio

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_HEADER = struct.Struct("<IBQ")  # length, stream, time in ns
_RECORD_BYTES = 1 << 16
_SEGMENTS = 4
_AT_ONCE_BYTES = 1 << 17  # of records with their heads: there may be thousands of them
_MARK_BYTES = 1 << 16
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


class Stream(enum.IntEnum):
    STDOUT = 1
    STDERR = 2
    TTY = 3


class Record(NamedTuple):
    """cursor: where the one after it begins."""

    cursor: int
    stream: Stream
    time_ns: int
    data: bytes

    @property
    def start(self) -> int:
        """Its own."""
        return self.cursor - _HEADER.size - len(self.data)


class Batch(NamedTuple):
    """dropped: so many bytes of log before these had gone already. cursor: to go on from."""

    records: list[Record]
    cursor: int
    dropped: int


class _Marks:
    """Where records of a segment begin, one of them in so many bytes: nobody has to look through more than that. A
    program may write a byte at a time, and its log is read on everybody's loop.
    """

    def __init__(self, base: int) -> None:
        self._at = [base]
        self._before = [0]
        self.count = 0  # records

    def begins(self, position: int) -> None:
        """Of each record, in turn."""
        if position - self._at[-1] >= _MARK_BYTES:
            self._at.append(position)
            self._before.append(self.count)
        self.count += 1

    def before(self, cursor: int) -> int:
        """Where one begins, there or before it."""
        return self._at[bisect_right(self._at, cursor) - 1]

    def of(self, number: int) -> tuple[int, int]:
        """Where one begins, and its number, that or a smaller one."""
        which = bisect_right(self._before, number) - 1
        return self._at[which], self._before[which]


class Reader:
    """Who reads a log on and on. cursor: where it is."""

    def __init__(self, log: Log, cursor: int) -> None:
        self._log = log
        self._is_boundary = False  # a client's may be anywhere
        self.cursor = cursor

    def read(self) -> Batch:
        """What comes next. Raises OSError."""
        batch = self._log.read(self.cursor, is_boundary=self._is_boundary)
        self.cursor, self._is_boundary = batch.cursor, True
        return batch

    async def beyond(self) -> bool:
        """Wait until there is more. False: never again."""
        return await self._log.beyond(self.cursor)


class Log:
    """One sandbox's. max_bytes: of all segments, about."""

    def __init__(self, directory: str, max_bytes: int) -> None:
        """Takes up what is there. Raises OSError."""
        os.makedirs(directory, 0o700, exist_ok=True)
        self._directory = directory
        self._segment_bytes = max(max_bytes // _SEGMENTS, _RECORD_BYTES)
        self._bases = sorted(int(name) for name in os.listdir(directory) if name.isdigit())
        self._fd = -1
        self._at = 0
        self._lost = 0  # bytes that found no room on the disk
        self.is_over = False
        self._readers = trio.lowlevel.ParkingLot()
        self._marks: dict[int, _Marks] = {}
        if self._bases:
            self._at = self._bases[-1] + self._repaired(self._bases[-1])

    @property
    def end(self) -> int:
        """The position behind the last record."""
        return self._at

    @property
    def lost_bytes(self) -> int:
        """That the program wrote, and that found no room on the disk."""
        return self._lost

    # ---- writing

    def append(self, stream: Stream, data: bytes) -> None:
        """Never raises OSError: what cannot be kept is counted, and the program goes on."""
        for start in range(0, len(data), _RECORD_BYTES):
            part = data[start : start + _RECORD_BYTES]
            try:
                self._append_one(_HEADER.pack(len(part), stream, time.time_ns()) + part)
            except OSError:
                self._lost += len(part)
        self._readers.unpark_all()

    def _append_one(self, record: bytes) -> None:
        if self._fd < 0 or self._at - self._bases[-1] >= self._segment_bytes:
            self._next_segment()
        written = os.write(self._fd, record)
        if written < len(record):  # the disk is full: half a record is none
            os.ftruncate(self._fd, self._at - self._bases[-1])
            raise OSError
        self._marks_of(self._bases[-1]).begins(self._at)
        self._at += written

    def _next_segment(self) -> None:
        is_new = not self._bases or self._at - self._bases[-1] >= self._segment_bytes
        base = self._at if is_new else self._bases[-1]
        fd = os.open(self._path(base), _FLAGS, 0o600)
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = fd
        if is_new:
            self._bases.append(base)
            self._marks[base] = _Marks(base)
        while len(self._bases) > _SEGMENTS:
            self._marks.pop(self._bases[0], None)
            os.unlink(self._path(self._bases.pop(0)))

    def finish(self) -> None:
        """Nothing more comes."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self.is_over = True
        self._readers.unpark_all()

    @property
    def size(self) -> int:
        """What is kept, in bytes."""
        return self._at - self._bases[0] if self._bases else 0

    def clear(self) -> None:
        """Of one that is over: all goes as the oldest does, and readers are told so."""
        bases, self._bases = self._bases, []
        self._marks.clear()
        for base in bases:
            with contextlib.suppress(OSError):  # it goes with the directory
                os.unlink(self._path(base))

    def remove(self) -> None:
        """Of one that is over. What resists goes with the directory that it is in."""
        shutil.rmtree(self._directory, ignore_errors=True)

    # ---- reading

    async def beyond(self, cursor: int) -> bool:
        """Wait until there is more than at the cursor. False: never again."""
        while cursor >= self._at:
            if self.is_over:
                return False
            await self._readers.park()
        return True

    def reader(self, cursor: int) -> Reader:
        """For who reads on and on."""
        return Reader(self, cursor)

    def read(self, cursor: int, max_bytes: int = _AT_ONCE_BYTES, *, is_boundary: bool = False) -> Batch:
        """From the cursor on; one in the middle of a record is moved to the next. Raises OSError.

        is_boundary: a cursor of ours: what lies before it need not be looked at.
        """
        first = self._bases[0] if self._bases else self._at
        dropped = max(first - cursor, 0)
        cursor = at = max(cursor, first)
        if cursor >= self._at:
            return Batch([], cursor, dropped)
        if not is_boundary:
            at = self._marks_of(self._base_of(cursor)).before(cursor)
        records: list[Record] = []
        size = 0
        while at < self._at and size < max_bytes:
            base, begin = self._base_of(at), at
            for record in self._segment(base, begin, max_bytes - size):
                at = record.cursor
                if record.start >= cursor:
                    records.append(record)
                    size += _HEADER.size + len(record.data)
                    if size >= max_bytes:
                        break
            if at == begin:  # nothing that is whole
                at = self._after(base)
        return Batch(records, at, dropped)

    def last(self, count: int) -> int:
        """The cursor of the last so many records. Raises OSError."""
        if not count or not self._bases:
            return self._at
        for base in reversed(self._bases):
            marks = self._marks_of(base)
            if count > marks.count:
                count -= marks.count
                continue
            wanted = marks.count - count
            at, number = marks.of(wanted)
            for record in self._segment(base, at, _MARK_BYTES):
                if number == wanted:
                    return record.start
                number += 1
        return self._bases[0]

    def _base_of(self, cursor: int) -> int:
        return max(base for base in self._bases if base <= cursor)

    def _after(self, base: int) -> int:
        return next((later for later in self._bases if later > base), self._at)

    def _segment(self, base: int, begin: int, room: int) -> Iterator[Record]:
        """From that boundary on, those that begin within so many bytes."""
        with open(self._path(base), "rb") as file:
            file.seek(begin - base)
            content = file.read(min(self._at - begin, room + _HEADER.size + _RECORD_BYTES))
        at = 0
        while at + _HEADER.size <= len(content):
            length, stream, time_ns = _HEADER.unpack_from(content, at)
            at += _HEADER.size + length
            if at > len(content):
                return
            yield Record(begin + at, Stream(stream), time_ns, content[at - length : at])

    def _marks_of(self, base: int) -> _Marks:
        """Of a segment that the service before wrote they are found out. Raises OSError."""
        if base not in self._marks:
            with open(self._path(base), "rb") as file:
                self._mark(base, file.read())
        return self._marks[base]

    def _mark(self, base: int, content: bytes) -> int:
        """How much of it is whole."""
        marks, at = _Marks(base), 0
        while at + _HEADER.size <= len(content):
            end = at + _HEADER.size + _HEADER.unpack_from(content, at)[0]
            if end > len(content):
                break
            marks.begins(base + at)
            at = end
        self._marks[base] = marks
        return at

    def _repaired(self, base: int) -> int:
        """How much of the last segment is whole: the service may have been killed in the middle of a record."""
        with open(self._path(base), "r+b") as file:
            at = self._mark(base, file.read())
            file.truncate(at)
        return at

    def _path(self, base: int) -> str:
        return f"{self._directory}/{base:020d}"
