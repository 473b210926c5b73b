"""A link into the tree that somebody outside makes during the run leads to what the program sees there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from harness.running import Runner, system_python
from harness.waiting import line_of

# Looks for the link, tells what it found, waits for the word, and looks again at once and when nothing is remembered.
_LOOKS = """
import json, os, sys, time
link, new, late = sys.argv[1:]
open(new, "w").write("of the run")
def look():
    try:
        return open(link).read() if os.stat(link).st_size else ""
    except OSError as error:
        return type(error).__name__
def wrote():
    try:
        os.close(os.open(link, os.O_WRONLY))
        return True
    except OSError:
        return False
print(look(), flush=True)
sys.stdin.readline()
at_once = [look(), wrote()]
time.sleep(float(late))
print(json.dumps([*at_once, look()]), flush=True)
"""
_REMEMBERED_S = 0.25  # JUDGED_FOR_NS


def _looked(runner: Runner, grants: str, link: Path) -> list[object]:
    """What was found at once, whether it could be written to then, and what was found later."""
    runner.place.give(runner.work)
    policy = f'[filesystem]\nbase = true\nworkdir = "{runner.work}"\non_exit = "discard"\n{grants}'
    command = [system_python(), "-S", "-c", _LOOKS, link, runner.work / "new", str(2 * _REMEMBERED_S)]
    line = runner.command_line(command, policy=policy)
    with runner.started(line) as process:
        assert process.stdout is not None and process.stdin is not None
        assert line_of(process.stdout.fileno()) == b"FileNotFoundError\n"
        link.symlink_to(runner.work / "new")
        process.stdin.write(b"go\n")
        found: list[object] = json.loads(line_of(process.stdout.fileno()))
        assert process.wait() == 0
        return found


def test_on_the_spine_of_a_hole_it_is_found_at_once(runner: Runner) -> None:
    """There the supervisor makes names for the program, so that nothing is there is not remembered."""
    spine = runner.place.root / "spine"
    runner.place.file("spine/denied", "")
    grants = f'write = ["{spine}"]\ndeny = ["{spine}/denied"]\n'
    assert _looked(runner, grants, spine / "link") == ["of the run", True, "of the run"]


@pytest.mark.parametrize("real", ["nothing", "a file"])
def test_where_only_reading_is_granted_it_leads_to_the_real_file_for_a_moment_at_most(
    runner: Runner, real: str
) -> None:
    """Nothing is written there, and nothing is shown that the program may not read."""
    directory = runner.place.root / "granted"
    directory.mkdir()
    runner.place.give(directory)
    if real == "a file":
        (runner.work / "new").write_text("of the tree")
    at_once, _, later = _looked(runner, f'read = ["{directory}"]\n', directory / "link")
    assert at_once in ("of the run", "of the tree" if real == "a file" else "FileNotFoundError")
    assert later == "of the run"
    if real == "a file":
        assert (runner.work / "new").read_text() == "of the tree"
    else:
        assert not (runner.work / "new").exists()
