"""Whoever is killed: nothing of a sandbox outlives it, what it changed is kept, and others do not notice."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from harness.interpreter import SANDLOCKD
from harness.running import Runner
from harness.service import Served, service
from harness.survivors import marked
from harness.terminal import open_terminal
from harness.waiting import until, wait_dead

pytestmark = pytest.mark.one_user

# In sessions of their own, and forked twice: children of nobody here.
_ESCAPING = "(setsid sh -c 'setsid sleep 1000 & sleep 1000' &) ; (sleep 1000 &) ; sleep 1000"
_CONFIG = '[starting]\nwarm = 1\nstop_grace = "5s"\n'


def _sleepers(runner: Runner) -> list[int]:
    return [one.pid for one in marked(runner.marker) if one.command == "sleep"]


def _nobody_is_left(runner: Runner) -> None:
    until(lambda: not marked(runner.marker), "the end of all", 10)


def _zygote(served: Served) -> int:
    found: list[int] = []

    def is_there() -> bool:
        for name in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                if re.search(
                    rf"\(sandlockd-zyg\) [^Z] {served.process.pid} ", Path(f"/proc/{name}/stat").read_text()
                ):
                    found[:] = [int(name)]
                    return True
        return False

    until(is_there, "there is a zygote")
    return found[0]


@contextlib.contextmanager
def _pidfds(pids: list[int]) -> Iterator[list[int]]:
    fds = [os.pidfd_open(pid) for pid in pids]
    try:
        yield fds
    finally:
        for fd in fds:
            os.close(fd)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "terminated"])
def test_all_ends_with_the_service_and_the_next_one_knows_it(runner: Runner, number: int, soak: bool) -> None:
    runner.may_leave_temporary = True
    for turn in range(20 if soak else 2):
        tree = runner.place.empty_work()
        with service(runner, config=_CONFIG) as served:
            for old in served.get("/v1/sandboxes")["sandboxes"]:
                served.remove(old["id"])
            one = served.run(["sh", "-c", _ESCAPING])["id"]
            keeping = '[filesystem]\non_error = "keep"\n'
            changing = ["sh", "-c", f"echo x > new; {_ESCAPING}"]
            other = served.run(changing, workdir=str(tree), policies=["base"], policy_text=keeping)["id"]
            until(lambda: len(_sleepers(runner)) >= 8, "they run")
            if turn % 2:  # in the middle of a start, too
                with served.connected() as line:
                    line.sendall(b"POST /v1/sandboxes HTTP/1.1\r\nhost: x\r\ncontent-length: 22\r\n\r\n")
                    line.sendall(b'{"command": ["sleep"]}')
            with _pidfds(_sleepers(runner)) as pidfds:
                served.process.send_signal(number)
                served.process.wait(20)
                wait_dead(pidfds)
            _nobody_is_left(runner)
        with service(runner, config=_CONFIG) as served:
            shown = served.get(f"/v1/sandboxes/{one}")
            kept = served.until_state(other, "kept")
            if number == signal.SIGKILL:
                assert (shown["state"], shown["exit_status"]) == ("failed", 125)
                assert shown["error"] == "the service ended while it ran"
                assert kept["error"] == shown["error"]
            else:
                assert (shown["state"], shown["reason"]) == ("exited", "killed")
            assert shown["ended"] and kept["changes"]["state"] == "kept"
            assert served.post(f"/v1/sandboxes/{other}/commit")["left"] == 0
            assert (tree / "new").read_text() == "x\n"


def test_a_supervisor_that_is_killed_takes_its_own_sandbox_with_it_only(runner: Runner, soak: bool) -> None:
    runner.may_leave_temporary = True
    with service(runner, config=_CONFIG) as served:
        bystander = served.run(["sh", "-c", "trap 'exit 5' TERM; while :; do sleep 0.01; done"])["id"]
        for _ in range(20 if soak else 5):
            made = served.run(["sh", "-c", _ESCAPING])
            until(lambda: len(_sleepers(runner)) >= 4, "they run")
            served.kill_supervisor(made["id"], keeper_too=True)
            ended = served.wait(made["id"])
            assert (ended["state"], ended["exit_status"], ended["reason"]) == ("failed", 125, "sandbox_error")
            assert ended["error"] == "its supervisor was lost"
            until(lambda: len(_sleepers(runner)) <= 1, "none of it is left", 1)
            served.remove(made["id"])
        assert served.post(f"/v1/sandboxes/{bystander}/stop")["exit_status"] == 5
        served.remove_all()
        assert not list((served.state / "sandboxes").iterdir()) and not list(
            (served.state / "runs").iterdir()
        )


def test_what_the_program_of_a_killed_supervisor_changed_is_kept(runner: Runner) -> None:
    runner.may_leave_temporary = True
    with service(runner, config=_CONFIG) as served:
        made = served.run(["sh", "-c", "echo x > new; echo; sleep 1000"], workdir=str(runner.work))
        until(lambda: served.output(made["id"]), "it has changed something")
        served.kill_supervisor(made["id"], keeper_too=True)
        ended = served.wait(made["id"])
        assert (ended["state"], ended["error"]) == ("kept", "its supervisor was lost")
        assert (
            served.post(f"/v1/sandboxes/{made['id']}/commit", {"digest": ended["changes"]["digest"]})["left"]
            == 0
        )
        assert (runner.work / "new").read_text() == "x\n"


def test_a_zygote_that_is_killed_is_replaced_and_sandboxes_go_on(runner: Runner) -> None:
    with service(runner, config=_CONFIG) as served:
        made = served.run(["sh", "-c", "trap 'exit 5' TERM; while :; do sleep 0.01; done"])
        for _ in range(3):
            before = _zygote(served)
            with _pidfds([before]) as pidfds:
                os.kill(before, signal.SIGKILL)
                wait_dead(pidfds)
            for _ in range(3):  # more than there were warm ones
                assert served.wait(served.run(["sh", "-c", "exit 3"])["id"])["exit_status"] == 3
            assert _zygote(served) != before
        assert served.post(f"/v1/sandboxes/{made['id']}/stop")["exit_status"] == 5
        served.remove_all()


def test_a_warm_supervisor_that_was_killed_is_not_handed_out(runner: Runner) -> None:
    with service(runner, config=_CONFIG) as served:
        for _ in range(3):
            zygote = _zygote(served)
            children = Path(f"/proc/{zygote}/task/{zygote}/children").read_text().split()
            with _pidfds([int(pid) for pid in children]) as pidfds:
                for pidfd in pidfds:
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                wait_dead(pidfds)
            one = served.run(["sh", "-c", "exit 3"])["id"]
            assert served.wait(one)["exit_status"] == 3
        served.remove_all()


def _terminal_of(pid: int) -> int:
    """Which controls it; 0: none (proc(5), stat)."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[4])


