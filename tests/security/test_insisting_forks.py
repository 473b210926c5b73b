"""Who is at `limits.processes` and asks for more again and again: a load on the machine that no limit of his bounds.

How often he is refused is counted, by himself; how long that took is his to say as well, so a slow machine only has him
ask less often.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import pytest
from harness.descendants import below, init_of
from harness.forms import FORMS, in_its_form
from harness.running import Runner, system_python
from harness.waiting import line_of, until, wait_dead
from security import broken

from sandlockd.kernel.syscalls import number_of

CALLERS = 8
_AT_ONCE = 100
_EACH_S = 0.02
_NOT_PUT_OFF = "from sandlockd.kernel import engine\nengine.REFUSALS_AT_ONCE = 10**8\n"

pytestmark = pytest.mark.parametrize("as_user", FORMS, indirect=True)


@pytest.fixture
def runner(runner: Runner, request: pytest.FixtureRequest) -> Runner:
    return in_its_form(runner, request)


# CALLERS children and their parent are as many as there may be. Each asks until the time is over, says how often it was
# refused, and waits for the others: none makes room.
_INSIST = """
import os, sys, time
callers, lasts_s = int(sys.argv[1]), float(sys.argv[2])
answers, answer = os.pipe()
wait, over = os.pipe()
start, go = os.pipe()
begun = time.monotonic()
for _ in range(callers):
    if os.fork() == 0:
        os.close(over)
        os.close(go)
        os.read(start, 1)
        refused = 0
        while time.monotonic() < begun + lasts_s:
            try:
                child = os.fork()
            except BlockingIOError:
                refused += 1
            else:
                os._exit(3)
        os.write(answer, b"%d\\n" % refused)
        os.read(wait, 1)
        os._exit(0)
print("full", flush=True)
os.close(go)
os.close(answer)
said = b""
while said.count(b"\\n") < callers:
    said += os.read(answers, 4096)
lasted_s = time.monotonic() - begun
os.close(over)
for _ in range(callers):
    assert os.wait()[1] == 0
print(sum(map(int, said.split())), lasted_s)
"""


def _command(callers: int, lasts_s: float) -> list[str]:
    return [system_python(), "-S", "-c", _INSIST, str(callers), str(lasts_s)]


def _refused(runner: Runner, patch: str = "") -> tuple[int, float]:
    """How many refusals, and in how many seconds."""
    options = ["--processes", str(CALLERS + 1), "--quiet"]
    ended = broken.run(runner, patch, _command(CALLERS, 0.5), options=options)
    assert ended.returncode == 0, ended.stderr
    refused, lasted_s = ended.stdout.removeprefix(b"full\n").split()
    records = {one["number"]: one for one in ended.refusals if one["rule"] == "limits.processes"}
    assert sum(record["count"] for record in records.values()) == int(refused)
    return int(refused), float(lasted_s)


def _most(lasted_s: float) -> float:
    return _AT_ONCE + lasted_s / _EACH_S + CALLERS


def test_who_insists_is_refused_some_times_and_then_less_and_less(runner: Runner) -> None:
    refused, lasted_s = _refused(runner)
    assert _AT_ONCE // 2 <= refused <= _most(lasted_s)


def test_a_build_that_puts_nothing_off_refuses_more_often(runner: Runner) -> None:
    refused, lasted_s = _refused(runner, _NOT_PUT_OFF)
    assert refused > _most(lasted_s)


@pytest.mark.parametrize("ends", ["program", "supervisor"])
def test_with_refusals_put_off_everything_ends_as_ever(runner: Runner, ends: str) -> None:
    runner.may_leave_temporary = ends == "supervisor"
    line = runner.command_line(_command(48, 60.0), options=["--processes", "49", "--quiet"])
    with runner.started(line) as process:
        assert process.stdout is not None
        assert line_of(process.stdout.fileno()) == b"full\n"
        processes = below(init_of(process.pid)).processes
        assert len(processes) == 49
        until(lambda: _waiting_for_forks(processes) > 24, "refusals that are put off")
        with contextlib.ExitStack() as stack:
            pidfds = [os.pidfd_open(pid) for pid in processes]
            for pidfd in pidfds:
                stack.callback(os.close, pidfd)
            process.send_signal(signal.SIGTERM if ends == "program" else signal.SIGKILL)
            process.wait()
            wait_dead(pidfds)


def _waiting_for_forks(processes: frozenset[int]) -> int:
    fork = f"{number_of('clone')} "
    return sum(Path(f"/proc/{pid}/syscall").read_text().startswith(fork) for pid in processes)
