"""Until a tree may have been changed, the kernel tells what is in it: each way to the first change ends that at once.

What is told before and after is compared with the bare machine; on a build that misses the first change, it differs.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from harness.running import Ended, Runner, system_python
from security import broken

# Tells all that is to be told of the working directory, makes the change, and tells it again.
_SCRIPT = """
import ctypes, json, os, socket, stat, sys, threading
held = [os.open(name, os.O_RDONLY | os.O_NOFOLLOW) for name in (".", "dir", "file", "other")]
def status(found):
    return [stat.filemode(found.st_mode), found.st_nlink if stat.S_ISDIR(found.st_mode) else 0,
            found.st_mtime if found.st_mtime < 10**9 else 0, found.st_size if stat.S_ISREG(found.st_mode) else 0]
def told(act, *words, **more):
    try:
        found = act(*words, **more)
    except OSError as error:
        return error.errno
    return status(found) if isinstance(found, os.stat_result) else found
names = (".", "dir", "file", "other", "link", "dir/in", "new", os.getcwd() + "/new",
         "../" + os.path.basename(os.getcwd()), "/proc/self/cwd/new", "through/in", "/dev/fd/%d/in" % held[1])
def look():
    seen = [[told(os.stat, name), told(os.lstat, name), told(os.access, name, os.R_OK), told(os.readlink, name)]
            for name in names]
    seen += [told(os.fstat, fd) for fd in held] + [told(os.stat, "in", dir_fd=fd) for fd in held[:2]]
    # A new one each: where a directory changes under a listing under way is not of interest.
    return [seen, *(sorted(told(os.listdir, name) or []) for name in (".", held[1])), os.getcwd() == here]
here = os.getcwd()
libc = ctypes.CDLL(None, use_errno=True)
def thread(act, *words):
    one = threading.Thread(target=act, args=words)
    one.start()
    one.join()
def child(act, *words):
    if os.fork() == 0:
        act(*words)
        os._exit(0)
    os.wait()
def openat2(path, flags):
    how = (ctypes.c_uint64 * 3)(flags, 0o644, 0)
    fd = libc.syscall(437, -100, path, how, 24)
    os.close(fd) if fd >= 0 else os.close(os.open(path, flags, 0o644))  # without trees, there is no such call
changes = {
    "chmod-of-the-root": lambda: os.chmod(".", 0o711),
    "fchmod-of-the-root": lambda: os.fchmod(held[0], 0o711),
    "chmod-of-the-root-in-a-thread": lambda: thread(os.chmod, ".", 0o711),
    "utime-of-the-root": lambda: os.utime(".", (7, 7)),
    "chmod": lambda: os.chmod("file", 0o700),
    "fchmod": lambda: os.fchmod(held[2], 0o700),
    "utime": lambda: os.utime("dir", (7, 7)),
    "truncate": lambda: os.truncate("file", 1),
    "write": lambda: os.write(os.open("file", os.O_WRONLY | os.O_APPEND), b"more"),
    "open-read-only-but-truncating": lambda: os.open("file", os.O_RDONLY | os.O_TRUNC),
    "create": lambda: os.close(os.open("new", os.O_RDONLY | os.O_CREAT, 0o644)),
    "create-in-a-child": lambda: child(lambda: os.close(os.open("new", os.O_WRONLY | os.O_CREAT, 0o644))),
    "openat2": lambda: openat2(b"new", os.O_WRONLY | os.O_CREAT),
    "mkdir": lambda: os.mkdir("dir/new", 0o755),
    "symlink": lambda: os.symlink("file", "new"),
    "link": lambda: os.link("file", "new"),
    "fifo": lambda: os.mkfifo("new"),
    "bind": lambda: socket.socket(socket.AF_UNIX).bind("new"),
    "unlink": lambda: os.unlink("file"),
    "rmdir": lambda: os.rmdir("empty"),
    "rename": lambda: os.rename("file", "new"),
    "rename-of-a-directory": lambda: os.rename("dir", "new"),
    "exchange": lambda: libc.renameat2(-100, b"file", -100, b"other", 2),
    "by-a-link-from-outside": lambda: os.close(os.open(sys.argv[2] + "/new", os.O_WRONLY | os.O_CREAT, 0o644)),
    "by-proc": lambda: os.close(os.open("/proc/self/cwd/new", os.O_WRONLY | os.O_CREAT, 0o644)),
}
if sys.argv[1] == "list":
    print(json.dumps(list(changes)))
