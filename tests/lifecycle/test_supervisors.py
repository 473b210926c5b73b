"""Supervisors of the service: forked from the zygote, told what to run, each in a crash domain of its own."""

from __future__ import annotations

import os
import pwd
import signal
from pathlib import Path

import pytest
from harness.control_plane import control_plane
from harness.running import Runner
from harness.survivors import marked
from harness.waiting import until, wait_dead

from sandlockd.control import messages


def _file(runner: Runner, name: str = "out") -> Path:
    path = runner.place.file(name, "")
    return path


def test_a_run_has_its_streams_its_status_and_its_log(runner: Runner) -> None:
    given, out, err = runner.place.file("in", "given\n"), _file(runner), _file(runner, "err")
    with control_plane(runner) as plane:
        supervisor = plane.start(
            "a", ["sh", "-c", "cat; pwd; echo bad >&2; cat /etc/shadow; exit 7"], streams=(given, out, err)
        )
        began = plane.report("a", "Began")
        assert plane.report("a", "Started")["pid"] > 0
        ended = plane.report("a", "Ended")
        assert plane.next(lambda event: event.get("reaped") == supervisor)["status"] == 0
    assert ended["exit_status"] == 7
    status = ended["status"]
    assert (status["reason"], status["exit_code"], status["denials"]) == ("exited", 7, 1)
    assert status["run"] == began["run_id"]
    assert out.read_text() == f"given\n{runner.work}\n" and err.read_text().startswith("bad\n")
    log = runner.audit()
    assert (log[0]["run"], log[-1]["exit_code"]) == (began["run_id"], 7)


def test_what_cannot_be_started_is_told_as_in_the_foreground(runner: Runner) -> None:
    for key, (command, wanted) in enumerate([(["no-such-command"], 127), (["/"], 126), (["true"], 125)]):
        with control_plane(runner) as plane:
            settings = {"read": ["/no/such/place"]} if wanted == 125 else {}
            plane.start(str(key), command, **settings)
            ended = plane.report(str(key), "Ended")
            assert (ended["exit_status"], ended["status"]["reason"]) == (wanted, "sandbox_error")
            assert plane.said(str(key)) and ended["status"]["error"]


def test_changes_in_a_tree_are_kept_for_their_user(runner: Runner) -> None:
    (runner.work / "old").write_text("1\n")
    runner.place.give(runner.work / "old")
    with control_plane(runner) as plane:
        plane.start("a", ["sh", "-c", "echo 2 > old; echo 3 > new"], workdir=str(runner.work))
        changes = plane.report("a", "Ended")["status"]["changes"]
    assert (changes["state"], changes["counts"]["added"], changes["counts"]["modified"]) == ("kept", 1, 1)
    assert (runner.work / "old").read_text() == "1\n" and not (runner.work / "new").exists()


def test_stop_asks_first_and_then_ends_all(runner: Runner) -> None:
    script = "trap 'echo asked; trap \"\" TERM' TERM; echo ready; (setsid sleep 100 &) ; while :; do sleep 0.01; done"
    out = _file(runner)
    with control_plane(runner) as plane:
        plane.start("a", ["sh", "-c", script], streams=("", out, ""))
        until(lambda: out.read_text() == "ready\n", "the program begins")
        plane.order("a", "Stop", grace_s=0.3)
        ended = plane.report("a", "Ended")
        assert (ended["status"]["reason"], ended["status"]["signal"]) == ("killed", signal.SIGKILL)
        assert ended["status"]["rule"] == "stop"
    assert out.read_text() == "ready\nasked\n"


def test_stop_of_who_goes_when_asked_is_no_kill(runner: Runner) -> None:
    out = _file(runner)
    with control_plane(runner) as plane:
        plane.start(
            "a", ["sh", "-c", "trap 'exit 3' TERM; echo; while :; do sleep 0.01; done"], streams=("", out, "")
        )
        until(out.read_text, "the program begins")
        plane.order("a", "Stop", grace_s=20.0)
        ended = plane.report("a", "Ended")
        plane.order("a", "Stop", grace_s=20.0)
        assert "over" in plane.of("a", "not_ordered")["not_ordered"]
    assert (ended["status"]["reason"], ended["exit_status"], ended["status"]["rule"]) == ("killed", 3, None)


