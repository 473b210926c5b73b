"""The OpenAPI document is what is served: found out by requests that are made from it (schemathesis)."""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.running import Runner
from harness.service import Served, service

_CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance"
# What follows does not end by itself, and a removed job would leave nothing to ask about.
_CONFIG = """
[parameters]
"path.id" = "job"
"query.follow" = false
"query.force" = false
"""


@contextlib.contextmanager
def _by_tcp(served: Served) -> Iterator[int]:
    """On a port of the loopback, for as long as it is wanted."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_forward, args=(listener, served), daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def _forward(listener: socket.socket, served: Served) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_pump, args=(client, served.connected(60)), daemon=True).start()


def _pump(one: socket.socket, other: socket.socket) -> None:
    with one, other, selectors.DefaultSelector() as waiting, contextlib.suppress(OSError):
        waiting.register(one, selectors.EVENT_READ, other)
        waiting.register(other, selectors.EVENT_READ, one)
        while True:
            for key, _ in waiting.select():
                data = key.fileobj.recv(1 << 16)  # type: ignore[union-attr]
                if not data:
                    return
                key.data.sendall(data)


@pytest.mark.parametrize("as_user", ["ordinary"], indirect=True)
def test_what_is_answered_is_what_the_document_says(runner: Runner, soak: bool) -> None:
    """No 5xx, no status and no content type that is not in it; and nothing is left."""
    with service(runner, config="[per_user]\nsandboxes = 4\n[starting]\nwarm = 1\n") as served:
        served.wait(served.run(["true"], name="job")["id"])
        config = runner.place.file("schemathesis.toml", _CONFIG)
        with _by_tcp(served) as port:
            ended = _schemathesis(runner, port, config, soak=soak)
        assert ended.returncode == 0, ended.stdout[-6000:]
        assert "Traceback" not in served.log.read_text()
        served.remove_all()
        assert not list((served.state / "sandboxes").iterdir()) and not list(
            (served.state / "runs").iterdir()
        )


def _schemathesis(runner: Runner, port: int, config: Path, *, soak: bool) -> subprocess.CompletedProcess[str]:
    url = f"http://127.0.0.1:{port}/v1/openapi.json"
    command = str(Path(sys.executable).with_name("st"))
    few = ["--max-examples", "3", "--phases", "fuzzing", "--max-time", "12", "--seed", "1"]
    most = ["--max-examples", "200", "--phases", "coverage,fuzzing"]
    rest = ["--no-shrink", "--exclude-method", "DELETE", "--warnings", "off", "--request-timeout", "30"]
    line = [command, "--config-file", str(config), "run", url, "--checks", _CHECKS]
    return subprocess.run(
        [*line, *(most if soak else few), *rest],
        cwd=runner.place.root,
        env={**os.environ, "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
