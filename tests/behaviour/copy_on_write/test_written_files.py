"""A file that somebody writes to for long: the kernel holds its lock meanwhile, and who changes it waits for that, as
bare. Nobody else waits with him.

The long write is a real one, of 768 MiB that are zeroes. While it is under way, threads make calls that need the lock,
and another process makes calls that have nothing to do with it (and change nothing: that would wait for the disk, too).
"""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest
from harness.running import Argument, Runner, system_python
from harness.waiting import line_of

_OTHERS_WAIT_S = 0.3  # at most, on a machine that others use as well

_PROGRAM = """
import ctypes, json, mmap, os, sys, threading, time

libc = ctypes.CDLL(None, use_errno=True)

def fallocate(fd):
    if libc.fallocate(fd, 1, ctypes.c_long(0), ctypes.c_long(4096)):
        raise OSError(ctypes.get_errno(), "fallocate")

def exchange(one, other):
    if libc.renameat2(-100, one, -100, other, 2):
        raise OSError(ctypes.get_errno(), "renameat2")

def by_flags(name, flags):
    os.close(os.open(name, flags))

OBJECT = {
    "chmod": lambda: os.chmod("big", 0o600),
    "fchmod": lambda: os.fchmod(fd, 0o600),
    "chown": lambda: os.chown("big", os.getuid(), os.getgid()),
    "utime": lambda: os.utime("big", (1, 2)),
    "setxattr": lambda: os.setxattr("big", "user.x", b"y"),
    "removexattr": lambda: os.removexattr("big", "user.before"),
    "fallocate": lambda: fallocate(fd),
}
LENGTH = {
    "truncate": lambda: os.truncate("big", 0),
    "empty": lambda: by_flags("big", os.O_WRONLY | os.O_TRUNC),
    "empty without writing": lambda: by_flags("big", os.O_RDONLY | os.O_TRUNC),
}
NAMES = {
    "unlink": lambda: os.unlink("big-1"),
    "rename": lambda: os.rename("big-2", "moved"),
    "rename elsewhere": lambda: os.rename("big-3", "dir/moved"),
    "replace": lambda: os.rename("new", "big-4"),
    "exchange": lambda: exchange(b"big-5", b"other"),
    "link": lambda: os.link("big", "linked"),
}
acts = {"object": OBJECT, "length": LENGTH, "names": NAMES}[sys.argv[1]]
again = len(sys.argv) > 2
source = mmap.mmap(-1, 3 << 28, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
fd = os.open("big", os.O_RDWR | os.O_CREAT, 0o644)
try:
    os.setxattr("big", "user.before", b"x")
except OSError:
    pass
for name in ("other", "new"):
    with open(name, "w") as file:
        file.write(name)
for number in range(1, 6):
    os.link("big", f"big-{number}")
os.mkdir("dir")
os.mkdir("beside")
os.close(os.open("beside/file", os.O_CREAT, 0o600))
ended, told = os.pipe(), os.pipe()
child = os.fork()
if child == 0:
    os.close(ended[1])
    os.set_blocking(ended[0], False)
    worst, count = 0.0, 0
    while True:
        begun = time.monotonic()
        os.close(os.open("/proc/self/status", os.O_RDONLY))
        os.close(os.open("beside/file", os.O_RDONLY))
        os.stat("dir")
        os.listdir("beside")
        worst, count = max(worst, time.monotonic() - begun), count + 1
        try:
            if not os.read(ended[0], 1):
                break
        except BlockingIOError:
            pass
    os.write(told[1], json.dumps([worst, count]).encode())
    os._exit(0)
os.close(ended[0])
written = []

def write():
    written.append(time.monotonic())
    os.pwrite(fd, source, 0)
    written.append(time.monotonic())
    while again and len(done) < len(acts):
        os.pwrite(fd, source, 0)

writer = threading.Thread(target=write)
writer.start()
while os.fstat(fd).st_size == 0:
    time.sleep(0.001)
done = {}

def make(name, act):
    try:
        act()
        outcome = "done"
    except OSError as error:
        outcome = error.errno
    done[name] = outcome, time.monotonic()

threads = [threading.Thread(target=make, args=item) for item in acts.items()]
for thread in threads:
    thread.start()
print("waits", file=sys.stderr, flush=True)
for thread in (*threads, writer):
    thread.join()
os.close(ended[1])
worst, count = json.loads(os.read(told[0], 100))
os.waitpid(child, 0)

def seen(status):
    return status.st_mode, status.st_size, status.st_nlink, status.st_atime_ns == 10**9

paths = [*os.listdir("."), *(os.path.join("dir", name) for name in os.listdir("dir"))]
names = {path: seen(os.lstat(path)) for path in paths if path not in ("dir", "beside", "denied")}
attributes = sorted(name for name in os.listxattr(fd) if name.startswith("user."))
outcomes = {name: outcome for name, (outcome, _) in done.items()}
result = {"names": names, "open": seen(os.fstat(fd)), "attributes": attributes, "outcomes": outcomes}
early = {name: written[1] - at for name, (_, at) in done.items()}
print(json.dumps({"result": result, "early": early, "held": written[1] - written[0], "worst": worst, "count": count}))
"""


