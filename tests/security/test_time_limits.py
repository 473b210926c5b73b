"""`limits.timeout` and `limits.cpu_time` against who will not end, and who hides what it uses (attacks/burners.c)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from harness.running import Argument, Ended, Runner
from security import broken

# Each goes on for so long where nobody ends it, and ends with 0 then. On a busy machine it takes long to use anything.
_WALL_MS, _PATIENCE_S = 60_000, 90
_POLICY = '[filesystem]\nbase = true\n[limits]\ncpu_time = "{}"\n'

# init is asked for no limit; of the kernel's own nothing is changed.
_NO_CLOCKS = """
from sandlockd.kernel import launching
plan = launching.Plan.__init__
def init(self, **k):
    plan(self, **{**k, 'timeout_s': None, 'cpu_time_s': None})
launching.Plan.__init__ = init
"""

_WAYS = ("alone", "threads", "children", "orphans", "ignored", "no-zombies")


def _burners(runner: Runner, way: str, wall_ms: int, burn_ms: int) -> list[Argument]:
    text = (Path(__file__).parent / "attacks" / "burners.c").read_text()
    return [runner.compiler.compile(text), way, str(wall_ms), str(burn_ms)]


def _is_of_cpu_time(ended: Ended) -> bool:
    assert ended.status is not None
    return (ended.returncode, ended.reason, ended.status["rule"]) == (137, "killed", "limits.cpu_time")


@pytest.mark.parametrize("way", _WAYS)
def test_whoever_uses_the_processors_is_ended(
    runner: Runner, measured: Callable[[str, object], None], way: str
) -> None:
    command = _burners(runner, way, _WALL_MS, 3)
    ended = runner.sandboxed(command, policy=_POLICY.format("400ms"), timeout=_PATIENCE_S)
    assert _is_of_cpu_time(ended), ended.stderr
    assert b"limits.cpu_time: everything was ended" in ended.stderr
    assert ended.status is not None
    measured("used_s", ended.status["usage"]["cpu"])
    assert ended.status["usage"]["cpu"] >= 0.4  # that of children whom nobody waited for, too


@pytest.mark.one_user
def test_on_a_build_that_counts_only_each_process_by_itself_children_are_free(runner: Runner) -> None:
    for way in ("children", "ignored"):
        ended = broken.run(runner, _NO_CLOCKS, _burners(runner, way, 800, 3), policy=_POLICY.format("400ms"))
        assert ended.returncode == 0, ended.stderr


@pytest.mark.one_user
def test_the_kernel_ends_a_single_process_where_nobody_counts(runner: Runner) -> None:
    """It has whole seconds, and comes one later."""
    command = _burners(runner, "alone", _WALL_MS, 3)
    ended = broken.run(runner, _NO_CLOCKS, command, policy=_POLICY.format("400ms"), timeout=_PATIENCE_S)
    assert (ended.returncode, ended.reason) == (137, "signaled"), ended.stderr


@pytest.mark.one_user
def test_who_uses_less_is_let_be_whoever_waits_for_it(runner: Runner) -> None:
    """Nobody waits for the sleepers: what they use is lost, and little."""
    for command in (_burners(runner, "sleepers", 1500, 0), _burners(runner, "children", 150, 3)):
        ended = runner.sandboxed(command, policy=_POLICY.format("600ms"))
        assert ended.returncode == 0, ended.stderr


_DEAF = """
import os, signal, time
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN)
for _ in range(4):
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        while True:
            time.sleep(1000)
end = time.monotonic() + {wall_s}
while time.monotonic() < end:
    if os.fork() == 0:
        os._exit(0)
    os.wait()
"""


@pytest.mark.one_user
def test_who_ignores_that_it_is_asked_is_killed_wherever_it_is(runner: Runner) -> None:
    """Sessions of their own, dead parents, forks all the time. That nobody is left, the runner looks after."""
    command = ["python3", "-S", "-c", _DEAF.format(wall_s=60)]
    ended = runner.sandboxed(command, options=["--timeout", "1s"], timeout=40)
    assert (ended.returncode, ended.reason) == (124, "timeout"), ended.stderr
    assert ended.status is not None and ended.status["signal"] == 9


@pytest.mark.one_user
def test_without_the_clock_it_goes_on(runner: Runner) -> None:
    command = ["python3", "-S", "-c", _DEAF.format(wall_s=1)]
    ended = broken.run(runner, _NO_CLOCKS, command, options=["--timeout", "300ms"])
    assert ended.returncode == 0, ended.stderr


_BUSY = "import os\nwhile True:\n    os.listdir('/proc/self/fd'); os.stat('/etc/hostname'); open('/etc/hostname')\n"


def test_the_clock_keeps_its_time_whatever_the_supervisor_has_to_do(runner: Runner) -> None:
    ended = runner.sandboxed(["python3", "-S", "-c", _BUSY], options=["--timeout", "300ms"])
    assert (ended.returncode, ended.reason) == (124, "timeout"), ended.stderr
