"""A tree with denied things in it, and what gives their secrets away."""

from __future__ import annotations

import os
from pathlib import Path

from harness.running import Runner
from security.canaries import ATTRIBUTE, ATTRIBUTE_SECRET, SECRET
from security.raw_calls import Buffer, Outcome, Script


def build_world(runner: Runner) -> Path:
    """work/ with a denied file and a denied directory two levels down, and innocent things beside them."""
    place = runner.place
    place.file("work/a/secret", SECRET)
    place.file("work/a/private/file", SECRET)
    place.file("work/a/beside", "beside")
    place.file("work/other/file", "other")
    os.setxattr(place.work / "a/secret", ATTRIBUTE, ATTRIBUTE_SECRET)
    place.give(place.work)
    return place.work


def denials(work: Path) -> list[object]:
    return ["--deny", work / "a/secret", "--deny", work / "a/private"]


def read_some(script: Script, fd: object) -> None:
    script.read(fd, Buffer(64), 64)  # type: ignore[arg-type]


def secrets_in(outcomes: list[Outcome]) -> list[int]:
    """The calls that gave a secret away."""
    return [
        index
        for index, outcome in enumerate(outcomes)
        if SECRET in outcome.data or ATTRIBUTE_SECRET in outcome.data
    ]
