"""What a program is told of its files' identity: it cannot choose it, nor learn from it where the changes lie."""

from __future__ import annotations

import os
from typing import Any

import pytest
from harness.running import Ended, Runner, system_python
from security import broken

# Maps, holds and executes copies, new files and what is gone; then reads all that /proc tells, by every name of it.
_LOOK = """
import mmap, os, shutil, subprocess, sys
secret = os.fsencode(sys.argv[1])
shutil.copy("/bin/sleep", "dir/sleep")
kept, names = [], ("file", "dir/in", "new", "dir/new", "gone")
for name in names:
    fd = os.open(name, os.O_RDWR | os.O_CREAT)
    os.write(fd, b"changed" * 1000)
    kept.append((fd, mmap.mmap(fd, 0)))
os.remove("gone")
os.rename("dir", "moved")
kept.append(os.open("moved", os.O_RDONLY))
child = subprocess.Popen(["moved/sleep", "1000"])
found = []
def look(path):
    try:
        told = os.readlink(path) if os.path.islink(path) else open(path, "rb").read()
    except OSError:
        return
    told = os.fsencode(told) if isinstance(told, str) else told
    if secret in told:
        found.append(path)
files = "maps smaps numa_maps exe cwd root mountinfo stat status io auxv".split()
looked = 0
for pid in (os.getpid(), child.pid, "self", "thread-self", f"{os.getpid()}/task/{os.getpid()}"):
    for name in files:
        look(f"/proc/{pid}/{name}")
    for directory in ("fd", "fdinfo", "map_files"):
        try:
            names = os.listdir(f"/proc/{pid}/{directory}")
        except OSError:
            continue
        for name in names:
            look(f"/proc/{pid}/{directory}/{name}")
            looked += 1
look("/proc/locks")
child.kill()
print(looked, *found)
"""

_FORGE = """
import ctypes, errno, os, sys
libc = ctypes.CDLL(None, use_errno=True)
name, value = b"user.sandlockd.origin", sys.argv[1].encode()
target = os.stat("file").st_ino
open("copy", "w").close()
fd = os.open("copy", os.O_RDWR)
def result(done):
    return 0 if done == 0 else ctypes.get_errno()
tried = [result(libc.setxattr(path, name, value, len(value), 0))
         for path in (b"copy", b"./copy", b"/proc/self/fd/%d" % fd, b"/proc/self/cwd/copy", b"dir/../copy")]
tried.append(result(libc.lsetxattr(b"copy", name, value, len(value), 0)))
tried.append(result(libc.fsetxattr(fd, name, value, len(value), 0)))
open("file", "a").close()
tried.append(result(libc.removexattr(b"file", name)))
print(set(tried) == {errno.EPERM}, name.decode() in os.listxattr("file"),
      os.stat("copy").st_ino == target, os.fstat(fd).st_ino == target, os.stat("file").st_ino == target)
"""

_BLIND = """
from sandlockd.handlers import proctrees
proctrees.tell = lambda *a, **k: None
"""
_WITHOUT_RESERVED_NAMES = """
from sandlockd.handlers.merged import changing
changing._OWN_ATTRIBUTES = (b"user.overlay.",)
"""


def _furnish(runner: Runner) -> None:
    runner.place.file("work/file", "original")
    runner.place.file("work/dir/in", "original")
    runner.place.give(runner.work)


def _run(runner: Runner, script: str, argument: str, *, patch: str | None = None) -> Ended:
    command = [system_python(), "-c", script, argument]
    options: list[Any] = ["--workdir", runner.work, "--on-exit", "keep"]
    if patch is None:
        return runner.sandboxed(command, options=options)
    return broken.run(runner, patch, command, options=options)


@pytest.mark.parametrize("build", ["whole", "blind"])
def test_learning_where_the_upper_is(runner: Runner, build: str) -> None:
    _furnish(runner)
    # Not the state directory alone, whose name the environment tells.
    secret = f"{runner.place.state}/"
    ended = _run(runner, _LOOK, secret, patch=None if build == "whole" else _BLIND)
    assert ended.returncode == 0, ended
    looked, *found = ended.stdout.decode().split()
    assert int(looked) > 50
    if build == "whole":
        assert not found
    else:
        assert found


@pytest.mark.parametrize("build", ["whole", "without reserved names"])
def test_bearing_the_number_of_another_file(runner: Runner, build: str) -> None:
    """The record of a copy, written by the program: it would make two files one, and a review would believe it."""
    _furnish(runner)
    status = os.stat(runner.work / "file")
    record = f"1 f {status.st_dev} {status.st_ino} 8 1 1 644 file"
    ended = _run(runner, _FORGE, record, patch=None if build == "whole" else _WITHOUT_RESERVED_NAMES)
    assert ended.returncode == 0, ended
    words = ended.stdout.decode().split()
    if build == "whole":
        assert words == ["True", "False", "False", "False", "True"]
    else:
        assert words[0] == "False"
