"""A control plane of a test's own: starts sandboxes by a zygote, as the service does (control_driver.py)."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.running import Argument, Runner
from harness.waiting import PATIENCE_S, line_of

_DRIVER = Path(__file__).with_name("control_driver.py")
Event = dict[str, Any]


class ControlPlane:
    def __init__(self, process: subprocess.Popen[bytes], runner: Runner) -> None:
        self.process = process
        self._runner = runner
        self._events: list[Event] = []
        self.zygote = int(self.next(lambda event: "zygote" in event)["zygote"])

    def _send(self, **order: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order).encode() + b"\n")

    def next(self, wanted: Any, limit_s: float = PATIENCE_S) -> Event:
        """The first event that was not taken yet and is wanted; others stay."""
        for number, event in enumerate(self._events):
            if wanted(event):
                return self._events.pop(number)
        assert self.process.stdout is not None
        while True:
            event = json.loads(line_of(self.process.stdout.fileno(), limit_s))
            if wanted(event):
                return dict(event)
            self._events.append(event)

    def start(
        self,
        key: str,
        command: Sequence[Argument],
        *,
        streams: tuple[Argument, Argument, Argument] = ("", "", ""),
        uid: int | None = None,
        policies: Sequence[Any] = (),
        environment: dict[str, str] | None = None,
        cwd: Path | None = None,
        **settings: Any,
    ) -> int:
        """Returns: the pid of its supervisor."""
        runner = self._runner
        start = {
            "uid": runner.place.user.uid if uid is None else uid,
            "command": [str(word) for word in command],
            "cwd": str(cwd or runner.work),
            "environment": {**runner.environment(), **(environment or {})},
            "policies": list(policies),
            "settings": settings,
        }
        self._send(do="start", key=key, start=start, streams=[str(path) for path in streams])
        return int(self.next(lambda event: event.get("key") == key and "supervisor" in event)["supervisor"])

    def order(self, key: str, name: str, **fields: Any) -> None:
        self._send(do="order", key=key, order=name, fields=fields)

    def raw(self, key: str, data: bytes) -> None:
        self._send(do="raw", key=key, hex=data.hex())

    def beside(self, key: str, message: bytes, descriptors: int) -> None:
        """So many descriptors, whatever it needs."""
        self._send(do="beside", key=key, hex=message.hex(), descriptors=descriptors)

    def kill(self, key: str) -> None:
        self._send(do="kill", key=key)

    def report(self, key: str, name: str) -> Event:
        return self.next(lambda event: event.get("key") == key and event.get("report") == name)

    def of(self, key: str, what: str) -> Event:
        """`lost`, `gone` or `not_ordered` of one."""
        return self.next(lambda event: event.get("key") == key and what in event)

    def said(self, key: str) -> list[str]:
        """All lines for people that came until now."""
        return [
            event["text"]
            for event in self._events
            if event.get("key") == key and event.get("report") == "Said"
        ]


@contextmanager
def control_plane(runner: Runner, **popen: Any) -> Iterator[ControlPlane]:
    """As the runner's user."""
    # A copy: the ordinary user may not be able to read the source tree.
    script = runner.place.file("driver.py", _DRIVER.read_text())
    with runner.started([sys.executable, "-I", script], **popen) as process:
        yield ControlPlane(process, runner)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(PATIENCE_S) == 0
