"""Every system call that takes a path, a process or a descriptor, turned on what is outside.

The arguments are made from the system call table, so a call that is added there is attacked here without another line.
Afterwards nothing outside is changed, and nothing of it was read. Existence, stat, readlink, access and O_PATH are not
promised to be hidden (docs/security-model.md).
"""

from __future__ import annotations

import itertools
import os
import signal
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.running import Runner
from security import broken
from security.canaries import (
    ATTRIBUTE,
    ATTRIBUTE_SECRET,
    SECRET,
    Snapshot,
    Victim,
    changed,
    outside,
    snapshot,
    victim,
)
from security.raw_calls import AT_FDCWD, Buffer, Bytes, Iovec, Outcome, Script

from sandlockd.kernel.syscalls import BY_NAME, ROWS, Effect, Syscall, Treatment, native_architecture, numbered

_HIGH = 1 << 32
_LIMIT_S = 300  # seconds of work on an idle machine, ten thousand processes on a busy one
_TIMES = Bytes(struct.pack("=qqqq", 7, 7, 9, 9))
_ATTRIBUTE = ATTRIBUTE.encode()

_OPEN_FLAGS = [
    os.O_RDONLY,
    os.O_WRONLY,
    os.O_RDWR,
    3,
    os.O_RDONLY | os.O_TRUNC,
    os.O_WRONLY | os.O_CREAT | os.O_TRUNC,
    os.O_WRONLY | os.O_CREAT | os.O_EXCL,
    os.O_RDWR | os.O_APPEND,
    os.O_RDONLY | os.O_NOFOLLOW,
    os.O_RDONLY | os.O_DIRECTORY,
    os.O_TMPFILE | os.O_RDWR,
    os.O_RDONLY | os.O_NOATIME,
]
_AT_FLAGS = [0, 0x100, 0x1000, 0x1100, 0x200, 0x400, 0x1400, 1, 2, 4]

# What follows the path or descriptor, for calls that need something of their own there.
_REST: dict[str, list[tuple[Any, ...]]] = {
    "setxattr": [(_ATTRIBUTE, b"x", 1, 0), (b"user.new", b"x", 1, 1)],
    "getxattr": [(_ATTRIBUTE, Buffer(64), 64)],
    "removexattr": [(_ATTRIBUTE,)],
    "listxattr": [(Buffer(64), 64)],
    "chown": [(-1, -1), (65534, 65534)],
    "chmod": [(0o777,)],
    "utime": [(Bytes(struct.pack("=qq", 7, 9)),), (0,)],
    "utimes": [(_TIMES,), (0,)],
    "futimesat": [(_TIMES,), (0,)],
    "utimensat": [(_TIMES,), (0,)],
    "truncate": [(3,)],
    "mknod": [(0o10644, 0), (0o100644, 0), (0o20644, 0x103)],
    "execve": [(0, 0)],
    "inotify_add_watch": [(0xFFF,)],
    "name_to_handle_at": [(Bytes(struct.pack("=Ii", 128, 0) + bytes(128)), Buffer(4))],
    "statx": [(0, 0xFFF, Buffer(256))],
    "readlink": [(Buffer(64), 64)],
}
for _alias, _name in {
    "lsetxattr": "setxattr",
    "fsetxattr": "setxattr",
    "lgetxattr": "getxattr",
    "fgetxattr": "getxattr",
    "lremovexattr": "removexattr",
    "fremovexattr": "removexattr",
    "llistxattr": "listxattr",
    "flistxattr": "listxattr",
    "lchown": "chown",
    "fchown": "chown",
    "fchownat": "chown",
    "fchmod": "chmod",
    "fchmodat": "chmod",
    "fchmodat2": "chmod",
    "ftruncate": "truncate",
    "mknodat": "mknod",
    "execveat": "execve",
    "readlinkat": "readlink",
}.items():
    _REST[_alias] = _REST[_name]
_ANY_REST: list[tuple[Any, ...]] = [(0, 0, 0, 0), (0o755, 1, 1, 1), (Buffer(64), 64, 0, 0)]

