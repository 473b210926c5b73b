"""How long others wait while large files are copied up: the 99th percentile of their calls, by that of an idle machine.

Three files, one after the other: one is copied within the page cache in less than half a second, and the percentile
would be that of a handful of calls. Bare and under the floor nothing is copied up; there the same files are copied,
which is as much work for the disk.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from suite.place import Place
from suite.processes import Failure
from suite.rows import Budget, Group, Measure, Row, Unit
from suite.session import new_session
from suite.subjects import Kind, Subject

_BUDGET = Budget(2, Measure.ABSOLUTE)
_CHUNK = 1 << 20
_FILES = 3  # as in ops.c
_IDLE_SAMPLES = 4000
_SIZE_BYTES = 1 << 30
_SAMPLES_MAX = 100_000


def new_rows() -> list[Row]:
    what = "99th percentile of open, stat, access, stat while files of 1 GB are copied up, by the idle one"
    return [Row(Group.TREE_COPY, "tree_copying_p99", what, Unit.TIMES_IDLE, _BUDGET)]


def measure(place: Place, subjects: Sequence[Subject], rows: Sequence[Row], *, quick: bool) -> None:
    """One round, into the rows; the subjects one after the other."""
    for row in rows:
        for subject in subjects:
            try:
                row.add(subject.kind, _times_idle(place, subject, quick=quick))
            except Failure as failure:
                row.fail(subject.kind, str(failure))
    place.renew_work(())


def _times_idle(place: Place, subject: Subject, *, quick: bool) -> float:
    """Raises: Failure."""
    place.renew_work(())
    in_tree = subject.kind in (Kind.SANDBOXED, Kind.PEER)
    word = "look_beside_first_write" if in_tree else "look_beside_copy"
    size_bytes, idle_samples = (_CHUNK, 5) if quick else (_SIZE_BYTES, _IDLE_SAMPLES)

    def fill(directory: Path) -> None:
        _fill(directory, size_bytes)

    with new_session(place, subject, quick=quick, prepare=fill) as session:
        session.greet()
        idle = session.ask("look_idle", idle_samples)
        beside = session.ask(word, _SAMPLES_MAX)
        session.end()
    shutil.rmtree(place.work / subject.kind)
    for answer in (idle, beside):
        if answer.failures:
            raise Failure(f"{answer.failures} calls failed")
    return beside.each_s / idle.each_s


def _fill(directory: Path, size_bytes: int) -> None:
    """No holes, which would not be copied; on the disk, so that it is not written meanwhile."""
    chunk = bytes(range(256)) * (_CHUNK // 256)
    for number in range(_FILES):
        with (directory / f"big{number}").open("wb") as out:
            for _ in range(size_bytes // _CHUNK):
                out.write(chunk)
            os.fsync(out.fileno())
