"""Passages of a tree that starts empty: the walk leaves it there, and what is above them stays in its place."""

from __future__ import annotations

import errno

import pytest
from harness.memory_layers import MemoryLayer, Node

from sandlockd.overlay import plans
from sandlockd.overlay.entries import FsError, Kind, NoLayer
from sandlockd.overlay.lookup import Goal, Outside, entrance, walk
from sandlockd.overlay.view import Found, Last, View


def directory(**names: Node) -> Node:
    top = Node(Kind.DIRECTORY)
    top.children = {name.encode(): node for name, node in names.items()}
    return top


def link(target: bytes) -> Node:
    return Node(Kind.SYMLINK, content=target)


@pytest.fixture
def view() -> View:
    upper = directory(
        a=directory(out=directory(), file=Node(Kind.FILE), own=Node(Kind.FILE)),
        to_out=link(b"a/out"),
        absolute=link(b"/tmp/a/out/deeper"),
        beside=directory(),
    )
    passages = frozenset((b"a/out", b"a/file"))
    return View(b"/tmp", MemoryLayer(upper, 2), NoLayer(), passages=passages)


def go(view: View, path: bytes, goal: Goal = Goal.FOLLOW) -> Found | Outside:
    return walk(view.top(), path, goal, enter=entrance([view]))


@pytest.mark.parametrize(
    ("path", "at", "rest"),
    [
        (b"a/out", b"/tmp/a/out", b""),
        (b"a/out/", b"/tmp/a/out", b"."),
        (b"a/out/x/y", b"/tmp/a/out", b"x/y"),
        (b"a/out/../x/", b"/tmp/a/out", b"../x/"),
        (b"a/../a/./out/x", b"/tmp/a/out", b"x"),
        (b"to_out/x", b"/tmp/a/out", b"x"),
        (b"a/file", b"/tmp/a/file", b""),
        (b"a/file/", b"/tmp/a/file", b"."),
    ],
)
def test_the_walk_leaves_the_tree(view: View, path: bytes, at: bytes, rest: bytes) -> None:
    reached = go(view, path)
    assert isinstance(reached, Outside)
    assert (reached.at, reached.rest) == (at, rest)


def test_an_absolute_link_through_one_leads_out_at_once(view: View) -> None:
    reached = go(view, b"absolute/x")
    assert isinstance(reached, Outside)
    assert (reached.at, reached.rest, reached.links) == (b"/", b"tmp/a/out/deeper/x", 1)


def test_its_own_name_is_one_of_the_tree_that_nobody_changes(view: View) -> None:
    for name in (b"a/out", b"a/file"):
        found = go(view, name, Goal.NAME)
        assert isinstance(found, Found) and found.last is Last.ROOT
        expected = (
            (lambda found: plans.create(found, Kind.DIRECTORY), errno.EEXIST),
            (plans.rmdir, errno.EBUSY if name == b"a/out" else errno.ENOTDIR),
            (plans.unlink, errno.EISDIR if name == b"a/out" else errno.EBUSY),
        )
        for plan, number in expected:
            with pytest.raises(FsError) as failed:
                plan(found)
            assert failed.value.errno == number


@pytest.mark.parametrize("exchange", [False, True])
def test_what_is_above_one_is_not_moved(view: View, exchange: bool) -> None:
    above, beside, new = (go(view, name, Goal.NAME) for name in (b"a", b"beside", b"new"))
    assert isinstance(above, Found) and isinstance(beside, Found) and isinstance(new, Found)
    with pytest.raises(FsError) as failed:
        plans.rename(above, beside if exchange else new, exchange=exchange)
    assert failed.value.errno == errno.EBUSY
    if exchange:
        with pytest.raises(FsError) as failed:
            plans.rename(beside, above, exchange=True)
        assert failed.value.errno == errno.EBUSY


def test_names_beside_one_are_like_any_others(view: View) -> None:
    own = go(view, b"a/own", Goal.NAME)
    new = go(view, b"a/output", Goal.NAME)
    assert isinstance(own, Found) and isinstance(new, Found)
    assert plans.rename(own, new)
    assert plans.unlink(own)
