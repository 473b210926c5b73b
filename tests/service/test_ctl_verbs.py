"""What sandlockctl says of sandboxes, and does with them."""

from __future__ import annotations

import json
import select
import signal
import subprocess

import pytest
from harness.controlling import Ctl
from harness.service import Served
from harness.waiting import PATIENCE_S, until

# What is told and done here is the same for everybody: test_client.py and the API's tests are run as both.
pytestmark = pytest.mark.one_user


@pytest.fixture
def ctl(served: Served) -> Ctl:
    served.runner.place.empty_work()
    return Ctl(served)


def test_ps_lists_what_lives_or_waits_and_all_if_asked(ctl: Ctl) -> None:
    running = ctl.started("run-1", "sleep", "100", options=["--label", "job=1"])
    ctl.done("run", "--name", "over", "--", "true")
    assert [line.split()[0] for line in ctl.done("ps").splitlines()] == [running]
    everything = ctl.lines("ps", "--all", "--json")
    assert [one["name"] for one in everything] == ["over", "run-1"]
    assert {one["kind"] for one in everything} == {"sandbox"}
    (first,) = ctl.lines("ps", "--json", "--label", "job")
    assert {**ctl.served.get(f"/v1/sandboxes/{running}"), "kind": "sandbox"} == first
    assert ctl.done("ps", "--label", "job=2") == ""


def test_ps_has_the_kept_runs_of_the_foreground_too(ctl: Ctl) -> None:
    ended = ctl.runner.sandlockd("--workdir", ".", "--", "touch", "made")
    assert ended.returncode == 0
    (line,) = ctl.lines("ps", "--json")
    assert (line["kind"], line["state"]) == ("run", "kept")
    assert ctl.done("ps").split()[:3] == [line["id"], "-", "kept"]
    assert "A " in ctl.done("diff", "--list", line["id"])
    assert "1 added" in ctl.done("discard", line["id"][-6:])
    assert ctl.done("ps") == ""


def test_inspect_tells_all_of_it(ctl: Ctl) -> None:
    made = ctl.started("n", "sleep", "100")
    told = dict(line.split(maxsplit=1) for line in ctl.done("inspect", "n").splitlines())
    assert (told["id"], told["state"], told["command"]) == (made, "running", "sleep 100")
    (line,) = ctl.lines("inspect", made[-6:], "--json")
    assert line["id"] == made


def test_what_cannot_be_found_says_what_to_type(ctl: Ctl) -> None:
    for verb in ("inspect", "logs", "attach", "stop"):
        assert (
            ctl.refused(verb, "nobody", status=125)
            == "there is no sandbox 'nobody': see sandlockctl ps --all"
        )
    ctl.started("one", "sleep", "100"), ctl.started("two", "sleep", "100")
    said = ctl.refused("inspect", "2")
    assert said.startswith("'2' may be any of several: ") and said.count("-") == 2


def test_logs_are_what_was_written_where_it_was(ctl: Ctl) -> None:
    script = r"printf 'a\377b'; printf err >&2"
    ctl("run", "--name", "n", "--", "sh", "-c", script)
    ended = ctl("logs", "n")
    assert (ended.stdout, ended.stderr, ended.returncode) == (b"a\xffb", b"err", 0)
    assert ctl("logs", "n", "--stream", "stderr").stdout == b""
    assert ctl.done("logs", "n", "--tail", "0") == ""
    assert {line["stream"] for line in ctl.lines("logs", "n", "--json")} == {"stdout", "stderr"}


def test_logs_are_followed_to_the_end_or_until_interrupted(ctl: Ctl) -> None:
    ctl.started("n", "sh", "-c", "echo one; read go; echo two", options=["-i"])
    with ctl.followed("logs", "-f", "n") as process:
        assert process.stdout is not None and process.stdout.readline() == b"one\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 0
    with ctl.followed("logs", "-f", "--json", "n") as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["data"] == "one\n"
        assert ctl("attach", "--tail", "0", "n", stdin=None, input=b"\n").stdout == b"two\n"
        assert json.loads(process.stdout.readline())["data"] == "two\n"
        assert process.wait(PATIENCE_S) == 0


