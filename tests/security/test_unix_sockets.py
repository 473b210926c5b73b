"""AF_UNIX sockets with a copy-on-write tree: nobody outside of the sandbox is ever reached, and nothing made there."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.running import Ended, Runner, system_python
from security import broken
from security.canaries import changed, snapshot
from security.raw_calls import program

_OWN = ["address", "link", "directory-link", "directory", "descriptor", "working-directory", "abstract"]
_BINDING = [
    "bind-address",
    "bind-directory-link",
    "bind-directory",
    "bind-descriptor",
    "bind-working-directory",
]


class Listener:
    """Somebody outside, and how many have come to him."""

    def __init__(self, address: Path | bytes, kind: socket.SocketKind = socket.SOCK_STREAM) -> None:
        self.server = socket.socket(socket.AF_UNIX, kind)
        self.server.bind(os.fsencode(address))
        if isinstance(address, Path):
            address.chmod(0o777)
        self.server.listen(4096)
        self.server.setblocking(False)

    def reached(self) -> int:
        count = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                self.server.accept()[0].close()
                count += 1
        return count


@contextlib.contextmanager
def _listening(address: Path | bytes, kind: socket.SocketKind = socket.SOCK_STREAM) -> Iterator[Listener]:
    listener = Listener(address, kind)
    with listener.server:
        yield listener


def _outside(runner: Runner, where: str) -> Path:
    directory = runner.place.root / "outside" if where == "outside" else runner.work / "real"
    directory.mkdir()
    runner.place.give(directory)
    directory.chmod(0o777)
    return directory


def _options(runner: Runner) -> list[Any]:
    return ["--workdir", runner.work, "--on-exit", "discard"]


def _sandboxed(runner: Runner, command: list[Any], patch: str | None, *more: Any) -> Ended:
    options = [*_options(runner), *more]
    if patch is None:
        ended = runner.sandboxed(command, options=options, timeout=60)
    else:
        ended = broken.run(runner, patch, command, options=options, timeout=60)
    assert ended.returncode == 0, ended
    return ended


def _race(
    runner: Runner, kind: str, where: str, limit_ms: int, patch: str | None = None, *, races: int = 1
) -> tuple[int, int, int]:
    """(calls, how many succeeded, how many reached somebody outside).

    races: how many times at most, until somebody is reached.
    """
    directory = _outside(runner, where)
    address: Path | bytes = directory / "s"
    name = str(directory)
    if kind == "abstract":
        name = "." + runner.marker  # the first byte becomes the NUL
        address = b"\0" + runner.marker.encode()
    with _listening(address) as listener:
        before = snapshot(runner.work), snapshot(directory)
        command = [program(runner, "sockets"), kind, str(limit_ms), name]
        for _ in range(races):
            ended = _sandboxed(runner, command, patch)
            if reached := listener.reached():
                break
        if patch is None:
            assert changed(before[0], snapshot(runner.work)) == set()
            assert changed(before[1], snapshot(directory)) == set()
        calls, done = ended.stdout.split()
        return int(calls), int(done), reached


@pytest.mark.one_user
@pytest.mark.parametrize("where", ["outside", "in-the-lower-tree"])
@pytest.mark.parametrize("kind", [*_OWN, *_BINDING])
def test_swapping_while_a_socket_is_connected_or_bound(
    runner: Runner, kind: str, where: str, soak: bool
) -> None:
    if kind == "abstract" and where != "outside":
        pytest.skip("an abstract name lies nowhere")
    calls, done, reached = _race(runner, kind, where, 30_000 if soak else 200)
    assert calls > 10
    assert done > 0  # the program has its way within the tree
    assert reached == 0


# Each way to the socket of somebody else, whose directory and name are given; at the end, to one's own.
_WAYS = """
import ctypes, json, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
outside, real = os.fsencode(sys.argv[1]), os.fsencode(sys.argv[2])
work = os.getcwdb()
found = []
def to(address, kind=socket.SOCK_STREAM):
    with socket.socket(socket.AF_UNIX, kind) as client:
        client.settimeout(5)
        try:
            client.connect(address)
            found.append("connected")
        except OSError as error:
            found.append(os.strerror(error.errno))
