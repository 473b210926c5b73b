"""Who may search a directory of a tree is remembered for a moment, and asked anew as soon as it may be otherwise."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from harness.running import Runner, system_python

# Looks at what is below a directory, so that it is remembered, takes or gives the right to, and looks again: at once.
_SCRIPT = """
import errno, json, os, sys, threading
os.mkdir("top")
for name in ("made", "top/made"):
    os.mkdir(name)
    open(name + "/in", "w").close()
os.chmod("before", 0o755)  # there before, and copied up now
def told(name):
    found = []
    for act in (os.stat, os.lstat, lambda n: os.access(n, os.F_OK), lambda n: os.close(os.open(n, os.O_RDONLY)),
                os.readlink):
        try:
            result = act(name)
            found.append(result if isinstance(result, bool) else "found")
        except OSError as error:
            found.append(errno.errorcode[error.errno])
    return found
def look(directory):
    return [told(directory + name) for name in ("/in", "/nothing")]
def in_a_thread(act, *words):
    one = threading.Thread(target=act, args=words)
    one.start()
    one.join()
def in_a_child(act, *words):
    if os.fork() == 0:
        act(*words)
        os._exit(0)
    os.wait()
ways = {
    "chmod": lambda name, mode: os.chmod(name, mode),
    "fchmod": lambda name, mode: os.fchmod(held[name], mode),
    "chmod-in-a-thread": lambda name, mode: in_a_thread(os.chmod, name, mode),
    "fchmod-in-a-child": lambda name, mode: in_a_child(os.fchmod, held[name], mode),
    "chmod-by-another-name": lambda name, mode: os.chmod("through/" + name, mode),
    "another-in-its-place": lambda name, mode: (os.rename(name, name + "-away"), os.mkdir(name, mode)),
}
held = {name: os.open(name, os.O_RDONLY) for name in ("made", "top/made", "before")}
seen = []
for name in held:
    for mode in (0o600, 0o755, 0o666, 0o700):
        look(name)
        ways[sys.argv[1]](name, mode)
        seen += [look(name)]
        if sys.argv[1] == "another-in-its-place":
            os.chmod(name, 0o700)
            os.rmdir(name)
            os.rename(name + "-away", name)
print(json.dumps(seen))
"""

_WAYS = (
    "chmod",
    "fchmod",
    "chmod-in-a-thread",
    "fchmod-in-a-child",
    "chmod-by-another-name",
    "another-in-its-place",
)


def _told(runner: Runner, way: str, options: Sequence[Any] | None) -> Any:
    work = _work(runner)
    command = [system_python(), "-S", "-c", _SCRIPT, way]
    if options is None:
        ended = runner.bare(command)
    else:
        ended = runner.sandboxed(command, options=["--workdir", work, "--on-exit", "discard", *options])
    assert ended.returncode == 0, ended
    return json.loads(ended.stdout)


def _work(runner: Runner) -> Path:
    work = runner.place.empty_work()
    (work / "before").mkdir()
    (work / "before/in").write_text("of the lower tree")
    (work / "through").symlink_to(".")
    runner.place.give(work)
    return work


@pytest.mark.parametrize("way", _WAYS)
def test_what_may_not_be_searched_any_more_is_closed_at_once_by(runner: Runner, way: str) -> None:
    bare = _told(runner, way, None)
    assert _told(runner, way, []) == bare
