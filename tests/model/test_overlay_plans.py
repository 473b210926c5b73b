"""What plans refuse, in Linux's order, and the steps of those that the random walks do not come to."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest
from harness.memory_layers import MemoryLayer, Node
from harness.plain_files import ROOT

from sandlockd.overlay import plans
from sandlockd.overlay.copyup import shown_links
from sandlockd.overlay.entries import FsError, Kind
from sandlockd.overlay.lookup import Goal, entrance, walk
from sandlockd.overlay.steps import CopyUp, Link, Make, Move, Whiteout
from sandlockd.overlay.view import Access, Found, View


class Denied:
    """An `Access` that lets nobody change anything."""

    def search(self, directory: Found) -> None: ...

    def change(self, directory: Found) -> None:
        raise FsError(errno.EACCES)

    def delete(self, victim: Found) -> None:
        raise FsError(errno.EACCES)

    def write(self, found: Found) -> None:
        raise FsError(errno.EACCES)


def view_of(*, access: Access | None = None, siblings: bool = True, root: bytes = ROOT) -> View:
    lower = Node(Kind.DIRECTORY)
    full = Node(Kind.DIRECTORY)
    lower.children = {b"f": Node(Kind.FILE), b"full": full, b"empty": Node(Kind.DIRECTORY)}
    full.children = {b"twin": lower.children[b"f"], b"fifo": Node(Kind.FIFO)}
    layer = MemoryLayer(lower, 1)
    upper = MemoryLayer(Node(Kind.DIRECTORY), 2)
    return View(root, upper, layer, access=access, siblings=layer if siblings else None)


def name(view: View, path: bytes, goal: Goal = Goal.NAME) -> Found:
    found = walk(view.top(), path, goal, enter=entrance([view]))
    assert isinstance(found, Found)
    return found


def error(plan: Callable[[], object]) -> int:
    with pytest.raises(FsError) as failed:
        plan()
    return failed.value.errno


def test_a_whiteout_cannot_be_made_and_rename_cannot_leave_one() -> None:
    view = view_of()
    assert error(lambda: plans.create(name(view, b"n"), Kind.CHARACTER, 0)) == errno.EPERM
    assert plans.create(name(view, b"n"), Kind.CHARACTER, 0x103) == (
        Make(b"n", Kind.CHARACTER, False, False),
    )
    assert error(lambda: plans.rename(name(view, b"f"), name(view, b"n"), whiteout=True)) == errno.EINVAL
    assert error(lambda: plans.rename(name(view, b"-"), name(view, b"n"), whiteout=True)) == errno.ENOENT


def test_contradicting_flags_are_einval_before_anything_is_looked_at() -> None:
    view = view_of()
    none = name(view, b"none")
    assert error(lambda: plans.rename(none, none, noreplace=True, exchange=True)) == errno.EINVAL
    assert error(lambda: plans.open_file(none, create=True, directory=True)) == errno.EINVAL


def test_two_trees_are_two_file_systems() -> None:
    one, two = view_of(), view_of(root=b"/tmp")
    assert error(lambda: plans.rename(name(one, b"none"), name(two, b"n"))) == errno.EXDEV
    assert error(lambda: plans.link(name(one, b"f"), name(two, b"n"))) == errno.EXDEV
    assert error(lambda: plans.link(name(one, b"f"), name(two, b"f"))) == errno.EEXIST


@pytest.mark.parametrize(
    ("plan", "number"),
    [
        (lambda view: plans.create(name(view, b"f"), Kind.FILE), errno.EEXIST),
        (lambda view: plans.create(name(view, b"n/"), Kind.FILE), errno.ENOENT),
        (lambda view: plans.create(name(view, b"n"), Kind.FILE), errno.EACCES),
        (lambda view: plans.unlink(name(view, b"n")), errno.ENOENT),
        (lambda view: plans.unlink(name(view, b"full")), errno.EACCES),
        (lambda view: plans.rmdir(name(view, b"f")), errno.EACCES),
        (lambda view: plans.rmdir(name(view, b".")), errno.EINVAL),
        (lambda view: plans.rename(name(view, b"f"), name(view, b"full/twin")), 0),
        (lambda view: plans.rename(name(view, b"full"), name(view, b"full/x")), errno.EINVAL),
        (lambda view: plans.rename(name(view, b"f"), name(view, b"full")), errno.EACCES),
        (lambda view: plans.link(name(view, b"full"), name(view, b"n")), errno.EACCES),
        (lambda view: plans.truncate(name(view, b"full"), 0), errno.EISDIR),
        (lambda view: plans.truncate(name(view, b"f"), 0), errno.EACCES),
        (lambda view: plans.open_file(name(view, b"full"), write=True), errno.EISDIR),
        (lambda view: plans.open_file(name(view, b"f"), write=True), errno.EACCES),
        (lambda view: plans.open_file(name(view, b"f")), 0),
    ],
)
def test_permission_is_asked_where_linux_asks(plan: Callable[[View], object], number: int) -> None:
    view = view_of(access=Denied())
    if number:
        assert error(lambda: plan(view)) == number
    else:
        plan(view)


def test_the_other_names_of_a_lower_file_follow_its_copy() -> None:
    assert plans.change_metadata(name(view_of(), b"full/twin")) == (
        CopyUp(b"full", Kind.DIRECTORY),
        CopyUp(b"full/twin", Kind.FILE),
        Link(b"full/twin", b"f", over_whiteout=False, is_copy_up=True),
    )
    alone = plans.change_metadata(name(view_of(siblings=False), b"f"))
    assert alone == (CopyUp(b"f", Kind.FILE),)


def test_a_file_that_is_truncated_at_once_is_not_read() -> None:
    view = view_of(siblings=False)
    opening = plans.open_file(name(view, b"f"), write=True, truncate=True)
    assert opening.steps == (CopyUp(b"f", Kind.FILE, 0),)
    assert plans.truncate(name(view, b"f"), 5) == (CopyUp(b"f", Kind.FILE, 5),)


@pytest.mark.parametrize("write", [False, True])
def test_an_open_fifo_is_one_of_the_upper_so_that_nobody_outside_reads_what_is_written(write: bool) -> None:
    opening = plans.open_file(name(view_of(), b"full/fifo"), write=write)
    assert opening.in_upper
    assert opening.steps == (CopyUp(b"full", Kind.DIRECTORY), CopyUp(b"full/fifo", Kind.FIFO))


def test_an_unnamed_file_gets_a_name_as_a_new_one_does() -> None:
    view = view_of()
    assert plans.link_unnamed(name(view, b"empty/n"))[-1] == Link(None, b"empty/n", over_whiteout=False)
    assert error(lambda: plans.link_unnamed(name(view, b"f"))) == errno.EEXIST


def test_a_lower_file_leaves_a_whiteout_and_one_of_the_upper_does_not() -> None:
    view = view_of(siblings=False)
    assert plans.unlink(name(view, b"f")) == (Whiteout(b"f", None),)
    assert plans.rename(name(view, b"f"), name(view, b"n"))[-1] == Move(b"f", b"n", whiteout=True)


def test_the_link_count_goes_down_with_each_name_that_is_hidden() -> None:
    view = view_of()
    assert shown_links(name(view, b"f"), 2) == 2
    upper = view.upper
    assert isinstance(upper, MemoryLayer)
    full = upper.top.children[b"full"] = Node(Kind.DIRECTORY)
    full.children[b"twin"] = Node(Kind.WHITEOUT)
    assert shown_links(name(view, b"f"), 2) == 1
    assert shown_links(name(view, b"f"), 3) == 2
