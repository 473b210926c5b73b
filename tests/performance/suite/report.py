"""The table for people, which is Markdown as well, and the JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from suite.facts import Facts
from suite.idle import Load
from suite.rows import Group, Row, Spread, Trouble
from suite.startup import Import
from suite.subjects import Kind

_TITLES = {
    Group.OPERATIONS: "Operations",
    Group.LIMITED: "Operations with limits of memory and of processes",
    Group.PRIVATE: "Operations with a private /proc",
    Group.WORK: "Work: the whole command, its start included",
    Group.INSIDE: "Work: without the start",
    Group.TREE: "Operations in a copy-on-write tree",
    Group.TREE_INSIDE: "Work in a copy-on-write tree, without the start and the commit",
    Group.TREE_COPY: "Others, while a file of 1 GB is copied up",
    Group.BESIDE: "Beside another sandbox that does its worst",
    Group.START: "Start",
}
_LARGEST = 15


@dataclass
class Report:
    """All that one run found out."""

    facts: Facts
    options: dict[str, object]
    kinds: Sequence[Kind]
    rows: Sequence[Row]
    loads: list[Load] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    imports: list[Import] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)  # what failed beside the rows

    @property
    def troubles(self) -> list[Trouble]:
        return [trouble for row in self.rows for trouble in row.troubles]

    @property
    def failed(self) -> bool:
        return bool(self.broken) or any(trouble.is_ours for trouble in self.troubles)

    def text(self) -> str:
        parts = [", ".join(f"{name}: {value}" for name, value in self.facts.items())]
        for group in Group:
            rows = [row for row in self.rows if row.group is group]
            if rows:
                parts.append(f"## {_TITLES[group]}\n\n{_table(rows, self.kinds)}")
        if self.imports:
            parts.append(f"## Imports of the start, the {_LARGEST} largest\n\n{_imports(self.imports)}")
        parts.append(self._budgets())
        parts += [
            _listed("Warnings", self.warnings),
            _listed("Failures", [*self.broken, *map(str, self.troubles)]),
        ]
        return "\n\n".join(part for part in parts if part)

    def _budgets(self) -> str:
        verdicts = [verdict for row in self.rows if (verdict := row.verdict())]
        met = sum(verdict.met for verdict in verdicts)
        return f"Budgets: {met} of {len(verdicts)} met." if verdicts else ""

    def json(self) -> str:
        return json.dumps(
            {
                "facts": self.facts,
                "options": self.options,
                "loads": [asdict(load) for load in self.loads],
                "warnings": self.warnings,
                "failures": [*self.broken, *map(str, self.troubles)],
                "rows": [_row_json(row) for row in self.rows],
                "imports": [asdict(one) for one in self.imports],
            },
            indent=1,
        )


# ---- the table ----


def _table(rows: Sequence[Row], kinds: Sequence[Kind]) -> str:
    shown = [kind for kind in kinds if any(kind in row.samples for row in rows)]
    head = ["", *shown, "x bare", "x floor"]
    if Kind.PEER in shown:
        head.append("peer x bare")
    head += ["budget", "what"]
    return _aligned([head, *(_cells(row, shown) for row in rows)])


def _cells(row: Row, kinds: Sequence[Kind]) -> list[str]:
    verdict = row.verdict()
    cells = [row.name, *(_time(row, kind) for kind in kinds)]
    cells += [_ratio(row.ratio(Kind.SANDBOXED, Kind.BARE)), _ratio(row.ratio(Kind.SANDBOXED, Kind.FLOOR))]
    if Kind.PEER in kinds:
        cells.append(_ratio(row.ratio(Kind.PEER, Kind.BARE)))
    return [*cells, verdict.text if verdict else "", row.what]


def _time(row: Row, kind: Kind) -> str:
    if row.has_failed(kind):
        return "FAILED"
    median = row.median(kind)
    return (
        "" if median is None else f"{median:.3g} {row.unit}" if median < 100 else f"{median:.0f} {row.unit}"
    )


def _ratio(spread: Spread | None) -> str:
    return "" if spread is None else f"{spread.median:.2f} ({spread.low:.2f}-{spread.high:.2f})"


def _imports(imports: Sequence[Import]) -> str:
    largest = sorted(imports, key=lambda one: -one.cumulative_ms)[:_LARGEST]
    lines = [[one.module, f"{one.cumulative_ms:.1f} ms", f"{one.self_ms:.1f} ms"] for one in largest]
    total = sum(one.self_ms for one in imports)
    table = _aligned([["module", "cumulative", "itself"], *lines])
    return f"{table}\n\n{len(imports)} modules, {total:.1f} ms in all."


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    padded = [
        " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines
    ]
    rule = " | ".join("-" * max(width, 3) for width in widths)
    return "\n".join(f"| {line} |" for line in (padded[0], rule, *padded[1:]))


def _listed(title: str, lines: Sequence[str]) -> str:
    return "\n".join([f"{title}:", *(f"- {line}" for line in lines)]) if lines else ""


# ---- JSON ----


def _row_json(row: Row) -> dict[str, object]:
    verdict = row.verdict()
    return {
        "group": row.group,
        "name": row.name,
        "what": row.what,
        "unit": row.unit,
        "subjects": {kind: _subject_json(row, kind) for kind in row.samples},
        "ratios": {
            f"{kind}/{reference}": asdict(spread)
            for kind in (Kind.SANDBOXED, Kind.PEER)
            for reference in (Kind.BARE, Kind.FLOOR)
            if (spread := row.ratio(kind, reference))
        },
        "budget": row.budget and {"limit": row.budget.limit, "measure": row.budget.measure},
        "verdict": verdict and {"value": verdict.value, "met": verdict.met},
        "failures": [str(trouble) for trouble in row.troubles],
    }


def _subject_json(row: Row, kind: Kind) -> dict[str, object]:
    good = row.good(kind)
    return {
        "samples": row.samples[kind],
        "median": row.median(kind),
        "min": min(good, default=None),
        "max": max(good, default=None),
    }