@pytest.mark.one_user
@pytest.mark.parametrize(
    "where, acts",
    [("tree", "object"), ("tree", "length"), ("tree", "names"), ("spine", "object"), ("spine", "names")],
)
def test_who_changes_a_file_that_is_being_written_waits_alone(runner: Runner, where: str, acts: str) -> None:
    """spine: the real files, beside something denied, so that the supervisor serves them."""
    found = []
    for sandboxed in (False, True):
        work = runner.place.empty_work()
        denied = runner.place.file("work/denied", "")
        line: list[Argument] = [system_python(), "-I", "-c", _PROGRAM, acts]
        options: list[Argument] = ["--write", work, "--deny", denied]
        if where == "tree":
            limit = ["--disk", "8G"] if acts == "object" else []  # for fallocate to be asked for
            options = ["--workdir", work, "--on-exit", "discard", *limit]
        ended = (
            runner.sandboxed(line, options=options, timeout=120)
            if sandboxed
            else runner.bare(line, timeout=120)
        )
        assert ended.returncode == 0, ended.stderr.decode()
        found.append(json.loads(ended.stdout))
        _empty(work)
    bare, ours = found
    assert ours["result"] == bare["result"]
    early = {name: seconds for name, seconds in ours["early"].items() if seconds > 0.1}
    assert not early, "these did not wait for the write"
    assert ours["worst"] < max(_OTHERS_WAIT_S, ours["held"] / 3), ours
    assert ours["count"] > 20


@pytest.mark.one_user
def test_where_one_long_write_follows_another_everybody_has_his_turn(runner: Runner) -> None:
    found = []
    for sandboxed in (False, True):
        work = runner.place.empty_work()
        line: list[Argument] = [system_python(), "-I", "-c", _PROGRAM, "names", "again"]
        options = ["--workdir", work, "--on-exit", "discard"]
        ended = (
            runner.sandboxed(line, options=options, timeout=120)
            if sandboxed
            else runner.bare(line, timeout=120)
        )
        assert ended.returncode == 0, ended.stderr.decode()
        found.append(json.loads(ended.stdout)["result"])
        _empty(work)
    bare, ours = found
    assert ours == bare


@pytest.mark.parametrize("acts", ["object", "names"])
def test_the_end_of_the_run_does_not_wait_for_who_waits(runner: Runner, acts: str) -> None:
    work = runner.place.empty_work()
    line = runner.command_line(
        [system_python(), "-I", "-c", _PROGRAM, acts], options=["--workdir", work, "--quiet"]
    )
    with runner.started(line) as process:
        assert process.stderr is not None
        assert line_of(process.stderr.fileno()) == b"waits\n"
        begun = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 143
        assert time.monotonic() - begun < 5
    assert list(work.iterdir()) == []


def _empty(work: Path) -> None:
    """So much is not to lie about until the end."""
    for path in (*work.glob("dir/*"), *work.glob("*")):
        if path.is_file():
            path.unlink()


# As many opens wait for a writer as there are workers for calls that wait.
_AMONG_WAITING_OPENS = """
import mmap, os, threading, time

threading.stack_size(1 << 16)
os.mkfifo("fifo")
source = mmap.mmap(-1, 3 << 28, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
fd = os.open("big", os.O_RDWR | os.O_CREAT, 0o644)

def wait():
    try:
        os.open("fifo", os.O_RDONLY)
    except OSError:
        pass

def write():
    while True:
        os.pwrite(fd, source, 0)

for _ in range(300):
    threading.Thread(target=wait, daemon=True).start()
time.sleep(2.5)
threading.Thread(target=write, daemon=True).start()
for number in range(5):
    time.sleep(0.05)
    mode = 0o600 + number
    os.chmod("big", mode)
    assert os.stat("big").st_mode & 0o777 == mode
os._exit(0)
"""


@pytest.mark.one_user
def test_what_is_being_made_is_never_answered_as_if_it_were_not(runner: Runner) -> None:
    line = [system_python(), "-I", "-c", _AMONG_WAITING_OPENS]
    options = ["--workdir", runner.place.empty_work(), "--on-exit", "discard"]
    ended = runner.sandboxed(line, options=options, timeout=120)
    assert ended.returncode == 0, ended.stderr.decode()


# More than there are threads for acts that wait, and than there are workers.
_MANY_WAIT = """
import json, mmap, os, sys, threading, time

threading.stack_size(1 << 16)
source = mmap.mmap(-1, 3 << 28, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
fd = os.open("big", os.O_RDWR | os.O_CREAT, 0o644)
other = os.open("other", os.O_RDWR | os.O_CREAT, 0o644)
for number in range(100):
    os.link("big", f"big-{number}")
written, outcomes = [], {}

def write():
    os.pwrite(fd, source, 0)
    written.append(time.monotonic())

def change(number):
    try:
        if number < 100:
            os.unlink(f"big-{number}")
        else:
            os.fchmod(fd, 0o600)
        outcome = "done"
    except OSError as error:
        outcome = error.errno
    outcomes[outcome] = outcomes.get(outcome, 0) + 1

writer = threading.Thread(target=write)
writer.start()
while os.fstat(fd).st_size == 0:
    time.sleep(0.001)
threads = [threading.Thread(target=change, args=(number,)) for number in range(500)]
for thread in threads:
    thread.start()
os.fchmod(other, 0o600)
begun = time.monotonic()
os.fchmod(other, 0o640)
os.rename("other", "moved")
changed, still_written = time.monotonic() - begun, not written
for thread in (*threads, writer):
    thread.join()
assert os.listdir(".") == ["moved", "big"] or os.listdir(".") == ["big", "moved"]
print(json.dumps([changed, still_written, outcomes]))
"""


@pytest.mark.one_user
def test_however_many_change_one_file_those_of_another_are_made(runner: Runner) -> None:
    line = [system_python(), "-I", "-c", _MANY_WAIT]
    options = ["--workdir", runner.place.empty_work(), "--on-exit", "discard"]
    ended = runner.sandboxed(line, options=options, timeout=120)
    assert ended.returncode == 0, ended.stderr.decode()
    changed, still_written, outcomes = json.loads(ended.stdout)
    assert outcomes == {"done": 500}
    assert changed < 0.2 or not still_written, "it waited for the write to the other file"
