"""File operations as data, so that the oracle, a real directory and the model can be asked the same."""

from __future__ import annotations

import ctypes
import errno
import os
import random
import stat
from collections.abc import Iterator
from typing import NamedTuple

from hypothesis import strategies as st

from harness.memory_layers import Executor, MemoryLayer, Node, everything
from harness.plain_files import ROOT, Failed, Left, PlainFiles
from sandlockd.overlay import lookup, plans
from sandlockd.overlay.entries import FsError, Kind
from sandlockd.overlay.lookup import Goal, Outside
from sandlockd.overlay.view import Found, View

_libc = ctypes.CDLL(None, use_errno=True)
_RENAME = {"": 0, "noreplace": 1, "exchange": 2}


class Operation(NamedTuple):
    """One call. Which fields it uses is in `on_real`."""

    call: str
    path: bytes
    other: bytes = b""
    flags: frozenset[str] = frozenset()
    number: int = 0


_names = st.sampled_from([b"a", b"b", b"c"])
_odd = st.sampled_from([b".", b"..", b"", b"n" * 255, b"n" * 256])
_parts = st.lists(st.one_of(_names, _names, _names, _names, _odd), min_size=1, max_size=4)
_relative = st.builds(b"/".join, _parts).filter(lambda path: not path.startswith(b"/") and path != b"")
_clean = st.builds(b"/".join, st.lists(_names, min_size=1, max_size=3))
paths = st.one_of(
    _clean,
    _clean,
    _clean,
    _relative,
    st.builds(lambda path: path + b"/", _clean),
    st.builds(lambda path: ROOT + b"/" + path, _clean),
    st.sampled_from([ROOT, b"/", b"..", b"../t/a", b"/t/../t/b", b"/x"]),
)
_targets = st.one_of(_clean, paths)
_open_flags = st.frozensets(
    st.sampled_from(["write", "create", "create", "exclusive", "truncate", "directory", "nofollow"]),
    max_size=4,
)
_none: st.SearchStrategy[frozenset[str]] = st.just(frozenset())
_no_path = st.just(b"")
_zero = st.just(0)
_calls = st.sampled_from(["mkdir", "mkdir", "mkfifo", "unlink", "rmdir", "stat", "lstat"])
_rename_flags = st.sampled_from([frozenset(), frozenset(), frozenset({"noreplace"}), frozenset({"exchange"})])


def _operation(
    call: str | st.SearchStrategy[str],
    path: st.SearchStrategy[bytes] = paths,
    other: st.SearchStrategy[bytes] = _no_path,
    flags: st.SearchStrategy[frozenset[str]] = _none,
    number: st.SearchStrategy[int] = _zero,
) -> st.SearchStrategy[Operation]:
    called = st.just(call) if isinstance(call, str) else call
    return st.builds(Operation, called, path, other, flags, number)


operations = st.one_of(
    _operation(_calls),
    _operation("symlink", other=_targets),
    _operation("link", other=paths, flags=st.sampled_from([frozenset(), frozenset({"follow"})])),
    _operation("open", flags=_open_flags, number=st.integers(0, 3)),
    _operation("truncate", number=st.integers(0, 4)),
    _operation("chmod", number=st.sampled_from([0o600, 0o644, 0o755])),
    _operation("rename", other=paths, flags=_rename_flags),
    _operation("rename", _clean, _clean),
)


picks = st.tuples(st.integers(0, 1 << 16), st.integers(0, 1 << 16))


def aimed(operation: Operation, at: tuple[int, int], top: Node) -> Operation:
    """The operation with paths that hit something, mostly: random ones hardly ever do."""
    there = [(b"", top), *everything(top)]
    directories = [path for path, node in there if node.kind is Kind.DIRECTORY]

    def aim(path: bytes, pick: int) -> bytes:
        how, pick = pick % 8, pick // 8
        if how < 4:
            return there[pick % len(there)][0] or path
        if how < 7:
            above = directories[pick % len(directories)]
            return b"/".join(part for part in (above, path.rpartition(b"/")[2] or b"a") if part)
        return path

    other = aim(operation.other, at[1]) if operation.call in ("link", "rename") else operation.other
    return operation._replace(path=aim(operation.path, at[0]), other=other)


