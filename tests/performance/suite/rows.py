"""What was measured, row by row, and how it stands to the budget. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from suite.subjects import Kind


class Group(StrEnum):
    OPERATIONS = "operations"
    LIMITED = "limited"
    PRIVATE = "private"
    WORK = "work"
    INSIDE = "inside"
    TREE = "tree"
    TREE_INSIDE = "tree_inside"
    TREE_COPY = "tree_copy"
    BESIDE = "beside"
    START = "start"


class Unit(StrEnum):
    MICROSECONDS = "us"
    MILLISECONDS = "ms"
    SECONDS = "s"
    TIMES_IDLE = "x idle"

    @property
    def per_second(self) -> float:
        return {Unit.MICROSECONDS: 1e6, Unit.MILLISECONDS: 1e3, Unit.SECONDS: 1.0, Unit.TIMES_IDLE: 1.0}[self]


class Measure(StrEnum):
    """What a budget limits."""

    TIMES_BARE = "x bare"
    TIMES_FLOOR = "x floor"
    OVER_BARE = "over bare"
    OVER_FLOOR = "over floor"
    ABSOLUTE = ""

    @property
    def reference(self) -> Kind | None:
        if self is Measure.ABSOLUTE:
            return None
        return Kind.BARE if self in (Measure.TIMES_BARE, Measure.OVER_BARE) else Kind.FLOOR


@dataclass(frozen=True)
class Budget:
    """At most limit; OVER_ and ABSOLUTE in the row's unit."""

    limit: float
    measure: Measure


@dataclass(frozen=True)
class Verdict:
    budget: Budget
    value: float
    text: str

    @property
    def met(self) -> bool:
        return self.value <= self.budget.limit


@dataclass(frozen=True)
class Spread:
    """median: the one's by the other's. low, high: the extremes of samples that were taken one after the other."""

    median: float
    low: float
    high: float


@dataclass
class Row:
    """One line of the table. samples: in the unit; None where it failed, so that those of one turn stand together."""

    group: Group
    name: str
    what: str
    unit: Unit
    budget: Budget | None = None
    samples: dict[Kind, list[float | None]] = field(default_factory=dict)
    troubles: list[Trouble] = field(default_factory=list)

    def add(self, kind: Kind, sample_s: float) -> None:
        self.samples.setdefault(kind, []).append(sample_s * self.unit.per_second)

    def fail(self, kind: Kind, text: str) -> None:
        """Whoever fails has no time: a fast wrong answer is no answer."""
        self.samples.setdefault(kind, []).append(None)
        trouble = Trouble(self.group, self.name, kind, text)
        if trouble not in self.troubles:
            self.troubles.append(trouble)

    def has_failed(self, kind: Kind) -> bool:
        return None in self.samples.get(kind, ())

    def good(self, kind: Kind) -> list[float]:
        return [sample for sample in self.samples.get(kind, ()) if sample is not None]

    def median(self, kind: Kind) -> float | None:
        good = self.good(kind)
        return statistics.median(good) if good and not self.has_failed(kind) else None

    def ratio(self, kind: Kind, reference: Kind) -> Spread | None:
        ours, theirs = self.median(kind), self.median(reference)
        if ours is None or theirs is None or theirs == 0:
            return None
        pairs = zip(self.good(kind), self.good(reference), strict=False)
        ratios = [one / other for one, other in pairs if other]
        return Spread(ours / theirs, min(ratios), max(ratios)) if ratios else None

    def verdict(self) -> Verdict | None:
        """None: there is no budget, or not all of what it compares was measured."""
        ours = self.median(Kind.SANDBOXED)
        if self.budget is None or ours is None:
            return None
        value = self._measured(ours, self.budget.measure)
        return None if value is None else Verdict(self.budget, value, self._verdict_text(self.budget, value))

    def _measured(self, ours: float, measure: Measure) -> float | None:
        if measure.reference is None:
            return ours
        reference = self.median(measure.reference)
        if reference is None:
            return None
        if measure in (Measure.OVER_BARE, Measure.OVER_FLOOR):
            return ours - reference
        return ours / reference if reference else None

    def _verdict_text(self, budget: Budget, value: float) -> str:
        times = budget.measure in (Measure.TIMES_BARE, Measure.TIMES_FLOOR)
        unit = "" if times else f" {self.unit}"
        word = "met" if value <= budget.limit else "MISSED"
        limit = f"{budget.limit:g}{unit} {budget.measure}".rstrip()
        return f"{word}: {value:.2f}{unit} of {limit}"


@dataclass(frozen=True)
class Trouble:
    """Something failed, or came out otherwise than bare."""

    group: Group
    row: str
    kind: Kind
    text: str

    @property
    def is_ours(self) -> bool:
        """What the peer fails at is told, but is no failure of the suite."""
        return self.kind is not Kind.PEER

    def __str__(self) -> str:
        return f"{self.row}, {self.kind}: {self.text}"


def wanted(rows: Sequence[Row], only: Sequence[str]) -> list[Row]:
    """Those that are named, by their own name or their group's; all where nothing is named."""
    return [row for row in rows if not only or row.name in only or row.group in only]
