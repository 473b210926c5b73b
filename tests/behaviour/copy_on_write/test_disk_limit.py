"""`limits.disk`: at the limit, calls that would add something are ENOSPC and did nothing; what gives back works."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from behaviour.copy_on_write.corpus import snapshot
from harness.fresh_disk import on_a_fresh_disk, why_no_fresh_disk
from harness.running import Ended, Runner, require, system_python

# What the programs below have in common. `full` leaves no room.
_HEAD = """
import ctypes, errno, json, os, socket, stat, sys
libc = ctypes.CDLL(None, use_errno=True)

def fallocate(fd, mode, offset, length):
    if libc.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)):
        raise OSError(ctypes.get_errno(), "fallocate")

def full(name):
    fd, offset = os.open(name, os.O_CREAT | os.O_RDWR, 0o644), 0
    for size in (1 << 20, 1 << 16, 4096):
        try:
            while True:
                fallocate(fd, 0, offset, size)
                offset += size
        except OSError as error:
            assert error.errno == errno.ENOSPC, error
    os.pwrite(fd, b"x" * 8192, offset)  # what is open already may go further
    return fd

def tried(action, *args):
    try:
        result = action(*args)
    except OSError as error:
        return errno.errorcode[error.errno]
    if action is os.open:
        os.close(result)
    return "done"

def seen(top="."):
    found = {}
    for path, directories, files in os.walk(top):
        for name in (*directories, *files):
            at = os.path.join(path, name)
            status = os.lstat(at)
            content = ""
            if stat.S_ISREG(status.st_mode) and status.st_size < 1 << 21:
                with open(at, "rb") as file:
                    content = hash(file.read())
            fields = status.st_mode, status.st_size, status.st_nlink, status.st_mtime_ns, status.st_ino
            found[at] = str((fields, content, tuple(os.listxattr(at, follow_symlinks=False))))
    return found
"""

_REFUSED = {
    "make a file": "os.open, 'new', os.O_CREAT | os.O_WRONLY",
    "make a file in a lower directory": "os.open, 'dir/new', os.O_CREAT | os.O_WRONLY",
    "make a file over what was removed": "os.open, 'removed', os.O_CREAT | os.O_WRONLY",
    "write to a small lower file": "os.open, 'small', os.O_WRONLY",
    "write to a large lower file": "os.open, 'large', os.O_RDWR",
    "truncate a lower file in opening it": "os.open, 'large', os.O_RDWR | os.O_TRUNC",
    "write to a lower file with two names": "os.open, 'hard-1', os.O_WRONLY",
    "write to an upper file": "os.open, 'own', os.O_WRONLY",
    "make a file without a name": "os.open, '.', os.O_TMPFILE | os.O_RDWR",
    "make a directory": "os.mkdir, 'new'",
    "make a directory over what was removed": "os.mkdir, 'removed'",
    "make a link": "os.symlink, 'file', 'new'",
    "make a FIFO": "os.mkfifo, 'new'",
    "link an upper file": "os.link, 'own', 'new'",
    "link a lower file": "os.link, 'large', 'new'",
    "rename an upper file": "os.rename, 'own', 'new'",
    "rename a lower file": "os.rename, 'large', 'new'",
    "rename a lower directory": "os.rename, 'dir', 'new'",
    "rename a lower directory that is large": "os.rename, 'many', 'new'",
    "change the mode of a lower file": "os.chmod, 'large', 0o600",
    "change the times of a lower file": "os.utime, 'small', (1, 1)",
    "set an attribute of an upper file": "os.setxattr, 'own', 'user.x', b'x' * 3000",
    "set an attribute of a lower file": "os.setxattr, 'small', 'user.x', b'x'",
    "shorten a lower file": "os.truncate, 'large', 5000",
    "allocate": "fallocate, fd, 0, 1 << 24, 1 << 20",
    "allocate beyond the end": "fallocate, fd, 1, 1 << 30, 8 << 20",
    "make a file in /tmp": "os.open, '/tmp/new', os.O_CREAT | os.O_WRONLY",
    "make a directory in /tmp": "os.mkdir, '/tmp/new'",
    "bind a socket": "bind, 'socket'",
}

_DONE = {
    "read": "os.open, 'large', os.O_RDONLY",
    "lengthen without taking anything": "os.truncate, 'own', 1 << 26",
    "remove a lower file": "os.unlink, 'small'",
    "remove a lower directory": "os.rmdir, 'empty'",
    "rename over an upper file": "os.replace, 'own', 'other'",
    "change the mode of an upper file": "os.chmod, 'other', 0o600",
    "punch a hole": "fallocate, fd, 3, 0, 65536",
    "make a file in what was given back": "os.open, 'again', os.O_CREAT | os.O_WRONLY",
}

_PROGRAM = (
    _HEAD
    + """
