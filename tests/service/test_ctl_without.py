"""sandlockctl where no service answers, or not to us."""

from __future__ import annotations

import socket

import pytest
from harness.controlling import Ctl
from harness.service import Served

# Nothing is closed to root.
pytestmark = pytest.mark.parametrize("as_user", ["ordinary"], indirect=True)


@pytest.fixture
def ctl(served: Served) -> Ctl:
    return Ctl(served)


def test_where_no_service_answers_each_verb_says_what_to_do(ctl: Ctl) -> None:
    """`ps` and what is about changes works without one, unless one was named."""
    nowhere = ctl.runner.place.root / "nowhere"
    for words in (
        ["run", "--", "true"], ["ps"], ["stop", "n"], ["top"], ["explain", "n"], ["diff", "n"],
    ):  # fmt: skip
        verb, *rest = words
        said = ctl.refused(verb, "--socket", nowhere, *rest, status=125)
        assert said.startswith(f"no service answers at {nowhere} (No such file or directory): start one with")


def test_a_service_that_is_not_for_us_says_who_it_is_for(ctl: Ctl) -> None:
    path = ctl.runner.place.root / "not-ours"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        path.chmod(0)
        assert "become a member" in ctl.refused("ps", "--socket", path, status=125)


def test_from_inside_a_sandbox_there_is_no_service(ctl: Ctl) -> None:
    """From inside a sandbox, which reaches no socket of the machine's."""
    script = f"{ctl.command} --version; {ctl.command} ps --socket {ctl.served.socket}"
    options = ["--read", ctl.command.parent.parent, "--write", ctl.served.socket.parent]
    ended = ctl.runner.sandboxed(["sh", "-c", script], options=options)
    assert ended.returncode == 125 and b"is not for you" in ended.stderr
