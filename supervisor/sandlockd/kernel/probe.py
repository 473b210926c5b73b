"""Probes: each feature of the kernel that a run relies on is tried, in a child, and judged by what happens.

Refuses to conclude from version numbers and configuration files: what is said to be there has been used. A probe
runs in a process of its own, because what it tries cannot be undone (a Landlock domain, a filter) or may hang.
"""

from __future__ import annotations

import enum
import errno
import json
import os
import select
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

TIMEOUT_S = 10.0

_ABSENT = frozenset((errno.ENOSYS, errno.EOPNOTSUPP))


class State(enum.Enum):
    OK = "ok"
    MISSING = "missing"  # the machine does not have it
    BROKEN = "broken"  # it is there and does not do what it should


@dataclass(frozen=True, slots=True)
class Finding:
    state: State
    detail: str  # one line: what was seen


class Missing(Exception):
    """The feature is not there."""


class Broken(Exception):
    """It is there, and what it should do did not happen."""


Probe = Callable[[], str]  # returns the detail; raises Missing, Broken or OSError


def in_child(probe: Probe, timeout_s: float = TIMEOUT_S) -> Finding:
    """Run a probe in a forked child, which is killed with all it started when the time is up."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        _be_child(probe, reading, writing)
    os.close(writing)
    try:
        text = _read_all(reading, time.monotonic() + timeout_s)
    finally:
        os.close(reading)
        _end(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    if text is None:
        return Finding(State.BROKEN, f"no answer within {timeout_s:g} s")
    if not text:
        code = os.waitstatus_to_exitcode(status)
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        return Finding(State.BROKEN, f"the process that tried it died ({how})")
    state, detail = json.loads(text)
    return Finding(State(state), detail)


def _be_child(probe: Probe, reading: int, writing: int) -> None:
    try:
        os.setpgid(0, 0)
        os.close(reading)
        finding = judged(probe)
        os.write(writing, json.dumps((finding.state.value, finding.detail)).encode())
        # The answer is given; the parent kills what is left of the group, us included.
    finally:
        os._exit(0)


def judged(probe: Probe) -> Finding:
    """A probe's result or exception as a finding, in this process."""
    try:
        return Finding(State.OK, probe())
    except Missing as missing:
        return Finding(State.MISSING, str(missing))
    except Broken as broken:
        return Finding(State.BROKEN, str(broken))
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0, str(error.errno))
        state = State.MISSING if error.errno in _ABSENT else State.BROKEN
        return Finding(state, f"{error.strerror} ({name})")
    except Exception as error:  # a probe of ours that is wrong must not hide the others
        return Finding(State.BROKEN, f"the probe failed: {error!r}")


def _read_all(fd: int, deadline: float) -> bytes | None:
    """Up to the end, or None when it does not come in time."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    text = b""
    while (left_s := deadline - time.monotonic()) > 0:
        if not poll.poll(left_s * 1000):
            break
        some = os.read(fd, 65536)
        if not some:
            return text
        text += some
    return None


def _end(pid: int, number: int) -> None:
    # Not reaped yet, so both numbers are still the child's own.
    for kill in (os.killpg, os.kill):
        try:
            kill(pid, number)
        except ProcessLookupError:
            continue  # it died before it made its group, or all of the group is dead


@contextmanager
def scratch_directory() -> Iterator[str]:
    """A directory of our own; removed afterwards, by a process that the probe has not restricted."""
    path = tempfile.mkdtemp(prefix="sandlockd-doctor-")
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def refused(action: Callable[[], object], *errnos: int) -> bool:
    """Does it fail with one of these? Raises OSError when it fails with another."""
    try:
        action()
    except OSError as error:
        if error.errno in errnos:
            return True
        raise
    return False
