"""A service that the tests of a module share, one for each user. Each test leaves it as it was."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest
from harness.running import Runner
from harness.service import Served, service
from harness.users import User

# The limits are smaller than they are by default: a test reaches them.
CONFIG = """
[per_user]
sandboxes = 12
connections = 64
[keeping]
log = "256K"
[starting]
warm = 2
stop_grace = "5s"
"""


@pytest.fixture(scope="module")
def service_of(runner_of: Callable[[User], Runner]) -> Iterator[Callable[[User], Served]]:
    made: dict[str, Served] = {}
    with contextlib.ExitStack() as stack:

        def of(user: User) -> Served:
            if user.name not in made:
                made[user.name] = stack.enter_context(service(runner_of(user), config=CONFIG))
            return made[user.name]

        yield of


@pytest.fixture
def served(as_user: User, service_of: Callable[[User], Served]) -> Iterator[Served]:
    """Fails the test after which something is left of its sandboxes, or something broke in the service."""
    one = service_of(as_user)
    said = len(one.log.read_bytes())
    yield one
    one.remove_all()
    for directory in ("runs", "sandboxes", "storage"):
        path = one.state / directory
        assert not path.exists() or not list(path.iterdir()), f"left in {directory}"
    broke = [
        line for line in one.log.read_text()[said:].splitlines() if "Traceback" in line or "given up" in line
    ]
    assert not broke, "\n".join(broke)