def test_further_commands_have_numbers_by_which_they_are_read_waited_for_and_signalled(ctl: Ctl) -> None:
    made = ctl.started("box", "sleep", "100")
    assert ctl.done("exec", "-d", "box", "--", "sh", "-c", "echo one; echo bad >&2; exit 3") == "1\n"
    assert (
        ctl.done("exec", "-di", "box", "--", "sh", "-c", "echo two; read word; echo =$word=; exec sleep 100")
        == "2\n"
    )
    ended = ctl("wait", "--exec", "1", "box")
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, b"3\n", b"")
    logs = ctl("logs", "box", "--exec", "1")
    assert (logs.stdout, logs.stderr, logs.returncode) == (b"one\n", b"bad\n", 0)
    assert ctl("logs", "box").stdout == b""
    with ctl.followed("logs", "-f", "-e", "2", "box") as process:
        assert process.stdout is not None and process.stdout.readline() == b"two\n"
        with ctl.followed("attach", "-e2", "box", stdin=subprocess.PIPE) as there:
            assert there.stdin is not None and there.stdout is not None
            assert there.stdout.readline() == b"two\n"
            there.stdin.write(b"word\n")
            there.stdin.flush()
            assert there.stdout.readline() == b"=word=\n"
            there.send_signal(signal.SIGHUP)
            assert there.wait(PATIENCE_S) == 129 and there.stderr is not None
            assert (
                there.stderr.read().decode()
                == f"sandlockctl: it goes on: sandlockctl attach --exec 2 {made}\n"
            )
        assert process.stdout.readline() == b"=word=\n"
        rows = [line.split() for line in ctl.done("exec", "--list", "box").splitlines()]
        assert [row[:3] for row in rows] == [["1", "exited", "3"], ["2", "running", "-"]]
        assert ctl.done("signal", "-e", "2", "TERM", "box") == "2\n"
        assert process.wait(PATIENCE_S) == 0
    (told,) = ctl.lines("inspect", "--json", "-e", "2", "box")
    assert (told["kind"], told["sandbox"], told["number"], told["signal"]) == (
        "exec",
        made,
        2,
        signal.SIGTERM,
    )
    listed = ctl.lines("exec", "--list", "--json", "box")
    assert listed == ctl.served.get("/v1/sandboxes/box/exec")
    assert ctl.served.get("/v1/sandboxes/box")["state"] == "running"


def test_a_further_command_that_is_not_there_says_what_to_type(ctl: Ctl) -> None:
    made = ctl.started("box", "sleep", "100")
    for verb in (["logs"], ["attach"], ["wait"], ["inspect"], ["signal", "TERM"]):
        said = ctl.refused(*verb, "--exec", "7", "box", status=125)
        assert said.endswith(f"{made} has no command 7: see sandlockctl exec --list {made}")
    for wrong in ("0", "-1", "x", "1.5"):
        assert "no number of a further command" in ctl.refused("logs", f"--exec={wrong}", "box", status=125)
    assert "--list starts nothing" in ctl.refused("exec", "--list", "box", "--", "true", status=125)
    assert ctl.done("exec", "--list", "box") == ""
    assert "a command must be named" in ctl.refused("exec", "box", status=125)


def test_events_are_told_and_followed(ctl: Ctl) -> None:
    with ctl.followed("events", "-f", "--json") as process:
        assert process.stdout is not None

        def is_following() -> bool:
            ctl.done("run", "--", "true")
            return bool(select.select([process.stdout], [], [], 0.1)[0])

        until(is_following, "it follows")
        made = ctl.done("run", "-d", "--name", "n", "--", "cat", "/etc/shadow").strip()
        seen: list[str] = []
        while not seen or seen[-1] != "exited":
            event = json.loads(process.stdout.readline())
            if event["sandbox"] == made:
                seen.append(event["event"])
        assert seen == ["created", "starting", "running", "denied", "exited"]
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 0
    lines = ctl.done("events", "n").splitlines()
    assert [line.split()[2] for line in lines] == ["created", "starting", "running", "denied", "exited"]
    assert "target=/etc/shadow" in lines[3]