def bind(name):
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(name)

os.unlink("removed")
for name in ("own", "other"):
    with open(name, "w") as file:
        file.write("x" * 5000)
fd = full("filler")
calls = json.load(sys.stdin)
result = {"refused": {}, "torn": {}, "done": {}}
for words, call in calls["refused"].items():
    before = seen()
    result["refused"][words] = tried(*eval(f"({call})"))
    after = seen()
    if before != after:
        result["torn"][words] = sorted(set(before.items()) ^ set(after.items()))
for words, call in calls["done"].items():
    result["done"][words] = tried(*eval(f"({call})"))
print(json.dumps(result))
"""
)


def _prepare(work: Path) -> None:
    (work / "dir").mkdir()
    (work / "dir/file").write_bytes(b"f" * 100_000)
    (work / "empty").mkdir()
    (work / "many").mkdir()
    for number in range(100):
        (work / f"many/{number}").write_bytes(b"m" * 5000)
    (work / "small").write_bytes(b"s" * 10_000)
    (work / "removed").write_bytes(b"r")
    (work / "large").write_bytes(os.urandom(1_000_000))
    (work / "hard-1").write_bytes(b"h" * 20_000)
    os.link(work / "hard-1", work / "hard-2")


def _run(runner: Runner, program: str, limit: str, *options: str, data: str = "") -> Ended:
    work = runner.place.empty_work()
    _prepare(work)
    runner.place.give(work)
    disk = ["--workdir", work, "--disk", limit, *(options or ("--on-exit", "discard"))]
    return runner.sandboxed([system_python(), "-c", program], options=disk, input=data.encode(), timeout=60)


def _exact(runner: Runner) -> list[str]:
    return snapshot.exact(os.fsencode(runner.work))


def test_at_the_limit_calls_that_add_are_enospc_and_change_nothing(runner: Runner) -> None:
    ended = _run(runner, _PROGRAM, "3M", data=json.dumps({"refused": _REFUSED, "done": _DONE}))
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert told["refused"] == dict.fromkeys(_REFUSED, "ENOSPC")
    assert told["torn"] == {}
    assert told["done"] == dict.fromkeys(_DONE, "done")
    assert ended.status is not None and ended.status["usage"]["disk"] <= 3 << 20


def test_the_real_tree_stays_as_it_was(runner: Runner) -> None:
    work = runner.place.empty_work()
    _prepare(work)
    runner.place.give(work)
    before = _exact(runner)
    options = ["--workdir", work, "--disk", "3M", "--on-exit", "discard"]
    calls = json.dumps({"refused": _REFUSED, "done": _DONE}).encode()
    ended = runner.sandboxed([system_python(), "-c", _PROGRAM], options=options, input=calls, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert _exact(runner) == before


def test_each_refusal_is_on_record_and_explained(runner: Runner) -> None:
    program = _HEAD + "full('filler')\ntried(os.mkdir, 'new')\ntried(os.open, 'large', os.O_WRONLY)\n"
    ended = _run(runner, program, "2M")
    assert ended.returncode == 0, ended.stderr
    found = {(one["call"], os.path.basename(one["path"])): one for one in ended.refusals}
    for call, name in (("fallocate", "filler"), ("mkdir", "new"), ("openat", "large")):
        record = found[call, name]
        assert record["rule"] == "limits.disk" and record["errno"] == "ENOSPC", record
        assert record["path"] == str(runner.work / name)
        assert record["remedy"] == f"[limits] disk = {4 << 20}"
    explained = runner.sandlockd("explain", "--last").stdout.decode()
    assert f"mkdir {runner.work}/new, to create: ENOSPC" in explained
    assert "rule   limits.disk" in explained
    assert f"allow  [limits] disk = {4 << 20}" in explained


_COUNTING = """
import os
os.mkdir("d")
for i in range(200):
    with open(f"d/{i}", "w") as file:
        file.write("x" * 3000)
os.link("d/1", "d/one")
os.rename("large", "larger")
os.chmod("dir", 0o700)
os.symlink("x" * 200, "long")
os.setxattr("d/2", "user.x", b"x" * 3000)
with open("/tmp/file", "w") as file:
    file.write("x" * 100_000)
