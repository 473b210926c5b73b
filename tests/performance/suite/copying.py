"""How long others wait while a large file is copied up: the 99th percentile of their calls, by that of an idle machine.

Bare and under the floor nothing is copied up; there the same file is copied, which is as much work for the disk.
"""

from __future__ import annotations

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
_IDLE_SAMPLES = 1000
_SAMPLES_MAX = 100_000


def new_rows() -> list[Row]:
    what = "99th percentile of open, stat, access, stat while 1 GB is copied up, by the idle one"
    return [Row(Group.TREE_COPY, "tree_copying_p99", what, Unit.TIMES_IDLE, _BUDGET)]


def measure(place: Place, subjects: Sequence[Subject], rows: Sequence[Row], size_bytes: int) -> None:
    """One round, into the rows; the subjects one after the other."""
    for row in rows:
        for subject in subjects:
            try:
                row.add(subject.kind, _times_idle(place, subject, size_bytes))
            except Failure as failure:
                row.fail(subject.kind, str(failure))
    place.renew_work(())


def _times_idle(place: Place, subject: Subject, size_bytes: int) -> float:
    """Raises: Failure."""
    place.renew_work(())
    in_tree = subject.kind in (Kind.SANDBOXED, Kind.PEER)
    word = "look_beside_first_write" if in_tree else "look_beside_copy"
    with new_session(
        place, subject, prepare=lambda directory: _fill(directory / "big", size_bytes)
    ) as session:
        session.greet()
        idle = session.ask("look_idle", _IDLE_SAMPLES)
        beside = session.ask(word, _SAMPLES_MAX)
        session.end()
    shutil.rmtree(place.work / subject.kind)
    for answer in (idle, beside):
        if answer.failures:
            raise Failure(f"{answer.failures} calls failed")
    return beside.each_s / idle.each_s


def _fill(file: Path, size_bytes: int) -> None:
    """No holes, which would not be copied."""
    chunk = bytes(range(256)) * (_CHUNK // 256)
    with file.open("wb") as out:
        for _ in range(size_bytes // _CHUNK):
            out.write(chunk)
