"""sandlockctl run: in the service, and as if it were here."""

from __future__ import annotations

import contextlib
import json
import os
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


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (["sh", "-c", "exit 7"], 7),
        (["sh", "-c", "kill -9 $$"], 137),
        (["/nowhere"], 127),
        (["/etc/passwd"], 126),
        (["sleep", "100"], 124),
    ],
)
def test_the_exit_status_is_what_it_would_be_in_the_foreground(
    ctl: Ctl, command: list[str], status: int
) -> None:
    options = ["--quiet", "--timeout", "300ms"]
    ours, foreground = ctl("run", *options, "--", *command), ctl.runner.sandlockd(*options, "--", *command)
    assert ours.returncode == foreground.returncode == status
    said, as_said = (one.stderr.decode().split(": ", 1)[1:] for one in (ours, foreground))
    assert said == as_said


def test_output_directory_environment_and_umask_are_those_of_here(ctl: Ctl) -> None:
    script = 'pwd; umask; echo "$ODD $OTHER"; echo err >&2'
    command = ["run", "--env", "OTHER=b", "--", "sh", "-c", script]
    old = os.umask(0o027)
    try:
        ended = ctl.runner.run([ctl.command, *command], env={**ctl.environment(), "ODD": "a b"})
    finally:
        os.umask(old)
    assert ended.stdout.decode() == f"{ctl.runner.work}\n0027\na b b\n"
    assert (ended.stderr, ended.returncode) == (b"err\n", 0)


def test_relative_paths_begin_where_we_are(ctl: Ctl) -> None:
    work = ctl.runner.work
    (work / "in").mkdir()
    ctl.runner.place.give(work)
    (work / "mine.toml").write_text('[filesystem]\nbase = true\nwrite = ["in"]\n')
    script = "pwd; echo x > made; cat ../mine.toml 2>&1"
    ended = ctl("run", "--policy", "mine.toml", "--cwd", "in", "--", "sh", "-c", script)
    assert ended.stdout.decode().splitlines() == [f"{work}/in", "cat: ../mine.toml: Permission denied"]
    assert (work / "in" / "made").read_text() == "x\n"
    assert ctl.done("run", "--read", ".", "--", "cat", "mine.toml") == (work / "mine.toml").read_text()


def test_a_cwd_that_is_asked_for_beats_the_policys(ctl: Ctl) -> None:
    (ctl.runner.work / "p.toml").write_text('extends = ["base"]\n[program]\ncwd = "/usr"\n')
    assert ctl.done("run", "--policy", "p.toml", "--", "pwd") == "/usr\n"
    assert ctl.done("run", "--policy", "p.toml", "--cwd", "/", "--", "pwd") == "/\n"


def test_input_goes_in_and_ends(ctl: Ctl) -> None:
    content = os.urandom(300_000)
    ended = ctl("run", "-i", "--", "sha256sum", stdin=None, input=content)
    bare = ctl.runner.bare(["sha256sum"], stdin=None, input=content)
    assert (ended.stdout, ended.stderr, ended.returncode) == (bare.stdout, b"", 0)
    assert ctl("run", "--", "cat", stdin=None, input=b"not asked for").stdout == b""


def test_interrupt_and_terminate_are_the_programs(ctl: Ctl) -> None:
    script = (
        "trap 'echo int; exit 5' INT; trap 'echo term; exit 6' TERM; echo ready; while :; do sleep 0.02; done"
    )
    for number, said, status in ((signal.SIGINT, b"int\n", 5), (signal.SIGTERM, b"term\n", 6)):
        with ctl.followed("run", "--", "sh", "-c", script) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            process.send_signal(number)
            assert process.stdout.read() == said
            assert process.wait(PATIENCE_S) == status


def test_interrupted_twice_quickly_it_is_stopped(ctl: Ctl) -> None:
    with ctl.followed(
        "run", "--", "sh", "-c", "trap 'echo int' INT; echo ready; while :; do sleep 0.02; done"
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == b"int\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 128 + signal.SIGTERM


def test_a_hangup_leaves_it_to_itself(ctl: Ctl) -> None:
    with ctl.followed("run", "--name", "left", "--", "sh", "-c", "echo ready; exec sleep 100") as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGHUP)
        assert process.wait(PATIENCE_S) == 129
        assert process.stderr is not None and b"sandlockctl attach" in process.stderr.read()
    assert ctl.served.get("/v1/sandboxes/left")["state"] == "running"