def to_full(path):
    with socket.socket(socket.AF_UNIX) as client:  # no room for a NUL, which socket.connect does not do
        result = libc.connect(client.fileno(), b"\\1\\0" + path.rjust(108, b"/"), 110)
    found.append("connected" if result == 0 else os.strerror(ctypes.get_errno()))
def quietly(act, *args):
    try:
        return act(*args)
    except OSError:
        return None
for number, directory in enumerate((outside, real)):
    there = directory + b"/s"
    for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
        to(there, kind)
    to_full(there)
    to(b"/proc/self/root" + there)
    to(b"/proc/self/cwd/" + os.path.relpath(there))
    to(os.path.relpath(there))
    os.symlink(there, b"link%d" % number); to(b"link%d" % number)
    os.symlink(directory, b"dir%d" % number); to(b"dir%d/s" % number); to(work + b"/dir%d/../%b" % (number, there[1:]))
    fd = os.open(directory, os.O_PATH)
    to(b"/proc/self/fd/%d/s" % fd); to(b"/dev/fd/%d/s" % fd)
    to(b"/proc/%d/task/%d/fd/%d/s" % (os.getpid(), os.getpid(), fd))
    os.chdir(directory); to(b"s"); to(b"./s"); to(b"/proc/self/cwd/s"); os.chdir(work)
    fd = os.open(there, os.O_PATH)
    to(b"/proc/self/fd/%d" % fd); to(b"/dev/fd/%d" % fd); to(b"/proc/thread-self/fd/%d" % fd)
    quietly(os.link, there, b"hard%d" % number); to(b"hard%d" % number)
    quietly(os.link, b"/proc/self/fd/%d" % fd, b"by-fd%d" % number); to(b"by-fd%d" % number)
    quietly(os.chmod, there, 0o777); to(there)
    quietly(os.utime, there, (1, 1)); to(there)
    quietly(os.rename, there, b"renamed%d" % number); to(b"renamed%d" % number); to(there)
    quietly(os.rename, directory, b"moved%d" % number); to(b"moved%d/s" % number); to(there)
while not os.path.exists(real.replace(b"/real", b"/later")):
    pass
to(real.replace(b"/real", b"/later"))
with socket.socket(socket.AF_UNIX) as server:
    server.bind(b"own"); server.listen()
    to(work + b"/own")
print(json.dumps(found))
"""


def _ways(runner: Runner, patch: str | None = None) -> tuple[list[str], int, Ended]:
    script = runner.place.file("ways.py", _WAYS, 0o644)
    directories = [_outside(runner, "outside"), _outside(runner, "lower")]
    ready = threading.Event()
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(_listening(directory / "s")) for directory in directories]
        later = runner.work / "later"

        def listen_later() -> None:
            ready.wait()
            listeners.append(stack.enter_context(_listening(later)))

        thread = threading.Thread(target=listen_later)
        thread.start()
        timer = threading.Timer(0.5, ready.set)  # once it runs; that it is earlier once makes no test fail
        timer.start()
        try:
            ended = _sandboxed(runner, [system_python(), script, *directories], patch, "--read", script)
        finally:
            ready.set()
            timer.join()
            thread.join()
        reached = sum(listener.reached() for listener in listeners)
    return json.loads(ended.stdout), reached, ended


def test_every_way_to_the_socket_of_somebody_outside(runner: Runner) -> None:
    found, reached, ended = _ways(runner)
    assert reached == 0
    assert found[-1] == "connected"
    assert "connected" not in found[:-1]
    refused = {(refusal["rule"], refusal["call"]) for refusal in ended.refusals}
    assert ("network.unix", "connect") in refused


def test_abstract_names(runner: Runner) -> None:
    """One's own is reached, whatever process has it by then; one of somebody outside is not, nor with another type."""
    script = runner.place.file("abstract.py", _ABSTRACT, 0o644)
    name = b"\0" + runner.marker.encode()
    with _listening(name) as stream, _listening(name + b"-packets", socket.SOCK_SEQPACKET) as packets:
        command = [system_python(), script, runner.marker]
        ended = _sandboxed(runner, command, None, "--read", script)
        assert stream.reached() + packets.reached() == 0
    assert ended.stdout.split() == [b"refused"] * 3 + [b"ours"] * 3 + [b"refused"]


