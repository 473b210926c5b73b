"""The units of systemd/, installed as docs/operating.md says, under a real systemd (harness/booted.py)."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import booted
from harness.booted import Inside, Machine
from harness.waiting import until

from sandlockd.control.routes import ENDPOINTS

_ROOT = Path(__file__).parents[2]
_DOCUMENT = (_ROOT / "docs/operating.md").read_text()
_UNIT = "sandlockd.service"
_GROUP = f"system.slice/{_UNIT}"
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
    machine.systemctl("stop", "sandlockd.socket", _UNIT)
    yield machine
    machine.systemctl("stop", "sandlockd.socket", _UNIT)
    for unit in (_UNIT, "sandlockd.socket"):
        machine.remove(f"/etc/systemd/system/{unit}.d/test.conf")
    machine.remove("/etc/sandlockd/service.toml")
    machine.systemctl("daemon-reload")
    machine.systemctl("reset-failed")
    for one in machine.processes():  # of a test that failed
        if one.uid != 0:
            os.kill(one.outer_pid, signal.SIGKILL)


@pytest.fixture
def served(stopped: Machine) -> Machine:
    """It runs, and everybody may connect."""
    open_to_all(stopped)
    stopped.systemctl("start", _UNIT)
    return stopped


def open_to_all(machine: Machine) -> None:
    """As the document says; the drop-in has the name that is removed again."""
    block = next(block for block in shell_blocks() if "SocketMode=0666" in block)
    machine.run(["sh", "-euc", block.replace("everybody.conf", "test.conf")])


def drop_in(machine: Machine, unit: str, text: str) -> None:
    machine.write(f"/etc/systemd/system/{unit}.d/test.conf", text)
    machine.systemctl("daemon-reload")


def main_process(machine: Machine) -> Inside:
    pid = int(machine.property(_UNIT, "MainPID"))
    return next(one for one in machine.processes() if one.pid == pid)


def await_restart(machine: Machine) -> None:
    until(lambda: int(machine.property(_UNIT, "NRestarts")) > 0, "it is started again", _LIMIT_S)
    until(lambda: machine.property(_UNIT, "ActiveState") == "active", "it listens again", _LIMIT_S)


def run(machine: Machine, user: str | None, *command: str, socket: str = booted.SOCKET) -> dict[str, Any]:
    answer = machine.ask(user, "POST", "/v1/sandboxes", {"command": list(command)}, socket=socket)
    assert answer.status == 201, answer
    made: dict[str, Any] = answer.json
    return made


def sleepers(machine: Machine, seconds: int) -> list[Inside]:
    return [one for one in machine.processes() if one.command == f"sleep {seconds}"]


def ids(machine: Machine, user: str | None) -> set[str]:
    return {one["id"] for one in machine.ask(user, "GET", "/v1/sandboxes").json["sandboxes"]}


def require_nothing_left(machine: Machine, group: str, before: list[Inside]) -> None:
    """By /proc and cgroupfs: nobody of the service's, nobody of a user's, nobody that was not there before."""
    known = {(one.pid, one.name) for one in before}
    assert [one for one in machine.processes() if (one.pid, one.name) not in known] == []
    assert machine.of_group(group) == []


def users_number(machine: Machine, name: str) -> int:
    return int(machine.run(["id", "-u", name]).stdout)


def test_the_first_request_starts_the_service(stopped: Machine) -> None:
    states = stopped.systemctl("is-enabled", "sandlockd.socket", _UNIT, check=False)
    assert states.split() == ["enabled", "disabled"]
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


def test_who_is_not_in_the_group_cannot_connect(stopped: Machine) -> None:
    stopped.systemctl("start", "sandlockd.socket")
    with pytest.raises(PermissionError):
        stopped.ask("alice", "GET", "/healthz")
    assert stopped.property(_UNIT, "ActiveState") == "inactive"
    open_to_all(stopped)
    assert stopped.ask("alice", "GET", "/healthz").status == 200


def test_users_neither_see_nor_touch_what_is_not_theirs(served: Machine) -> None:
    """Every request there is, about another user's sandbox: as if there were none."""
    hers = run(served, "alice", "sleep", "4711")
    his = run(served, "bob", "sleep", "4712")
    assert (hers["owner"], his["owner"]) == ("alice", "bob")
    for name, seconds in (("alice", 4711), ("bob", 4712)):
        (sleeper,) = sleepers(served, seconds)
        assert sleeper.uid == users_number(served, name)
    assert (ids(served, "alice"), ids(served, "bob")) == ({hers["id"]}, {his["id"]})
    assert ids(served, "carol") == ids(served, None) == {hers["id"], his["id"]}
    requests = [
        (one.method, _about(one.path, hers["id"]), _BODIES[one.method].get(one.path.rpartition("/")[2]))
        for one in ENDPOINTS
        if "{id}" in one.path
    ]
    assert len(requests) > 10
    answers = served.ask_all("bob", requests)
    assert [one.status for one in answers] == [404] * len(requests), list(zip(requests, answers, strict=True))
    assert hers["id"] not in served.ask("bob", "GET", "/v1/events").content.decode()
    assert served.ask("alice", "GET", f"/v1/sandboxes/{hers['id']}").json["state"] == "running"
    ended = served.ask("carol", "POST", f"/v1/sandboxes/{hers['id']}/kill", {})
    assert (ended.status, sleepers(served, 4711)) == (200, [])
    assert len(sleepers(served, 4712)) == 1