def test_a_terminal_that_it_is_started_from_is_nobodys_but_its_own(runner: Runner) -> None:
    """Else a supervisor's user could open it by /dev/tty; and ^C would end all of them at once, not in order."""
    place = runner.place.root / "service"
    place.mkdir()
    runner.place.give(place)
    line = [SANDLOCKD, "serve", "--socket", place / "s", "--state-dir", place / "state"]
    with open_terminal(
        [os.fspath(word) for word in line],
        user=runner.place.user,
        cwd=str(runner.work),
        environment=runner.environment(),
    ) as terminal:
        terminal.expect(rb"listens")
        served = Served(None, runner, place)  # type: ignore[arg-type]
        one = served.run(
            ["sh", "-c", "trap 'echo asked; exit 5' TERM; echo ready; while :; do sleep 0.01; done"]
        )
        until(lambda: served.output(one["id"]), "it is ready")
        assert _terminal_of(terminal.pid) != 0
        assert [_terminal_of(pid) for pid in (one["supervisor_pid"], one["pid"])] == [0, 0]
        terminal.send(b"\x03")
        assert terminal.wait() == 0
    with service(runner) as served:
        ended = served.get(f"/v1/sandboxes/{one['id']}")
        assert (ended["state"], ended["exit_status"]) == ("exited", 5)
        served.remove_all()


@pytest.mark.soak  # some 25 s, until patience is at its end
def test_a_supervisor_that_is_stopped_is_ended_with_its_sandbox(runner: Runner) -> None:
    """By its own user, who may do that. Others go on, and the service ends in its time."""
    runner.may_leave_temporary = True
    with service(runner, config=_CONFIG) as served:
        made = served.run(["sh", "-c", _ESCAPING])
        until(lambda: len(_sleepers(runner)) >= 4, "they run")
        os.kill(made["supervisor_pid"], signal.SIGSTOP)
        served.problem(503, "GET", f"/v1/sandboxes/{made['id']}/processes")
        assert served.wait(served.run(["true"])["id"])["exit_status"] == 0
        began = time.monotonic()
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(40) == 0
        assert time.monotonic() - began < 30
        _nobody_is_left(runner)


