"""A program with a copy-on-write tree: the real tree stays, and nothing outside is reached through it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from harness.running import Ended, Runner, system_python
from security import broken
from security.canaries import SECRET, changed, outside, snapshot
from security.raw_calls import program
from security.test_races import KINDS


def _tree(runner: Runner) -> list[Any]:
    return ["--workdir", runner.work, "--on-exit", "discard"]


def _counts(ended: Ended) -> tuple[int, int]:
    assert ended.returncode == 0, ended
    calls, leaks = ended.stdout.split()
    return int(calls), int(leaks)


@pytest.mark.one_user
@pytest.mark.parametrize("where", ["outside", "in-the-lower-tree"])
@pytest.mark.parametrize("kind", KINDS)
def test_swapping_the_object_of(runner: Runner, kind: str, where: str, soak: bool) -> None:
    """The path leads to a file of the tree when it is judged, and to the canary when it is used, or the other way
    round. In the lower tree the canary may be read and changed as the program sees it, but not for real."""
    runner.place.file("work/scratch/allowed", "allowed", 0o644)
    directory = outside(runner, "outside" if where == "outside" else "work/real")
    allowed, denied = runner.work / "scratch/allowed", directory / "canary"
    if kind == "execve":
        allowed, denied = Path("/bin/true"), denied.with_name("script")
    runner.place.give(runner.work)
    before = snapshot(directory), snapshot(runner.work)
    limit = str(30_000 if soak else 150)
    command = [program(runner, "races"), kind, limit, allowed, denied, runner.work / "scratch"]
    calls, leaks = _counts(runner.sandboxed(command, options=_tree(runner), timeout=60))
    assert calls > 10
    assert changed(before[0], snapshot(directory)) == set()
    assert changed(before[1], snapshot(runner.work)) == set()
    if where == "outside":
        assert leaks == 0


# Each way of naming a file of the tree, and what would change it; each on a file of its own.
_ATTACK = """
import json, os, sys
work, secret = os.fsencode(sys.argv[1]), os.fsencode(sys.argv[2])
os.chdir(work)
here = os.open(".", os.O_RDONLY)
pid = os.getpid()
def ways(f, fd):
    yield from (f, work + b"/" + f, b"/" + work + b"/./" + f, work + b"/dir/../" + f, b"dir/../" + f, b"dir/up/" + f,
                b"to-self/" + f, b"/proc/self/cwd/" + f, b"/proc/self/root" + work + b"/" + f,
                b"/proc/%d/cwd/%b" % (pid, f), b"/proc/self/task/%d/cwd/%b" % (pid, f), b"/proc/thread-self/cwd/" + f,
                b"/proc/self/fd/%d" % fd, b"/dev/fd/%d" % fd, b"/proc/%d/fd/%d" % (pid, fd),
                b"/proc/self/fd/%d/%b" % (here, f), b"/proc/self/fd/%d/dir/../%b" % (here, f))
def opened(name, flags):
    fd = os.open(name, flags)
    os.write(fd, b"broken")
    os.close(fd)
acts = [lambda n: opened(n, os.O_WRONLY), lambda n: opened(n, os.O_RDWR | os.O_APPEND),
        lambda n: opened(n, os.O_WRONLY | os.O_TRUNC), lambda n: os.truncate(n, 1), lambda n: os.chmod(n, 0o600),
        lambda n: os.utime(n, (1, 1)), lambda n: os.setxattr(n, "user.broken", b"1"),
        lambda n: os.removexattr(n, "user.kept"), lambda n: os.chown(n, os.getuid(), os.getgid()),
        lambda n: os.link(n, b"linked-" + os.path.basename(n)), lambda n: os.rename(n, n + b".moved"), os.unlink]
done = number = 0
for way in range(17):
    for act in acts:
        f = b"file-%d" % number
        number += 1
        fd = os.open(f, os.O_RDONLY)
        try:
            act(list(ways(f, fd))[way])
            done += 1
        except OSError:
            pass
        os.close(fd)
for act in (lambda fd: os.fchmod(fd, 0o600), lambda fd: os.fchown(fd, os.getuid(), os.getgid()),
            lambda fd: os.utime(fd, (1, 1)), lambda fd: os.setxattr(fd, "user.broken", b"1"),
            lambda fd: os.removexattr(fd, "user.kept"), lambda fd: os.ftruncate(fd, 0)):
    fd = os.open(b"file-%d" % number, os.O_RDONLY)
    number += 1
    try:
        act(fd)
        done += 1
    except OSError:
        pass
os.fchmod(here, 0o700)
found = b""
os.symlink(secret, "to-secret")
os.symlink(os.path.dirname(secret), "to-directory")
for path in (b"to-secret", b"to-directory/" + os.path.basename(secret), b"/proc/self/cwd/to-secret"):
    try:
        with open(path, "rb") as file:
            found += file.read()
    except OSError:
        pass
