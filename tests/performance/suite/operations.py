"""Single operations: one process for each subject, all alive at once, asked in turn.

So what is compared was measured within milliseconds, with the supervisor in the state it is in for long: by default
nobody is measured before the sandboxes are some seconds old (`open_early` excepted).
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

from suite.place import Place
from suite.processes import Failure
from suite.rows import Budget, Group, Measure, Row, Unit
from suite.session import Answer, Session, new_session
from suite.subjects import Subject

_UNTRAPPED = Budget(1.05, Measure.TIMES_BARE)
_PASSED_THROUGH = Budget(1.5, Measure.TIMES_FLOOR)
_NAMES = Budget(25, Measure.OVER_BARE)
_NEW_PROCESS = Budget(1.3, Measure.TIMES_BARE)
# 1.3 x bare, and two round trips of the floor's, 3.6 us each, to some 150 us.
_NEW_COUNTED_PROCESS = Budget(1.35, Measure.TIMES_BARE)
_TOLD = Budget(2, Measure.TIMES_FLOOR)


@dataclass(frozen=True)
class Operation:
    """word: what ops.c calls it. count: how often for one sample. refused: the sandbox must say no each time."""

    row: str
    what: str
    word: str
    count: int
    budget: Budget | None = None
    refused: bool = False
    early: bool = False
    group: Group = Group.OPERATIONS

    def new_row(self) -> Row:
        return Row(self.group, self.row, self.what, Unit.MICROSECONDS, self.budget)


OPERATIONS = (
    Operation(
        "open_early",
        "open_absolute in the first two seconds",
        "open_absolute",
        2000,
        _PASSED_THROUGH,
        early=True,
    ),
    Operation("getppid", "the cheapest untrapped call", "getppid", 200_000, _UNTRAPPED),
    Operation("stat", "untrapped, relative", "stat", 30_000, _UNTRAPPED),
    Operation("access", "untrapped, relative", "access", 30_000, _UNTRAPPED),
    Operation("mmap", "mmap + munmap of 64 KiB, untrapped", "mmap", 10_000, _UNTRAPPED),
    Operation("open_absolute", "open + close of /usr/bin/env", "open_absolute", 5000, _PASSED_THROUGH),
    Operation(
        "open_relative", "open + close in the working directory", "open_relative", 5000, _PASSED_THROUGH
    ),
    Operation(
        "open_isolated",
        "open_absolute after 2 ms of idling",
        "open_isolated",
        50,
        Budget(8, Measure.OVER_FLOOR),
    ),
    Operation("open_refused", "open of what is not granted", "open_refused", 500, refused=True),
    Operation("open_served", "open + close of /proc/self/stat", "open_served", 1000),
    Operation("create", "create, write a byte, close", "create", 300, _NAMES),
    Operation("rename", "rename within a directory", "rename", 1000, _NAMES),
    Operation("unlink", "unlink", "unlink", 300, _NAMES),
    Operation("mkdir", "mkdir", "mkdir", 300, _NAMES),
    Operation("fork_exit", "fork, exit, wait", "fork_exit", 200, _NEW_PROCESS),
    Operation("spawn", "vfork, exec of /bin/true, wait", "spawn", 50, _NEW_PROCESS),
)


def _limited(row: str, what: str, word: str, count: int, budget: Budget | None) -> Operation:
    return Operation(f"limited_{row}", what, word, count, budget, group=Group.LIMITED)


LIMITED_OPERATIONS = (
    _limited("mmap", "mmap + munmap of 64 KiB: the filter lets them pass", "mmap", 10_000, _UNTRAPPED),
    _limited("mmap_large", "mmap + munmap of 2 MiB", "mmap_large", 5000, _PASSED_THROUGH),
    _limited("fork_exit", "fork, exit, wait: each is counted", "fork_exit", 200, _NEW_COUNTED_PROCESS),
    _limited("spawn", "vfork, exec of /bin/true, wait", "spawn", 50, _NEW_COUNTED_PROCESS),
)


def _private(row: str, what: str, word: str, count: int, budget: Budget | None) -> Operation:
    return Operation(f"private_{row}", what, word, count, budget, group=Group.PRIVATE)


PRIVATE_OPERATIONS = (
    _private("open_absolute", "open + close of /usr/bin/env", "open_absolute", 5000, _PASSED_THROUGH),
    _private("open_relative", "the same in the working directory", "open_relative", 5000, _PASSED_THROUGH),
    _private("open_served", "open + close of /proc/self/stat", "open_served", 1000, None),
    _private("stat", "stat, relative: trapped", "stat", 5000, _PASSED_THROUGH),
    _private("access", "access, relative: trapped", "access", 5000, _PASSED_THROUGH),
    _private("getppid", "the cheapest untrapped call", "getppid", 200_000, _UNTRAPPED),
    _private("fork_exit", "fork, exit, wait", "fork_exit", 200, _NEW_PROCESS),
    _private("spawn", "vfork, exec of /bin/true, wait", "spawn", 50, _NEW_PROCESS),
)


def _in_tree(row: str, what: str, word: str, count: int, budget: Budget | None) -> Operation:
    return Operation(f"tree_{row}", what, word, count, budget, group=Group.TREE)


TREE_OPERATIONS = (
    _in_tree("open_outside", "open + close of /usr/bin/env", "open_absolute", 5000, _PASSED_THROUGH),
    _in_tree("open_lower", "of what was not changed, for reading", "open_lower", 5000, _PASSED_THROUGH),
    _in_tree("open_upper", "of what was: opened on behalf, injected", "open_upper", 5000, _PASSED_THROUGH),
    _in_tree("open_relative", "the same in the working directory", "open_relative", 5000, None),
    _in_tree("stat_lower", "stat of what was not changed", "stat_lower", 5000, _TOLD),
    _in_tree("stat_upper", "stat of what was", "stat_upper", 5000, _TOLD),
    _in_tree("stat_relative", "the same in the working directory", "stat", 5000, _TOLD),
    _in_tree("access_lower", "access of what was not changed", "access_lower", 5000, _TOLD),
    _in_tree("access_upper", "access of what was", "access_upper", 5000, _TOLD),
    _in_tree("create", "create, write a byte, close", "create", 300, _NAMES),
    _in_tree("rename", "rename of a new file within a directory", "rename", 1000, _NAMES),
    _in_tree("unlink", "unlink of a new file", "unlink", 300, _NAMES),
    _in_tree("unlink_lower", "unlink of what was there before", "unlink_lower", 100, _NAMES),
    _in_tree("mkdir", "mkdir", "mkdir", 300, _NAMES),
    _in_tree("first_write", "open for writing of 4 KiB that were there: the copy", "first_write", 100, None),
    _in_tree("getppid", "the cheapest untrapped call", "getppid", 200_000, None),
    _in_tree("fork_exit", "fork, exit, wait", "fork_exit", 200, _NEW_PROCESS),
    _in_tree("spawn", "vfork, exec of /bin/true, wait", "spawn", 50, _NEW_PROCESS),
)

ALL_OPERATIONS = (*OPERATIONS, *LIMITED_OPERATIONS, *PRIVATE_OPERATIONS, *TREE_OPERATIONS)


@dataclass(frozen=True)
class Plan:
    """samples: per round and row. settle_s: how old a sandbox is before it is measured. scale: of the counts.

    quick: as few files as that takes.
    """

    samples: int = 3
    settle_s: float = 4.0
    scale: float = 1.0
    quick: bool = False


def measure(place: Place, subjects: Sequence[Subject], rows: Sequence[Row], plan: Plan) -> None:
    """One round, into the rows."""
    by_name = {operation.row: operation for operation in ALL_OPERATIONS}
    chosen = [(by_name[row.name], row) for row in rows]
    place.renew_work(())
    with contextlib.ExitStack() as stack:
        sessions = [
            stack.enter_context(new_session(place, subject, quick=plan.quick)) for subject in subjects
        ]
        for session in sessions:
            with contextlib.suppress(Failure):  # it will be raised again, where it belongs to a row
                session.greet()
        begun = time.monotonic()
        for operation, row in chosen:
            if operation.early:
                _measure_row(sessions, operation, row, plan)
        if any(not operation.early for operation, _ in chosen):
            time.sleep(max(plan.settle_s - (time.monotonic() - begun), 0))
        for operation, row in chosen:
            if not operation.early:
                _measure_row(sessions, operation, row, plan)
        for session in sessions:
            try:
                session.end()
            except Failure as failure:
                rows[-1].fail(session.subject.kind, str(failure))


def _measure_row(sessions: Sequence[Session], operation: Operation, row: Row, plan: Plan) -> None:
    count = max(int(operation.count * plan.scale), 2)
    for sample in range(plan.samples):
        first = sample % len(sessions)
        for session in [*sessions[first:], *sessions[:first]]:
            _sample(session, operation, count, row)


def _sample(session: Session, operation: Operation, count: int, row: Row) -> None:
    kind = session.subject.kind
    try:
        answer = session.ask(operation.word, count)
    except Failure as failure:
        row.fail(kind, str(failure))
        return
    wrong = _wrong(answer, count, must_refuse=operation.refused and session.subject.refuses)
    if wrong:
        row.fail(kind, wrong)
    else:
        row.add(kind, answer.each_s)


def _wrong(answer: Answer, count: int, *, must_refuse: bool) -> str:
    if not must_refuse:
        return f"{answer.failures} of {count} failed: {os.strerror(answer.error)}" if answer.failures else ""
    if answer.failures == count and answer.error in (errno.EACCES, errno.EPERM, errno.ENOENT):
        return ""
    return f"{count - answer.failures} of {count} were not refused"