def test_work_that_its_user_has_stopped_keeps_the_service_from_ending_for_a_while_only(
    runner: Runner,
) -> None:
    config = '[starting]\nwarm = 1\nstop_grace = "1s"\n'
    with service(runner, config=config) as served, ThreadPoolExecutor(1) as beside:
        made = served.run(["touch", "new"], workdir=str(runner.work), on_exit="keep")
        path = f"/v1/sandboxes/{made['id']}"
        assert served.wait(made["id"])["state"] == "kept"
        zygote = _zygote(served)
        children = Path(f"/proc/{zygote}/task/{zygote}/children")
        until(lambda: len(children.read_text().split()) == 1, "one is warm, and nobody else is there")
        os.kill(int(children.read_text()), signal.SIGSTOP)
        stuck = beside.submit(served.ask, "POST", f"{path}/commit", {})
        until(lambda: served.get(path)["state"] == "committing", "it is being worked on")
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(20) == 0
        assert isinstance(stuck.exception(20), Exception) or stuck.result().status == 500
        with service(runner, config=config) as later:
            assert later.get(path)["state"] == "kept"


def test_clients_killed_in_the_middle_leave_nothing(runner: Runner, soak: bool) -> None:
    """A client that waits for a start, for an end, for output."""
    script = "import socket, sys, time\ns = socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\n"
    body = b'{"command": ["sh", "-c", "sleep 0.05; echo x"]}'
    with service(runner, config=_CONFIG) as served:
        before = served.connections()
        for turn in range(20 if soak else 4):
            one = served.run(["sleep", "1000"])["id"]
            requests = [
                b"POST /v1/sandboxes HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body),
                f"POST /v1/sandboxes/{one}/wait HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n".encode(),
                f"GET /v1/sandboxes/{one}/logs?follow=true HTTP/1.1\r\nhost: x\r\n\r\n".encode(),
                f"POST /v1/sandboxes/{one}/stop HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n".encode(),
            ]
            line = [
                sys.executable,
                "-I",
                "-S",
                "-c",
                f"{script}s.sendall({requests[turn % 4]!r})\nprint(flush=True)\ns.recv(1)\ntime.sleep(1000)",
            ]
            with subprocess.Popen([*line, str(served.socket)], stdout=subprocess.PIPE) as client:
                assert client.stdout is not None and client.stdout.readline()
                client.kill()
            served.post(f"/v1/sandboxes/{one}/kill")
        until(lambda: all(one["ended"] for one in served.get("/v1/sandboxes")["sandboxes"]), "all have ended")
        until(lambda: served.connections() <= before, "their connections are closed")
        served.remove_all()
        assert not _sleepers(runner)


def test_changes_are_kept_where_the_service_was_killed(runner: Runner) -> None:
    with service(runner) as served:
        script = "echo 1 > made; while :; do sleep 0.01; done"
        made = served.run(["sh", "-c", script], workdir=str(runner.work))
        until(lambda: list(served.state.glob("runs/*/tree/upper/made")), "it has written")
        runner.may_leave_temporary = True
        served.process.kill()
        served.process.wait()
        until(lambda: not marked(runner.marker), "nobody is left")
        with service(runner) as later:
            until(
                lambda: later.get(f"/v1/sandboxes/{made['id']}")["state"] == "kept", "its changes are found"
            )
            found = later.get(f"/v1/sandboxes/{made['id']}")
            assert (found["error"], found["changes"]["counts"]["added"]) == (
                "the service ended while it ran",
                1,
            )
            assert later.ask("DELETE", f"/v1/sandboxes/{made['id']}").status == 409
            assert later.post(f"/v1/sandboxes/{made['id']}/commit")["left"] == 0
    assert (runner.work / "made").read_text() == "1\n"


@pytest.mark.one_user
def test_programs_have_the_limit_of_descriptors_that_the_service_was_started_with(runner: Runner) -> None:
    with service(
        runner, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (700, 4000))
    ) as served:
        made = served.run(["sh", "-c", "ulimit -Sn; ulimit -Hn"])
        served.wait(made["id"])
        assert served.output(made["id"]) == b"700\n4000\n"
