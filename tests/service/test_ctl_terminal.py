"""sandlockctl with a terminal: what is typed, what is shown, how large it is, and that it is as it was before."""

from __future__ import annotations

import os
import signal
import termios

import pytest
from harness import group
from harness.controlling import Ctl
from harness.running import require
from harness.service import Served
from harness.terminal import Terminal, open_terminal
from harness.waiting import until

# What is told and done here is the same for everybody: test_client.py and the API's tests are run as both.
pytestmark = pytest.mark.one_user


@pytest.fixture
def ctl(served: Served) -> Ctl:
    served.runner.place.empty_work()
    return Ctl(served)


def _is_raw(terminal: Terminal) -> bool:
    return not termios.tcgetattr(terminal.fd)[3] & termios.ICANON


def test_it_has_a_terminal_of_our_size_that_changes_with_ours(ctl: Ctl) -> None:
    script = "stty size; trap 'stty size; exit 4' WINCH; echo ready; while :; do sleep 0.02; done"
    with ctl.terminal("run", "-t", "--", "sh", "-c", script, rows=30, columns=90) as terminal:
        terminal.expect(rb"30 90\r\n.*ready")
        terminal.resize(11, 55)
        terminal.expect(rb"11 55")
        assert terminal.wait() == 4


def test_keys_are_its_keys_and_the_terminal_is_restored(ctl: Ctl) -> None:
    with ctl.terminal(
        "run", "-it", "--", "sh", "-c", "tty; read word; echo =$word=; exec sleep 100"
    ) as terminal:
        terminal.expect(rb"/dev/pts/\d+")
        until(lambda: _is_raw(terminal), "our side passes everything on")
        terminal.send(b"hello\r")
        terminal.expect(rb"=hello=")
        terminal.send(b"\x03")
        assert terminal.wait() == 128 + signal.SIGINT
        assert not _is_raw(terminal)


def test_its_shell_does_job_control(ctl: Ctl) -> None:
    require("bash")

    def is_sleeping(state: str) -> bool:
        """It has the terminal by then: its shell gives it before it starts it, or lets it go on."""
        found = ctl.served.get("/v1/sandboxes/n/processes")["processes"]
        return [one["state"] for one in found if one["name"] == "sleep"] == [state]

    command = ["run", "-t", "--name", "n", "--", "bash", "--norc", "-i"]
    with ctl.terminal(*command, PS1="[prompt]") as terminal:
        terminal.expect(rb"\[prompt\]")
        terminal.send(b"sleep 100\r")
        until(lambda: is_sleeping("S"), "it sleeps")
        terminal.send(b"\x1a")
        terminal.expect(rb"Stopped.*\[prompt\]")
        assert is_sleeping("T")
        terminal.send(b"fg\r")
        until(lambda: is_sleeping("S"), "it goes on")
        terminal.send(b"\x03")
        terminal.expect(rb"\[prompt\]")
        terminal.send(b"exit 3\r")
        assert terminal.wait() == 3


def test_an_editor_works(ctl: Ctl) -> None:
    require("vim")
    with ctl.terminal("run", "-t", "--write", ".", "--", "vim", "-u", "NONE", "made") as terminal:
        terminal.expect(rb"~")
        terminal.send(b"ihello\x1b:wq\r")
        assert terminal.wait() == 0
    assert (ctl.runner.work / "made").read_text() == "hello\n"


def test_a_pager_works(ctl: Ctl) -> None:
    require("less")
    (ctl.runner.work / "long").write_text("".join(f"line {number}\n" for number in range(1, 101)))
    with ctl.terminal("run", "-t", "--read", ".", "--", "less", "long", rows=10) as terminal:
        terminal.expect(rb"line 9")
        terminal.send(b"G")
        terminal.expect(rb"line 100")
        terminal.send(b"q")
        assert terminal.wait() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_terminal_is_restored_when_we_are_told_to_go(ctl: Ctl, number: int) -> None:
    script = "trap 'exit 6' TERM; echo ready; while :; do sleep 0.02; done"
    with ctl.terminal("run", "-t", "--name", "n", "--", "sh", "-c", script) as terminal:
        terminal.expect(rb"ready")
        until(lambda: _is_raw(terminal), "our side passes everything on")
        os.kill(terminal.pid, number)
        assert terminal.wait() == (6 if number == signal.SIGTERM else 129)
        assert not _is_raw(terminal)
    assert ctl.served.get("/v1/sandboxes/n")["state"] == ("exited" if number == signal.SIGTERM else "running")


def test_the_terminal_is_restored_when_the_sandbox_is_removed(ctl: Ctl) -> None:
    with ctl.terminal("run", "-t", "--name", "n", "--", "sh", "-c", "echo ready; exec sleep 100") as terminal:
        terminal.expect(rb"ready")
        until(lambda: _is_raw(terminal), "our side passes everything on")
        ctl.served.remove("n")
        assert terminal.wait() == 128 + signal.SIGKILL
        assert not _is_raw(terminal)


