"""Short programs of raw system calls, bare and under copy-on-write: the same errnos, output and tree.

After a discard the real tree is what it was, to the nanosecond; after a commit it is what a bare run leaves. Run once
more bare, the corpus proves itself; on the kernel's overlayfs it shows what is hard (both with --soak); in a sandbox
that writes to the real tree, what is the sandbox's doing alone.

    pytest tests/behaviour/copy_on_write/test_corpus.py -k "renaming and root and sandboxed"
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Any

import pytest
from behaviour.copy_on_write.differences import (
    GRANTED_DIFFERS,
    OVERLAYFS_DIFFERS,
    SANDLOCKD_DIFFERS,
    Differences,
    reason,
)
from harness.copy_on_write import CORPUS, GROUPS, Result, Runs, every_program
from harness.users import User
from harness.ways import BARE, BARE_AGAIN, COMMITTED, DISCARDED, ELSEWHERE, GRANTED, OVERLAYFS, Way

from sandlockd.kernel.syscalls import BY_NAME, Kind, Treatment

_PROGRAMS = [pytest.param(program, id="-".join(program)) for program in every_program()]

Program = tuple[str, str]


def _of(*groups: str) -> list[Any]:
    assert set(groups) <= set(GROUPS)
    return [program for program in _PROGRAMS if program.values[0][0] in groups]


def _possible(way: Way) -> None:
    why_not = way.why_not()
    if why_not is not None:
        pytest.skip(why_not)


def _result(runs: Runs, user: User, way: Way, program: Program) -> Result:
    return runs.of(user, way, program[0])[program[1]]


def _difference(expected: Sequence[str], got: Sequence[str], what: str) -> list[str]:
    return list(
        difflib.unified_diff(expected, got, f"{what}: as it should be", f"{what}: as it is", lineterm="", n=1)
    )


def _differences(bare: Result, other: Result) -> list[str]:
    """What the program printed, how it ended, and the tree that it saw in the end."""
    found = _difference(bare.lines, other.lines, "output") + _difference(bare.seen, other.seen, "tree")
    if bare.ended != other.ended:
        found.append(f"ended with {other.ended} instead of {bare.ended}")
    return found


def _judge(found: list[str], table: Differences, program: Program, user: User, *, strictly: bool) -> None:
    known = reason(table, "-".join(program), user)
    if known is None:
        assert not found, "\n" + "\n".join(found)
    elif strictly:
        assert found, f"no longer different, remove it from the table: {known}"


@pytest.mark.one_user
@pytest.mark.parametrize("program", _PROGRAMS)
def test_bare_again(runs: Runs, as_user: User, program: Program, soak: bool) -> None:
    """No program of ours is wrong, and what it prints does not depend on chance.

    The latter by itself in the long run only: chance would make `test_granted` differ, too.
    """
    bare = _result(runs, as_user, BARE, program)
    assert bare.ended == 0, "\n".join(bare.lines)
    if not soak:
        return
    again = _result(runs, as_user, BARE_AGAIN, program)
    _judge(_differences(bare, again), {}, program, as_user, strictly=True)
    assert again.left == bare.left


@pytest.mark.soak  # nothing of ours is in it
@pytest.mark.one_user
@pytest.mark.parametrize("program", _PROGRAMS)
def test_overlayfs(runs: Runs, as_user: User, program: Program) -> None:
    _possible(OVERLAYFS)
    bare = _result(runs, as_user, BARE, program)
    overlayfs = _result(runs, as_user, OVERLAYFS, program)
    # Not strictly: kernels differ.
    _judge(_differences(bare, overlayfs), OVERLAYFS_DIFFERS, program, as_user, strictly=False)
    assert overlayfs.after == overlayfs.before


@pytest.mark.one_user
@pytest.mark.parametrize("program", _PROGRAMS)
def test_granted(runs: Runs, as_user: User, program: Program) -> None:
    """In the sandbox without copy-on-write: the real tree is changed."""
    bare = _result(runs, as_user, BARE, program)
    granted = _result(runs, as_user, GRANTED, program)
    found = _differences(bare, granted) + _difference(bare.left, granted.left, "the real tree")
    _judge(found, GRANTED_DIFFERS, program, as_user, strictly=True)


@pytest.mark.parametrize("program", _PROGRAMS)
def test_sandboxed(runs: Runs, as_user: User, program: Program) -> None:
    """Nothing reaches the real tree before a commit, and then everything does."""
    _possible(COMMITTED)
    bare = _result(runs, as_user, BARE, program)
    committed = _result(runs, as_user, COMMITTED, program)
    _is_untouched(committed)
    found = _differences(bare, committed) + _difference(
        bare.left, committed.left, "the real tree after commit"
    )
    _judge(found, SANDLOCKD_DIFFERS, program, as_user, strictly=True)


@pytest.mark.one_user
@pytest.mark.parametrize("program", _of("renaming", "removing", "owners", "attributes"))
def test_discarded(runs: Runs, as_user: User, program: Program) -> None:
    _possible(DISCARDED)
    discarded = _result(runs, as_user, DISCARDED, program)
    _is_untouched(discarded)
    committed = _result(runs, as_user, COMMITTED, program)
    assert not _differences(committed, discarded)


def _is_untouched(result: Result) -> None:
    touched = _difference(result.before, result.after, "the real tree after the run")
    assert not touched, "\n" + "\n".join(touched)


@pytest.mark.parametrize("program", _of("identity", "telling", "listing"))
def test_stored_on_another_file_system(runs: Runs, as_user: User, program: Program) -> None:
    """What tells of an object tells the same as bare, wherever its copy lies."""
    _possible(ELSEWHERE)
    bare = _result(runs, as_user, BARE, program)
    elsewhere = _result(runs, as_user, ELSEWHERE, program)
    assert elsewhere.after == elsewhere.before
    _judge(_differences(bare, elsewhere), SANDLOCKD_DIFFERS, program, as_user, strictly=False)


@pytest.mark.parametrize("table", [OVERLAYFS_DIFFERS, GRANTED_DIFFERS, SANDLOCKD_DIFFERS])
def test_the_tables_of_differences_name_programs(table: Differences) -> None:
    known = {"-".join(program) for program in every_program()} | {group for group, _ in every_program()}
    named = {name for names in table.values() for name in names}
    assert {name.removeprefix("root ").removeprefix("ordinary ") for name in named} <= known


def test_every_call_with_a_path_is_in_the_corpus() -> None:
    """But for those that do not exist in the sandbox, which `tests/security/test_walk.py` walks."""
    sources = "".join(path.read_text() for path in CORPUS.glob("*.py"))
    called = set(re.findall(r"\bs\.([a-z_0-9]+)\(", sources)) | set(re.findall(r'"([a-z_0-9]+)"', sources))
    expected = {
        name
        for name, row in BY_NAME.items()
        if row.kind is Kind.PATH and row.treatment not in (Treatment.REFUSE, Treatment.ENOSYS)
    }
    assert expected - called == set()