%s
"""


def test_what_was_taken_is_given_back_by_removing_it(runner: Runner) -> None:
    remove = (
        "import shutil; shutil.rmtree('d'); os.unlink('long'); os.unlink('larger'); os.unlink('/tmp/file')"
    )
    kept, gone, nothing = (
        _used(_run(runner, program, "1G")) for program in (_COUNTING % "", _COUNTING % remove, "")
    )
    assert kept > gone + 1_000_000 + 200 * 4096 + 100_000
    assert nothing <= gone <= nothing + 5 * 4096


def _used(ended: Ended) -> int:
    assert ended.returncode == 0, ended.stderr
    assert ended.status is not None
    return int(ended.status["usage"]["disk"])


def test_a_program_at_its_limit_goes_on_when_it_removes_something(runner: Runner) -> None:
    program = _HEAD + (
        "full('a')\n"
        "assert tried(os.mkdir, 'd') == 'ENOSPC'\n"
        "for _ in range(50):\n"
        "    os.unlink('a')\n"
        "    os.mkdir('d')\n"
        "    os.rmdir('d')\n"
        "    os.close(full('a'))\n"
        "    assert tried(os.mkdir, 'd') == 'ENOSPC'\n"
    )
    # The first one is still open when its name goes: it gives its space back when it is closed.
    program = program.replace("full('a')\nassert", "os.close(full('a'))\nassert", 1)
    ended = _run(runner, program, "2M")
    assert ended.returncode == 0, ended.stderr


def test_what_is_unlinked_counts_until_nobody_has_it_open(runner: Runner) -> None:
    program = _HEAD + (
        "fd = full('a')\n"
        "reader = os.open('a', os.O_RDONLY)\n"
        "os.unlink('a')\n"
        "assert tried(os.mkdir, 'd') == 'ENOSPC'\n"
        "os.close(fd)\n"
        "assert tried(os.mkdir, 'd') == 'ENOSPC'\n"
        "os.close(reader)\n"
        "assert tried(os.mkdir, 'd') == 'done'\n"
        "fd = os.open('.', os.O_TMPFILE | os.O_RDWR)\n"
        "fallocate(fd, 0, 0, 1 << 20)\n"
        "os.close(full('a'))\n"
        "os.close(fd)\n"
        "fallocate(os.open('b', os.O_CREAT | os.O_RDWR), 0, 0, 1 << 19)\n"
    )
    ended = _run(runner, program, "2M")
    assert ended.returncode == 0, ended.stderr


def test_a_copy_that_has_no_room_is_not_begun(runner: Runner) -> None:
    program = _HEAD + (
        "assert tried(os.open, 'large', os.O_WRONLY) == 'ENOSPC'\n"
        "assert tried(os.rename, 'many', 'other') == 'ENOSPC'\n"
        "assert tried(os.open, 'small', os.O_WRONLY) == 'done'\n"
    )
    ended = _run(runner, program, "400K")
    assert ended.returncode == 0, ended.stderr
    assert ended.status is not None and ended.status["usage"]["disk"] < 120_000


def test_a_sparse_file_counts_what_it_holds(runner: Runner) -> None:
    program = (
        _HEAD
        + "fd = os.open('s', os.O_CREAT | os.O_RDWR)\nos.ftruncate(fd, 1 << 26)\nos.pwrite(fd, b'x', 1 << 25)\n"
    )
    assert _used(_run(runner, program, "1M")) < 100_000


def test_changes_that_were_made_at_the_limit_are_committed(runner: Runner) -> None:
    program = _HEAD + (
        "fd = full('filler')\n"
        "assert tried(os.open, 'large', os.O_RDWR) == 'ENOSPC'\n"
        "os.unlink('small')\n"
        "os.close(fd); os.unlink('filler')\n"
        "open('new', 'w').write('new\\n')\n"
    )
    ended = _run(runner, program, "3M", "--on-exit", "commit")
    assert ended.returncode == 0, ended.stderr
    assert not (runner.work / "small").exists() and not (runner.work / "filler").exists()
    assert (runner.work / "new").read_text() == "new\n"
    assert (runner.work / "large").stat().st_size == 1_000_000


def test_ordinary_programs_meet_the_limit_as_a_full_disk(runner: Runner) -> None:
    require("cp", "grep")
    script = (
        "i=0; while told=$(cp -r many copy$i 2>&1); do i=$((i+1)); done;"
        " echo \"$told\" | grep -q 'No space left' && rm -r copy* && cp -r many another"
    )
    work = runner.place.empty_work()
    _prepare(work)
    runner.place.give(work)
    options = ["--workdir", work, "--disk", "5M", "--on-exit", "discard"]
    ended = runner.sandboxed(["sh", "-c", script], options=options)
    assert ended.returncode == 0, (ended.stdout, ended.stderr)


def test_without_a_tree_there_is_nothing_to_limit(runner: Runner) -> None:
    ended = runner.sandboxed(["true"], options=["--disk", "1M"])
    assert ended.returncode == 125
    assert b"limits.disk limits what copy-on-write trees hold" in ended.stderr


@pytest.mark.parametrize("text", ["0", "1Q", "-1M"])
def test_a_limit_that_is_none_is_refused(runner: Runner, text: str) -> None:
    ended = runner.sandboxed(["true"], options=["--workdir", runner.work, f"--disk={text}"])
    assert ended.returncode == 125 and b"--disk" in ended.stderr


def test_without_the_limit_allocating_and_writing_are_not_asked_about(runner: Runner) -> None:
    program = _HEAD + (
        "fd = os.open('a', os.O_CREAT | os.O_RDWR)\n"
        "for _ in range(100):\n"
        "    fallocate(fd, 0, 0, 4096)\n"
        "    os.write(fd, b'x' * 5000)\n"
    )
    counts = []
    for options in ((), ("--disk", "100M")):
        work = runner.place.empty_work()
        runner.place.give(work)
        more = ["--workdir", work, "--on-exit", "discard", "-v", *options]
        ended = runner.sandboxed([system_python(), "-c", program], options=more)
        assert ended.returncode == 0, ended.stderr
        counts.append(_calls(ended))
    assert counts[1] - counts[0] == 100


def _calls(ended: Ended) -> int:
    """As -v tells them at the end."""
    line = next(line for line in ended.stderr.decode().splitlines() if "calls asked for" in line)
    return int(line.removeprefix("sandlockd: ").split()[0])


_GROWING = (
    _HEAD
    + """