def test_one_attaches_leaves_and_attaches_again(ctl: Ctl) -> None:
    ctl.started("box", "sh", "-c", "echo begun; while read word; do echo =$word=; done", options=["-t"])
    with ctl.terminal("attach", "box") as terminal:
        terminal.expect(rb"begun")
        terminal.send(b"a\r")
        terminal.expect(rb"=a=")
        terminal.send(b"\x1d\x1d\x1d")
        terminal.expect(rb"goes on: sandlockctl attach")
        assert terminal.wait() == 129
        assert not _is_raw(terminal)
    with ctl.terminal("attach", "--tail", "0", "box") as terminal:
        until(lambda: _is_raw(terminal), "our side passes everything on")
        terminal.send(b"b\r")
        terminal.expect(rb"=b=")
        terminal.send(b"\x04")
        assert terminal.wait() == 0
        assert b"begun" not in terminal.screen


def test_without_a_terminal_of_its_own_ours_stays_as_it_is(ctl: Ctl) -> None:
    script = "trap 'echo int; exit 5' INT; echo ready; while :; do sleep 0.02; done"
    with ctl.terminal("run", "--", "sh", "-c", script) as terminal:
        terminal.expect(rb"ready\r\n")
        assert not _is_raw(terminal)
        terminal.send(b"\x03")
        terminal.expect(rb"int")
        assert terminal.wait() == 5


@pytest.mark.parametrize("verb", ["run", "exec"])
@pytest.mark.parametrize("key", [b"\x03", b"\x1c"], ids=["interrupt", "quit"])
def test_a_key_is_for_all_that_it_would_be_for_here(ctl: Ctl, verb: str, key: bytes) -> None:
    """The program's process group, as bare."""
    with open_terminal(
        group.COMMAND,
        user=ctl.runner.place.user,
        cwd=str(ctl.runner.work),
        environment=ctl.runner.environment(),
    ) as bare:
        bare.expect(rb"ready\r\n")
        bare.send(key)
        status = bare.wait()
    box = ctl.started("box", "sleep", "1000")
    words = ["run", "--"] if verb == "run" else ["exec", box, "--"]
    with ctl.terminal(*words, *group.COMMAND) as terminal:
        terminal.expect(rb"ready\r\n")
        terminal.send(key)
        assert terminal.wait() == status == 5
    assert group.told(terminal.screen) == group.told(bare.screen) == [b"inner", b"outer"]


@pytest.mark.parametrize("verb", ["run", "exec"])
def test_a_signal_that_somebody_sends_us_is_for_the_program_alone(ctl: Ctl, verb: str) -> None:
    box = ctl.started("box", "sleep", "1000")
    words = ["run", "--name", "n", "--"] if verb == "run" else ["exec", box, "--"]
    with ctl.terminal(*words, *group.COMMAND) as terminal:
        terminal.expect(rb"ready\r\n")
        os.kill(terminal.pid, signal.SIGQUIT)
        terminal.expect(rb"heard\r\n")
        # It waits for its child, which has heard nothing.
        (one,) = [
            sandbox for sandbox in ctl.served.get("/v1/sandboxes")["sandboxes"] if sandbox["id"] != box
        ] or [None]
        where = f"/v1/sandboxes/{one['id']}" if one else f"/v1/sandboxes/{box}/exec/1"
        assert ctl.served.post(f"{where}/wait", {"timeout_s": 0.1})["ended"] is None
        terminal.send(b"\x03")
        assert terminal.wait() == 5
    assert group.told(terminal.screen) == [b"inner", b"outer"]


def test_stopped_from_the_keyboard_it_is_paused_until_we_go_on(ctl: Ctl) -> None:
    require("bash")
    script = f"{ctl.command} run -- sh -c 'echo ready; while :; do sleep 0.02; done'"
    with open_terminal(
        ["/bin/bash", "--norc", "-i"],
        user=ctl.runner.place.user,
        cwd=str(ctl.runner.work),
        environment=ctl.runner.environment({**ctl.environment(), "PS1": "[prompt]"}),
    ) as terminal:
        terminal.expect(rb"\[prompt\]")
        terminal.send(script.encode() + b"\r")
        terminal.expect(rb"ready\r\n")
        (made,) = ctl.served.get("/v1/sandboxes")["sandboxes"]
        terminal.send(b"\x1a")
        terminal.expect(rb"Stopped")
        assert ctl.served.until_state(made["id"], "paused")
        terminal.bring_to_front()
        assert ctl.served.until_state(made["id"], "running")
        terminal.send(b"\x03")
        terminal.expect(rb"\[prompt\]")
        terminal.send(b"exit\r")
        terminal.wait()


def test_tables_are_for_people_and_columns_for_programs(ctl: Ctl) -> None:
    made = ctl.started("n", "sleep", "100")
    with ctl.terminal("ps") as terminal:
        assert terminal.wait() == 0
        heading, row, *_ = terminal.screen.splitlines()
        assert b"STATE" in heading and made[-6:].encode() in row and made.encode() not in row
        assert b"\x1b[32mrunning" in row
    with ctl.terminal("ps", NO_COLOR="1") as terminal:
        assert terminal.wait() == 0
        assert b"\x1b[3" not in terminal.screen
    (line,) = ctl.done("ps").splitlines()
    assert line.split()[:3] == [made, "n", "running"] and line.endswith("  sleep 100")


def test_top_shows_what_runs_until_it_is_interrupted(ctl: Ctl) -> None:
    ctl.started("busy", "sh", "-c", "while :; do :; done")
    with ctl.terminal("top") as terminal:
        terminal.expect(rb"CPU%.*busy.*busy")
        terminal.send(b"\x03")
        assert terminal.wait() == 0
        assert terminal.screen.rstrip().endswith(b"\x1b[?1049l")  # the screen that was there before
