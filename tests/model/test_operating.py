"""docs/operating.md tells every key of the configuration with its default, and every metric."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from sandlockd.control.config import Config
from sandlockd.control.metrics import Metrics

_DOCUMENT = (Path(__file__).parents[2] / "docs/operating.md").read_text()


def _rows(heading: str) -> list[list[str]]:
    """Of the table below a heading, without its head."""
    section = re.split(r"^## ", _DOCUMENT, flags=re.MULTILINE)
    (text,) = (one for one in section if one.startswith(f"{heading}\n"))
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_every_key_is_told_with_its_default() -> None:
    defaults = {
        f"`{section}.{key}`": "none" if value is None else f"`{msgspec.json.encode(value).decode()}`"
        for section, keys in msgspec.to_builtins(Config()).items()
        for key, value in keys.items()
    }
    assert {row[0]: row[1] for row in _rows("Configure")} == defaults


def test_every_metric_is_told_with_its_labels() -> None:
    metrics = Metrics()
    found = {
        (f"`{_exposed(family.name, family.type)}`", ", ".join(getattr(one, "_labelnames", ("by",))))
        for one in metrics._registry._collector_to_names
        for family in one.collect()
    }
    assert {(row[0], row[1]) for row in _rows("Metrics")} == found


def _exposed(name: str, kind: str) -> str:
    return f"{name}_total" if kind == "counter" else name