import time
fd = os.open("grows", os.O_CREAT | os.O_RDWR, 0o644)
for _ in range(26):
    os.write(fd, b"x" * (1 << 18))
time.sleep(0.3)
ahead = os.fstat(fd).st_blocks * 512 - os.fstat(fd).st_size
result = {"too much": tried(fallocate, fd, 1, 1 << 30, 4 << 20)}
os.ftruncate(fd, 0)
result["reserved"] = tried(fallocate, fd, 1, 0, 6 << 20)
result["reserved counts"] = tried(fallocate, fd, 1, 1 << 30, 2 << 20)
os.close(fd)
os.unlink("grows")
open("attributes", "w").close()
count = 0
while count < 1000 and tried(os.setxattr, "attributes", f"user.{count}", b"x" * 60_000) == "done":
    count += 1
result["attributes count"] = 100 < count < 130
os.unlink("attributes")
count = 0
fd = os.open(".", os.O_TMPFILE | os.O_RDWR)
while count < 1000 and tried(os.setxattr, fd, f"user.{count}", b"x" * 60_000) == "done":
    count += 1
result["those of what has no name count"] = 100 < count < 130
os.close(fd)
time.sleep(0.3)
os.close(os.open("closed", os.O_CREAT | os.O_WRONLY, 0o200))
count = 0
while count < 1000 and tried(os.setxattr, "closed", f"user.{count}", b"x" * 60_000) == "done":
    count += 1
result["those that cannot be read count"] = 50 < count < 130
os.unlink("closed")
print(json.dumps([ahead, result]))
"""
)


def test_what_a_file_system_allocates_ahead_is_not_the_program_s(runner: Runner) -> None:
    """But what it reserved itself is, and attributes are."""
    _on_xfs(runner, _growing)


def _growing(runner: Runner) -> None:
    ended = _run(runner, _GROWING, "8M")
    assert ended.returncode == 0, ended.stderr
    ahead, result = json.loads(ended.stdout)
    assert ahead > 1 << 20
    assert result == {
        "too much": "ENOSPC",
        "reserved": "done",
        "reserved counts": "ENOSPC",
        "attributes count": True,
        "those of what has no name count": True,
        "those that cannot be read count": True,
    }


@pytest.mark.parametrize(
    "test",
    [
        test_each_refusal_is_on_record_and_explained,
        test_what_is_unlinked_counts_until_nobody_has_it_open,
        test_changes_that_were_made_at_the_limit_are_committed,
    ],
)
def test_on_xfs(runner: Runner, test: Callable[[Runner], None]) -> None:
    _on_xfs(runner, test)


def _on_xfs(runner: Runner, test: Callable[[Runner], None]) -> None:
    why_not = why_no_fresh_disk("xfs")
    if why_not is not None:
        pytest.skip(why_not)
    on_a_fresh_disk(runner.place, lambda: test(runner), "xfs")