def test_wait_prints_and_has_the_exit_status(ctl: Ctl) -> None:
    ctl.started("n", "sh", "-c", "read go; exit 9", options=["-i"])
    assert ctl("wait", "--timeout", "10ms", "n").returncode == 124
    with ctl.followed("wait", "n") as process:
        ctl("attach", "n", stdin=None, input=b"\n")
        assert process.wait(PATIENCE_S) == 9
        assert process.stdout is not None and process.stdout.read() == b"9\n"
    assert ctl("wait", "n").returncode == 9
    assert "--timeout" in ctl.refused("wait", "--timeout", "soon", "n", status=125)


def test_signals_go_to_the_program(ctl: Ctl) -> None:
    made = ctl.started("n", "sleep", "100")
    assert ctl.done("signal", "usr1", "n").strip() == made
    assert ctl("wait", "n").returncode == 128 + signal.SIGUSR1
    assert "not while it is exited" in ctl.refused("signal", "9", "n")
    assert "is no signal" in ctl.refused("signal", "nonsense", "n", status=125)


def test_stop_and_kill_end_it_and_may_be_said_twice(ctl: Ctl) -> None:
    ignoring = ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.02; done"]
    for name in ("one", "two"):
        ctl.started(name, *ignoring)
        until(lambda name=name: ctl.served.output(name) == b"ready\n", "it ignores")
    assert len(ctl.done("stop", "--grace", "10ms", "one").split()) == 1
    assert len(ctl.done("kill", "two").split()) == 1
    assert len(ctl.done("stop", "one", "two").split()) == len(ctl.done("kill", "one", "two").split()) == 2
    states = {one["exit_status"] for one in ctl.lines("inspect", "--json", "one", "two")}
    assert states == {128 + signal.SIGKILL}


def test_one_of_several_that_is_wrong_keeps_no_other_from_it(ctl: Ctl) -> None:
    made = ctl.started("n", "sleep", "100")
    ended = ctl("kill", "nobody", "n")
    assert (ended.returncode, ended.stdout.decode().strip()) == (125, made)
    assert ended.stderr.count(b"\n") == 1


def test_rm_removes_what_is_over_and_says_what_to_do_first(ctl: Ctl) -> None:
    ctl.started("n", "sleep", "100")
    assert ctl.refused("rm", "n").endswith("sandlockctl stop it first, or sandlockctl rm -f")
    assert len(ctl.done("rm", "-f", "n").split()) == 1
    ctl("run", "--name", "kept", "--workdir", ".", "--", "touch", "made")
    assert "sandlockctl commit or discard its changes first" in ctl.refused("rm", "kept")
    ctl.done("rm", "--force", "kept")
    assert ctl.done("ps", "--all") == "" and not (ctl.runner.work / "made").exists()


def test_stats_and_top_tell_what_it_uses(ctl: Ctl) -> None:
    made = ctl.started("n", "sh", "-c", "while :; do :; done")
    (stats,) = ctl.lines("stats", "--json")
    assert (stats["id"], stats["state"], stats["processes"]) == (made, "running", 1) and stats["memory"] > 0
    (use,) = ctl.lines("top", "--json")
    assert (use["id"], use["name"]) == (made, "n") and use["cpu_percent"] > 0
    assert ctl.done("top").split()[:3] == ctl.done("stats", "n").split()[:3] == [made, "n", "running"]
    ctl.done("kill", "n")
    assert ctl.done("top") == ctl.done("stats") == ""
    assert ctl.lines("stats", "n", "--json")[0]["usage"]["cpu"] > 0


def test_explain_tells_the_refusals_of_either(ctl: Ctl) -> None:
    ended = ctl("run", "--name", "n", "--", "cat", "/etc/shadow")
    assert b"to see why: sandlockctl explain" in ended.stderr
    assert "/etc/shadow" in ctl.done("explain", "n")
    assert "/etc/shadow" in [line.get("path") for line in ctl.lines("explain", "n", "--json")]
    assert b"to see why" not in ctl("run", "--quiet", "--", "cat", "/etc/shadow").stderr
    ctl.runner.sandboxed(["cat", "/etc/gshadow"])
    run = sorted(path.name for path in (ctl.runner.place.state / "runs").iterdir())[-1]
    assert "/etc/gshadow" in ctl.done("explain", run)


