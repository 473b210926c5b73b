"""How long it takes until the command has run that does nothing, and what Python imports meanwhile."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from suite.place import Place
from suite.processes import Ended, Failure, run_timed
from suite.rows import Budget, Group, Measure, Row, Unit
from suite.subjects import Kind, Subject

_TIMEOUT_S = 60.0
_BUDGET = Budget(120, Measure.ABSOLUTE)
_BWRAP = ("bwrap", "--ro-bind", "/", "/", "--dev", "/dev", "--", "true")


def new_rows(*, drop_caches: bool) -> list[Row]:
    def row(name: str, what: str, budget: Budget | None = None) -> Row:
        return Row(Group.START, name, what, Unit.MILLISECONDS, budget)

    rows = [row("start_true", "true; sandboxed: sandlockd --policy base -- true", _BUDGET)]
    rows.append(row("start_tree", "the same with an empty copy-on-write tree"))
    rows.append(row("start_python", "python3 -c pass, bare"))
    if shutil.which("bwrap"):
        rows.append(row("start_bwrap", "true in a bubblewrap, in the column bare"))
    if drop_caches:
        rows.append(row("start_uncached", "as start_true, nothing of it in memory"))
        rows.append(row("start_python_uncached", "as start_python, nothing of it in memory"))
    return rows


def measure(
    place: Place,
    subjects: Sequence[Subject],
    in_tree: Sequence[Subject],
    rows: Sequence[Row],
    python: str,
    samples: int,
) -> None:
    """One round, into the rows."""
    place.renew_work(())
    for row in rows:
        drop_caches = row.name.endswith("_uncached")
        for _ in range(1 if drop_caches else samples):
            for kind, command in _commands(
                row.name, in_tree if row.name == "start_tree" else subjects, python
            ):
                _measure_one(place, row, kind, command, drop_caches=drop_caches)


def _commands(name: str, subjects: Sequence[Subject], python: str) -> list[tuple[Kind, tuple[str, ...]]]:
    if name.startswith("start_python"):
        return [(Kind.BARE, (python, "-c", "pass"))]
    if name == "start_bwrap":
        return [(Kind.BARE, _BWRAP)]
    return [(subject.kind, (*subject.for_start, "true")) for subject in subjects]


def _measure_one(place: Place, row: Row, kind: Kind, command: Sequence[str], *, drop_caches: bool) -> None:
    if drop_caches:
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3\n")
    try:
        ended = _run(place, command)
    except Failure as failure:
        row.fail(kind, str(failure))
        return
    row.add(kind, ended.elapsed_s)


def _run(place: Place, command: Sequence[str]) -> Ended:
    """Raises: Failure, also where it does not end with 0."""
    ended = run_timed(
        command, env=place.environment(), cwd=place.work, scratch=place.scratch, timeout_s=_TIMEOUT_S
    )
    if ended.returncode != 0:
        raise Failure(ended.complaint)
    return ended


# ---- imports ----


@dataclass(frozen=True)
class Import:
    """self_ms: of the module alone. cumulative_ms: with all that it imported first."""

    module: str
    self_ms: float
    cumulative_ms: float


_IMPORT = re.compile(r"^import time:\s+(\d+) \|\s+(\d+) \|\s*(\S+)$", re.MULTILINE)


def import_profile(place: Place, python: str) -> list[Import]:
    """Of the same start, in the order in which the imports ended. Measuring makes each of them slower.

    Raises: Failure.
    """
    command = (python, "-X", "importtime", "-m", "sandlockd", "--policy", "base", "--", "true")
    text = _run(place, command).stderr.decode("utf-8", "replace")
    return [
        Import(module, int(self_us) / 1e3, int(cumulative_us) / 1e3)
        for self_us, cumulative_us, module in _IMPORT.findall(text)
    ]


_UNCOMPILED = """
import importlib.util, os, sys
for name in sys.argv[1:]:
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        continue  # __main__, and what a package made up
    if spec is None or not spec.has_location or not spec.cached:
        continue
    try:
        with open(spec.cached, "rb") as file:
            head = file.read(16)
    except OSError:
        print(name)
        continue
    by_time = head[4:8] == bytes(4)
    if by_time and int.from_bytes(head[8:12], "little") != int(os.stat(spec.origin).st_mtime) & 0xFFFFFFFF:
        print(name)
"""


def uncompiled(place: Place, python: str, modules: Sequence[str]) -> list[str]:
    """Those that Python must compile anew at every start: there is no bytecode, or not of this source."""
    return _run(place, (python, "-c", _UNCOMPILED, *modules)).stdout.decode().split()
