"""The walk in the merged view: where it ends, what it refuses, and how it leaves the tree."""

from __future__ import annotations

import errno

import pytest
from harness.memory_layers import MemoryLayer, Node
from harness.plain_files import ROOT

from sandlockd.overlay.entries import FsError, Kind, NoLayer
from sandlockd.overlay.lookup import Goal, Outside, Scope, entrance, walk
from sandlockd.overlay.view import Found, Last, View


def tree(**names: Node | bytes | dict[str, Node]) -> Node:
    """A directory: bytes are the target of a symbolic link, a dict a directory."""
    top = Node(Kind.DIRECTORY)
    for name, what in names.items():
        if isinstance(what, bytes):
            what = Node(Kind.SYMLINK, content=what)
        elif isinstance(what, dict):
            what = tree(**what)
        top.children[name.encode()] = what
    return top


def view_of(lower: Node, upper: Node | None = None, root: bytes = ROOT) -> View:
    return View(root, MemoryLayer(upper or tree(), 2), MemoryLayer(lower, 1))


def go(
    view: View, path: bytes, goal: Goal = Goal.FOLLOW, *, scope: Scope = Scope.ANYWHERE
) -> Found | Outside:
    return walk(view.top(), path, goal, enter=entrance([view]), scope=scope)


def error(view: View, path: bytes, goal: Goal = Goal.FOLLOW, *, scope: Scope = Scope.ANYWHERE) -> int:
    with pytest.raises(FsError) as failed:
        go(view, path, goal, scope=scope)
    return failed.value.errno


def ends_at(found: Found | Outside) -> bytes:
    assert isinstance(found, Found)
    return found.path


@pytest.fixture
def view() -> View:
    return view_of(
        tree(
            f=Node(Kind.FILE), d={"f": Node(Kind.FILE), "e": {}}, up=b"..", out=b"/etc/passwd", home=b"/t/d/./e/",
            loop=b"loop", dangling=b"d/none", by=b"d/e/../f", slashed=b"f/",
        )
    )  # fmt: skip


@pytest.mark.parametrize(
    ("path", "number"),
    [
        (b"", errno.ENOENT),
        (b"none", errno.ENOENT),
        (b"none/..", errno.ENOENT),
        (b"f/", errno.ENOTDIR),
        (b"f/..", errno.ENOTDIR),
        (b"f/" + b"n" * 256, errno.ENOTDIR),
        (b"d/" + b"n" * 256, errno.ENAMETOOLONG),
        (b"d/" + b"n" * 255, errno.ENOENT),
        (b"./" * 2048, errno.ENAMETOOLONG),
        (b"loop", errno.ELOOP),
        (b"dangling", errno.ENOENT),
        (b"slashed", errno.ENOTDIR),
    ],
)
def test_a_path_that_leads_nowhere_gets_the_errno_of_linux(view: View, path: bytes, number: int) -> None:
    assert error(view, path) == number


def test_the_longest_path_that_linux_takes_is_walked(view: View) -> None:
    assert ends_at(go(view, b"./" * 2047 + b"f")) == b"f"


@pytest.mark.parametrize(
    ("path", "end"),
    [
        (b"d//f", b"d/f"),
        (b"d/e/../../f", b"f"),
        (b"by", b"d/f"),
        (b"home", b"d/e"),
        (b"/t", b""),
        (b"//t//./d", b"d"),
        (b"../t/d", b"d"),
        (b"up/t/f", b"f"),
    ],
)
def test_a_path_ends_at_its_canonical_name(view: View, path: bytes, end: bytes) -> None:
    assert ends_at(go(view, path)) == end


@pytest.mark.parametrize(
    ("path", "at", "rest", "links"),
    [
        (b"..", b"/", b"", 0),
        (b"../x/y/", b"/", b"x/y/", 0),
        (b"/x", b"/", b"x", 0),
        (b"up/x", b"/", b"x", 1),
        (b"out", b"/", b"etc/passwd", 1),
        (b"/tt/f", b"/", b"tt/f", 0),
        (b"/t/../../x", b"/", b"../x", 0),
    ],
)
def test_a_path_out_of_the_tree_says_where_it_goes_on(
    view: View, path: bytes, at: bytes, rest: bytes, links: int
) -> None:
    outside = go(view, path)
    assert isinstance(outside, Outside)
    assert outside[:3] == (at, rest, links)


