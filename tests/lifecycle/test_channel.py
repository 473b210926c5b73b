"""The line between processes of the service, and who breaks its rules on the other end."""

from __future__ import annotations

import array
import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio

from sandlockd.control import messages
from sandlockd.control.channel import Channel, Closed
from sandlockd.control.messages import Ended, Kill, Ready, Said, Start, Started, Unfit
from sandlockd.control.supervisors import OutOfStage, Supervisor, SupervisorLost
from sandlockd.control.telling import Teller
from sandlockd.kernel.fds import OwnedFd
from sandlockd.kernel.sealed import file_of

_RIGHTS = (socket.SOL_SOCKET, socket.SCM_RIGHTS)


@contextmanager
def _line() -> Iterator[tuple[Channel, socket.socket]]:
    """One end, and the other as who breaks rules has it."""
    ours, theirs = Channel.pair()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fileno=theirs.take()) as raw:
        raw.settimeout(10)
        try:
            yield ours, raw
        finally:
            ours.close()


def _put(raw: socket.socket, packet: bytes, *fds: int) -> None:
    raw.sendmsg([packet], [(*_RIGHTS, array.array("i", fds))] if fds else [])


def test_a_message_of_any_size_comes_as_it_went_with_what_is_beside_it() -> None:
    ours, theirs = Channel.pair()
    other = Channel.of(theirs)
    for size in (0, 1, 32 << 10, (32 << 10) + 1, 6 << 20):
        start = Start(0, (b"x" * size,), b"/")
        reader, writer = os.pipe()
        ours.send(start, (reader, writer))
        data, (got_reader, got_writer) = other.receive()
        assert messages.order_from(data) == start
        os.write(got_writer.fd, b"through")
        assert os.read(reader, 9) == b"through"
        for fd in (reader, writer):
            os.close(fd)
        assert not os.get_inheritable(got_reader.fd)
        got_reader.close()
        got_writer.close()
    with pytest.raises(BlockingIOError):
        other.receive()
    ours.close()
    with pytest.raises(Closed):
        other.receive()
    with pytest.raises(Closed):
        other.send(Kill())
    other.close()


def test_who_does_not_read_keeps_nobody_waiting() -> None:
    with _line() as (ours, _), pytest.raises(BlockingIOError):
        for _ in range(100_000):
            ours.send(Said("x" * 1000))


def _open_count() -> int:
    return len(os.listdir("/proc/self/fd"))


def _fifo(directory: str) -> int:
    os.mkfifo(f"{directory}/fifo")
    return os.open(f"{directory}/fifo", os.O_RDWR)


def test_what_is_no_message_is_unfit_and_leaves_nothing_open() -> None:
    with tempfile.TemporaryDirectory() as directory, _line() as (ours, raw):
        fifo = _fifo(directory)
        changeable = os.memfd_create("x", os.MFD_ALLOW_SEALING)
        huge = os.memfd_create("x", os.MFD_ALLOW_SEALING)
        os.ftruncate(huge, messages.MAX_BYTES + 1)
        before = _open_count()
        for packet, fds in (
            (b"x", ()),
            (b"b", ()),
            (b"bx", (changeable,)),
            (b"b", (fifo,)),
            (b"b", (changeable,)),
            (b"b", (huge,)),
            (b"h" + bytes(40_000), ()),
            (b"h", (fifo,) * 6),
            (b"h", (fifo,) * 100),
        ):
            _put(raw, packet, *fds)
            with pytest.raises(Unfit):
                ours.receive()
            assert _open_count() == before, (packet[:4], fds)
        for fd in (fifo, changeable, huge):
            os.close(fd)


# ---- a supervisor that is somebody else's by now


@contextmanager
def _rogue() -> Iterator[tuple[Supervisor, socket.socket, subprocess.Popen[bytes]]]:
    """A process that says what it likes."""
    with _line() as (ours, raw), subprocess.Popen(["sleep", "100"]) as process:
        supervisor = Supervisor(ours, process.pid, OwnedFd(os.pidfd_open(process.pid)))
        try:
            yield supervisor, raw, process
        finally:
            process.kill()
            supervisor.close()


def _say(raw: socket.socket, *said: messages.Message) -> None:
    for message in said:
        _put(raw, b"h" + messages.encoded(message))


