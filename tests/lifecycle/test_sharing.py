"""The test suite itself, shared between workers: who is alone is alone, and what belongs together stays together."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from harness.forked import in_child
from harness.sharing import Turns, together
from harness.waiting import line_of

_CORPUS = "tests/behaviour/copy_on_write/test_corpus.py"
_WHOLE = "tests/behaviour/copy_on_write/test_whole_programs.py"


@pytest.mark.parametrize("first_alone", [True, False])
def test_nobody_else_has_a_turn_while_somebody_is_alone(tmp_path: Path, first_alone: bool) -> None:
    file = tmp_path / "turns"
    file.touch()
    told, tell = os.pipe()

    def other() -> None:
        os.write(tell, b"asks\n")
        with Turns(str(file)).turn(alone=not first_alone):
            os.write(tell, b"has it\n")

    def both() -> None:
        with Turns(str(file)).turn(alone=first_alone):
            pid = os.fork()
            if pid == 0:
                os._exit(in_child(other))
            assert line_of(told) == b"asks\n"
            os.write(tell, b"gives it back\n")
        assert os.waitpid(pid, 0)[1] == 0

    assert in_child(both) == 0
    assert [line_of(told), line_of(told)] == [b"gives it back\n", b"has it\n"]
    os.close(told)
    os.close(tell)


def test_two_who_are_not_alone_have_their_turn_at_once(tmp_path: Path) -> None:
    file = tmp_path / "turns"
    file.touch()

    def other() -> None:
        with Turns(str(file)).turn(alone=False):
            pass

    def both() -> None:
        with Turns(str(file)).turn(alone=False):
            assert in_child(other) == 0

    assert in_child(both) == 0


def test_what_is_run_in_one_go_stays_together() -> None:
    assert together(f"{_CORPUS}::test_granted[root-linking-a_b]") == together(
        f"{_CORPUS}::test_sandboxed[root-linking-c]"
    )
    assert together(f"{_CORPUS}::test_granted[root-linking-a]") != together(
        f"{_CORPUS}::test_granted[ordinary-linking-a]"
    )
    assert together(f"{_WHOLE}::test_bare_again[git-work-root]") == together(
        f"{_WHOLE}::test_sandboxed[git-work-root]"
    )
    assert together("tests/systemd/a.py::test_b") == together("tests/systemd/a.py::test_c")
    assert together("tests/a.py::test_b[c-d]") == together("tests/a.py::test_b[e]") == "tests/a.py::test_b"
