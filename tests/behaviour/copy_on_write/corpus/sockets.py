"""Sockets with a name in the tree."""

from __future__ import annotations

import os
import socket

from .vocabulary import Calls, Programs

PROGRAMS = Programs()
program = PROGRAMS

_STREAM, _DATAGRAM, _SEQPACKET = socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET


def _new(s: Calls, kind: int = _STREAM) -> int:
    return s.socket(socket.AF_UNIX, kind, 0)


@program
def bind_listen_connect(s: Calls) -> None:
    server = _new(s)
    s.bind(server, "dir/new")
    s.lstat("dir/new")
    s.listen(server, 5)
    client = _new(s)
    s.connect(client, "dir/new")
    accepted = s.accept4(server, None, None, 0)
    s.write(client, b"hello\n")
    s.read(accepted)
    s.name_of("getsockname", server)
    s.name_of("getpeername", client)
    s.ls("dir")


@program
def bind_where_something_is(s: Calls) -> None:
    for path in (
        "file",
        "dir",
        "socket",
        "fifo",
        "to-file",
        "dangling",
        "loop-1",
        ".",
        "dir/..",
        "new/",
        "empty-dir/",
    ):
        s.bind(_new(s), path)
        s.lstat(path)


@program
def bind_where_it_cannot_be(s: Calls) -> None:
    for path in (
        "missing/x",
        "file/x",
        "closed/x",
        "no-write/x",
        "no-search/x",
        "other-dir/x",
        "loop-1/x",
        "x" * 107,
    ):
        s.bind(_new(s), path)
    s.lstat("x" * 107)


@program
def a_name_that_was_removed(s: Calls) -> None:
    for path in ("file", "socket", "dir/a"):
        s.unlink(path)
        server = _new(s)
        s.bind(server, path)
        s.lstat(path)
        s.bind(server, path)


@program
def modes_and_umasks_of_sockets(s: Calls) -> None:
    for mask in (0, 0o022, 0o077, 0o777):
        s.umask(mask)
        s.bind(_new(s), f"new-{mask:o}")
        s.lstat(f"new-{mask:o}")
    s.umask(0)
    s.bind(_new(s), "setgid/new")
    s.bind(_new(s), "acl-dir/new")
    s.lstat("setgid/new")
    s.lstat("acl-dir/new")


@program
def connect_to_what_does_not_listen(s: Calls) -> None:
    for path in (
        "socket",
        "file",
        "dir",
        "fifo",
        "missing",
        "dangling",
        "loop-1",
        "closed/in",
        "to-file",
        "file/x",
    ):
        s.connect(_new(s), path)
    bound = _new(s)
    s.bind(bound, "new")
    s.connect(_new(s), "new")
    s.connect(_new(s, _SEQPACKET), "new")


@program
def connect_through_links_and_other_names(s: Calls) -> None:
    server = _new(s)
    s.bind(server, "dir/new")
    s.listen(server, 10)
    s.symlink("dir/new", "linked")
    s.link("dir/new", "hard")
    for path in ("linked", "hard", "to-dir/new", "dir/../dir/new", "/proc/self/cwd/hard"):
        s.connect(_new(s), path)
    s.rename("dir", "moved")
    s.connect(_new(s), "moved/new")
    s.connect(_new(s), "dir/new")


@program
def connect_after_it_was_renamed_or_removed(s: Calls) -> None:
    server = _new(s)
    s.bind(server, "new")
    s.listen(server, 5)
    s.rename("new", "newer")
    s.connect(_new(s), "newer")
    s.connect(_new(s), "new")
    s.unlink("newer")
    s.connect(_new(s), "newer")
    s.name_of("getsockname", server)


@program
def connect_without_permission(s: Calls) -> None:
    server = _new(s)
    s.bind(server, "new")
    s.listen(server, 5)
    s.chmod("new", 0o444)
    s.connect(_new(s), "new")
    s.chmod("new", 0)
    s.connect(_new(s), "new")
    s.chmod("new", 0o222)
    s.connect(_new(s), "new")


@program
def datagrams(s: Calls) -> None:
    server, client = _new(s, _DATAGRAM), _new(s, _DATAGRAM)
    s.bind(server, "server")
    s.bind(client, "client")
    address = s.address("server")
    s.told("sendto", (), s.silently("sendto", client, b"hello", 5, 0, address, len(address)))
    s.read(server)
    s.connect(client, "server")
    s.write(client, b"again")
    s.read(server)
    s.unlink("server")
    s.write(client, b"unlinked")
    s.read(server)
    s.told("sendto", (), s.silently("sendto", client, b"gone", 4, 0, address, len(address)))
    s.connect(_new(s), "client")


@program
def between_processes(s: Calls) -> None:
    server = _new(s)
    s.bind(server, "new")
    s.listen(server, 5)

    def connect() -> None:
        client = _new(s)
        s.chdir("dir")
        s.connect(client, "../new")
        s.write(client, b"from the child\n")
        os._exit(0)

    s.child(connect)
    s.read(s.accept4(server, None, None, 0))


@program
def the_longest_address(s: Calls) -> None:
    s.bind(_new(s), "y" * 108)
    s.lstat("y" * 108)
    s.bind(_new(s), "./" * 50 + "short")
    s.lstat("short")


@program
def opening_a_socket(s: Calls) -> None:
    s.bind(_new(s), "new")
    for path in ("new", "socket"):
        s.tried(["open", path, os.O_RDWR, 0], ["open", path, os.O_PATH, 0])
        s.chmod(path, 0o600)
        s.lstat(path)


@program
def abstract_names_are_not_of_the_tree(s: Calls) -> None:
    server = _new(s)
    address = b"\1\0\0corpus-of-copy-on-write-%d" % os.getpid()
    s.told("bind", (), s.silently("bind", server, address, len(address)))
    s.silently("listen", server, 1)
    s.told("connect", (), s.silently("connect", _new(s), address, len(address)))
