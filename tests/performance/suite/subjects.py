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


def subjects_limited(place: Place, sandlockd: Path) -> list[Subject]:
    """With limits of memory and of processes, far above what is measured. The floor traps no fork."""
    floor = (str(place.programs / "floor"), "-m", "--")
    free = _sandboxed(place, str(sandlockd))
    limited = (*free.for_operations[:-1], "--memory", "2G", "--processes", "64", "--")
    return [
        Subject(Kind.BARE, (), (), ()),
        Subject(Kind.FLOOR, floor, floor, floor),
        Subject(Kind.SANDBOXED, limited, limited, limited),
    ]


def subjects_private(place: Place, sandlockd: Path) -> list[Subject]:
    """Where processes outside of the sandbox do not exist for the program: what only looks is trapped as well."""
    floor = (str(place.programs / "floor"), "-t", "--")
    policy = place.root / "own.toml"
    policy.write_text('[proc]\npids = "own"\n')
    free = _sandboxed(place, str(sandlockd))
    private = (*free.for_operations[:-1], "--policy", str(policy), "--")
    return [
        Subject(Kind.BARE, (), (), ()),
        Subject(Kind.FLOOR, floor, floor, floor),
        Subject(Kind.SANDBOXED, private, private, private),
    ]


def subjects_in_tree(place: Place, sandlockd: Path, peer: str | None) -> list[Subject]:
    """The same with copy-on-write. Work is committed at its end, so that it can be compared with bare's."""
    floor = (str(place.programs / "floor"), "-t", "--")
    found = [Subject(Kind.BARE, (), (), ()), Subject(Kind.FLOOR, floor, floor, floor)]
    start = (str(sandlockd), "--policy", "base", "--quiet", "--read", str(place.programs), "--workdir")
    works = place.work / Kind.SANDBOXED
    found.append(
        Subject(
            Kind.SANDBOXED,
            (*start, str(place.work), "--on-exit", "commit", "--"),
            (*start, str(works), "--on-exit", "discard", "--"),
            (*start, str(place.work), "--on-exit", "discard", "--"),
        )
    )
    if peer is not None:
        for_work = tuple(_filled(shlex.split(peer), place, place.work))
        for_operations = tuple(_filled(shlex.split(peer), place, place.work / Kind.PEER))
        found.append(Subject(Kind.PEER, for_work, for_operations, for_operations))
    return found


def _sandboxed(place: Place, sandlockd: str) -> Subject:
    start = (sandlockd, "--policy", "base")
    grants = ("--quiet", "--write", str(place.granted), "--read", str(place.programs))
    return Subject(Kind.SANDBOXED, (*start, *grants, "--"), (*start, *grants, "--"), (*start, "--"))


def _filled(words: Sequence[str], place: Place, workdir: Path | None = None) -> list[str]:
    """{write}: the directory to be granted for writing; {read}: the one for reading; {workdir}: the tree."""
    meant = {"{write}": place.granted, "{read}": place.programs, "{workdir}": workdir or place.work}
    found = []
    for word in words:
        for name, path in meant.items():
            word = word.replace(name, str(path))
        found.append(word)
    return found


def turned(subjects: Sequence[Subject], by: int) -> list[Subject]:
    """The same in another order: nobody always comes first, or always after the same one."""
    by %= len(subjects)
    return [*subjects[by:], *subjects[:by]]