print(json.dumps({"done": done, "found": found.decode("latin-1")}))
"""
_FILES = 210


def _prepared(runner: Runner) -> tuple[list[Any], Path]:
    work = runner.work
    for number in range(_FILES):
        path = runner.place.file(f"work/file-{number}", "kept", 0o644)
        os.setxattr(path, "user.kept", b"kept")
    (work / "dir").mkdir()
    for name, target in (("dir/up", ".."), ("to-self", ".")):
        (work / name).symlink_to(target)
    runner.place.give(work)
    script = runner.place.file("attack.py", _ATTACK, 0o644)
    canary = outside(runner) / "canary"
    return [system_python(), script, work, canary], canary


def _run(runner: Runner, patch: str | None = None) -> tuple[dict[str, Any], set[str]]:
    command, canary = _prepared(runner)
    before, before_outside = snapshot(runner.work), snapshot(canary.parent)
    options = [*_tree(runner), "--read", command[1]]
    ended = (
        runner.sandboxed(command, options=options)
        if patch is None
        else broken.run(runner, patch, command, options=options)
    )
    assert ended.returncode == 0, ended
    assert changed(before_outside, snapshot(canary.parent)) == set()
    return json.loads(ended.stdout), changed(before, snapshot(runner.work))


def test_no_way_to_a_real_file_changes_it(runner: Runner) -> None:
    told, real_changes = _run(runner)
    assert told["done"] > 100  # the program has its way, on copies
    assert real_changes == set()
    assert SECRET.decode() not in told["found"]


# The links of /proc are taken for paths outside of the tree, and what is there is served.
_MISSED = """
import re
from sandlockd.handlers.merged import places
places._MAGIC = re.compile(rb"(?!)()()")
places._Resolving._outside = lambda self, path: self._elsewhere(path)
"""
_WIDE = """
from sandlockd.policy.files import FileRules
FileRules.narrowed = lambda self, rule, want: self
"""


def test_a_way_that_nobody_thought_of_changes_nothing_either(runner: Runner) -> None:
    _, real_changes = _run(runner, _MISSED)
    assert real_changes == set()


def test_but_would_if_the_rules_outside_gave_the_tree(runner: Runner) -> None:
    _, real_changes = _run(runner, _MISSED + _WIDE)
    assert real_changes


# A thread changes where the last name of the path leads; the path is in this process's own memory.
_PATH_ONLY = """
import ctypes, errno, fcntl, os, sys, threading
work, canary = os.fsencode(sys.argv[1]), os.fsencode(sys.argv[2])
libc = ctypes.CDLL(None, use_errno=True)
O_PATH = 0o10000000
os.mkdir(work + b"/new")
os.mkfifo(work + b"/new/fifo")
up = b"../" * 40
good, bad = b"new/fifo\\0", b"new/" + up + canary[1:] + b"\\0"
path = ctypes.create_string_buffer(len(bad))
ctypes.memmove(path, good, len(good))
os.chdir(work)
over = False
def swap():
    while not over:
        ctypes.memmove(path, bad, len(bad))
        ctypes.memmove(path, good, len(good))
thread = threading.Thread(target=swap)
sys.setswitchinterval(1e-5)
thread.start()
calls = other = leaks = 0
while calls < 400 or (not other and calls < 20000):
    fd = libc.open(path, O_PATH | os.O_NOFOLLOW, 0)
    calls += 1
    if fd < 0:
        continue
    if not fcntl.fcntl(fd, fcntl.F_GETFL) & O_PATH:
        leaks += 1
    link = b"/proc/self/fd/%d" % fd
    is_other = b"canary" in os.readlink(link)
    other += is_other
    ways = [lambda: os.read(fd, 1), lambda: os.write(fd, b"x"), lambda: os.fchmod(fd, 0o777)]
    if is_other:
        ways += [lambda: os.open(link, os.O_RDONLY), lambda: os.chmod(link, 0o777)]
    for way in ways:
        try:
            way()
        except OSError:
            continue
        leaks += 1
    os.close(fd)
over = True
thread.join()
print(calls, leaks, other)
"""


def test_swapping_the_name_of_what_is_opened_by_path_only_gives_no_right(runner: Runner) -> None:
    """The caller opens it itself, after it was judged: whatever it finds then can be neither read nor changed."""
    directory = outside(runner)
    runner.place.give(runner.work)
    before = snapshot(directory)
    command = [system_python(), "-c", _PATH_ONLY, runner.work, directory / "canary"]
    ended = runner.sandboxed(command, options=_tree(runner))
    assert ended.returncode == 0, ended
    calls, leaks, other = (int(word) for word in ended.stdout.split())
    assert calls >= 400 and other
    assert leaks == 0
    assert changed(before, snapshot(directory)) == set()


_LISTS_WHAT_IT_MAY_ONLY_ENTER = """
import os, threading
os.mkdir("closed", 0o711); open("closed/secret", "w").close(); os.mkdir("open", 0o755); os.mkdir("open/seen")
if os.fork() == 0:
    os.setgroups([]); os.setresgid(4242, 4242, 4242); os.setresuid(4242, 4242, 4242)
    found, over = set(), False
    def look():
        while not over:
            for fd in range(3, 12):
                try: found.update(os.listdir(fd))
                except OSError: pass
    thread = threading.Thread(target=look)
    thread.start()
    for name in ("open", "closed") * 200:
        try: os.chdir(name); os.chdir("..")
        except PermissionError: pass
    over = True
    thread.join()
    print("secret" in found, flush=True)
    os.chdir("open"); print(os.path.basename(os.getcwd()), flush=True)
    os._exit(0)
os.wait()
"""


def test_entering_a_directory_lists_nothing_for_who_may_not(runner: Runner) -> None:
    """It is entered by a descriptor that another thread of the caller's may have used meanwhile."""
    if not runner.place.user.is_root:
        pytest.skip("needs several users")
    options = ["--workdir", runner.work, "--on-exit", "discard"]
    ended = runner.sandboxed([system_python(), "-c", _LISTS_WHAT_IT_MAY_ONLY_ENTER], options=options)
    assert ended.stdout.decode().split() == ["False", "open"], ended
