"""The corpus once more, in the /tmp that a program with a copy-on-write tree has of its own: as in a fresh one bare.

pytest tests/behaviour/copy_on_write/test_corpus_in_tmp.py -k "renaming and root"
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from behaviour.copy_on_write.differences import IN_TMP_DIFFERS
from behaviour.copy_on_write.test_corpus import Program, _differences, _judge, _possible
from harness.compiling import Compiler
from harness.copy_on_write import Runs, every_program, runs_of
from harness.users import User
from harness.ways import BARE_TMP, DISCARDED

_PROGRAMS = [pytest.param(program, id="-".join(program)) for program in every_program()]


@pytest.fixture(scope="session")
def tmp_runs(request: pytest.FixtureRequest, users: None, compiler: Compiler) -> Iterator[Runs]:
    """With the programs that this session's selection wants."""
    selected: dict[str, list[str]] = {}
    for item in request.session.items:
        program = getattr(item, "callspec", None) and item.callspec.params.get("program")
        if program and program[1] not in selected.setdefault(program[0], []):
            selected[program[0]].append(program[1])
    with runs_of(compiler, selected) as made:
        yield made


@pytest.mark.one_user
@pytest.mark.parametrize("program", _PROGRAMS)
def test_in_tmp(tmp_runs: Runs, as_user: User, program: Program) -> None:
    group, name = program
    for way in (BARE_TMP, DISCARDED):
        _possible(way)
    bare = tmp_runs.of(as_user, BARE_TMP, group, in_tmp=True)[name]
    assert bare.ended == 0, "\n".join(bare.lines)
    ours = tmp_runs.of(as_user, DISCARDED, group, in_tmp=True)[name]
    _judge(_differences(bare, ours), IN_TMP_DIFFERS, program, as_user, strictly=True)