def test_killed_it_leaves_the_program_to_itself(ctl: Ctl) -> None:
    with ctl.followed("run", "--name", "left", "--", "sh", "-c", "echo ready; exec sleep 100") as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        process.kill()
    assert ctl.served.get("/v1/sandboxes/left")["state"] == "running"


def test_output_that_nobody_reads_ends_the_output_and_not_the_program(ctl: Ctl) -> None:
    script = "echo first; for i in 1 2 3 4 5 6 7 8 9; do sleep 0.02; echo more; done; echo err >&2; exit 4"
    with ctl.followed("run", "--name", "n", "--", "sh", "-c", script) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == b"first\n"
        process.stdout.close()
        assert (process.wait(PATIENCE_S), process.stderr.read()) == (4, b"err\n")
    assert ctl.served.output("n").endswith(b"more\n")


def test_a_reader_that_takes_its_time_gets_all_of_it(ctl: Ctl) -> None:
    """And signals go through meanwhile."""
    script = "trap 'exit 3' USR1; seq 1 20000; while :; do sleep 0.02; done"
    with ctl.followed("run", "--", "sh", "-c", script) as process:
        assert process.stdout is not None and process.stdout.readline() == b"1\n"
        process.send_signal(signal.SIGUSR1)
        assert process.stdout.read() == b"".join(b"%d\n" % number for number in range(2, 20001))
        assert process.wait(PATIENCE_S) == 3


def test_a_program_that_does_not_read_keeps_neither_signals_nor_its_output_waiting(ctl: Ctl) -> None:
    script = "trap 'echo term; exit 6' TERM; echo ready; while :; do sleep 0.02; done"
    with ctl.followed("run", "-i", "--", "sh", "-c", script, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        os.set_blocking(process.stdin.fileno(), False)
        with contextlib.suppress(BlockingIOError):
            while True:
                process.stdin.write(bytes(1 << 16))
                # Until all that lies between us and the program is full; what is taken a little later fills it, too.
                if not select.select([], [process.stdin], [], 0.2)[1]:
                    break
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 6
        assert process.stdout.read() == b"term\n"


def test_detached_it_prints_an_id_and_json_an_object(ctl: Ctl) -> None:
    made = ctl.done("run", "-d", "--label", "a=b", "--label", "c", "--", "sleep", "100").strip()
    assert ctl.served.get(f"/v1/sandboxes/{made}")["labels"] == {"a": "b", "c": ""}
    (line,) = ctl.lines("run", "-d", "--json", "--name", "n", "--", "sleep", "100")
    assert (line["name"], line["state"]) == ("n", "running")


def test_removed_when_it_is_over_unless_changes_are_kept(ctl: Ctl) -> None:
    assert ctl.done("run", "--rm", "--name", "gone", "--", "echo", "x") == "x\n"
    assert ctl.served.ask("GET", "/v1/sandboxes/gone").status == 404
    ended = ctl("run", "--rm", "--name", "stays", "--workdir", ".", "--", "touch", "made")
    assert ended.returncode == 0 and b"it stays, for its changes are kept" in ended.stderr
    assert ctl.served.get("/v1/sandboxes/stays")["state"] == "kept"


def test_the_status_file_tells_what_that_of_the_foreground_does(ctl: Ctl) -> None:
    path = ctl.runner.place.root / "of-the-service.json"
    command = ["--quiet", "--", "sh", "-c", "cat /etc/shadow 2>&1; exit 2"]
    assert ctl("run", "--status-file", path, *command).returncode == 2
    ours = json.loads(path.read_text())
    foreground = ctl.runner.sandboxed(command[2:], options=["--quiet"]).status
    assert foreground is not None and ours.keys() == foreground.keys()
    assert ours["usage"].keys() == foreground["usage"].keys()
    for name in ("exit_code", "signal", "reason", "rule", "error", "denials", "changes"):
        assert ours[name] == foreground[name], name


def test_asked_what_becomes_of_the_changes_silence_keeps_them(ctl: Ctl) -> None:
    options = ["run", "--workdir", ".", "--on-exit", "ask", "--name", "n"]
    for answer, state, made in (
        (b"", "kept", False),
        (b"x\nd\nc\n", "committed", True),
        (b"D\n", "discarded", True),
    ):
        ended = ctl(*options, "--", "sh", "-c", "echo new > made", stdin=None, input=answer)
        assert ended.returncode == 0 and b"[c]ommit [d]iff [k]eep [D]iscard?" in ended.stderr
        assert ctl.served.get("/v1/sandboxes/n")["state"] == state
        assert (ctl.runner.work / "made").exists() is made
        if state == "committed":
            assert b"+new" in ended.stderr
            (ctl.runner.work / "made").write_text("other\n")
        ctl.served.remove("n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--policy", "./nowhere.toml", "--", "true"], "./nowhere.toml: there is no such file"),
        (["--policy", "nowhere", "--", "true"], "there is no policy 'nowhere': one of agent, base,"),
        (["--policy", "p.toml", "--", "true"], "p.toml:2: filesystem.bogus: unknown key"),
        (["--dry-run", "--", "true"], "--dry-run is about the changes in a copy-on-write tree"),
        (["--name", "../x", "--", "true"], "name"),
        (["--env", "=x", "--", "true"], "--env =x: must be NAME=VALUE"),
        (["--label", "=x", "--", "true"], "--label =x: must be KEY"),
        (["--memory", "16E", "--", "true"], "memory"),
        (["-d", "--rm", "--", "true"], "--rm is for who waits for the end"),
        (["-d", "--on-exit", "ask", "--", "true"], "--on-exit ask is for who waits"),
        (["-d", "--status-file", "f", "--", "true"], "--status-file is for who waits"),
        (
            ["--status-file", "/nowhere/f", "--", "true"],
            "--status-file /nowhere/f: there is no such directory",
        ),
        (["--json", "--", "true"], "--json goes with -d"),
        (["-v", "--", "true"], "--verbose is for the foreground"),
        (["true", "--", "true"], "'true' stands before --"),
        (["--cwd", "/nowhere", "--", "true"], "/nowhere: cannot be entered"),
        ([], ""),
    ],
)
def test_what_cannot_be_run_is_said_in_a_line(ctl: Ctl, words: list[str], said: str) -> None:
    (ctl.runner.work / "p.toml").write_text("[filesystem]\nbogus = 1\n")
    assert said in ctl.refused("run", *words, status=125)
    assert ctl.served.get("/v1/sandboxes")["sandboxes"] == []