def test_forty_links_are_followed_and_the_next_is_eloop() -> None:
    chain = {f"l{number}": b"l%d" % (number + 1) for number in range(41)}
    view = view_of(tree(**chain, l41=Node(Kind.FILE)))
    assert ends_at(go(view, b"l1")) == b"l41"
    assert error(view, b"l0") == errno.ELOOP


def test_beneath_and_in_root_confine_the_walk(view: View) -> None:
    for path in (b"..", b"/f", b"out", b"up/t/f"):
        assert error(view, path, scope=Scope.BENEATH) == errno.EXDEV
    assert ends_at(go(view, b"d/../f", scope=Scope.BENEATH)) == b"f"
    assert ends_at(go(view, b"../../f", scope=Scope.IN_ROOT)) == b"f"
    assert ends_at(go(view, b"up/f", scope=Scope.IN_ROOT)) == b"f"
    assert error(view, b"out", scope=Scope.IN_ROOT) == errno.ENOENT


def test_no_symlinks_refuses_each_link_that_would_be_followed(view: View) -> None:
    def strict(path: bytes, goal: Goal) -> Found | Outside:
        return walk(view.top(), path, goal, enter=entrance([view]), symlinks=False)

    with pytest.raises(FsError) as failed:
        strict(b"by", Goal.FOLLOW)
    assert failed.value.errno == errno.ELOOP
    assert ends_at(strict(b"by", Goal.NOFOLLOW)) == b"by"


def test_a_walk_crosses_from_one_tree_into_another() -> None:
    work, tmp = (
        view_of(tree(link=b"/tmp/x/f")),
        View(b"/tmp", MemoryLayer(tree(x={"f": Node(Kind.FILE)}), 3), NoLayer()),
    )
    found = walk(work.top(), b"link", Goal.FOLLOW, enter=entrance([work, tmp]))
    assert isinstance(found, Found)
    assert (found.view, found.path) == (tmp, b"x/f")


@pytest.mark.parametrize("path", [b"/t//f", b"//t///f", b"/t/.//f", b"/./t/d//f"])
def test_slashes_behind_the_root_of_a_tree_are_one(view: View, path: bytes) -> None:
    entered = entrance([view])(path)
    assert entered is not None
    assert ends_at(go(view, entered[1])) in (b"f", b"d/f")


def test_creating_through_a_dangling_link_finds_the_missing_name(view: View) -> None:
    assert ends_at(go(view, b"dangling", Goal.CREATE)) == b"d/none"
    assert ends_at(go(view, b"dangling", Goal.CREATE_NOFOLLOW)) == b"dangling"
    assert error(view, b"none/", Goal.CREATE) == errno.EISDIR
    assert error(view, b"slashed", Goal.CREATE) == errno.EISDIR


def test_whiteouts_and_opaque_directories_hide_the_lower(view: View) -> None:
    opaque = Node(Kind.DIRECTORY)
    opaque.opaque = True
    hidden = view_of(tree(f=Node(Kind.FILE), d={"f": Node(Kind.FILE)}), tree(f=Node(Kind.WHITEOUT), d=opaque))
    assert error(hidden, b"f") == errno.ENOENT
    assert error(hidden, b"f/x") == errno.ENOENT
    assert error(hidden, b"d/f") == errno.ENOENT
    found = go(hidden, b"f", Goal.NAME)
    assert isinstance(found, Found) and found.is_whiteout and found.parent is not None
    assert found.parent.upper is not None


def test_the_last_component_is_told_as_it_was_written(view: View) -> None:
    lasts = {path: go(view, path, Goal.NAME) for path in (b"d/.", b"d/..", b"/t", b"d", b"d/")}
    assert {path: found.last for path, found in lasts.items()} == {
        b"d/.": Last.DOT,
        b"d/..": Last.DOTDOT,
        b"/t": Last.ROOT,
        b"d": Last.NORM,
        b"d/": Last.NORM,
    }


def test_a_slash_behind_a_link_follows_it_but_not_for_a_call_on_the_name(view: View) -> None:
    assert ends_at(go(view, b"home", Goal.NOFOLLOW)) == b"home"
    assert ends_at(go(view, b"home/", Goal.NOFOLLOW)) == b"d/e"
    assert ends_at(go(view, b"home/", Goal.NAME)) == b"home"