_ABSTRACT = r"""
import os, socket, sys
name = "\0" + sys.argv[1]
def to(address, kind=socket.SOCK_STREAM):
    with socket.socket(socket.AF_UNIX, kind) as client:
        try:
            client.connect(address)
            return "ours"
        except ConnectionRefusedError:
            return "refused"
print(to(name), to(name + "-packets", socket.SOCK_SEQPACKET))
server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
server.bind(name + "-packets")  # the name of a stream is another one
server.listen()
print(to(name + "-packets", socket.SOCK_SEQPACKET), to(name + "-packets"))
auto = socket.socket(socket.AF_UNIX)
auto.bind("")
auto.listen()
print(to(auto.getsockname()))
reading, writing = os.pipe()
if os.fork() == 0:  # who has bound it is gone from it; another process has it
    os.close(writing)
    os.read(reading, 1)
    os._exit(0)
server.close()
print(to(name + "-packets"))
os.close(writing)
os.wait()
print(to(name + "-packets"))
"""


def test_nothing_but_streams_of_unix_is_made(runner: Runner) -> None:
    script = runner.place.file("families.py", _FAMILIES, 0o644)
    ended = _sandboxed(runner, [system_python(), script], None, "--read", script)
    assert ended.stdout.split() == [b"1-1", b"1-5"]


_FAMILIES = """
import ctypes
libc = ctypes.CDLL(None)
for family in range(50):
    for kind in range(16):
        if libc.socket(family, kind, 0) >= 0:
            print(f"{family}-{kind}")
"""


# ---- the tests above can fail


# Connects to what has the name of what was checked.
_NAMES = """
import os
from sandlockd.kernel import sockets
def connect(opened, target, identity, began):
    path = os.readlink(b"/proc/self/fd/%d" % target.fd)
    with sockets.OwnedFd(os.open(os.path.dirname(os.path.dirname(path)), os.O_PATH)) as above:
        there = b"/proc/self/fd/%d/" % above.fd + b"/".join(path.split(b"/")[-2:])
        sockets._apart(opened, sockets.address_of_path(there), True, None, None, 0, identity, began)
sockets.connect = connect
"""
_TREE_IS_TRUSTED = """
from sandlockd.handlers.merged import sockets
sockets._of_the_real_tree = lambda place: place.tree.open_shown(place.found)
"""
_ANY_HOLDER = """
import os
from sandlockd.handlers.merged.acquaintance import Acquaintance
from sandlockd.kernel.fds import OwnedFd
Acquaintance.holder = lambda self, name, kind: OwnedFd(os.open("/dev/null", os.O_RDONLY))
"""


def test_an_address_that_is_swapped_reaches_outside_when_connect_goes_on(runner: Runner) -> None:
    assert _race(runner, "address", "outside", 300, broken.give_back("connect"), races=20)[2] > 0


def test_a_directory_that_is_swapped_reaches_outside_when_the_name_is_connected_to(runner: Runner) -> None:
    assert _race(runner, "directory", "outside", 1000, _NAMES, races=20)[2] > 0


def test_a_bind_that_goes_on_reaches_outside(runner: Runner) -> None:
    """Landlock keeps it from it as well."""
    runner.place.give((runner.work / "own").mkdir() or runner.work)
    try:
        calls, done, _ = _race(
            runner, "bind-address", "outside", 300, broken.give_back("bind") + broken.OPEN_WALL
        )
    finally:
        _remove_torn(runner.place.root / "outside" / "new")
    assert done
    assert calls


def _remove_torn(path: Path) -> None:
    """Half of one address and half of the other is the beginning of the longer one, bound outside the test's place."""
    for name in map(Path, itertools.accumulate(str(path))):
        if name.is_socket():
            name.unlink()


def test_every_way_reaches_somebody_when_the_real_tree_is_trusted(runner: Runner) -> None:
    found, reached, _ = _ways(runner, _TREE_IS_TRUSTED)
    assert reached > 0
    assert "connected" in found[:-1]


def test_abstract_names_of_others_are_reached_when_nobody_asks_whose_they_are(runner: Runner) -> None:
    assert _race(runner, "abstract", "outside", 300, _ANY_HOLDER, races=20)[2] > 0
