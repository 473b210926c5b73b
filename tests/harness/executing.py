"""A sandbox of a test's own, in which further programs can be started (executing_driver.py).

with executable(runner) as sandbox:
    assert sandbox.run("echo hi").output == b"hi\\n"
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.running import Argument, Runner
from harness.waiting import PATIENCE_S, line_of

_DRIVER = Path(__file__).with_name("executing_driver.py")


class Executed:
    """A further program: what it has written so far, and what was told of it."""

    def __init__(self, sandbox: Executable, serial: int, place: Path) -> None:
        self.serial = serial
        self._sandbox = sandbox
        self._place = place
        self._pid = 0
        self._ended: dict[str, Any] | None = None

    @property
    def output(self) -> bytes:
        """Of both streams."""
        return self._place.read_bytes()

    @property
    def pid(self) -> int:
        """When it is there."""
        if not self._pid:
            self._pid = int(self._sandbox.told("started", self.serial)["pid"])
        return self._pid

    def ended(self) -> dict[str, Any]:
        """What is told of that, when it has."""
        if self._ended is None:
            self._ended = self._sandbox.told("ended", self.serial)
        return self._ended

    @property
    def exit_status(self) -> int:
        """When it has ended."""
        return int(self.ended()["exit_status"])

    def signal(self, number: int) -> None:
        self._sandbox.order("signal", self.serial, number)


class Executable:
    def __init__(self, process: subprocess.Popen[bytes], place: Path) -> None:
        self.process = process
        self.has_ended = False
        self._place = place
        self._news: list[dict[str, Any]] = []
        self._count = 0
        self.init = int(self.told("init")["init"])

    def order(self, what: str, *given: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([what, *given]).encode() + b"\n")

    def told(self, what: str, value: object = None, *, or_else: str = "") -> dict[str, Any]:
        """The first that was not asked for yet of those that tell this. or_else: or that."""
        at = 0
        while True:
            if at == len(self._news):
                assert self.process.stdout is not None
                self._news.append(json.loads(line_of(self.process.stdout.fileno(), PATIENCE_S)))
            one = self._news[at]
            if (what in one and value in (None, one[what])) or (or_else and or_else in one):
                return self._news.pop(at)
            at += 1

    def try_to_start(
        self,
        command: str | Sequence[Argument],
        *,
        stdin: str = "/dev/null",
        terminal: str | None = None,
        cwd: Argument | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Executed | dict[str, Any]:
        """Or what is told of it when it is not even tried. command: a line for sh, or words."""
        self._count += 1
        place = self._place / f"output-{self._count}"
        words = ["sh", "-c", command] if isinstance(command, str) else [os.fsdecode(word) for word in command]
        directory = None if cwd is None else os.fsdecode(cwd)
        self.order("execute", words, terminal or stdin, terminal or str(place), directory, dict(env or {}))
        answer = self.told("serial", or_else="refused")
        return Executed(self, answer["serial"], place) if "serial" in answer else answer

    def start(self, command: str | Sequence[Argument], **more: Any) -> Executed:
        executed = self.try_to_start(command, **more)
        assert isinstance(executed, Executed), executed
        return executed

    def run(self, command: str | Sequence[Argument], **more: Any) -> Executed:
        """To its end."""
        executed = self.start(command, **more)
        executed.ended()
        return executed

    def counts(self) -> dict[str, int]:
        self.order("counts")
        counts: dict[str, int] = self.told("counts")["counts"]
        return counts

    def result(self) -> dict[str, Any]:
        """When all has ended."""
        result: dict[str, Any] = self.told("result")["result"]
        self.has_ended = True
        return result


BASE = "[filesystem]\nbase = true\n"


@contextmanager
def executable(
    runner: Runner,
    command: Sequence[Argument] = ("sleep", "1000"),
    policy: str = BASE,
    *,
    without_pump: bool = False,
) -> Iterator[Executable]:
    """As the runner's user. It is killed in the end if it still lives."""
    # A copy: the ordinary user may not be able to read the source tree.
    script = runner.place.file("driver.py", _DRIVER.read_text())
    options = ["--without-pump"] if without_pump else []
    line = [sys.executable, "-I", script, *options, runner.policy_file(policy), *command]
    output = runner.place.root / "outputs"
    output.mkdir()
    runner.place.give(output)
    with runner.started(line) as process:
        made = Executable(process, output)
        try:
            yield made
        finally:
            if not made.has_ended and process.poll() is None:
                made.order("kill")
                made.result()
        assert process.wait(PATIENCE_S) in (0, -signal.SIGKILL)
