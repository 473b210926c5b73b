"""The list of changes: what a reviewer is told, and what is marked for him."""

from __future__ import annotations

import pytest
from harness.file_operations import Operation
from harness.memory_commit import MemoryInspector
from harness.memory_layers import everything
from harness.overlay_pair import Pair

from sandlockd.overlay.changes import Change, What, digest, list_changes
from sandlockd.overlay.commit import Refused, plan_commit
from sandlockd.overlay.entries import Kind
from sandlockd.overlay.identity import Identity, Origin, decode_origin, encode_origin
from sandlockd.overlay.marks import LEADS_OUT, path_marks

CREATE = frozenset({"create", "write"})
PLAIN = (7, 7)  # aims at nothing but the path itself

TREE = [
    Operation("mkdir", b"d"),
    Operation("mkdir", b"d/e"),
    Operation("open", b"d/f", flags=CREATE, number=2),
    Operation("open", b"d/e/g", flags=CREATE, number=3),
    Operation("open", b"file", flags=CREATE, number=1),
    Operation("symlink", b"link", b"d/f"),
]


_WITHOUT_D = (Operation("unlink", b"d/f"), Operation("rmdir", b"d"))


def changes(*calls: Operation) -> list[Change]:
    pair = Pair([(operation, PLAIN) for operation in TREE])
    assert len(list(everything(pair.lower.top))) == len(TREE)
    for operation in calls:
        pair.call(operation, PLAIN)
    return list_changes(pair.view, MemoryInspector(pair.upper, pair.lower))


def told(rows: list[Change]) -> list[tuple[str, bytes]]:
    return [(row.what.value, row.path) for row in rows if not row.is_folded]


def test_each_thing_that_happens_has_its_letter() -> None:
    rows = changes(
        Operation("unlink", b"link"),
        Operation("open", b"file", flags=frozenset({"write"}), number=3),
        Operation("chmod", b"d/f", number=0o600),
        Operation("mkdir", b"new"),
        Operation("rename", b"d/e/g", b"new/g"),
    )
    assert told(rows) == [("D", b"link"), ("m", b"d/f"), ("M", b"file"), ("A", b"new"), ("R", b"new/g")]
    assert rows[-1].source == b"d/e/g"


def test_a_copy_that_nobody_changed_and_a_directory_made_anew_are_no_changes() -> None:
    assert changes(Operation("chmod", b"file", number=0o644)) == []
    rows = changes(Operation("unlink", b"d/e/g"), Operation("rmdir", b"d/e"), Operation("mkdir", b"d/e"))
    assert told(rows) == [("D", b"d/e/g")]


def test_a_directory_that_goes_is_one_row_with_its_count() -> None:
    rows = changes(
        Operation("unlink", b"d/e/g"),
        Operation("rmdir", b"d/e"),
        Operation("unlink", b"d/f"),
        Operation("rmdir", b"d"),
    )
    assert told(rows) == [("D", b"d")]
    assert rows[0].total == 4


def test_a_renamed_directory_is_one_row_and_what_changed_in_it() -> None:
    rows = changes(Operation("rename", b"d", b"n"), Operation("chmod", b"n/f", number=0o600))
    assert told(rows) == [("R", b"n"), ("R", b"n/f")]
    assert {row.path: row.source for row in rows} == {
        b"n": b"d",
        b"n/e": b"d/e",
        b"n/e/g": b"d/e/g",
        b"n/f": b"d/f",
    }


def test_a_change_of_kind_is_told_as_that() -> None:
    rows = changes(Operation("unlink", b"file"), Operation("symlink", b"file", b"/etc/passwd"))
    assert told(rows) == [("T", b"file")]
    assert rows[0].marks == (LEADS_OUT,)


def test_deletions_come_first() -> None:
    rows = changes(Operation("mkdir", b"a"), Operation("unlink", b"link"))
    assert told(rows) == [("D", b"link"), ("A", b"a")]


def test_a_choice_that_would_lose_what_was_renamed_is_refused() -> None:
    rows = changes(
        Operation("rename", b"d/e/g", b"g"),
        Operation("rmdir", b"d/e"),
        Operation("unlink", b"d/f"),
        Operation("rmdir", b"d"),
    )
    assert told(rows) == [("D", b"d"), ("R", b"g")]
    both = plan_commit(rows, digest(rows), [b"g"])
    assert {action.path for action in both.actions} >= {b"g", b"d/e/g"}
    lost = [row for row in rows if row.what is not What.RENAMED]
    assert plan_commit(rows, digest(rows), [b"d"]) == plan_commit(rows, digest(rows))
    assert len(lost) == 1
    with pytest.raises(Refused):
        plan_commit(rows, digest(rows), [b"nothing"])


@pytest.mark.parametrize(
    "path",
    [b".git/hooks/pre-commit", b"sub/.git/config", b".git/modules/x/hooks/y", b".envrc", b"a/conftest.py", b"x.pth",
     b".bashrc", b"sub/.git", b".vscode/tasks.json"],
)  # fmt: skip
def test_what_runs_by_itself_is_marked(path: bytes) -> None:
    assert path_marks(path, Kind.FILE)


@pytest.mark.parametrize(
    "path", [b"Makefile", b"package.json", b".github/x.yml", b".git/objects/ab/cd", b"hooks/x"]
)
def test_what_somebody_has_to_run_is_not_marked(path: bytes) -> None:
    assert path_marks(path, Kind.FILE) == ()


@pytest.mark.parametrize(
    ("target", "is_out"),
    [
        (b"d/f", False),
        (b"../x", True),
        (b"/etc", True),
        (b"/t/d", False),
        (b"d/../../x", True),
        (b"none/../d", False),
    ],
)
def test_a_link_out_of_the_tree_is_marked(target: bytes, is_out: bool) -> None:
    rows = changes(Operation("symlink", b"new", target))
    assert (LEADS_OUT in rows[0].marks) is is_out


def test_setuid_is_marked() -> None:
    rows = changes(Operation("open", b"s", flags=CREATE), Operation("chmod", b"s", number=0o4755))
    assert rows[0].marks


def test_the_record_of_an_origin_reads_back_and_a_foreign_one_is_none() -> None:
    identity = Identity(Kind.FILE, 2049, 12, 5, -1, 1 << 62, 0o4755)
    for path in (b"a b/\xff\n", b"x" * 1024):
        assert decode_origin(encode_origin(Origin(path, identity))) == Origin(path, identity)
    assert decode_origin(encode_origin(Origin(b"x" * 1025, identity))) == Origin(b"", identity)
    for value in (b"", b"2 f 1 1 1 1 1 1 p", b"1 ? 1 1 1 1 1 1 p", b"1 f x 1 1 1 1 1 p"):
        assert decode_origin(value) is None