_BODIES: dict[str, dict[str, Any]] = {
    "GET": {},
    "DELETE": {},
    "POST": {
        "signal": {"signal": "TERM"},
        "exec": {"command": ["true"]},
        **{verb: {} for verb in ("stop", "wait", "commit", "discard")},
    },
}


def _about(path: str, identifier: str) -> str:
    return re.sub(r"\{[a-z]+(:int)?\}", "1", path.replace("{id}", identifier))


def test_a_program_finds_what_it_finds_without_the_service(served: Machine) -> None:
    """What the unit restricts cannot be felt: the same run, once by the service and once in the foreground."""
    script = (
        "id; umask; ls -ld . /tmp; mkdir shared; chmod 2775 shared; stat -c %a shared; cat /proc/sys/kernel/hostname;"
        " grep -E 'Cap(Eff|Prm|Inh|Amb)|NoNewPrivs' /proc/self/status; hostname new; dmesg; setarch -R true;"
        " /usr/bin/python3 -c 'import mmap; mmap.mmap(-1, 4096, prot=7)'; unshare -U true; ps -A -o comm=; nproc"
    )
    in_the_foreground = (
        'umask 022; cd "$0"; exec sandlockd --quiet --workdir . --on-exit discard -- sh -c "$1"'
    )
    for user, home in (("alice", "/home/alice"), (None, "/home")):
        work = f"{home}/work"
        served.run(["mkdir", work], user=user)
        path = f"/usr/bin:/bin:{Path(sys.executable).parent}"
        outside = served.run(["sh", "-c", in_the_foreground, work, script], user=user, HOME=home, PATH=path)
        body = {"command": ["sh", "-c", script], "cwd": work, "workdir": work, "on_exit": "commit"}
        made = served.ask(user, "POST", "/v1/sandboxes", body)
        assert made.status == 201, made
        where = f"/v1/sandboxes/{made.json['id']}"
        logs = [("GET", f"{where}/logs?raw=true&stream={name}", None) for name in ("stdout", "stderr")]
        wait, stdout, stderr = served.ask_all(user, [("POST", f"{where}/wait", {}), *logs])
        assert wait.json["state"] == "committed"
        assert stdout.content.decode() == outside.stdout
        said = [line for line in outside.stderr.splitlines() if not line.startswith("sandlockd: ")]
        assert stderr.content.decode().splitlines() == said
        assert served.run(["stat", "-c", "%a", f"{work}/shared"]).stdout == "2775\n"


