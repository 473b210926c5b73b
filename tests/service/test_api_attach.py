"""Attached to a sandbox: its streams, its terminal, and what a client does to it that goes away or sends rubbish."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys

import pytest
from harness.attaching import Refused, attached
from harness.service import Served, problem_of
from harness.waiting import until, wait_dead
from wsproto.utilities import LocalProtocolError

pytestmark = pytest.mark.one_user


def test_input_goes_in_and_output_and_status_come_out(served: Served) -> None:
    made = served.run(["sh", "-c", "read a; echo got $a; echo bad >&2; read b; cat; exit 5"], stdin=True)
    with attached(served, made["id"]) as client:
        client.write(b"one\n")
        client.until(b"got one\n")
        client.write(b"two\nrest")
        client.say(type="eof")
        ended = client.end()
        assert client.output == {1: b"got one\nrest", 2: b"bad\n", 3: b""}
        assert (ended["exit_status"], ended["exit_code"], ended["reason"], ended["state"]) == (
            5,
            5,
            "exited",
            "exited",
        )
        assert client.closed == 1000


def test_without_stdin_the_input_is_empty_and_what_is_sent_is_nobodys(served: Served) -> None:
    made = served.run(["sh", "-c", "cat; echo end"])
    with attached(served, made["id"]) as client:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError, LocalProtocolError):  # it has ended
            client.write(b"lost")
            client.say(type="eof")
        assert client.end()["exit_status"] == 0
        assert client.output[1] == b"end\n"


def test_what_was_written_before_comes_too_and_a_cursor_goes_on_behind_it(served: Served) -> None:
    made = served.run(["sh", "-c", "echo one; read x; echo two; read x; echo three"], stdin=True)
    with attached(served, made["id"]) as first:
        first.until(b"one\n")
        cursor = first.cursor
    with attached(served, made["id"], f"?after={cursor}") as second:
        second.write(b"\n")
        second.until(b"two\n")
        cursor = second.cursor
        assert b"one" not in second.output[1]
    with attached(served, made["id"], "?tail=1") as third:
        third.until(b"two\n")
        third.write(b"\n")
        assert third.end()["exit_status"] == 0
        assert third.output[1] == b"two\nthree\n" and third.cursor > cursor
    with attached(served, made["id"]) as late:
        assert late.end()["exit_status"] == 0
        assert late.output[1] == b"one\ntwo\nthree\n"


def test_all_who_are_attached_see_the_same(served: Served) -> None:
    made = served.run(["sh", "-c", "while read x; do echo $x; done"], stdin=True)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(attached(served, made["id"])) for _ in range(5)]
        for number, client in enumerate(clients):
            client.write(b"%d\n" % number)
            for other in clients:
                other.until(b"%d\n" % number)
        clients[0].say(type="eof")
        for client in clients:
            assert client.end()["exit_status"] == 0
            assert client.output[1] == b"0\n1\n2\n3\n4\n"


def test_a_terminal_has_its_size_and_its_keys(served: Served) -> None:
    script = "trap 'stty size' WINCH; trap 'echo int' INT; stty size; while ! read x; do :; done; echo got $x; cat; tty"
    made = served.run(["sh", "-c", script], tty=True, rows=33, columns=77)
    with attached(served, made["id"]) as client:
        client.until(b"33 77", 3)
        client.say(type="resize", rows=40, columns=100)
        client.until(b"40 100", 3)
        client.write(b"\x03")
        client.until(b"int", 3)
        client.write(b"word\r")
        client.until(b"got word", 3)
        client.say(type="eof")
        assert client.end()["exit_status"] == 0
        assert client.output[3].splitlines()[-1].startswith(b"/dev/")


def test_a_signal_by_the_line(served: Served) -> None:
    made = served.run(["sh", "-c", "trap 'exit 9' USR1; echo ready; while :; do sleep 0.01; done"])
    with attached(served, made["id"]) as client:
        client.until(b"ready")
        client.say(type="signal", signal="USR1")
        assert client.end()["exit_status"] == 9


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "{}",
        "[]",
        '{"type": "unheard-of"}',
        '{"type": "resize"}',
        '{"type": "resize", "rows": 0, "columns": 1}',
        '{"type": "eof", "more": 1}',
        '{"type": "signal", "signal": "NOPE"}',
        '{"type": "signal", "signal": 4711}',
        '{"type": "signal", "signal": -1}',
        "[" * 100_000,
    ],
    ids=range(11),
)
def test_a_word_that_nobody_knows_ends_that_client_only(served: Served, text: str) -> None:
    made = served.run(["sh", "-c", "read x; echo $x"], stdin=True)
    with attached(served, made["id"]) as other, attached(served, made["id"]) as client:
        client.say(text)
        assert client.until_closed() == 1003
        other.write(b"on\n")
        assert other.end()["exit_status"] == 0 and other.output[1] == b"on\n"


_FRAMES = {
    "no-frame": b"\xff" * 100,
    "unmasked": b"\x82\x01a",
    "reserved-bits": b"\xf2\x81\0\0\0\0a",
    "huge-length": b"\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff\0\0\0\0",
    "long-ping": b"\x89\xfe\x01\x00\0\0\0\0" + b"a" * 256,
    "bad-utf8": b"\x81\x82\0\0\0\0\xff\xff",
    "continuation-of-nothing": b"\x80\x81\0\0\0\0a",
    "a-message-of-a-megabyte": b"\x82\xff" + (1 << 20).to_bytes(8, "big") + b"\0\0\0\0" + b"a" * (1 << 20),
    "many-pings": b"\x89\x80\0\0\0\0" * 20_000,
}


@pytest.mark.parametrize("kind", _FRAMES)
def test_rubbish_on_the_line_harms_nobody_else(served: Served, kind: str) -> None:
    made = served.run(["sh", "-c", "read x; echo $x"], stdin=True)
    with attached(served, made["id"]) as other, attached(served, made["id"]) as client:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            client.line.sendall(_FRAMES[kind])
            if kind not in ("many-pings", "huge-length"):
                client.line.settimeout(5)
                while client.line.recv(1 << 16):
                    pass
        other.write(b"on\n")
        assert other.end()["exit_status"] == 0 and other.output[1] == b"on\n"


def test_compression_is_not_spoken(served: Served) -> None:
    made = served.run(["sleep", "100"])
    with served.connected() as line:
        line.sendall(
            f"GET /v1/sandboxes/{made['id']}/attach HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\n"
            "upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
            "sec-websocket-extensions: permessage-deflate\r\n\r\n".encode()
        )
        head = line.recv(4096)
        assert head.startswith(b"HTTP/1.1 101 ") and b"deflate" not in head


def test_a_client_that_is_killed_changes_nothing_for_the_program(served: Served) -> None:
    made = served.run(["sh", "-c", "read x; echo $x"], stdin=True)
    with attached(served, made["id"]) as client:
        client.write(b"to")
        client.line.close()
    with attached(served, made["id"]) as client:
        client.write(b"gether\n")
        assert client.end()["exit_status"] == 0 and client.output[1] == b"together\n"


def test_a_client_that_closes_its_half_is_gone(served: Served) -> None:
    made = served.run(["sh", "-c", "read x; echo $x"], stdin=True)
    with attached(served, made["id"]) as client:
        client.line.shutdown(1)
        while client.line.recv(1 << 16):
            pass
    assert served.get(f"/v1/sandboxes/{made['id']}")["state"] == "running"


def test_a_client_that_does_not_read_keeps_neither_program_nor_others_waiting(served: Served) -> None:
    with contextlib.ExitStack() as stack:
        script = "read x; head -c 3000000 /dev/zero; echo; echo end"
        made = served.run(["sh", "-c", script], stdin=True)
        for _ in range(3):
            stack.enter_context(attached(served, made["id"]))
        other = stack.enter_context(attached(served, made["id"]))
        other.write(b"\n")
        assert other.end()["exit_status"] == 0
        dropped = sum(word["bytes"] for word in other.words if word["type"] == "dropped")
        # With what was dropped, 13 bytes of each record are its head.
        assert len(other.output[1]) + dropped >= 3_000_005 and other.output[1].endswith(b"\nend\n")


def test_input_that_nobody_reads_waits_with_its_client(served: Served) -> None:
    made = served.run(["sleep", "100"], stdin=True)
    with attached(served, made["id"]) as client:
        client.line.settimeout(0.3)
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < 64 << 20:
                client.write(b"x" * 65536)
                sent += 65536
        assert sent < 8 << 20, "it was taken in"
    served.problem(404, "GET", "/v1/sandboxes/none")


def test_a_client_killed_while_its_input_waits_is_found_out(served: Served) -> None:
    """Its connection is counted no more."""
    made = served.run(["sleep", "100"], stdin=True)
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\n"
        "from harness.service import Served\n"
        "from harness.attaching import Attached\n"
        "import socket\n"
        "line = socket.socket(socket.AF_UNIX); line.connect(sys.argv[2])\n"
        "client = Attached(line, sys.argv[3])\n"
        "line.settimeout(0.3)\n"
        "try:\n"
        "    while True: client.write(b'x' * 65536)\n"
        "except TimeoutError: print('full', flush=True)\n"
        "line.settimeout(None); line.recv(1)\n"
    )
    tests = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    before = served.connections()
    line = [sys.executable, "-c", script, tests, str(served.socket), f"/v1/sandboxes/{made['id']}/attach"]
    with subprocess.Popen(line, stdout=subprocess.PIPE) as client:
        assert client.stdout is not None and client.stdout.readline() == b"full\n"
        pidfd = os.pidfd_open(client.pid)
        client.send_signal(signal.SIGKILL)
        wait_dead([pidfd])
        os.close(pidfd)
    until(lambda: served.connections() <= before, "its connection is gone")


def test_refusals_are_problems(served: Served) -> None:
    made = served.run(["sleep", "100"])
    for path, status in (
        ("/v1/sandboxes/none/attach", 404),
        (f"/v1/sandboxes/{made['id']}/attach?after=x", 400),
        (f"/v1/sandboxes/{made['id']}/attach?x=1", 400),
    ):
        identifier, _, query = path.removeprefix("/v1/sandboxes/").partition("/attach")
        with pytest.raises(Refused) as caught, attached(served, identifier, query):
            pass
        problem_of(caught.value.answer, status)


def test_attach_by_plain_get_is_told_what_it_is(served: Served) -> None:
    made = served.run(["sleep", "100"])
    served.problem(426, "GET", f"/v1/sandboxes/{made['id']}/attach")
