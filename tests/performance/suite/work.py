"""Real work, each time by a command of its own on a new copy of the material; it must come out as it does bare."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from suite.material import Amount
from suite.place import Place, Tree
from suite.processes import Failure, run_timed
from suite.rows import Budget, Group, Measure, Row, Unit
from suite.subjects import Kind, Subject, turned

_TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Workload:
    """name: for workloads.sh. parts: of the material. settled: only after the sandbox has grown old.

    long: enough for the budget to hold with the start included; elsewhere the start, which has its own, is most of it.
    """

    name: str
    what: str
    parts: tuple[str, ...]
    times_bare: float | None
    settled: bool = False
    long: bool = False

    def new_rows(self) -> list[Row]:
        """The whole command, and the work alone. Waiting is no work: what settled has no whole."""
        budget = None if self.times_bare is None else Budget(self.times_bare, Measure.TIMES_BARE)
        whole = Row(Group.WORK, self.name, self.what, Unit.SECONDS, budget if self.long else None)
        inside = Row(Group.INSIDE, f"{self.name}_inside", self.what, Unit.SECONDS, budget)
        return [inside] if self.settled else [whole, inside]

    def new_tree_row(self) -> Row:
        """The work alone, in a copy-on-write tree."""
        budget = None if self.times_bare is None else Budget(self.times_bare, Measure.TIMES_BARE)
        return Row(Group.TREE_INSIDE, f"tree_{self.name}_inside", self.what, Unit.SECONDS, budget)


WORKLOADS = (
    Workload("make", "make of 32 C files", ("source",), 1.15, long=True),
    Workload("make_parallel", "the same with -j for every CPU", ("source",), None),
    Workload("compileall", "Python packages to bytecode", ("packages",), 1.25),
    Workload("git", "status, checkout of 50 commits ago and back, grep, log", ("repository",), 1.5),
    Workload("find", "find -exec cat, three times", ("source", "packages", "repository"), 1.5),
    Workload("cp", "cp -r and rm -rf of a repository", ("repository",), 1.5),
    Workload("pipelines_bash", "300 pipelines of three in bash", (), 1.35, long=True),
    Workload("pipelines_dash", "the same in dash", (), 1.35, long=True),
    Workload("pipelines_settled", "those of bash in a sandbox some seconds old", (), 1.35, settled=True),
)


@dataclass(frozen=True)
class _Result:
    returncode: int
    stdout: bytes
    tree: Tree


def measure(
    place: Place,
    subjects: Sequence[Subject],
    rows: Sequence[Row],
    amount: Amount,
    settle_s: float,
    round_: int,
) -> None:
    """One round, into the rows: those in trees, or the others."""
    by_name = {row.name: row for row in rows}
    for number, workload in enumerate(WORKLOADS):
        of_it = (*workload.new_rows(), workload.new_tree_row())
        chosen = [by_name[row.name] for row in of_it if row.name in by_name]
        if chosen:
            order = turned(subjects, round_ + number)
            _measure_workload(place, order, workload, chosen, amount, settle_s if workload.settled else 0.0)


def _measure_workload(
    place: Place,
    order: Sequence[Subject],
    workload: Workload,
    rows: Sequence[Row],
    amount: Amount,
    settle_s: float,
) -> None:
    results: dict[Kind, _Result] = {}
    times: dict[Kind, tuple[float, float]] = {}
    for subject in order:
        try:
            results[subject.kind], times[subject.kind] = _run(place, subject, workload, amount, settle_s)
        except Failure as failure:
            for row in rows:
                row.fail(subject.kind, str(failure))
    for kind, result in results.items():
        wrong = _difference(results.get(Kind.BARE), result)
        for row in rows:
            if wrong:
                row.fail(kind, wrong)
            else:
                row.add(kind, times[kind][0 if row.group is Group.WORK else 1])


def _run(
    place: Place, subject: Subject, workload: Workload, amount: Amount, settle_s: float
) -> tuple[_Result, tuple[float, float]]:
    """Raises: Failure."""
    place.renew_work(workload.parts)
    script = str(place.programs / "workloads.sh")
    ended = run_timed(
        [*subject.for_work, "bash", script, workload.name, str(amount.pipelines), f"{settle_s:g}"],
        env=place.environment(),
        cwd=place.work,
        scratch=place.scratch,
        timeout_s=_TIMEOUT_S,
    )
    if ended.returncode != 0:
        raise Failure(ended.complaint)
    inside_s = -1.0
    with contextlib.suppress(OSError, ValueError):
        inside_s = int((place.work / ".elapsed").read_text()) / 1e6
    if inside_s < 0:
        raise Failure("ended well, but the work was not done")
    return _Result(ended.returncode, ended.stdout, place.tree()), (ended.elapsed_s, inside_s)


def _difference(bare: _Result | None, found: _Result) -> str:
    """The first one, in words; empty where there is none."""
    if bare is None:
        return "bare did not run, so there is nothing to compare with"
    if found.stdout != bare.stdout:
        return f"output differs from bare: {_shown(found.stdout)}, not {_shown(bare.stdout)}"
    for path in sorted(bare.tree.keys() | found.tree.keys()):
        if bare.tree.get(path) != found.tree.get(path):
            return f"files differ from bare: {path} is {found.tree.get(path)}, not {bare.tree.get(path)}"
    return ""


def _shown(text: bytes) -> str:
    return repr(text.decode("utf-8", "replace")[-80:])