def test_changes_are_shown_committed_and_discarded(ctl: Ctl) -> None:
    work = ctl.runner.work
    (work / "f").write_text("one\n")
    ctl.runner.place.give(work)
    ctl("run", "--name", "n", "--workdir", ".", "--", "sh", "-c", "echo two >> f; echo new > g; echo x > h")
    listed, told = ctl.done("diff", "n", "--list"), ctl.done("diff", "n")
    assert told.startswith(listed) and "+two" in told and "+two" not in listed
    assert ctl.done("diff", "n", "f", "g").count("diff a/") == 2
    first, *changes = ctl.lines("diff", "n", "--json", "--list")
    assert [one["path"] for one in changes] == ["f", "g", "h"] and "diff" not in changes[0]
    assert ctl("commit", "n", "--digest", "0" * 64).returncode == 1
    done = ctl.done("commit", "n", "f", "--digest", first["digest"])
    assert done.splitlines()[0] == f"committed in {work}: 1 change: 1 modified"
    assert done.splitlines()[1].startswith("2 more are kept: sandlockctl diff ")
    (dropped,) = ctl.lines("discard", "n", "g", "--json")
    assert (dropped["kind"], dropped["left"]) == ("discarded", 1)
    assert "1 added" in ctl.done("commit", "n")
    assert sorted(path.name for path in work.iterdir()) == ["f", "h"]
    assert (work / "f").read_text() == "one\ntwo\n"
    for verb in ("diff", "commit", "discard"):
        assert "it is committed" in ctl.refused(verb, "n")


def test_a_conflict_is_named_and_can_be_forced(ctl: Ctl) -> None:
    work = ctl.runner.work
    (work / "f").write_text("one\n")
    ctl.runner.place.give(work)
    ctl("run", "--name", "n", "--workdir", ".", "--", "sh", "-c", "echo two >> f")
    (work / "f").write_text("other\n")
    ended = ctl("commit", "n")
    assert ended.returncode == 1 and b"f" in ended.stderr and (work / "f").read_text() == "other\n"
    ctl.done("commit", "n", "--force", "f")
    assert (work / "f").read_text() == "one\ntwo\n"


def test_paused_it_stands_still_until_it_is_resumed(ctl: Ctl) -> None:
    ctl.started("n", "sleep", "100")
    ctl.done("pause", "n")
    assert ctl.lines("inspect", "--json", "n")[0]["state"] == "paused"
    ctl.done("resume", "n")
    assert ctl.lines("inspect", "--json", "n")[0]["state"] == "running"


# ---- further commands


def test_a_further_command_is_followed_like_the_first(ctl: Ctl) -> None:
    ctl.started("n", "sh", "-c", "echo first > $TMPDIR/f; echo ready; exec sleep 100")
    until(lambda: ctl.served.output("n") == b"ready\n", "it is there")
    ended = ctl("exec", "--env", "A=b", "n", "--", "sh", "-c", "cat $TMPDIR/f; echo $A >&2; exit 5")
    assert (ended.returncode, ended.stdout, ended.stderr) == (5, b"first\n", b"b\n")
    assert ctl("exec", "-i", "n", "--", "sort", stdin=None, input=b"b\na\n").stdout == b"a\nb\n"
    with ctl.terminal("exec", "-t", "n", "--", "stty", "size", rows=30, columns=90) as terminal:
        terminal.expect(rb"30 90")
        assert terminal.wait() == 0
    assert ctl.refused("exec", "n", "--", "/nowhere", status=127)
    assert ctl.done("exec", "-d", "n", "--", "true").strip().isdigit()
    with ctl.followed("exec", "n", "--", "sh", "-c", "echo ready; exec sleep 100") as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 128 + signal.SIGINT
    ctl.done("kill", "n")
    assert "not while it is exited" in ctl.refused("exec", "n", "--", "true", status=125)
    assert ctl.refused("exec", "n", status=125).startswith("a command must be named")
