"""The audit log and the state directory: out of the program's reach, and harmless to read."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from harness.running import Runner
from security import broken
from security.canaries import outside
from security.raw_calls import AT_FDCWD, Buffer, Script


@pytest.fixture
def state(runner: Runner) -> Path:
    """Below the home, where a grant of the home reaches; with an earlier run in it."""
    directory = runner.place.home / ".local/state/sandlockd"
    ended = runner.sandboxed(["cat", "/etc/shadow"], env=_env(directory))
    assert ended.returncode != 0
    assert len(list(directory.glob("runs/*/audit.jsonl"))) == 1
    return directory


def _env(directory: Path) -> dict[str, str]:
    return {"SANDLOCKD_STATE_DIR": str(directory)}


def _attack(state: Path, run: str) -> Script:
    log = state / "runs" / run / "audit.jsonl"
    script = Script()
    for path in (log, f"{state}/runs/../runs/{run}/audit.jsonl", f"/proc/self/root{log}"):
        script.read(script.openat(AT_FDCWD, path, os.O_RDONLY), Buffer(64), 64)
        script.openat(AT_FDCWD, path, os.O_RDWR)
        script.openat(AT_FDCWD, path, os.O_WRONLY | os.O_TRUNC)
    parent = script.openat(AT_FDCWD, state / "runs" / run, os.O_PATH)
    script.openat(parent, b"audit.jsonl", os.O_WRONLY | os.O_APPEND)
    script.openat(AT_FDCWD, state / "runs", os.O_RDONLY | os.O_DIRECTORY)
    script.openat(AT_FDCWD, state, os.O_RDONLY | os.O_DIRECTORY)
    script.openat(AT_FDCWD, state / "runs/new", os.O_WRONLY | os.O_CREAT, 0o644)
    script.truncate(log, 0)
    script.chmod(log, 0o666)
    script.chmod(state, 0o777)
    script.link(log, state.parent / "log")
    script.rename(log, state.parent / "log")
    script.rename(state, state.parent / "moved")
    script.rename(state.parent, state.parent.parent / "moved")
    script.symlink(b"/etc", state / "runs/link")
    script.mkdir(state / "runs/made", 0o755)
    script.unlink(log)
    script.rmdir(state / "runs" / run)
    return script


@pytest.mark.parametrize("grant", ["home", "parent"])
def test_reading_and_writing_the_log(runner: Runner, state: Path, grant: str) -> None:
    run = next((state / "runs").iterdir()).name
    before = (state / "runs" / run / "audit.jsonl").read_bytes()
    script = _attack(state, run)
    granted = runner.place.home if grant == "home" else state.parent
    outcomes, _ = script.sandboxed(runner, "--write", granted, env=_env(state))
    passed = [script.lines[index] for index, outcome in enumerate(outcomes) if outcome.ok]
    assert len(passed) == 1, passed  # looking at the directory
    assert (state / "runs" / run / "audit.jsonl").read_bytes() == before
    assert script.bare(runner)[1].ok


def test_the_log_of_its_own_run(runner: Runner, state: Path) -> None:
    """A new one, whose name it does not know; and by the supervisor's descriptors."""
    attack = (
        f"cat {state}/runs/*/audit.jsonl; ls {state}/runs; for d in {state} {state}/runs; do echo x > $d/x; done;"
        " for n in 0 1 2 3 4 5 6 7 8 9 10 11 12; do cat /proc/$PPID/fd/$n </dev/null; ln -s /proc/self/fd/$n $HOME/l$n;"
        " timeout 1 cat $HOME/l$n </dev/null; done"
    )
    ended = runner.sandboxed(["sh", "-c", attack], options=["--write", runner.place.home], env=_env(state))
    assert b'"kind"' not in ended.stdout
    assert len(list((state / "runs").iterdir())) == 2


def test_a_first_run_that_makes_the_state_directory(runner: Runner) -> None:
    """There is none when the wall is built; the program finds it made, and cannot get at it."""
    directory = runner.place.home / ".local/state/sandlockd"
    attack = f"ls -R {directory}; cat {directory}/runs/*/*; echo x > {directory}/x; mkdir -p {directory}/runs/x; true"
    ended = runner.sandboxed(
        ["sh", "-c", attack], options=["--write", runner.place.home], env=_env(directory)
    )
    assert b"audit" not in ended.stdout
    assert sorted(os.listdir(directory)) == ["runs"]
    assert len(os.listdir(directory / "runs")) == 1


def test_control_characters_in_names(runner: Runner) -> None:
    """What `explain` and `cat` show of a hostile name cannot steer a terminal."""
    directory = outside(runner)
    name = os.fsencode(directory) + b"/\x1b]0;title\x07\x1b[2J\r\n\xe2\x80\xae\x9b31m\xff"
    script = Script()
    for path in (name, name + b"2"):
        script.openat(AT_FDCWD, path, os.O_WRONLY | os.O_CREAT, 0o644)
        script.mkdir(path, 0o755)
    script.sandboxed(runner)
    raw = b"".join(path.read_bytes() for path in runner.place.state.glob("runs/*/audit.jsonl"))
    shown = runner.sandlockd("explain", "--last").stdout
    shown_json = runner.sandlockd("explain", "--last", "--json").stdout
    for text in (raw, shown, shown_json):
        assert text.count(b"title") >= 1
        for byte in (0x1B, 0x07, 0x0D, 0x9B, 0xFF):
            assert bytes((byte,)) not in text
        assert b"\xe2\x80\xae" not in text
    records = [json.loads(line) for line in shown_json.splitlines()]
    assert any("_b64" in key for record in records for key in record)


def test_control_characters_in_the_name_of_the_process(runner: Runner) -> None:
    attack = runner.compiler.compile(
        '#include <fcntl.h>\n#include <sys/prctl.h>\nint main(void) { prctl(PR_SET_NAME, "\\x1b[31m\\nroot");'
        ' return open("/etc/shadow", O_RDONLY) >= 0; }\n'
    )
    assert runner.sandboxed([attack]).returncode == 0
    shown = runner.sandlockd("explain", "--last").stdout
    assert b"\x1b" not in shown


# ---- the tests above can fail ----


def test_the_log_is_reached_when_the_state_directory_is_no_law(runner: Runner, state: Path) -> None:
    run = next((state / "runs").iterdir()).name
    patch = (
        "from sandlockd.sandbox import policies, run\nmade = policies.compile_file_rules\n"
        "run.compile_file_rules = lambda policy, state_dir, **k: made(policy, None, **k)\n"
    )
    script = _attack(state, run)
    outcomes = broken.results(runner, patch, script, "--write", runner.place.home, env=_env(state))
    assert outcomes[1].ok


def test_a_link_on_the_way_to_the_state_directory_is_not_replaced(runner: Runner) -> None:
    """With another tree in the place of the link, sandlockd's next runs would write, and explain read, there."""
    home = runner.place.home
    (home / "real").mkdir()
    (home / "link").symlink_to("real")
    runner.place.give(home / "real")
    runner.place.give(home)
    attack = "mv link moved; rm -f link; ln -sfn /tmp link; mkdir link2; mv -T link2 link; true"
    runner.sandboxed(["sh", "-c", attack], options=["--write", home], env=_env(home / "link/state"), cwd=home)
    assert os.readlink(home / "link") == "real"
    assert len(list((home / "real/state/runs").iterdir())) == 1
