"""The units of systemd/, installed as docs/operating.md says, under a real systemd (harness/booted.py)."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import booted
from harness.booted import Inside, Machine
from harness.waiting import until

_ROOT = Path(__file__).parents[2]
_DOCUMENT = (_ROOT / "docs/operating.md").read_text()
_UNIT = "sandlockd.service"
_GROUP = f"system.slice/{_UNIT}"
_OPEN = "[Socket]\nSocketMode=0666\n"
_LIMIT_S = 30.0


def shell_blocks() -> list[str]:
    return re.findall(r"^```sh\n(.*?)^```$", _DOCUMENT, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    """With the units, and three users: two that are nobody special, and carol, who administers."""
    reason = booted.why_not()
    if reason is not None:
        pytest.skip(reason)
    with booted.booted() as made:
        install = next(block for block in shell_blocks() if "sysusers" in block)
        made.run(["sh", "-euc", install])
        for name in ("alice", "bob", "carol"):
            made.run(["useradd", "--create-home", "--shell", "/bin/sh", name])
        join = next(block for block in shell_blocks() if "usermod" in block)
        made.run(["sh", "-euc", join.replace("alice", "carol")])
        yield made


@pytest.fixture
def stopped(machine: Machine) -> Iterator[Machine]:
    """Nothing runs, nothing is changed from what was installed; so again afterwards."""
    yield machine
    machine.systemctl("stop", "sandlockd.socket", _UNIT)
    for unit in (_UNIT, "sandlockd.socket"):
        machine.remove(f"/etc/systemd/system/{unit}.d/test.conf")
    machine.remove("/etc/sandlockd/service.toml")
    machine.systemctl("daemon-reload")
    machine.systemctl("reset-failed")


@pytest.fixture
def served(stopped: Machine) -> Machine:
    """It runs, and everybody may connect."""
    drop_in(stopped, "sandlockd.socket", _OPEN)
    stopped.systemctl("start", _UNIT)
    return stopped


def drop_in(machine: Machine, unit: str, text: str) -> None:
    machine.write(f"/etc/systemd/system/{unit}.d/test.conf", text)
    machine.systemctl("daemon-reload")


def main_process(machine: Machine) -> Inside:
    pid = int(machine.property(_UNIT, "MainPID"))
    return next(one for one in machine.processes() if one.pid == pid)


def run(machine: Machine, user: str | None, *command: str, **more: Any) -> dict[str, Any]:
    request = {"command": list(command), "cwd": "/", **more}
    answer = machine.ask(user, "POST", "/v1/sandboxes", request)
    assert answer.status == 201, answer
    made: dict[str, Any] = answer.json
    return made


def of(machine: Machine, *, seconds: int) -> list[Inside]:
    return [one for one in machine.processes() if one.command == f"sleep {seconds}"]


def ids(machine: Machine, user: str) -> set[str]:
    return {one["id"] for one in machine.ask(user, "GET", "/v1/sandboxes").json["sandboxes"]}


def test_the_first_request_starts_the_service(stopped: Machine) -> None:
    assert stopped.systemctl("is-enabled", "sandlockd.socket", _UNIT, check=False).split() == [
        "enabled",
        "disabled",
    ]
    stopped.systemctl("start", "sandlockd.socket")
    assert stopped.property(_UNIT, "ActiveState") == "inactive"
    found = stopped.run(["stat", "-c", "%U %G %a %F", booted.SOCKET]).stdout
    assert found == "root sandlockd 660 socket\n"
    assert stopped.ask("carol", "GET", "/healthz").status == 200
    assert stopped.property(_UNIT, "ActiveState") == "active"
    assert "listens" in stopped.property(_UNIT, "StatusText")
    modes = stopped.run(["stat", "-c", "%U %G %a", "/var/lib/sandlockd", "/etc/sandlockd/policies"]).stdout
    assert modes == "root root 700\nroot root 755\n"
    assert booted.SOCKET in stopped.journal()