# Of a process: everything behind its number.
_PROCESS_REST: dict[str, list[tuple[Any, ...]]] = {
    "sched_setaffinity": [(8, Bytes(struct.pack("=Q", 1)))],
    "sched_setscheduler": [(3, Bytes(bytes(4)))],
    "prlimit64": [(7, Bytes(struct.pack("=QQ", 50, 60)), 0)],
    "setpriority": [(7,)],
    "ioprio_set": [(3 << 13,)],
    "sched_setattr": [(Bytes(struct.pack("=IIQiI", 48, 3, 0, 7, 0) + bytes(24)), 0)],
}
_SIGNALLING = {"kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "pidfd_send_signal"}
_REMOVING = Effect.DELETE


class World:
    """What the walk is turned on, and the descriptors that stand for it: 3 the directory, 4 the canary, both O_PATH;
    5 the process."""

    SET_UP_CALLS = 3

    def __init__(self, directory: Path, process: Victim, address: int) -> None:
        self.directory, self.process, self.address = directory, process, address

    def set_up(self) -> Script:
        script = Script()
        script.openat(AT_FDCWD, self.directory, os.O_PATH)
        script.openat(AT_FDCWD, self.directory / "canary", os.O_PATH)
        script.pidfd_open(self.process.pid, 0)
        script.each_alone = True
        return script

    def paths(self, effect: Effect) -> list[tuple[int, bytes]]:
        """(dirfd, path) of each way to name something outside."""
        here = os.fsencode(self.directory)
        if effect & Effect.CREATE and not effect & Effect.READ:
            return [
                (AT_FDCWD, here + b"/new"),
                (3, b"new2"),
                (3, b"sub/new3"),
                (AT_FDCWD, b"/proc/self/fd/3/new4"),
            ]
        ways = [
            (AT_FDCWD, here + b"/canary"),
            (AT_FDCWD, here + b"/link"),
            (AT_FDCWD, here + b"/empty/../canary"),
            (AT_FDCWD, b"/proc/self/root" + here + b"/canary"),
            (AT_FDCWD, b"/proc/self/fd/4"),
            (AT_FDCWD, b"/proc/self/fd/3/sub/canary"),
            (3, b"canary"),
            (3, b"sub/../sub/canary"),
            (4, b""),
            (AT_FDCWD, here + b"/script"),
            (AT_FDCWD, here),
            (AT_FDCWD, here + b"/empty"),
        ]
        if effect & Effect.READ:
            ways += [(AT_FDCWD, here + b"/new"), (3, b"new")]
        return ways


def _flags(row: Syscall) -> list[Any]:
    if row.name in ("open", "openat", "openat2", "creat"):
        if row.name == "openat2":
            return [
                Bytes(struct.pack("=QQQ", flags, 0o644 if flags & os.O_CREAT else 0, resolve))
                for flags, resolve in itertools.product(
                    (0, os.O_RDWR, os.O_WRONLY | os.O_CREAT), (0, 2, 4, 8, 16)
                )
            ]
        return _OPEN_FLAGS if row.flags >= 0 else [0o644]
    return _AT_FLAGS if row.flags >= 0 else [None]


def _vectors(row: Syscall, world: World) -> Iterator[list[Any]]:
    if row.paths:
        yield from _path_vectors(row, world)
    elif row.fds:
        for fds in itertools.product((3, 4, 5), repeat=len(row.fds)):
            for rest in _REST.get(row.name, _ANY_REST):
                yield _filled(dict(zip(row.fds, fds, strict=True)), rest, row)
    if row.pids:
        yield from _process_vectors(row, world)


def _path_vectors(row: Syscall, world: World) -> Iterator[list[Any]]:
    choices = [world.paths(operand.effect) for operand in row.paths]
    ways = zip(*choices, strict=False) if len(choices) > 1 else ((way,) for way in choices[0])
    for way in ways:
        for flags in _flags(row):
            for rest in _REST.get(
                row.name, _ANY_REST[:2] if row.treatment is not Treatment.REFUSE else _ANY_REST[:1]
            ):
                fixed: dict[int, Any] = {}
                for operand, (dirfd, path) in zip(row.paths, way, strict=True):
                    fixed[operand.position] = path
                    if operand.dirfd >= 0:
                        fixed[operand.dirfd] = dirfd
                if row.flags >= 0:
                    fixed[row.flags] = flags
                if row.name == "openat2":
                    rest = (24,)
                yield _filled(fixed, rest, row)


def _process_vectors(row: Syscall, world: World) -> Iterator[list[Any]]:
    pid = world.process.pid
    remote = Bytes(struct.pack("=QQ", world.address, len(SECRET)))
    rests = _PROCESS_REST.get(row.name, [(signal.SIGTERM, signal.SIGTERM, 0), (0, 0, 0), (Buffer(64), 0, 0)])
    if row.name == "process_vm_readv":
        rests = [(Iovec(64), 1, remote, 1, 0)]
    if row.name == "process_vm_writev":
        rests = [(Iovec(b"changed"), 1, remote, 1, 0)]
    for number in (pid, _HIGH | pid):
        for rest in rests:
            fixed: dict[int, Any] = dict.fromkeys(row.pids, number)
            # The `which` of get and setpriority, ioprio: one process, one group.
            for which in (0, 1) if row.pids[0] == 1 else (0,):
                if row.pids[0] == 1:
                    fixed[0] = 0x4206 if row.name == "ptrace" else which
                yield _filled(fixed, rest, row)


def _filled(fixed: dict[int, Any], rest: tuple[Any, ...], row: Syscall) -> list[Any]:
    left = iter(rest)
    return [fixed[position] if position in fixed else next(left, 0) for position in range(6)]


def _unknown(world: World) -> Iterator[tuple[int, list[Any]]]:
    """Numbers that the table does not have: whatever they may be one day."""
    known = numbered(native_architecture())
    canary = os.fsencode(world.directory / "canary")
    for number in range(601):
        if number not in known:
            yield number, [canary, 0, 0, 0, 0, 0]
            yield number, [3, b"canary", 0, 0, 0, 0]
            yield number, [world.process.pid, signal.SIGTERM, 0, 0, 0, 0]
            yield number, [5, signal.SIGTERM, 0, 0, 0, 0]


def _walk(world: World, *, bare: bool) -> Script:
    """bare: without what would change the machine, or end what the walk is about before its end."""
    script = world.set_up()
    late: list[tuple[Syscall, list[Any]]] = []
    for row in ROWS:
        number = row.number(native_architecture())
        if number is None or (
            bare and row.treatment is Treatment.REFUSE and row.name not in ("ptrace", "pidfd_getfd")
        ):
            continue
        removes = any(operand.effect & _REMOVING for operand in row.paths)
        for vector in _vectors(row, world):
            if removes or row.name in _SIGNALLING:
                late.append((row, vector))
            else:
                script.call(number, *vector, name=row.name)
    for row, vector in late:
        script.call(row.number(native_architecture()) or 0, *vector, name=row.name)
    if not bare:
        for number, vector in _unknown(world):
            script.call(number, *vector)
    return script


def _told(outcomes: list[Outcome], script: Script) -> list[str]:
    """The calls by which a secret came in."""
    return sorted(
        {
            name
            for name, outcome in zip(script.names, outcomes, strict=True)
            if SECRET in outcome.data or ATTRIBUTE_SECRET in outcome.data
        }
    )


@pytest.fixture
def world(runner: Runner) -> Iterator[World]:
    directory = outside(runner)
    with victim(runner) as (process, address):
        yield World(directory, process, address)


def _state(world: World) -> tuple[Snapshot, dict[str, Any]]:
    return snapshot(world.directory), world.process.facts()


def test_the_walk_works_where_nothing_stops_it(runner: Runner, world: World) -> None:
    """The oracle. As a user who exists for the tests only: it changes whatever it can."""
    if os.geteuid() != 0 or runner.place.user.is_root:
        pytest.skip("needs a user who exists for these tests only")
    script = _walk(world, bare=True)
    before, facts = _state(world)
    outcomes = script.bare(runner, timeout=_LIMIT_S, start_new_session=True)
    assert set(_told(outcomes, script)) >= {"open", "process_vm_readv"}  # the rest finds it overwritten
    aspects = changed(before, snapshot(world.directory))
    assert aspects >= {"mode", "mtime", "attributes", "created", "removed"}
    world.process.process.wait(30)
    assert facts["limits"]


@pytest.mark.parametrize(
    "name", ["open", "openat", "openat2", "getxattr", "lgetxattr", "process_vm_readv", "execve", "execveat"]
)
def test_each_call_that_reads_does_so_where_nothing_stops_it(runner: Runner, world: World, name: str) -> None:
    row = BY_NAME[name]
    script = world.set_up()
    for vector in _vectors(row, world):
        script.call(row.number(native_architecture()) or 0, *vector, name=name)
    assert _told(script.bare(runner, start_new_session=True), script) == [name]


_SEEING = {
    "stat",
    "lstat",
    "access",
    "readlink",
    "statfs",
    "newfstatat",
    "readlinkat",
    "faccessat",
    "statx",
    "faccessat2",
}
_HARMLESS = {"chdir", "name_to_handle_at", "listxattr", "llistxattr", "getxattr", "lgetxattr"}


def _worked(outcomes: list[Outcome], script: Script) -> set[str]:
    """The calls with a path that were no error."""
    with_a_path = {row.name for row in ROWS if row.paths}
    return {
        name
        for name, outcome in list(zip(script.names, outcomes, strict=True))[World.SET_UP_CALLS :]
        if name in with_a_path and (outcome.ok or outcome.died is not None)
    }


@pytest.mark.parametrize("policy", ["nothing", "beside"])
def test_the_walk(runner: Runner, world: World, policy: str) -> None:
    """nothing: the base policy, and by path all but looking is an error; O_PATH and chdir only look.

    beside: the directory around may be written, the canaries' is denied.
    """
    script = _walk(world, bare=False)
    before, facts = _state(world)
    options = []
    if policy == "beside":
        (runner.work / "inside").mkdir()
        moved = runner.work / "outside"
        world.directory.rename(moved)
        world.directory = moved
        script = _walk(world, bare=False)
        before = snapshot(moved)
        options = ["--write", runner.work, "--deny", moved]
    outcomes, ended = script.sandboxed(runner, *options, timeout=_LIMIT_S)
    assert _told(outcomes, script) == []
    assert changed(before, snapshot(world.directory)) == set()
    assert world.process.alive
    assert world.process.facts() == facts
    assert len(ended.refusals) > 100
    if policy == "nothing":
        worked = _worked(outcomes, script)
        assert worked <= _SEEING | _HARMLESS, worked - _SEEING - _HARMLESS
        assert worked & _SEEING


# ---- the walk can fail ----


@pytest.mark.one_user
@pytest.mark.parametrize(
    ("patch", "aspect", "calls"),
    [
        (broken.ALLOW_ALL_PATHS, "mode", ("chmod", "fchmodat", "fchmodat2")),
        (broken.give_back("fchmodat2"), "mode", ("fchmodat2",)),
        (broken.give_back("lsetxattr"), "attributes", ("lsetxattr",)),
        (broken.give_back("futimesat"), "mtime", ("futimesat",)),
        (broken.OPEN_WALL + broken.ALLOW_ALL_PATHS, "removed", ()),
    ],
    ids=["all-paths", "one-chmod", "one-setxattr", "one-utimes", "no-wall"],
)
def test_one_hole_is_found_by_the_walk(
    runner: Runner, world: World, patch: str, aspect: str, calls: tuple[str, ...]
) -> None:
    """calls: those whose part of the walk finds it; all of it where there are none."""
    if os.geteuid() == 0 and runner.place.user.is_root:
        pytest.skip("one user is enough to show it")
    script = world.set_up()
    for row in ROWS:
        number = row.number(native_architecture())
        if calls and row.name not in calls:
            continue
        if number is not None and row.paths and row.treatment is not Treatment.REFUSE:
            for vector in _vectors(row, world):
                script.call(number, *vector, name=row.name)
    before = snapshot(world.directory)
    broken.results(runner, patch, script, timeout=_LIMIT_S)
    assert aspect in changed(before, snapshot(world.directory))