def test_a_main_process_that_hangs_is_killed_and_started_again(stopped: Machine) -> None:
    open_to_all(stopped)
    drop_in(stopped, _UNIT, "[Service]\nWatchdogSec=3\nRestartSec=0\n")
    stopped.systemctl("start", _UNIT)
    run(stopped, "alice", "sleep", "4713")
    before = main_process(stopped)
    os.kill(before.outer_pid, signal.SIGSTOP)
    await_restart(stopped)
    assert main_process(stopped).pid != before.pid
    assert sleepers(stopped, 4713) == []
    assert stopped.ask("alice", "GET", "/healthz").status == 200
    assert "Fatal Python error: Aborted" in stopped.journal()  # and where it was


def test_a_reload_reads_the_configuration_again_or_leaves_it_as_it_was(served: Machine) -> None:
    def answer() -> int:
        return served.ask("alice", "POST", "/v1/sandboxes", {"command": ["true"]}).status

    assert answer() == 201
    served.write("/etc/sandlockd/service.toml", "[per_user]\nsandboxes = 0\n")
    served.systemctl("reload", _UNIT)
    until(lambda: "read its configuration again" in served.journal(), "it is read")
    assert answer() == 429
    served.write("/etc/sandlockd/service.toml", "[per_user]\nsandboxes = 10\nsandboxen = 1\n")
    served.systemctl("reload", _UNIT)
    until(lambda: "sandboxen" in served.journal(_UNIT, "-p", "err"), "it is refused")
    assert answer() == 429
    assert "stays as it was" in served.property(_UNIT, "StatusText")
    assert served.property(_UNIT, "ActiveState") == "active"


def test_a_configuration_that_is_broken_at_the_start_is_not_tried_again(stopped: Machine) -> None:
    stopped.write("/etc/sandlockd/service.toml", "[access]\nsocket_mode = 432\n")
    assert stopped.run(["systemctl", "start", _UNIT], check=False).returncode != 0
    assert stopped.property(_UNIT, "ExecMainStatus") == "78"
    assert (stopped.property(_UNIT, "ActiveState"), stopped.property(_UNIT, "NRestarts")) == ("failed", "0")
    assert "access.socket_mode" in stopped.journal(_UNIT, "-p", "err")


def test_a_stop_leaves_nothing(stopped: Machine) -> None:
    """Programs have their grace, although that is longer than what systemd grants by itself."""
    before = stopped.processes()
    open_to_all(stopped)
    drop_in(stopped, _UNIT, "[Service]\nTimeoutStopSec=1\n")
    stopped.write("/etc/sandlockd/service.toml", '[starting]\nstop_grace = "2s"\n')
    stopped.systemctl("start", _UNIT)
    script = (
        "trap '' TERM; setsid sleep 4714 & setsid sh -c 'sleep 4714 & sleep 4714' & sleep 4714; sleep 4714"
    )
    made = [run(stopped, user, "sh", "-c", script) for user in ("alice", "bob", None)]
    until(lambda: len(sleepers(stopped, 4714)) == 4 * len(made), "all have begun")
    assert len(stopped.of_group(_GROUP)) > 4 * len(made)
    stopped.systemctl("stop", "sandlockd.socket", _UNIT)
    require_nothing_left(stopped, _GROUP, before)
    assert stopped.property(_UNIT, "Result") == "success"
    stopped.systemctl("stop", _UNIT)
    stopped.systemctl("start", _UNIT)
    for one in made:
        known = stopped.ask(None, "GET", f"/v1/sandboxes/{one['id']}").json
        assert (known["state"], known["reason"]) == ("exited", "killed")


