"""No network: no socket of any family reaches anything outside."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.running import Runner
from security import broken
from security.canaries import SECRET
from security.raw_calls import Buffer, Bytes, Script

_FAMILIES = [
    number
    for name in dir(socket)
    if name.startswith("AF_") and 0 <= (number := int(getattr(socket, name))) < 100
]


def _unix_address(path: Path | bytes) -> bytes:
    return struct.pack("=H", socket.AF_UNIX) + os.fsencode(path) + b"\0"


class Canary:
    """Servers outside: on a Unix socket (stream and datagram, by path and abstract) and on 127.0.0.1."""

    def __init__(self, directory: Path, name: str) -> None:
        self.directory = directory
        self.stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.stream.bind(str(directory / "docker.sock"))
        self.stream.listen(64)
        self.datagram = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.datagram.bind(str(directory / "log"))
        self.abstract = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.abstract.bind(b"\0" + name.encode())
        self.abstract.listen(64)
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", 0))
        self.all = [self.stream, self.datagram, self.abstract, self.tcp, self.udp]
        for path in directory.iterdir():
            path.chmod(0o777)
        for server in self.all:
            server.setblocking(False)

    def reached(self) -> list[str]:
        """Which of them somebody has reached since the last call."""
        found = []
        for name in ("stream", "abstract", "tcp"):
            try:
                connection, _ = getattr(self, name).accept()
            except BlockingIOError:
                continue
            connection.close()
            found.append(name)
        for name in ("datagram", "udp"):
            try:
                getattr(self, name).recv(64)
            except BlockingIOError:
                continue
            found.append(name)
        return found

    def close(self) -> None:
        for server in self.all:
            server.close()


@pytest.fixture
def canary(runner: Runner) -> Iterator[Canary]:
    directory = runner.place.root / "sockets"
    directory.mkdir()
    runner.place.give(directory)
    made = Canary(directory, runner.marker)
    yield made
    made.close()


def _reaching(canary: Canary, runner: Runner) -> Script:
    script = Script()
    path = _unix_address(canary.directory / "docker.sock")
    abstract = struct.pack("=H", socket.AF_UNIX) + b"\0" + runner.marker.encode()
    fd = script.socket(1, 1, 0)
    script.connect(fd, Bytes(path), len(path))
    fd = script.socket(1, 1, 0)
    script.connect(fd, Bytes(abstract), len(abstract))
    log = _unix_address(canary.directory / "log")
    fd = script.socket(1, 2, 0)
    script.sendto(fd, b"hello", 5, 0x4000, Bytes(log), len(log))
    script.socketpair(1, 2, 0, Buffer(8))
    for number in range(3, 10):
        script.sendto(number, b"hello", 5, 0x4000, Bytes(log), len(log))
        script.sendto(number, b"hello", 5, 0x4000, Bytes(path), len(path))
        script.connect(number, Bytes(path), len(path))
        script.connect(number, Bytes(log), len(log))
    for kind, server in ((1, canary.tcp), (2, canary.udp)):
        address = (
            struct.pack("=H", 2)
            + struct.pack(">H", server.getsockname()[1])
            + bytes((127, 0, 0, 1))
            + bytes(8)
        )
        fd = script.socket(2, kind, 0)
        script.connect(fd, Bytes(address), 16)
        script.sendto(fd, b"hello", 5, 0x4000, Bytes(address), 16)
        script.sendto(fd, b"hello", 5, 0x20004000, Bytes(address), 16)  # MSG_FASTOPEN
    return script


def test_servers_outside(runner: Runner, canary: Canary) -> None:
    """A container engine's socket, a log's, an abstract one, TCP and UDP on the loopback."""
    script = _reaching(canary, runner)
    script.bare(runner)
    assert canary.reached() == ["stream", "abstract", "tcp", "datagram", "udp"]
    while canary.reached():
        pass
    script.sandboxed(runner, "--write", canary.directory)
    assert canary.reached() == []


def test_every_family(runner: Runner) -> None:
    script = Script()
    for family in [*_FAMILIES, 1 << 32 | 1, 1 << 32 | 2]:
        for kind in (1, 2, 3, 5, 1 | os.O_CLOEXEC):
            script.socket(family, kind, 0)
    outcomes, ended = script.sandboxed(runner)
    assert {outcome.error for outcome in outcomes} == {"EACCES"}
    assert {refusal["rule"] for refusal in ended.refusals} == {"network"}


def test_pairs_and_descriptors_within_the_sandbox_go_on_working(runner: Runner) -> None:
    """socketpair, and a descriptor handed over by SCM_RIGHTS."""
    program = runner.compiler.compile(_HAND_OVER)
    runner.both([program])


_HAND_OVER = r"""
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

