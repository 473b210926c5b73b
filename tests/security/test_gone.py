"""A caller that is gone by the time its call is judged: its number may be a stranger's, so nothing is done for it.

The supervisor of these tests kills its caller itself when it has read its path, and takes another process for it.
"""

from __future__ import annotations

import os

import pytest
from harness.running import Runner, system_python
from security import broken
from security.canaries import changed, snapshot

_KILLED_WHEN_READ = """
import os, time
from sandlockd.handlers.context import Caller
from sandlockd.kernel import memory
killed = []
def kill(tid):
    killed.append(tid)  # the first, which is the child; its parent looks
    with open(f"/proc/{tid}/stat") as file: parent = int(file.read().rpartition(") ")[2].split()[1])
    os.kill(tid, 9)
    while True:
        try:
            with open(f"/proc/{tid}/stat") as file: state = file.read().rpartition(") ")[2][0]
        except OSError: break
        if state in "ZX": break
        time.sleep(0.001)
    # As if the number were given anew at once: it is its parent's now, with the same memory.
    Caller.tid = property(lambda self: parent if self.request.tid == tid else int(self.request.tid))
read = memory.read_path
def reading(tid, address):
    text = read(tid, address)
    if text.endswith(b"/victim") and not killed: kill(tid)
    return text
memory.read_path = reading
"""
# The check that is shown to matter.
_NOT_ASKED = """
from sandlockd.handlers.context import Caller
Caller.require_alive = lambda self: None
"""
_CALLS = {
    "chmod": "os.chmod(path, 0o600)",
    "chown": "os.chown(path, os.getuid(), os.getgid())",
}
# Shows in no other fact than the time of the change.
_INVISIBLE = ("chown",)


def _run(runner: Runner, call: str, patch: str, *options: object) -> set[str]:
    """What became of the file. The caller is a child, so that the run goes on without it."""
    victim = runner.place.file("work/victim", "text", 0o644)
    os.setxattr(victim, "user.kept", b"1")
    runner.place.give(runner.work)
    before = snapshot(runner.work)
    text = (
        f"import os\npath = {str(victim)!r}\npid = os.fork()\n"
        f"if pid == 0:\n    {_CALLS[call]}\n    os._exit(0)\n"
        "status, found = os.waitpid(pid, 0)[1], os.stat(path)\n"
        "print(status, sorted(os.listxattr(path)), oct(found.st_mode), int(found.st_mtime))"
    )
    ended = broken.run(runner, patch, [system_python(), "-S", "-c", text], options=list(options))
    assert ended.returncode == 0, ended
    status, seen = ended.stdout.decode().split(" ", 1)
    assert status == "9"
    found = changed(before, snapshot(runner.work))
    if "user.new" in seen or "user.kept" not in seen or "0o100600" in seen or seen.endswith(" 1\n"):
        found.add("seen")
    return found


@pytest.mark.parametrize("call", _CALLS)
def test_nothing_is_done_for_it(runner: Runner, call: str) -> None:
    assert _run(runner, call, _KILLED_WHEN_READ, "--write", runner.work) == set()


@pytest.mark.parametrize("call", _CALLS)
def test_nothing_is_done_for_it_in_a_tree(runner: Runner, call: str) -> None:
    options = ["--workdir", runner.work, "--on-exit", "discard"]
    assert _run(runner, call, _KILLED_WHEN_READ, *options) == set()


@pytest.mark.parametrize("call", [call for call in _CALLS if call not in _INVISIBLE])
def test_it_would_be_done_if_nobody_asked(runner: Runner, call: str) -> None:
    assert _run(runner, call, _KILLED_WHEN_READ + _NOT_ASKED, "--write", runner.work) != set()


@pytest.mark.parametrize("call", [call for call in _CALLS if call not in _INVISIBLE])
def test_it_would_be_done_in_a_tree_if_nobody_asked(runner: Runner, call: str) -> None:
    options = ["--workdir", runner.work, "--on-exit", "discard"]
    assert "seen" in _run(runner, call, _KILLED_WHEN_READ + _NOT_ASKED, *options)
