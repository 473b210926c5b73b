"""A service of a test's own (`sandlockd serve`), and requests to it by nothing but the standard library.

with service(runner) as served:
    made = served.run(["sh", "-c", "echo hi"])
    assert served.wait(made["id"])["exit_status"] == 0
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.interpreter import SANDLOCKD
from harness.running import Argument, Runner
from harness.unix_http import Answer, UnixConnection, ask
from harness.waiting import PATIENCE_S, until


class Served:
    def __init__(self, process: subprocess.Popen[bytes], runner: Runner, place: Path) -> None:
        self.process = process
        self.runner = runner
        self.socket = place / "s"
        self.state = place / "state"
        self.log = place / "log"

    def connection(self, limit_s: float = PATIENCE_S) -> UnixConnection:
        return UnixConnection(self.socket, limit_s)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """body: encoded as JSON, if it is not bytes already."""
        content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        return ask(self.connection(), method, path, content, **headers)

    def get(self, path: str, **headers: str) -> Any:
        """What is answered with 200."""
        answer = self.ask("GET", path, **headers)
        assert answer.status == 200, answer
        return answer.json

    def post(self, path: str, body: Any = None) -> Any:
        answer = self.ask("POST", path, body)
        assert answer.status in (200, 201), answer
        return answer.json

    def run(self, command: Sequence[Argument], **more: Any) -> dict[str, Any]:
        """Start it; the sandbox as it is then. It has the runner's environment."""
        request = {
            "command": [str(word) for word in command],
            "cwd": str(self.runner.work),
            "environment": self.runner.environment(),
            **more,
        }
        made: dict[str, Any] = self.post("/v1/sandboxes", request)
        return made

    def wait(self, identifier: str) -> dict[str, Any]:
        ended: dict[str, Any] = self.post(f"/v1/sandboxes/{identifier}/wait", {"timeout_s": PATIENCE_S})
        assert ended["ended"] is not None
        return ended

    def remove(self, identifier: str) -> None:
        answer = self.ask("DELETE", f"/v1/sandboxes/{identifier}?force=true")
        assert answer.status == 204, answer.content

    def remove_all(self) -> None:
        for one in self.get("/v1/sandboxes?limit=1000")["sandboxes"]:
            self.remove(one["id"])

    def problem(
        self, status: int, method: str, path: str, body: Any = None, **headers: str
    ) -> dict[str, Any]:
        """A request that gets nothing but that."""
        return problem_of(self.ask(method, path, body, **headers), status)

    def until_state(self, identifier: str, *states: str) -> dict[str, Any]:
        found: dict[str, Any] = {}

        def is_there() -> bool:
            found.update(self.get(f"/v1/sandboxes/{identifier}"))
            return found["state"] in states

        until(is_there, f"{identifier} is {' or '.join(states)}")
        return found

    def connections(self) -> int:
        """That are open: the one that asks, too."""
        lines = self.ask("GET", "/metrics").content.decode().splitlines()
        return next(
            int(float(line.split()[1])) for line in lines if line.startswith("sandlockd_api_connections ")
        )

    def connected(self, limit_s: float = PATIENCE_S) -> socket.socket:
        """To send it what is no request."""
        line = socket.socket(socket.AF_UNIX)
        line.connect(os.fspath(self.socket))
        line.settimeout(limit_s)
        return line

    def kill_supervisor(self, identifier: str, *, keeper_too: bool = False) -> None:
        """By SIGKILL; of one that is replaced, whoever is in its place now. keeper_too: so that it is not."""

        def is_killed() -> bool:
            found = self.get(f"/v1/sandboxes/{identifier}")
            if found["keeper_pid"] is None:
                return False
            try:
                if keeper_too:
                    os.kill(found["keeper_pid"], signal.SIGKILL)
                os.kill(found["supervisor_pid"], signal.SIGKILL)
            except ProcessLookupError:
                return False  # the one before, whose place was not taken yet
            return True

        until(is_killed, "it is killed")

    def output(self, identifier: str, stream: str = "stdout") -> bytes:
        answer = self.ask("GET", f"/v1/sandboxes/{identifier}/logs?raw=true&stream={stream}")
        assert answer.status == 200
        return answer.content


def problem_of(answer: Answer, status: int) -> dict[str, Any]:
    """The document (RFC 9457)."""
    assert answer.status == status, answer
    assert answer.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = answer.json
    assert document["type"].startswith("urn:sandlockd:problem:") and document["status"] == status
    assert document["title"] and document["detail"] and "\n" not in document["detail"]
    return document


@contextmanager
def service(
    runner: Runner, *, config: str | None = None, options: Sequence[Argument] = (), **popen: Any
) -> Iterator[Served]:
    """As the runner's user. Ended by SIGTERM; its exit status must be 0 then."""
    place = runner.place.give(_made(runner.place.root / "service"))
    line: list[Argument] = [SANDLOCKD, "serve", "--socket", place / "s", "--state-dir", place / "state"]
    if config is not None:
        line += ["--config", runner.place.file("service.toml", config)]
    with open(place / "log", "wb") as log, runner.started([*line, *options], stderr=log, **popen) as process:
        served = Served(process, runner, place)
        until(lambda: b"listens" in served.log.read_bytes(), "the service listens")
        yield served
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_S) == 0, served.log.read_text()


def _made(path: Path) -> Path:
    path.mkdir(exist_ok=True)  # of the one before, in the same place
    return path