def test_a_name_that_is_taken_is_refused(ctl: Ctl) -> None:
    made = ctl.started("n", "sleep", "100")
    assert ctl.refused("run", "--name", "n", "--", "true", status=125).startswith(
        f"the name 'n' is taken by {made}"
    )


def test_words_that_are_no_text_are_refused_or_named(ctl: Ctl) -> None:
    assert "not UTF-8" in ctl.refused("run", "--", b"\xff", status=125)
    ended = ctl.runner.run([ctl.command, "run", "--", "true"], env={**ctl.environment(), "ODD": "\udcff"})
    assert (
        ended.returncode == 0
        and ended.stderr == b"sandlockctl: the variable ODD is not UTF-8: it is left out\n"
    )


def test_a_program_is_not_kept_waiting_by_who_is_attached(ctl: Ctl) -> None:
    """Stopped, we read nothing; what it writes is logged meanwhile, and read afterwards."""
    with ctl.followed("run", "--name", "n", "--", "sh", "-c", "echo ready; seq 1 30000; echo end") as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGSTOP)
        until(lambda: ctl.served.get("/v1/sandboxes/n")["state"] == "exited", "its end")
        process.send_signal(signal.SIGCONT)
        assert process.stdout.read().endswith(b"\n30000\nend\n")
        assert process.wait(PATIENCE_S) == 0


def test_examples_of_policies_by_name_are_the_services(ctl: Ctl) -> None:
    """A file of that name beside us is not taken for it, unless it is named as a file."""
    (ctl.runner.work / "base").write_text("no policy\n")
    assert ctl.done("run", "--policy", "base", "--", "echo", "x") == "x\n"
    assert "base" in ctl.refused("run", "--policy", "./base", "--", "true", status=125)
    (ctl.runner.work / "wide").write_text('extends = ["base"]\n')
    said = ctl.refused("run", "--policy", "wide", "--", "true", status=125)
    assert said.startswith("there is no policy 'wide': one of") and said.endswith(
        "the file is --policy ./wide"
    )
    assert ctl.done("run", "--policy", "./wide", "--", "echo", "x") == "x\n"