int main(void)
{
	int pair[2], ends[2], fd;
	char byte = 'x', room[CMSG_SPACE(sizeof(int))] = {0};
	struct iovec data = {&byte, 1};
	struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof(room)};
	struct cmsghdr *header;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) < 0 || pipe(ends) < 0)
		return 1;
	if (fork() == 0) {
		header = CMSG_FIRSTHDR(&message);
		header->cmsg_level = SOL_SOCKET;
		header->cmsg_type = SCM_RIGHTS;
		header->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(header), &ends[1], sizeof(int));
		_exit(sendmsg(pair[0], &message, 0) != 1);
	}
	if (recvmsg(pair[1], &message, 0) != 1)
		return 2;
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(int));
	if (write(fd, "handed over", 11) != 11)
		return 3;
	char text[12] = "";
	if (read(ends[0], text, 11) != 11)
		return 4;
	puts(text);
	wait(NULL);
	return 0;
}
"""


def test_an_inherited_descriptor(runner: Runner, canary: Canary) -> None:
    """A socket that the caller left open is not the program's."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as inherited:
        log = _unix_address(canary.directory / "log")
        script = Script()
        for number in (3, 4, 5, 50, inherited.fileno()):
            script.sendto(number, b"hello", 5, 0x4000, Bytes(log), len(log))
        os.set_inheritable(inherited.fileno(), True)
        script.bare(runner, pass_fds=[inherited.fileno()])
        assert canary.reached() == ["datagram"]
        outcomes, _ = script.sandboxed(runner, pass_fds=[inherited.fileno()])
        assert [outcome.error for outcome in outcomes] == ["EBADF"] * 5
    assert canary.reached() == []


@pytest.mark.parametrize("kind", ["unix-stream", "unix-datagram", "udp", "tcp", "tcp-fast-open"])
def test_an_unconnected_socket_as_standard_input(runner: Runner, canary: Canary, kind: str) -> None:
    """Descriptors 0 to 2 are the caller's gift; one that can still be connected anywhere would be a network."""
    family, type_ = {
        "unix-stream": (socket.AF_UNIX, socket.SOCK_STREAM),
        "unix-datagram": (socket.AF_UNIX, socket.SOCK_DGRAM),
        "udp": (socket.AF_INET, socket.SOCK_DGRAM),
        "tcp": (socket.AF_INET, socket.SOCK_STREAM),
        "tcp-fast-open": (socket.AF_INET, socket.SOCK_STREAM),
    }[kind]
    script = Script()
    if family == socket.AF_UNIX:
        address = _unix_address(canary.directory / ("docker.sock" if kind == "unix-stream" else "log"))
    else:
        port = (canary.udp if kind == "udp" else canary.tcp).getsockname()[1]
        address = struct.pack("=H", 2) + struct.pack(">H", port) + bytes((127, 0, 0, 1)) + bytes(8)
    if kind == "tcp-fast-open":
        script.sendto(0, b"hello", 5, 0x20004000, Bytes(address), len(address))
    elif type_ == socket.SOCK_STREAM:
        script.connect(0, Bytes(address), len(address))
    else:
        script.sendto(0, b"hello", 5, 0x4000, Bytes(address), len(address))
    for sandboxed in (False, True):
        with socket.socket(family, type_) as given:
            if not sandboxed:
                script.bare(runner, stdin=given)
                assert canary.reached()
                continue
            command = script.command(runner)
            ended = runner.sandboxed(command, options=["--read", runner.place.root / "script"], stdin=given)
    assert canary.reached() == [], ended


def test_a_connected_socket_as_standard_input_goes_on_working(runner: Runner) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(SECRET)
        ours.shutdown(socket.SHUT_WR)
        assert runner.sandboxed(["cat"], stdin=theirs).stdout == SECRET


def test_making_a_socket_by_name(runner: Runner) -> None:
    """A pair's end can be bound to a path: where the policy lets nothing be made, it cannot."""
    readable = runner.place.root / "readable"
    readable.mkdir()
    runner.place.give(readable)
    script = Script()
    script.socketpair(1, 1, 0, Buffer(8))
    address = _unix_address(readable / "made")
    script.bind(3, Bytes(address), len(address))
    outcomes, _ = script.sandboxed(runner, "--read", readable)
    assert outcomes[1].error == "EACCES"
    assert list(readable.iterdir()) == []
    assert script.bare(runner)[1].ok


# ---- the tests above can fail ----


def test_the_servers_are_reached_when_the_filter_gives_the_calls_back(runner: Runner, canary: Canary) -> None:
    """The filter alone stands there, but for abstract sockets, which Landlock scopes. (TCP is connected by
    MSG_FASTOPEN here, which this kernel's Landlock does not judge.)"""
    script = _reaching(canary, runner)
    broken.results(runner, broken.give_back("socket", "socketpair"), script, "--write", canary.directory)
    assert {"stream", "datagram", "udp"} <= set(canary.reached()) <= {"stream", "tcp", "datagram", "udp"}


def test_a_datagram_pair_reaches_a_socket_by_name_when_it_is_given_back(
    runner: Runner, canary: Canary
) -> None:
    script = _reaching(canary, runner)
    broken.results(runner, broken.give_back("socketpair"), script, "--write", canary.directory)
    assert canary.reached() == ["datagram"]