_BUILD = ["mkdir"] * 5 + ["open"] * 5 + ["symlink", "link", "link", "mkfifo"]
_CHANGE = ["unlink"] * 6 + ["rmdir"] * 6 + ["rename"] * 8 + ["mkdir"] * 3 + ["open"] * 3
_CHANGE += ["link", "symlink", "truncate", "chmod", "lstat"]


def random_operation(chance: random.Random, phase: str) -> tuple[Operation, tuple[int, int]]:
    """An operation evenly chosen, and what it aims at: hypothesis prefers what is small and repeated.

    phase: "build" makes trees; "change" takes as much away as it makes.
    """
    call = chance.choice(_BUILD if phase == "build" else _CHANGE)
    flags: frozenset[str] = frozenset()
    if call == "open":
        flags = frozenset({"create", "write"} | set(chance.choices(["truncate", "nofollow", "exclusive"])))
    elif call == "rename":
        flags = chance.choice([frozenset(), frozenset(), frozenset({"exchange"})])
    name, other = chance.choice([b"a", b"b", b"c"]), chance.choice([b"a", b"b", b"../a", b"c/b", b"a/"])
    number = 0o640 if call == "chmod" else chance.randrange(4)
    fresh = call in ("mkdir", "open", "symlink", "mkfifo") and chance.random() < 0.8
    first = 4 if fresh else chance.choice([0, 0, 0, 4])
    second = 4 if call == "link" else chance.choice([0, 4])
    at = chance.randrange(1 << 13) * 8 + first, chance.randrange(1 << 13) * 8 + second
    return Operation(call, name, other, flags, number), at


def _written(operation: Operation) -> bytes:
    return b"%d" % operation.number * operation.number


def _made(operation: Operation) -> Node:
    match operation.call:
        case "mkdir":
            return Node(Kind.DIRECTORY, 0o755)
        case "mkfifo":
            return Node(Kind.FIFO, 0o644)
        case "symlink":
            return Node(Kind.SYMLINK, content=operation.other)
        case _:
            return Node(Kind.FILE, 0o644)


def on_plain(files: PlainFiles, operation: Operation) -> int:
    """Do it to the oracle. Returns the errno, 0 for success. Raises `Left`."""
    call, path, other, flags, number = operation
    try:
        match call:
            case "stat" | "lstat":
                files.stat(path, call == "stat")
            case "mkdir" | "mkfifo" | "symlink":
                files.make(path, _made(operation))
            case "link":
                files.link(path, other, "follow" in flags)
            case "unlink":
                files.unlink(path)
            case "rmdir":
                files.rmdir(path)
            case "rename":
                files.rename(path, other, "".join(flags))
            case "open":
                node = files.open(path, flags, _made(operation))
                if "write" in flags and node.kind is Kind.FILE:
                    data = _written(operation)
                    node.content = data + node.content[len(data) :]
            case "truncate":
                files.truncate(path, number)
            case "chmod":
                files.chmod(path, number)
    except Failed as failed:
        return int(failed.args[0])
    return 0


def on_real(root: bytes, operation: Operation) -> int:
    """Do it in a directory, which is the current one. Returns the errno, 0 for success."""
    call, path, other, flags, number = operation
    path, other = _there(root, path), _there(root, other)
    try:
        match call:
            case "stat":
                os.stat(path)
            case "lstat":
                os.lstat(path)
            case "mkdir":
                os.mkdir(path, 0o755)
            case "mkfifo":
                os.mkfifo(path, 0o644)
            case "symlink":
                os.symlink(other, path)
            case "link":
                # Not os.link, which calls link(2) and then follows nothing.
                if _libc.linkat(-100, path, -100, other, 0x400 if "follow" in flags else 0):
                    return ctypes.get_errno()
            case "unlink":
                os.unlink(path)
            case "rmdir":
                os.rmdir(path)
            case "rename":
                if _libc.renameat2(-100, path, -100, other, _RENAME["".join(flags)]):
                    return ctypes.get_errno()
            case "open":
                _open_real(path, operation)
            case "truncate":
                os.truncate(path, number)
            case "chmod":
                os.chmod(path, number)
    except OSError as error:
        assert error.errno is not None
        return error.errno
    return 0


def _there(root: bytes, path: bytes) -> bytes:
    return root + path[len(ROOT) :] if path == ROOT or path.startswith(ROOT + b"/") else path