async def _to_its_end(supervisor: Supervisor, process: subprocess.Popen[bytes]) -> None:
    with trio.fail_after(10):
        with pytest.raises(SupervisorLost):
            while True:
                await supervisor.next_report()
        await supervisor.gone()
    assert process.wait(10) == -signal.SIGKILL


_SAID = Said("a line")


@pytest.mark.parametrize(
    "said",
    [
        [Started(1)],  # before it is ready
        [Ready(1), Ended({}, 0)],  # nothing was started
        [Ready(1), Ready(1)],
        [Ready(1), _SAID],
    ],
    ids=str,
)
@pytest.mark.trio
async def test_who_speaks_out_of_turn_is_ended(said: list[messages.Message]) -> None:
    with _rogue() as (supervisor, raw, process):
        _say(raw, *said)
        await _to_its_end(supervisor, process)


@pytest.mark.trio
async def test_who_talks_without_end_is_ended() -> None:
    with _rogue() as (supervisor, raw, process):
        _say(raw, Ready(1))
        await supervisor.next_report()
        supervisor.order(Start(0, (b"true",), b"/"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_to_its_end, supervisor, process)
            for _ in range(messages.MAX_LINES + 1):
                await trio.to_thread.run_sync(_say, raw, _SAID)


@pytest.mark.parametrize("packet", [b"", b"h", b"b", b"hrubbish", b"h" + bytes(50_000)])
@pytest.mark.trio
async def test_who_sends_what_is_no_message_is_ended(packet: bytes) -> None:
    with _rogue() as (supervisor, raw, process):
        _put(raw, packet)
        if packet == b"":  # as an end of the line looks: nobody is ended for that
            with pytest.raises(SupervisorLost):
                await supervisor.next_report()
            return
        await _to_its_end(supervisor, process)


@pytest.mark.trio
async def test_who_sends_descriptors_is_ended() -> None:
    with _rogue() as (supervisor, raw, process), file_of(b"x") as file:
        _put(raw, b"h" + messages.encoded(Ready(1)), file.fd)
        await _to_its_end(supervisor, process)


@pytest.mark.trio
async def test_who_does_not_read_its_orders_is_ended() -> None:
    with _rogue() as (supervisor, raw, process):
        _say(raw, Ready(1))
        await supervisor.next_report()
        supervisor.order(Start(0, (b"true",), b"/"))
        with pytest.raises(SupervisorLost):
            for _ in range(100_000):
                supervisor.order(messages.Signal(10))
        assert process.wait(10) == -signal.SIGKILL


@pytest.mark.trio
async def test_orders_out_of_stage_are_not_sent() -> None:
    with _rogue() as (supervisor, raw, _):
        with pytest.raises(OutOfStage):
            supervisor.order(Kill())
        raw.setblocking(False)
        with pytest.raises(BlockingIOError):
            raw.recv(1)


# ---- a control plane that does not read for a while


def test_what_could_not_be_sent_comes_in_turn_and_is_no_longer_than_it_must_be() -> None:
    ours, theirs = Channel.pair()
    teller, other = Teller(ours), Channel.of(theirs)
    filler = Said("x" * 1000)
    sent = 0
    while not teller.has_unsent:
        teller.tell(filler)
        sent += 1
    teller.tell(Started(1))
    for _ in range(1000):
        teller.tell(filler)
        teller.tell(messages.Stopped(19))
        teller.tell(messages.Continued())
    teller.tell(messages.Stopped(20))
    assert len(teller._unsent) < 100
    got: list[messages.Message] = []
    while not teller.send_on() or teller.has_unsent:
        got += _all_from(other)
    got += _all_from(other)
    stage = messages.Stage.STARTING
    for report in got:
        stage = messages.after(stage, report)
    assert (
        stage is messages.Stage.STOPPED and got[:sent] == [filler] * sent and got[-1] == messages.Stopped(20)
    )
    ours.close()
    other.close()


def _all_from(channel: Channel) -> list[messages.Message]:
    found: list[messages.Message] = []
    while True:
        try:
            data, _ = channel.receive()
        except BlockingIOError:
            return found
        found.append(messages.report_from(data))