def test_a_program_that_stops_itself_is_told_and_can_be_ended(runner: Runner) -> None:
    with control_plane(runner) as plane:
        script = "trap 'exit 4' USR1; kill -STOP $$; while :; do sleep 0.01; done"
        plane.start("a", ["sh", "-c", script])
        assert plane.report("a", "Stopped")["signal"] == signal.SIGSTOP
        plane.order("a", "Signal", number=signal.SIGCONT)
        plane.report("a", "Continued")
        plane.order("a", "Signal", number=signal.SIGUSR1)
        assert plane.report("a", "Ended")["exit_status"] == 4


def test_a_supervisor_that_is_killed_takes_its_own_sandbox_with_it_only(runner: Runner) -> None:
    with control_plane(runner) as plane:
        plane.start("a", ["sh", "-c", "(setsid sleep 100 &); sleep 100"])
        plane.start("b", ["sleep", "100"])
        inits = [int(plane.report(key, "Started")["pid"]) for key in ("a", "b")]
        pidfds = [os.pidfd_open(pid) for pid in inits]
        runner.may_leave_temporary = True
        plane.kill("a")
        assert plane.of("a", "lost")["lost"]
        wait_dead(pidfds[:1])
        plane.order("b", "Signal", number=signal.SIGTERM)
        assert plane.report("b", "Ended")["status"]["signal"] == signal.SIGTERM
        wait_dead(pidfds)
        for fd in pidfds:
            os.close(fd)
    until(lambda: not marked(runner.marker), "nobody is left")


@pytest.mark.one_user
@pytest.mark.parametrize("data", [b"", b"h", b"hrubbish", b"b", b"x" * 40_000, b"h\x81\xa4type\xa3bad"])
def test_a_control_plane_out_of_its_mind_ends_the_sandbox(runner: Runner, data: bytes) -> None:
    with control_plane(runner) as plane:
        plane.start("a", ["sleep", "100"])
        plane.report("a", "Started")
        plane.raw("a", data)
        assert plane.report("a", "Ended")["status"]["rule"] == "service"


def test_all_sandboxes_end_with_the_control_plane(runner: Runner) -> None:
    with control_plane(runner) as plane:
        pidfds = []
        for key in "ab":
            # Of the control plane's environment they have nothing, nor the marker.
            pidfds.append(os.pidfd_open(plane.start(key, ["sh", "-c", "(setsid sleep 100 &); sleep 100"])))
            plane.report(key, "Started")
        pidfds.append(os.pidfd_open(plane.zygote))
        plane.process.kill()
        plane.process.wait()
        wait_dead(pidfds)
        for fd in pidfds:
            os.close(fd)
        until(lambda: not marked(runner.marker), "nobody is left")
        plane.process.returncode = 0  # by us


def test_a_zygote_that_is_killed_leaves_sandboxes_alone(runner: Runner) -> None:
    with control_plane(runner) as plane:
        plane.start("a", ["sleep", "100"])
        plane.report("a", "Started")
        os.kill(plane.zygote, signal.SIGKILL)
        plane.order("a", "Signal", number=signal.SIGTERM)
        assert plane.report("a", "Ended")["status"]["signal"] == signal.SIGTERM


def test_a_supervisor_holds_nothing_of_others(runner: Runner) -> None:
    with control_plane(runner) as plane:
        supervisors = [plane.start(key, ["sleep", "100"]) for key in "abc"]
        for key in "abc":
            plane.report(key, "Started")
        lines = []
        for pid in supervisors:
            links = {os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()}
            lines.append({link for link in links if link.startswith("socket:")})
            assert lines[-1]
        assert not (lines[0] & lines[1] or lines[0] & lines[2] or lines[1] & lines[2])
        theirs = {os.readlink(path) for path in Path(f"/proc/{plane.zygote}/fd").iterdir()}
        assert sum(link.startswith("socket:") for link in theirs) == 1  # to the control plane
        for key in "abc":
            plane.order(key, "Kill")
            assert plane.report(key, "Ended")["status"]["rule"] == "kill"


