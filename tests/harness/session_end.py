"""What a session has left on the machine: named, and removed. What killed ones have left: removed.

A session of workers ends in its first process, when the workers have ended: one that was killed has left what it had.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import signal
import stat
import subprocess
from collections.abc import Iterable
from pathlib import Path

from harness import groups
from harness.ledger import HOME, Found, Thing, ledgers, remove_hierarchy
from harness.removing import remove_tree
from harness.survivors import end, marked
from harness.users import processes_of, remove_user
from harness.waiting import Patience, until


def sweep(home: Path = HOME) -> None:
    """Remove what sessions have left of which no process lives any more."""
    for session, found in _by_session(home).items():
        if all(ledger.is_dead for ledger in found):
            _remove(session, found)


def interrupt_workers(session: str) -> None:
    """xdist asks them to end, but kills them if that takes long."""
    for ledger in ledgers():
        if ledger.session == session and not ledger.is_dead and ledger.pid != os.getpid():
            with contextlib.suppress(ProcessLookupError):
                os.kill(ledger.pid, signal.SIGTERM)


def end_session(session: str, home: Path = HOME) -> list[str]:
    """To be called by its first process, when its workers have ended. Returns: what had been left."""
    with contextlib.suppress(Patience):
        until(lambda: all(_has_ended(ledger) for ledger in _of(session, home)), "the end of the workers")
    found = _of(session, home)
    left = [f"worker {ledger.pid}" for ledger in found if not _has_ended(ledger)]
    with contextlib.suppress(Patience):
        # What was just killed may still be on its way out.
        until(lambda: not marked(session), "the end of all that the session started", limit_s=5)
    left += [f"process {one.pid} ({one.command}, {one.state})" for one in marked(session)]
    for thing in _things(found):
        left += _left_of(thing)
    left += [f"cgroup {path}" for path in _groups_of(found)]
    _remove(session, found)
    return left


def _of(session: str, home: Path) -> list[Found]:
    return [ledger for ledger in ledgers(home) if ledger.session == session]


def _by_session(home: Path) -> dict[str, list[Found]]:
    ordered = sorted(ledgers(home), key=lambda ledger: ledger.session)
    return {
        name: list(found) for name, found in itertools.groupby(ordered, key=lambda ledger: ledger.session)
    }


def _has_ended(ledger: Found) -> bool:
    return ledger.is_dead or ledger.pid == os.getpid()


def _things(found: Iterable[Found]) -> list[Thing]:
    return [thing for ledger in found for thing in ledger.things if thing.exists()]


def _groups_of(found: Iterable[Found]) -> list[Path]:
    """Of runs in its directories."""
    noted = [thing for ledger in found for thing in ledger.things]
    where = {Path(thing.name) for thing in noted if thing.kind == "cgroup"}
    roots = {Path(thing.name) for thing in noted if thing.kind == "directory"}
    return [group for root in sorted(roots) for group in groups.left_of(root, sorted(where))]


def _left_of(thing: Thing) -> list[str]:
    if thing.kind == "hierarchy":
        return [str(thing)]
    if thing.kind == "directory":
        return [str(thing), *(f"mount {point}" for point in _mounts_below(thing.name))]
    return [str(thing), *processes_of(pwd.getpwnam(thing.name).pw_uid)]


def _mounts_below(directory: str) -> list[str]:
    """The innermost first."""
    with open("/proc/self/mountinfo") as file:
        points = [line.split(" ")[4] for line in file]
    return [point for point in reversed(points) if f"{point}/".startswith(f"{directory}/")]


def _remove(session: str, found: list[Found]) -> None:
    """Who runs goes first: nobody is to make anything while it is removed."""
    end(marked(session))
    until(lambda: not marked(session), "the end of what was killed")
    things = _things(found)
    groups.remove(_groups_of(found))
    for thing in things:
        if thing.kind == "user":
            remove_user(thing.name)
    for thing in things:
        if thing.kind == "directory":
            _remove_directory(thing.name)
        if thing.kind == "hierarchy":
            remove_hierarchy(Path(thing.name))
    for ledger in found:
        ledger.path.unlink()


def _remove_directory(name: str) -> None:
    for point in _mounts_below(name):
        subprocess.run(["umount", "--lazy", point], check=True, capture_output=True)
    if stat.S_ISDIR(os.lstat(name).st_mode):
        remove_tree(Path(name))
    else:
        os.unlink(name)
