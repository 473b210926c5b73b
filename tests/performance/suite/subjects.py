"""The ways to run a command that are compared."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from suite.place import Place


class Kind(StrEnum):
    BARE = "bare"
    FLOOR = "floor"
    SANDBOXED = "sandboxed"
    PEER = "peer"


@dataclass(frozen=True)
class Subject:
    """One way. for_work, for_operations, for_start: what stands before the command."""

    kind: Kind
    for_work: tuple[str, ...]
    for_operations: tuple[str, ...]
    for_start: tuple[str, ...]

    @property
    def refuses(self) -> bool:
        """What is not granted must fail."""
        return self.kind in (Kind.SANDBOXED, Kind.PEER)


def subjects(place: Place, sandlockd: Path, peer: str | None) -> list[Subject]:
    """bare, floor, sandboxed and, if one is given, the peer, in this order."""
    floor = str(place.programs / "floor")
    found = [
        Subject(Kind.BARE, (), (), ()),
        Subject(Kind.FLOOR, (floor, "--"), (floor, "-a", "--"), (floor, "--")),
        _sandboxed(place, str(sandlockd)),
    ]
    if peer is not None:
        words = tuple(_filled(shlex.split(peer), place))
        found.append(Subject(Kind.PEER, words, words, words))
    return found


def _sandboxed(place: Place, sandlockd: str) -> Subject:
    start = (sandlockd, "--policy", "base")
    grants = ("--quiet", "--write", str(place.granted), "--read", str(place.programs))
    return Subject(Kind.SANDBOXED, (*start, *grants, "--"), (*start, *grants, "--"), (*start, "--"))


def _filled(words: Sequence[str], place: Place) -> list[str]:
    """{write}: the directory to be granted for writing; {read}: the one for reading."""
    return [
        word.replace("{write}", str(place.granted)).replace("{read}", str(place.programs)) for word in words
    ]


def turned(subjects: Sequence[Subject], by: int) -> list[Subject]:
    """The same in another order: nobody always comes first, or always after the same one."""
    by %= len(subjects)
    return [*subjects[by:], *subjects[:by]]
