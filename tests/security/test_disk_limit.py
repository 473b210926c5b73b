"""`limits.disk` against whoever writes past it through descriptors that it has already: everything is ended.

How far it got is what the file system says that the changes hold; `-v` shows it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from harness.running import Ended, Runner, system_python

MEGA = 1 << 20
LIMIT = 64 * MEGA
# What a busy machine needs to wake somebody up, times what its processors write meanwhile.
FURTHER = 512 * MEGA

# Each writes for ever to what it opened when there was room (attacks/writers.c).
_WAYS = (
    "one-file",
    "few-bytes-at-a-time",
    "many-processes",
    "many-files",
    "appending",
    "mapped",
    "mapped-by-many",
    "unlinked",
    "without-a-name",
    "named-and-removed",
    "in-tmp",
    "in-both",
    "spliced",
    "copied",
    "sent",
    "forking",
    "huge",
    "passed-on",
)


@pytest.mark.parametrize("how", _WAYS)
def test_who_writes_past_the_limit_is_ended(
    runner: Runner, measured: Callable[[str, object], None], how: str
) -> None:
    ended, held = _run(runner, how)
    assert ended.returncode == 137, ended.stderr
    assert ended.status is not None
    assert (ended.reason, ended.status["rule"]) == ("disk", "limits.disk")
    assert b"limits.disk: everything was ended" in ended.stderr
    measured("further_mib", round((held - LIMIT) / MEGA, 1))
    assert LIMIT < held < LIMIT + FURTHER


def test_what_is_left_of_files_without_a_name_fills_it_as_well(runner: Runner) -> None:
    """Each is opened when there is room, so that this one is told."""
    ended, held = _run(runner, "unlinked-one-after-another")
    assert ended.returncode == 3 and b"No space left on device" in ended.stderr, ended.stderr
    assert held < LIMIT


def test_how_it_ended_is_on_record_and_explained(runner: Runner) -> None:
    ended, _ = _run(runner, "one-file")
    assert ended.audit[-1]["reason"] == "disk" and ended.audit[-1]["rule"] == "limits.disk"
    notes = [record for record in ended.audit if record["kind"] == "note"]
    assert [note["subject"] for note in notes] == ["limits.disk"]
    explained = runner.sandlockd("explain", "--last").stdout.decode()
    assert "disk by signal 9 (limits.disk)" in explained
    assert "limits.disk: everything was ended: its changes came to hold" in explained


def test_who_is_faster_than_anybody_looks_has_passed_it_all_the_same(runner: Runner) -> None:
    """A run that ends by itself before it is found out is not committed."""
    program = _writers(runner)
    work = runner.place.empty_work()
    options = ["--workdir", work, "--disk", "1M", "--on-exit", "commit"]
    ended = runner.sandboxed([program, "in-a-moment"], options=options)
    assert ended.returncode == 137 and ended.reason == "disk"
    assert list(work.iterdir()) == []


def test_what_stays_within_the_limit_is_let_be(runner: Runner) -> None:
    program = _writers(runner)
    work = runner.place.empty_work()
    options = ["--workdir", work, "--disk", "64M", "--on-exit", "discard"]
    ended = runner.sandboxed([program, "within"], options=options, timeout=60)
    assert ended.returncode == 0, ended.stderr


_LEAVES_A_COPY = """
import os, threading, time
threading.Thread(target=lambda: os.open("large", os.O_RDWR)).start()
time.sleep(0.1)
os._exit(7)
"""


def test_a_copy_that_outlives_the_program_is_given_up(runner: Runner) -> None:
    """Whoever makes it tells of it when all is over."""
    command = [system_python(), "-S", "-c", _LEAVES_A_COPY]
    for _ in range(4):
        work = runner.place.empty_work()
        with (work / "large").open("wb") as file:
            for _ in range(600):
                file.write(bytes(MEGA))
        options = ["--workdir", work, "--disk", "2G", "--on-exit", "discard"]
        ended = runner.sandboxed(command, options=options, timeout=60)
        assert (ended.returncode, ended.reason) == (7, "exited"), ended.stderr


_ALLOCATIONS_THAT_FAIL = """
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
open("file", "w").close()
reader = os.open("file", os.O_RDONLY)
for _ in range(100):
    assert libc.fallocate(reader, 0, ctypes.c_long(0), ctypes.c_long(2 << 20)) == -1
    assert ctypes.get_errno() == errno.EBADF
libc.fallocate(os.open("file", os.O_RDWR), 0, ctypes.c_long(0), ctypes.c_long(32 << 20)) == 0 or exit(4)
"""


def test_an_allocation_that_fails_keeps_no_room(runner: Runner) -> None:
    command = [system_python(), "-S", "-c", _ALLOCATIONS_THAT_FAIL]
    options = ["--workdir", runner.place.empty_work(), "--disk", "64M", "--on-exit", "discard"]
    ended = runner.sandboxed(command, options=options, timeout=60)
    assert ended.returncode == 0, ended.stderr


def _writers(runner: Runner) -> Path:
    return runner.compiler.compile((Path(__file__).parent / "attacks" / "writers.c").read_text())


def _run(runner: Runner, how: str) -> tuple[Ended, int]:
    """And what its changes held in the end."""
    program = _writers(runner)
    work = runner.place.empty_work()
    disk = ["--workdir", work, "--disk", str(LIMIT // MEGA) + "M", "--on-exit", "discard"]
    ended = runner.sandboxed([program, how], options=disk, timeout=60)
    assert ended.status is not None, ended.stderr
    return ended, int(ended.status["usage"]["disk"])