else:
    before = look()
    changes[sys.argv[1]]()
    print(json.dumps([before, look()]))
"""

_CHANGES = (
    "chmod-of-the-root",
    "fchmod-of-the-root",
    "chmod-of-the-root-in-a-thread",
    "utime-of-the-root",
    "chmod",
    "fchmod",
    "utime",
    "truncate",
    "write",
    "open-read-only-but-truncating",
    "create",
    "create-in-a-child",
    "openat2",
    "mkdir",
    "symlink",
    "link",
    "fifo",
    "bind",
    "unlink",
    "rmdir",
    "rename",
    "rename-of-a-directory",
    "exchange",
    "by-a-link-from-outside",
    "by-proc",
)

# Who is granted /tmp has no private one.
_WITHOUT_TMP = """
[filesystem]
read = ["/usr", "/bin", "/lib", "/lib64", "/etc"]
write = ["/dev/null", "/tmp"]
"""

# No call is taken for one that may change a tree; then only the names in the index tell that one has been changed.
_NEVER_TOUCHED = """
from sandlockd.launch import filter_plan as plan
plan._may_touch = lambda *ignored: False
"""


def _work(runner: Runner) -> Path:
    work = runner.place.empty_work()
    for name in ("dir", "empty"):
        (work / name).mkdir()
    for name in ("file", "other", "dir/in"):
        (work / name).write_text(f"of {name}")
    (work / "link").symlink_to("file")
    (work / "through").symlink_to("dir")
    for path in (work / "dir", work / "file", work):
        os.utime(path, (1000, 1000))
    runner.place.give(work)
    return work


def _told(ended: Ended) -> list[Any]:
    assert ended.returncode == 0, ended
    found: list[Any] = json.loads(ended.stdout)
    return found


def _ways(runner: Runner, change: str) -> tuple[list[Any], list[Any]]:
    """The command, and the options for the sandbox."""
    outside = runner.place.root / "outside"
    outside.unlink(missing_ok=True)
    outside.symlink_to(runner.work)
    command = [system_python(), "-S", "-c", _SCRIPT, change, outside]
    return command, ["--workdir", runner.work, "--read", outside.parent / "nothing", "--on-exit", "discard"]


@pytest.mark.one_user
@pytest.mark.parametrize("tmp", ["private-tmp", "no-other-tree"])
@pytest.mark.parametrize("change", _CHANGES)
def test_what_is_told_is_right_before_and_after_the_first_change_by(
    runner: Runner, change: str, tmp: str
) -> None:
    """With a private /tmp, paths are read all the same: they may lead there."""
    (runner.place.root / "nothing").mkdir(exist_ok=True)
    _work(runner)
    command, options = _ways(runner, change)
    bare = _told(runner.bare(command))
    _work(runner)
    policy = None if tmp == "private-tmp" else _WITHOUT_TMP
    assert _told(runner.sandboxed(command, options=options, policy=policy)) == bare
    assert bare[0] != bare[1]


@pytest.mark.parametrize("policy", [None, _WITHOUT_TMP], ids=["private-tmp", "no-other-tree"])
def test_a_first_change_that_is_missed_shows(runner: Runner, policy: str | None) -> None:
    """A chmod of the root leaves nothing in the index."""
    (runner.place.root / "nothing").mkdir(exist_ok=True)
    _work(runner)
    command, options = _ways(runner, "chmod-of-the-root")
    bare = _told(runner.bare(command))
    _work(runner)
    ours = _told(broken.run(runner, _NEVER_TOUCHED, command, options=options, policy=policy))
    assert ours[0] == bare[0]
    assert ours[1] != bare[1]


def test_every_change_is_tried(runner: Runner) -> None:
    command, _ = _ways(runner, "list")
    _work(runner)
    assert _told(runner.bare(command)) == list(_CHANGES)
