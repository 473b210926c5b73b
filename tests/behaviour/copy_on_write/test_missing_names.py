"""That a name is not there is remembered for a moment; whoever makes it meanwhile, it is found at once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from harness.running import Runner, system_python
from security.test_slow_file_systems import next_line, say_line

# Each name is asked for by every way first, so that its absence is known; then somebody makes it; then it is asked for.
_ASKS = """
import os, sys
top = os.getcwd()
def ways(name):
    found = []
    ways = (os.stat, os.lstat, lambda path: os.close(os.open(path, os.O_RDONLY)), os.listxattr, os.statvfs, os.chdir)
    for way in ways:
        try:
            way(name); found.append("1")
        except FileNotFoundError:
            found.append("0")
        except NotADirectoryError:
            found.append("1")
        except OSError as error:
            found.append(f"[{error}]")
        os.chdir(top)
    return "".join(found)
def told(name, make):
    before = [ways(name) for _ in range(3)]
    make(name)
    print(*before, ways(name), flush=True)
"""
_OWN = (
    _ASKS
    + """
for above in ("", "dir/", "new/", "dir/sub/"):
    for number in range(5):
        told(f"{above}file-{number}", lambda name: open(name, "w").close())
        told(f"{above}directory-{number}", os.mkdir)
        told(f"{above}link-{number}", lambda name: os.link("file", name))
        told(f"{above}moved-{number}", lambda name: os.rename(f"{above}file-{number}", name))
        told(f"{above}older-{number}", lambda name: os.rename(f"old-{above.replace('/', '-')}{number}", name))
        told(f"{above}pointing-{number}", lambda name: os.symlink(os.path.abspath("file"), name))
        told(f"{above}older-{number}/in", lambda name: open(name, "w").close())
"""
)
_OTHERS = (
    _ASKS
    + """
for line in sys.stdin:
    told(line.strip(), lambda name: (print("make", flush=True), sys.stdin.readline()))
"""
)
_SEEN = "000000 000000 000000 111111"


def _tree(runner: Runner) -> None:
    for name in ("dir", "dir/sub", "new"):
        (runner.work / name).mkdir()
    runner.place.file("work/file", "x")
    for above in ("", "dir-", "new-", "dir-sub-"):
        for number in range(5):
            (runner.work / f"old-{above}{number}").mkdir()
    runner.place.give(runner.work)


def test_what_the_program_makes_is_there_at_once(runner: Runner) -> None:
    _tree(runner)
    options = ["--workdir", runner.work, "--on-exit", "discard"]
    ended = runner.sandboxed([system_python(), "-c", _OWN], options=options, cwd=runner.work)
    assert ended.returncode == 0, ended
    lines = ended.stdout.decode().splitlines()
    assert set(lines) <= {_SEEN} and len(lines) == 4 * 5 * 7, lines


@pytest.mark.parametrize("above", ["", "dir", "dir/sub"])
def test_what_somebody_outside_makes_is_there_at_once(runner: Runner, above: str) -> None:
    _tree(runner)
    line = runner.command_line(
        [system_python(), "-c", _OTHERS],
        options=["--workdir", runner.work, "--on-exit", "discard", "--quiet"],
    )
    with runner.started(line, stdin=-1, stdout=-1, stderr=-1) as process:
        assert process.stdin is not None
        for number in range(12):
            name = os.path.join(above, f"name-{number}")
            process.stdin.write(f"{name}\n".encode())
            process.stdin.flush()
            assert next_line(process) == "make"
            _make(runner.work / name, number, runner.work / "file")
            say_line(process)
            assert next_line(process) == _SEEN, name
        process.stdin.close()
        process.wait(10)


def _make(path: Path, number: int, target: Path) -> None:
    if number % 3 == 0:
        path.write_text("x")
    elif number % 3 == 1:
        path.mkdir()
    else:
        path.symlink_to(target)
