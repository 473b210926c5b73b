"""A sandbox of a test's own that can be paused (pausing_driver.py)."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.running import Argument, Runner
from harness.waiting import PATIENCE_S, line_of, until

_DRIVER = Path(__file__).with_name("pausing_driver.py")
_STILL_AT_FIRST_S = 0.03


class Pausable:
    """output: the program's, a file. What it does shows there."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path) -> None:
        self.process = process
        self.output = output
        self.has_ended = False
        self.init = int(self._told()["init"])

    def _told(self, limit_s: float = PATIENCE_S) -> dict[str, Any]:
        assert self.process.stdout is not None
        return dict(json.loads(line_of(self.process.stdout.fileno(), limit_s)))

    def order(self, what: str, *arguments: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([what, *arguments]).encode() + b"\n")
        return self._told()

    def status(self) -> dict[str, Any]:
        """When it has ended."""
        while "status" not in (told := self._told()):
            pass
        status: dict[str, Any] = told["status"]
        self.has_ended = True
        return status

    def progress(self) -> int:
        return self.output.stat().st_size

    def is_still_for(self, time_s: float) -> bool:
        before, end = self.progress(), time.monotonic() + time_s
        while time.monotonic() < end:
            time.sleep(0.002)
            if self.progress() != before:
                return False
        return True

    def pause(self) -> None:
        """Until nothing moves any more."""
        assert self.order("pause") == {"is_paused": True}
        until(lambda: self.is_still_for(_STILL_AT_FIRST_S), "it stands still")

    def begins(self) -> None:
        until(self.progress, "it begins")

    def goes_on(self) -> None:
        """Of what writes all the time."""
        before = self.progress()
        until(lambda: self.progress() > before, "it goes on")


@contextmanager
def pausable(
    runner: Runner, command: Sequence[Argument], policy: str = "[filesystem]\nbase = true\n"
) -> Iterator[Pausable]:
    """As the runner's user. It is killed in the end if it still lives."""
    # A copy: the ordinary user may not be able to read the source tree.
    script = runner.place.file("driver.py", _DRIVER.read_text())
    output = runner.place.file("output", "")
    line = [sys.executable, "-I", script, runner.policy_file(policy), output, *command]
    with runner.started(line) as process:
        made = Pausable(process, output)
        yield made
        if not made.has_ended and process.poll() is None:
            made.order("kill")
            made.status()
        assert process.wait(PATIENCE_S) in (0, -signal.SIGKILL)