_O = {
    "create": os.O_CREAT,
    "exclusive": os.O_EXCL,
    "truncate": os.O_TRUNC,
    "directory": os.O_DIRECTORY,
    "nofollow": os.O_NOFOLLOW,
}


def _open_real(path: bytes, operation: Operation) -> None:
    flags = os.O_RDWR if "write" in operation.flags else os.O_RDONLY
    for flag in operation.flags - {"write"}:
        flags |= _O[flag]
    fd = os.open(path, flags | os.O_NONBLOCK, 0o644)
    try:
        if "write" in operation.flags and stat.S_ISREG(os.fstat(fd).st_mode):
            os.pwrite(fd, _written(operation), 0)
    finally:
        os.close(fd)


class Copied:
    """The model at work on layers in memory: what a handler does, as operations."""

    def __init__(self, view: View, upper: MemoryLayer, lower: MemoryLayer) -> None:
        self.view = view
        self.upper = upper
        self.executor = Executor(view, upper, lower)
        self.enter = lookup.entrance([view])

    def find(self, path: bytes, goal: Goal) -> Found:
        found = lookup.walk(self.view.top(), path, goal, enter=self.enter)
        if isinstance(found, Outside):
            raise Left
        return found

    def steps(self, operation: Operation) -> tuple[plans.Steps, bytes]:
        """The plan, and the canonical path that is then changed. Raises FsError, `Left`."""
        call, path, other, flags, number = operation
        follow = Goal.FOLLOW if call in ("stat", "truncate", "chmod") or "follow" in flags else Goal.NOFOLLOW
        match call:
            case "stat" | "lstat":
                return (), self.find(path, follow).path
            case "mkdir" | "mkfifo" | "symlink":
                found = self.find(path, Goal.NAME)
                return plans.create(found, _made(operation).kind), found.path
            case "link":
                found = self.find(path, follow)
                return plans.link(found, self.find(other, Goal.NAME)), found.path
            case "unlink":
                return plans.unlink(self.find(path, Goal.NAME)), b""
            case "rmdir":
                return plans.rmdir(self.find(path, Goal.NAME)), b""
            case "rename":
                flag = dict.fromkeys(flags, True)
                return plans.rename(self.find(path, Goal.NAME), self.find(other, Goal.NAME), **flag), b""
            case "open":
                return self._opening(operation)
            case "truncate":
                found = self.find(path, follow)
                return plans.truncate(found, number), found.path
            case _:
                found = self.find(path, follow)
                return plans.change_metadata(found), found.path

    def _opening(self, operation: Operation) -> tuple[plans.Steps, bytes]:
        flags = operation.flags
        if {"create", "directory"} <= flags:
            raise FsError(errno.EINVAL)
        stay = "nofollow" in flags or {"create", "exclusive"} <= flags
        if "create" in flags:
            goal = Goal.CREATE_NOFOLLOW if stay else Goal.CREATE
        else:
            goal = Goal.NOFOLLOW if stay else Goal.FOLLOW
        found = self.find(operation.path, goal)
        asked = dict.fromkeys(flags - {"nofollow"}, True)
        opening = plans.open_file(found, **asked)
        return opening.steps, found.path

    def run(self, operation: Operation) -> Iterator[None]:
        """Do it; comes back after each step. Raises FsError, `Left`."""
        steps, path = self.steps(operation)
        made = _made(operation)
        for step in self.executor.single(steps):
            self.executor.run(step, made)
            yield
        self._finish(operation, path)

    def _finish(self, operation: Operation, path: bytes) -> None:
        """What remains to be done to the upper object."""
        if operation.call not in ("open", "truncate", "chmod"):
            return
        found = self.view.at(path)
        assert found is not None
        if found.upper is None:
            assert operation.call == "open" and not (
                found.kind is Kind.FILE and {"write", "truncate"} & operation.flags
            )
            return
        node = self.upper.node(path)
        assert node is not None
        if operation.call == "chmod":
            node.mode = operation.number
        elif operation.call == "truncate":
            node.content = node.content[: operation.number].ljust(operation.number, b"\0")
        elif node.kind is Kind.FILE:
            if "truncate" in operation.flags:
                node.content = b""
            if "write" in operation.flags:
                data = _written(operation)
                node.content = data + node.content[len(data) :]
