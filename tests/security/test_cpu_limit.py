"""`limits.cpu` against who takes more, each in its own way (attacks/hogs.c).

What is checked of time is an upper bound: on a busy machine everybody gets less.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from harness.forms import FORMS, in_its_form
from harness.running import Argument, Ended, Runner
from security import broken

_PERCENT, _WALL_MS = 10, 900
_POLICY = '[filesystem]\nbase = true\n[limits]\ncpu = "10%"\n'
# What is saved up at the start, and what is used before the first look and as it comes late.
_AHEAD_S = 0.12

_UNHELD = """
from sandlockd.kernel import launching
plan = launching.Plan.__init__
def init(self, **k):
    plan(self, **{**k, 'cpu_percent': None})
launching.Plan.__init__ = init
"""

pytestmark = pytest.mark.parametrize("as_user", FORMS, indirect=True)


@pytest.fixture
def runner(runner: Runner, request: pytest.FixtureRequest) -> Runner:
    return in_its_form(runner, request)


_WAYS = ("alone", "four", "hundred", "bomb", "forks", "relay", "turns", "waker", "calls")
_WAYS_IN_A_CGROUP = ("four", "bomb", "relay")


def _hogs(runner: Runner, way: str, wall_ms: int = _WALL_MS) -> list[Argument]:
    text = (Path(__file__).parent / "attacks" / "hogs.c").read_text()
    # What may not be read has no libraries: nobody could open them for it.
    return [runner.compiler.compile(text, static=way == "unreadable"), way, str(wall_ms)]


def _used_s(ended: Ended) -> tuple[float, float]:
    assert ended.status is not None
    return ended.status["usage"]["cpu"], ended.status["usage"]["wall"]


@pytest.mark.one_user
@pytest.mark.parametrize("way", _WAYS)
def test_nobody_gets_more_than_its_share(
    runner: Runner, measured: Callable[[str, object], None], way: str, soak: bool
) -> None:
    if runner.with_cgroups and way not in _WAYS_IN_A_CGROUP and not soak:
        pytest.skip("a long run, only with --soak: the kernel holds who is in a cgroup, whatever it does")
    ended = runner.sandboxed(_hogs(runner, way), policy=_POLICY)
    assert ended.returncode == 0, ended.stderr
    used_s, wall_s = _used_s(ended)
    measured("percent", round(100 * used_s / wall_s, 1))
    assert used_s <= wall_s * _PERCENT / 100 + _AHEAD_S


@pytest.mark.parametrize("way", ["enters", "enters-with-timer"])
def test_who_has_its_calls_made_otherwise_gets_no_more(
    runner: Runner, measured: Callable[[str, object], None], way: str
) -> None:
    """Each chdir into a new directory of the tree is made an fchdir, by tracing (native/restarts.c)."""
    options = ["--workdir", str(runner.work), "--on-exit", "discard", "--quiet"]
    ended = runner.sandboxed(_hogs(runner, way), policy=_POLICY, options=options)
    assert ended.returncode == 0, ended.stderr
    used_s, wall_s = _used_s(ended)
    measured("percent", round(100 * used_s / wall_s, 1))
    assert used_s <= wall_s * _PERCENT / 100 + _AHEAD_S


@pytest.mark.one_user
def test_on_a_build_that_holds_nobody_they_do(runner: Runner) -> None:
    """With a share so small that on any machine they get more. A cgroup needs nobody who holds them."""
    for way in ("four", "turns"):
        ended = broken.run(runner, _UNHELD, _hogs(runner, way, 1500), policy=_POLICY.replace("10%", "1%"))
        used_s, wall_s = _used_s(ended)
        assert (used_s > wall_s / 100 + _AHEAD_S) != runner.with_cgroups, way


def test_who_cannot_be_held_ends_the_run(runner: Runner) -> None:
    """An ordinary user's processes whose file may be executed and not read. Root may look into all."""
    command = _hogs(runner, "unreadable")
    ended = runner.sandboxed(command, policy=_POLICY, options=["--write", str(runner.work)])
    assert ended.status is not None
    used_s, wall_s = _used_s(ended)
    assert used_s <= wall_s * _PERCENT / 100 + _AHEAD_S
    if runner.with_cgroups:
        assert ended.status["usage"]["kept_by"]["cpu"].startswith("cgroup v")
    if runner.place.user.uid != 0:
        assert (ended.returncode, ended.reason, ended.status["rule"]) == (137, "killed", "limits.cpu")
        assert b"cannot be held to its share" in ended.stderr


@pytest.mark.one_user
def test_a_run_in_which_nobody_could_be_held_is_not_started(runner: Runner) -> None:
    policy = _POLICY + '[syscalls]\nallow = ["ptrace"]\n'
    ended = runner.sandboxed(["echo", "started"], policy=policy)
    if runner.with_cgroups:  # which needs no tracer
        assert (ended.returncode, ended.stdout) == (0, b"started\n")
        return
    assert (ended.returncode, ended.stdout) == (125, b"")
    assert b"limits.cpu cannot be kept here" in ended.stderr
