"""Attacks as lists of raw system calls, made by attacks/calls.c: no libc comes between a test and the kernel.

script = Script()
fd = script.openat(AT_FDCWD, b"/etc/shadow", os.O_RDONLY)
script.read(fd, Buffer(64), 64)
opened, read = script.results(ended.stdout)
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from harness.running import Ended, Runner

from sandlockd.kernel.syscalls import number_of

ATTACKS = Path(__file__).parent / "attacks"
AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_SYMLINK_NOFOLLOW = 0x100
AT_SYMLINK_FOLLOW = 0x400


class Buffer(NamedTuple):
    """Memory for the call to fill."""

    size: int


class Iovec(NamedTuple):
    """One iovec: with these bytes, or with a buffer to fill."""

    content: bytes | int


class Bytes(NamedTuple):
    """Exactly these bytes: a structure."""

    content: bytes


class Edge(NamedTuple):
    """Bytes that end where an unmapped page begins."""

    content: bytes


class Ref(NamedTuple):
    """What an earlier call returned."""

    index: int


Argument = int | bytes | str | Path | Buffer | Iovec | Bytes | Edge | Ref


class Outcome(NamedTuple):
    """result: as the kernel returns it, -errno for an error. data: what was put into the buffers.

    died: the signal that ended the child which made the call, or None.
    """

    result: int
    data: bytes
    died: int | None = None

    @property
    def ok(self) -> bool:
        return self.died is None and self.result >= 0

    @property
    def error(self) -> str:
        """The name of the errno; "" where the call succeeded."""
        return errno.errorcode.get(-self.result, str(self.result)) if self.result < 0 else ""


class Script:
    """Calls in order. `script.name(arguments)` appends one and returns a reference to its result."""

    def __init__(self, *, each_alone: bool = False) -> None:
        """each_alone: what is appended runs in a process of its own (until this is changed)."""
        self.each_alone = each_alone
        self.lines: list[str] = []
        self.names: list[str] = []

    def call(self, number: int, *arguments: Argument, name: str = "") -> Ref:
        words = [str(number), *map(_word, arguments)]
        self.lines.append(("& " if self.each_alone else "- ") + " ".join(words))
        self.names.append(name or str(number))
        return Ref(len(self.lines) - 1)

    def __getattr__(self, name: str) -> Callable[..., Ref]:
        if name.startswith("__"):
            raise AttributeError(name)
        number = number_of(name)

        def append(*arguments: Argument) -> Ref:
            return self.call(number, *arguments, name=name)

        return append

    def results(self, output: bytes) -> list[Outcome]:
        outcomes = [_outcome(line) for line in output.splitlines()]
        assert len(outcomes) == len(self.lines), f"{len(outcomes)} of {len(self.lines)} calls were made"
        return outcomes

    # ---- running ----

    def command(self, runner: Runner) -> list[Any]:
        """What runs the script; it lies beside the program that makes the calls, which is granted."""
        path = runner.place.file("script/calls", "\n".join(self.lines) + "\n")
        return [program(runner, "calls"), path]

    def bare(self, runner: Runner, **popen: Any) -> list[Outcome]:
        ended = runner.bare(self.command(runner), **popen)
        assert ended.returncode == 0, ended.stderr
        return self.results(ended.stdout)

    def sandboxed(
        self,
        runner: Runner,
        *options: Any,
        policy: str | None = None,
        **popen: Any,
    ) -> tuple[list[Outcome], Ended]:
        ended = runner.sandboxed(
            self.command(runner),
            options=["--read", runner.place.root / "script", *options],
            policy=policy,
            **popen,
        )
        assert ended.returncode == 0, (ended.returncode, ended.stderr)
        return self.results(ended.stdout), ended


def program(runner: Runner, name: str) -> Path:
    """A program of attacks/, compiled."""
    return runner.compiler.compile((ATTACKS / f"{name}.c").read_text())


def _word(argument: Argument) -> str:
    match argument:
        case int():
            return f"i{argument}"
        case Buffer(size):
            return f"b{size}"
        case Iovec(int() as size):
            return f"v{size}"
        case Iovec(content):
            return "w" + content.hex()
        case Bytes(content):
            return "z" + content.hex()
        case Edge(content):
            return "e" + content.hex()
        case Ref(index):
            return f"${index}"
        case _:
            return "s" + os.fsencode(argument).hex()


def _outcome(line: bytes) -> Outcome:
    result, data = line.split(b" ")
    content = b"" if data == b"-" else bytes.fromhex(data.decode())
    if result.startswith(b"K"):
        return Outcome(0, content, died=int(result[1:]))
    return Outcome(int(result), content)


def errors(outcomes: Sequence[Outcome]) -> list[str]:
    return [outcome.error for outcome in outcomes]