def test_a_crash_leaves_no_process_and_a_service_that_knows_of_it(served: Machine) -> None:
    """A supervisor that is stopped cannot end by itself; the kernel ends it."""
    made = {
        user: run(served, user, "sh", "-c", "setsid sleep 4715 & sleep 4715") for user in ("alice", "bob")
    }
    until(lambda: len(sleepers(served, 4715)) == 4, "all have begun")
    before = served.processes()
    supervisor = next(one for one in before if one.pid == made["alice"]["supervisor_pid"])
    assert supervisor.name == "sandlockd-sup"
    os.kill(supervisor.outer_pid, signal.SIGSTOP)
    crashed = main_process(served)
    os.kill(crashed.outer_pid, signal.SIGKILL)
    await_restart(served)
    assert sleepers(served, 4715) == []
    of_it = {one.pid for one in before if _GROUP in one.group}
    assert len(of_it) > 8
    assert of_it.isdisjoint(one.pid for one in served.processes())
    for user, one in made.items():
        assert served.ask(user, "GET", f"/v1/sandboxes/{one['id']}").json["state"] == "failed"
    assert served.ask("alice", "POST", "/v1/sandboxes", {"command": ["true"]}).status == 201


def test_what_is_left_open_is_in_the_document_with_its_reason(machine: Machine) -> None:
    (version,) = re.findall(r"of systemd ([0-9]+)", _DOCUMENT)
    if machine.run(["systemctl", "--version"]).stdout.split()[1] != version:
        pytest.skip(f"the document has the score by systemd {version}")
    rated = machine.run(["systemd-analyze", "security", "--no-pager", _UNIT]).stdout
    (score,) = re.findall(r"exposure level for sandlockd\.service: ([0-9.]+)", rated)
    (written,) = re.findall(r"^Score: ([0-9.]+)", _DOCUMENT, re.MULTILINE)
    assert score == written
    lines = json.loads(machine.run(["systemd-analyze", "security", "--json=short", _UNIT]).stdout)
    left_open = {line["name"] for line in lines if line["set"] is False}
    section = _DOCUMENT.partition("and why it stays so:")[2]
    told = re.findall(r"^- (`.*?`): ", section, re.MULTILINE | re.DOTALL)
    assert {name for names in told for name in re.findall(r"`([^`]+)`", names)} == left_open


def test_the_units_have_no_mistakes(machine: Machine) -> None:
    for directory in ("system", "user"):
        units = [f"/etc/systemd/{directory}/sandlockd.{kind}" for kind in ("service", "socket")]
        line = ["systemd-analyze", f"--{directory}", "verify", "--man=no", *units]
        told = machine.run(line, XDG_RUNTIME_DIR="/run")
        assert "sandlockd" not in told.stdout + told.stderr


def test_a_user_has_a_service_of_its_own(machine: Machine) -> None:
    uid = users_number(machine, "alice")
    manager = f"user@{uid}.service"
    if machine.run(["systemctl", "start", manager], check=False).returncode:
        pytest.skip(f"no manager for a user runs here: {machine.property(manager, 'Result')}")
    session = {"XDG_RUNTIME_DIR": f"/run/user/{uid}", "HOME": "/home/alice"}
    group = f"user.slice/user-{uid}.slice/{manager}/app.slice/{_UNIT}"
    socket = f"/run/user/{uid}/sandlockd/control.sock"
    try:
        enable = next(block for block in shell_blocks() if "systemctl --user" in block)
        machine.run(["sh", "-euc", enable], user="alice", **session)
        before = machine.processes()
        made = run(machine, "alice", "sleep", "4716", socket=socket)
        (sleeper,) = sleepers(machine, 4716)
        assert (sleeper.uid, made["owner"]) == (uid, "alice")
        assert sleeper.outer_pid in machine.of_group(group)
        with pytest.raises(PermissionError):
            machine.ask("bob", "GET", "/healthz", socket=socket)
        assert machine.ask(None, "GET", "/healthz", socket=socket).status == 200
        machine.run(["systemctl", "--user", "stop", "sandlockd.socket", _UNIT], user="alice", **session)
        require_nothing_left(machine, group, before)
    finally:
        machine.systemctl("stop", manager)