@pytest.mark.parametrize("as_user", ["root"], indirect=True)
def test_root_starts_sandboxes_as_who_asked(runner: Runner) -> None:
    nobody = pwd.getpwnam("nobody")
    out = _file(runner)
    out.chmod(0o666)
    script = "id -u; id -g; id -G; grep -h Cap /proc/self/status | sort -u -k2; pwd; echo $HOME $USER"
    place = runner.place.root / "theirs"
    place.mkdir()
    os.chown(place, nobody.pw_uid, nobody.pw_gid)
    with control_plane(runner) as plane:
        environment = {"SANDLOCKD_STATE_DIR": f"{place}/state", "TMPDIR": str(place)}
        supervisor = plane.start(
            "a",
            ["sh", "-c", f"{script}; sleep 100"],
            streams=("", out, ""),
            uid=nobody.pw_uid,
            environment=environment,
            cwd=Path("/"),
        )
        init = plane.report("a", "Started")["pid"]
        until(lambda: out.read_text().count("\n") >= 7, "the program says who it is")
        for pid in (supervisor, init):
            status = Path(f"/proc/{pid}/status").read_text()
            ids = {line.split(":")[0]: line.split(":")[1].split() for line in status.splitlines()}
            assert set(ids["Uid"]) == {str(nobody.pw_uid)} and set(ids["Gid"]) == {str(nobody.pw_gid)}
            assert ids["Groups"] in ([], [str(nobody.pw_gid)])
            assert ids["CapEff"] == ids["CapPrm"] == ["0000000000000000"]
        plane.order("a", "Kill")
        plane.report("a", "Ended")
    lines = out.read_text().splitlines()
    assert lines[:3] == [str(nobody.pw_uid), str(nobody.pw_gid), str(nobody.pw_gid)]
    assert lines[-2] == "/"
    runs = list((place / "state" / "runs").iterdir())
    assert len(runs) == 1 and runs[0].stat().st_uid == nobody.pw_uid


@pytest.mark.parametrize("as_user", ["ordinary"], indirect=True)
def test_who_is_not_root_starts_nothing_as_others(runner: Runner) -> None:
    with control_plane(runner) as plane:
        plane.start("a", ["true"], uid=0)
        ended = plane.report("a", "Ended")
        assert (ended["exit_status"], ended["status"]["reason"]) == (125, "sandbox_error")
        assert ended["status"]["error"] == "cannot become user 0: Operation not permitted"


def test_nothing_of_the_control_planes_environment_is_in_a_supervisor(runner: Runner) -> None:
    with control_plane(runner, env={"SECRET_OF_THE_SERVICE": "x"}) as plane:
        supervisor = plane.start("a", ["sleep", "100"])
        plane.report("a", "Started")
        assert b"SECRET" in Path(f"/proc/{plane.process.pid}/environ").read_bytes()
        for pid in (plane.zygote, supervisor):
            assert b"SECRET" not in Path(f"/proc/{pid}/environ").read_bytes()
        plane.order("a", "Kill")
        plane.report("a", "Ended")


@pytest.mark.one_user
def test_a_supervisor_whose_words_nobody_hears_ends_its_sandbox(runner: Runner) -> None:
    """It finds out by telling, just after the start, and not by listening."""
    with control_plane(runner) as plane:
        pidfds = []
        for key in range(8):
            pidfds.append(os.pidfd_open(plane.start(str(key), ["sleep", "100"])))
        plane.report("7", "Began")
        plane.process.kill()
        plane.process.wait()
        wait_dead(pidfds)
        for fd in pidfds:
            os.close(fd)
        until(lambda: not marked(runner.marker), "nobody is left")
        plane.process.returncode = 0  # by us


@pytest.mark.parametrize(
    ("order", "descriptors"),
    [
        (messages.Execute(1, (b"true",)), 0),
        (messages.Execute(1, (b"true",)), 2),
        (messages.Execute(1, (b"true",)), 4),
        (messages.Signal(signal.SIGUSR1), 1),
        (messages.Pause(), 3),
    ],
    ids=["execute-without", "execute-with-two", "execute-with-four", "signal-with-one", "pause-with-three"],
)
def test_an_order_with_other_descriptors_than_it_needs_is_the_end(
    runner: Runner, order: messages.Message, descriptors: int
) -> None:
    """Who sends that is out of its mind: no order of it counts any more."""
    with control_plane(runner) as plane:
        plane.start("a", ["sh", "-c", "trap '' USR1; (setsid sleep 100 &); sleep 100"])
        plane.report("a", "Started")
        plane.beside("a", messages.encoded(order), descriptors)
        ended = plane.report("a", "Ended")
        assert ended["status"]["error"] == "the service ended while it ran"
    assert not marked(runner.marker)
