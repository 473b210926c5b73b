"""Fixtures that every test may use. What they give is documented in harness/."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
import pytest
from harness import forms, groups, ledger
from harness.compiling import Compiler
from harness.places import Place, new_place
from harness.running import Runner
from harness.session_end import end_session, interrupt_workers, sweep
from harness.sharing import (
    GROUPED,
    TogetherScheduling,
    Turns,
    is_alone,
    is_users_turn,
    number_of_workers,
    ordered,
)
from harness.survivors import end, marked
from harness.users import User, current, temporary_user, why_unable_to_run
from harness.waiting import Patience, until


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help="run the long tests too, and others longer")


# How long an example takes, to make and to run, depends on what else the machine does.
hypothesis.settings.register_profile(
    "untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("untimed")

_TURNS = pytest.StashKey[Turns]()


def pytest_configure(config: pytest.Config) -> None:
    """What nohup(1) or a shell's background set to be ignored would be ignored by every command of every test."""
    for number in (signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _interrupt)
    worker = getattr(config, "workerinput", None)
    if worker is not None:
        config.stash[_TURNS] = Turns(worker["turns"])
    else:
        sweep()
    for path in groups.places():
        ledger.own().note(ledger.Thing("cgroup", str(path)))


def _interrupt(number: int, frame: object) -> None:
    """SIGTERM ends the session as SIGINT does: with all that it made. In a forked child it ends that."""
    if os.getpid() == _THIS_PROCESS:
        signal.raise_signal(signal.SIGINT)
    else:
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)


_THIS_PROCESS = os.getpid()

on_its_way_out_s = 5.0


_interrupted: list[object] = []


def pytest_keyboard_interrupt(excinfo: pytest.ExceptionInfo[BaseException]) -> None:
    """What the tests have made is removed now, which is not to be interrupted by the same wish, told once more."""
    _interrupted.append(excinfo)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    interrupt_workers(ledger.own().session)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    """In the process that has the workers, or is the only one: when all else is over."""
    try:
        return (yield)
    finally:
        if ledger.own().is_first:
            left = end_session(ledger.own().session)
            if left:
                session.exitstatus = pytest.ExitCode.TESTS_FAILED
                _tell(session.config, left)


def _tell(config: pytest.Config, left: list[str]) -> None:
    reporter: Any = config.pluginmanager.get_plugin("terminalreporter")
    reporter.section("the session has left behind, and it was removed", red=True)
    for line in left:
        reporter.write_line(line, red=True)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    return number_of_workers(config)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> TogetherScheduling:
    return TogetherScheduling(config, log)


def pytest_configure_node(node: Any) -> None:
    """In the process that has the workers. They share a file that goes with it, however it ends."""
    if not hasattr(node.config, "turns_fd"):
        node.config.turns_fd = os.memfd_create("turns")
    node.workerinput["turns"] = f"/proc/{os.getpid()}/fd/{node.config.turns_fd}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    turns = item.config.stash.get(_TURNS, None)
    if turns is None:
        return (yield)
    with turns.turn(alone=is_alone(item)):
        return (yield)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items[:] = ordered(items, is_shared=_TURNS in config.stash)
    if not config.getoption("--soak"):
        if os.geteuid() == 0:
            others = [
                item for item in items if item.get_closest_marker("one_user") and not is_users_turn(item)
            ]
            config.hook.pytest_deselected(items=others)
            items[:] = [item for item in items if item not in set(others)]
        for item in items:
            if item.get_closest_marker("soak"):
                item.add_marker(pytest.mark.skip(reason="a long run, only with --soak"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    lines = [
        f"{report.nodeid}: " + ", ".join(f"{name}={value}" for name, value in report.user_properties)
        for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
        if report.when == "call" and report.user_properties
    ]
    if lines and terminalreporter.verbosity > 0:
        terminalreporter.section("measured")
        for line in lines:
            terminalreporter.write_line(line)


Measured = Callable[[str, object], None]


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Measured:
    """Note a number; -v shows them at the end. (record_property does not go with the newer JUnit format.)"""
    return lambda name, value: request.node.user_properties.append((name, value))


@pytest.fixture(scope="session")
def soak(request: pytest.FixtureRequest) -> bool:
    """Take the time that it takes."""
    return bool(request.config.getoption("--soak"))


@pytest.fixture(scope="session")
def _ordinary_user() -> Iterator[User]:
    if os.geteuid() != 0:
        yield current()
        return
    with contextlib.ExitStack() as stack:
        try:
            user = stack.enter_context(temporary_user())
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no ordinary user could be made: {error}")
        reason = why_unable_to_run(user)
        if reason is not None:
            pytest.skip(reason)
        yield user


@pytest.fixture(scope="session")
def users(request: pytest.FixtureRequest) -> None:
    """For what has directories of theirs for a whole session: they are made before it, and removed after it."""
    with contextlib.suppress(pytest.skip.Exception):
        request.getfixturevalue("_ordinary_user")


@pytest.fixture(params=["root", "ordinary"])
def as_user(request: pytest.FixtureRequest) -> User:
    """The test runs twice: as root, and as an ordinary user."""
    if request.param in ("root", GROUPED):
        if os.geteuid() != 0:
            pytest.skip("needs root")
        if request.param == GROUPED:
            forms.require_groups()
        return current()
    user: User = request.getfixturevalue("_ordinary_user")
    return user


@pytest.fixture(scope="session")
def compiler() -> Iterator[Compiler]:
    """C programs for tests, each compiled once."""
    with ledger.directory("programs") as directory:
        directory.chmod(0o755)
        yield Compiler(directory)


@pytest.fixture
def place(as_user: User) -> Iterator[Place]:
    """Directories of the user's: work, state, temporary, home."""
    with new_place(as_user) as made:
        yield made


@pytest.fixture
def runner(place: Place, compiler: Compiler) -> Iterator[Runner]:
    """Runs commands bare and sandboxed. Fails the test that leaves a process or a temporary file behind."""
    with _checked_runner(place, compiler) as made:
        yield made


@pytest.fixture(scope="module")
def runner_of(compiler: Compiler) -> Iterator[Callable[[User], Runner]]:
    """For what serves many tests of a module: a runner for each user, checked when they are over."""
    made: dict[str, Runner] = {}
    with contextlib.ExitStack() as stack:

        def of(user: User) -> Runner:
            if user.name not in made:
                place = stack.enter_context(new_place(user))
                made[user.name] = stack.enter_context(_checked_runner(place, compiler))
            return made[user.name]

        yield of


@contextlib.contextmanager
def _checked_runner(place: Place, compiler: Compiler) -> Iterator[Runner]:
    made = Runner(place, f"{ledger.own().session}-{uuid.uuid4().hex}", compiler)
    yield made
    if _interrupted:
        end(marked(made.marker))
        with contextlib.suppress(Patience):
            until(lambda: not marked(made.marker), "the end of what was killed", limit_s=5)
        groups.remove(groups.left_of(place.root, groups.places()))
        return
    try:
        # A process that was just killed may still be on its way out.
        until(
            lambda: not marked(made.marker), "the end of all that the test started", limit_s=on_its_way_out_s
        )
    except Patience:
        survivors = marked(made.marker)
        end(survivors)
        pytest.fail(f"left behind: {survivors}")
    left_groups = groups.left_of(place.root, groups.places())
    groups.remove(left_groups)
    left = [name for name in os.listdir(place.temporary) if name.startswith("sandlockd-")]
    assert not left or made.may_leave_temporary, f"temporary directories left behind: {left}"
    assert not left_groups, f"cgroups left behind: {left_groups}"
