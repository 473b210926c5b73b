"""A supervisor is killed at each step of each act that changes names in a tree: the program sees it done once."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from harness.places import tree_of
from harness.running import Runner, system_python
from harness.waiting import until

_DRIVER = Path(__file__).parents[1] / "harness" / "dying_driver.py"
_STEPS = ("received", "begun", "done", "noted", "prepared", "answered")

# What each call returns, and whether a second one fails as it should.
_PROGRAM = r"""
import ctypes, os, socket
libc = ctypes.CDLL(None, use_errno=True)
def renameat2(old, new, flags):
    if libc.renameat2(-100, old.encode(), -100, new.encode(), flags) < 0:
        raise OSError(ctypes.get_errno(), "")
def tell(name, call, *args):
    try:
        found = call(*args)
    except OSError as error:
        found = f"errno {error.errno}"
    print(name, found, flush=True)
def write(path, flags, mode=0o644):
    fd = os.open(path, flags, mode)
    os.write(fd, path.encode())
    os.close(fd)
def bind(path):
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path)
EXCL = os.O_CREAT | os.O_EXCL | os.O_RDWR
for name, call, *args in [
    ("mkdir", os.mkdir, "made"),
    ("create", write, "made/file", os.O_CREAT | os.O_WRONLY),
    ("create alone", write, "made/closed", EXCL, 0o444),
    ("link", os.link, "made/file", "made/other"),
    ("symlink", os.symlink, "file", "made/link"),
    ("rename", os.rename, "made/file", "made/moved"),
    ("rename over", os.rename, "made/other", "made/closed"),
    ("rename to nothing", renameat2, "made/moved", "made/again", 1),
    ("exchange", renameat2, "made/again", "made/closed", 2),
    ("fifo", os.mkfifo, "made/fifo"),
    ("socket", bind, "made/socket"),
    ("unlink", os.unlink, "made/fifo"),
    ("unlink of a lower one", os.unlink, "lower"),
    ("create in its place", write, "lower", EXCL),
    ("rename of a lower one", os.rename, "second", "renamed"),
    ("mkdir to be removed", os.mkdir, "gone"),
    ("rmdir", os.rmdir, "gone"),
    ("rmdir of a lower one", os.rmdir, "empty"),
]:
    tell(name, call, *args)
    if name not in ("create", "exchange"):
        tell(name + " again", call, *args)
print(sorted(os.listdir(".")), sorted(os.listdir("made")), open("made/again").read(), open("made/closed").read())
"""
_ACTS = 17


def _furnished(runner: Runner) -> Path:
    work = runner.place.empty_work()
    for name in ("lower", "second"):
        (work / name).write_text(name)
    (work / "empty").mkdir()
    runner.place.give(work)
    for path in work.iterdir():
        runner.place.give(path)
    return work


def _run(runner: Runner, work: Path, step: str, number: int) -> tuple[bytes, dict[str, Any]]:
    script = runner.place.file("driver.py", _DRIVER.read_text())
    policy = runner.policy_file('[filesystem]\nbase = true\n[audit]\nlevel = "all"\n')
    output = runner.place.temporary / "result"
    output.unlink(missing_ok=True)
    line = [sys.executable, "-I", script, policy, work, output, step, str(number)]
    with runner.started([*line, system_python(), "-I", "-c", _PROGRAM], cwd=work) as process:
        assert process.stdout is not None
        told = process.stdout.read()
        process.wait()
        until(output.exists, "all is over")
    return told, json.loads(output.read_text())


def test_without_a_death_each_act_is_counted(runner: Runner) -> None:
    work = _furnished(runner)
    bare = runner.bare([system_python(), "-I", "-c", _PROGRAM], cwd=work).stdout
    assert b"again errno" in bare
    told, result = _run(runner, _furnished(runner), "begun", 0)
    assert told == bare
    assert (result["exit_status"], result["deaths"]) == (0, 0)
    assert result["acts"] == _ACTS, result


@pytest.mark.parametrize("step", _STEPS)
def test_an_act_that_its_supervisor_dies_of_is_done_once(runner: Runner, step: str, soak: bool) -> None:
    work = _furnished(runner)
    bare = runner.bare([system_python(), "-I", "-c", _PROGRAM], cwd=work).stdout
    wanted = tree_of(work)
    every = 1 if soak or (step in ("begun", "done") and not runner.place.user.is_root) else 5
    for number in range(1 + _STEPS.index(step) % every, _ACTS + 1, every):
        work = _furnished(runner)
        told, result = _run(runner, work, step, number)
        assert told == bare, (number, result)
        assert (result["exit_status"], result["deaths"]) == (0, 1), (number, result)
        assert tree_of(work) == wanted, number
