"""Two layers in memory, and an executor of the steps that is as strict as rename(2) and mkdir(2) are."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import assert_never

from sandlockd.overlay.entries import Entry, Kind, Name
from sandlockd.overlay.plans import tree_steps
from sandlockd.overlay.steps import (
    Clear,
    CopyTree,
    CopyUp,
    Exchange,
    Link,
    Make,
    MarkOpaque,
    Move,
    Remove,
    Step,
    Whiteout,
)
from sandlockd.overlay.view import Found, View

_inodes = itertools.count(100)


class Node:
    """An inode."""

    def __init__(self, kind: Kind, mode: int = 0o644, content: bytes = b"") -> None:
        self.kind = kind
        self.mode = mode
        self.content = content  # of a file; of a symbolic link, its target
        self.children: dict[bytes, Node] = {}
        self.opaque = False
        self.origin: tuple[bytes, int] | None = None
        self.inode = next(_inodes)
        self.mtime = 0

    def copy(self) -> Node:
        """A deep copy with the same inode numbers and the same hard links."""
        return _copied(self, {})


def _copied(node: Node, seen: dict[int, Node]) -> Node:
    if node.inode not in seen:
        seen[node.inode] = twin = Node(node.kind, node.mode, node.content)
        twin.inode, twin.opaque, twin.origin, twin.mtime = node.inode, node.opaque, node.origin, node.mtime
        twin.children = {name: _copied(child, seen) for name, child in node.children.items()}
    return seen[node.inode]


def everything(top: Node, path: bytes = b"") -> Iterator[tuple[bytes, Node]]:
    """All paths below a directory and what they are."""
    for name, node in top.children.items():
        below = path + b"/" + name if path else name
        yield below, node
        yield from everything(node, below)


class MemoryLayer:
    """A `Layer`, and a `Siblings`."""

    def __init__(self, top: Node, device: int) -> None:
        self.top = top
        self.device = device

    def node(self, path: bytes) -> Node | None:
        node: Node | None = self.top
        for name in path.split(b"/") if path else ():
            assert node is not None and node.kind is Kind.DIRECTORY, f"{path!r} is asked below no directory"
            node = node.children.get(name)
        return node

    def entry(self, path: bytes) -> Entry | None:
        node = self.node(path)
        if node is None:
            return None
        links = 1 if node.kind is Kind.DIRECTORY else len(self.names_of_inode(node.inode))
        return Entry(node.kind, self.device, node.inode, links, node.opaque)

    def names(self, path: bytes) -> Iterable[Name]:
        node = self.node(path)
        assert node is not None
        return [Name(name, child.kind, child.inode) for name, child in node.children.items()]

    def is_hiding(self, path: bytes) -> dict[bytes, bool]:
        return {name: kind is Kind.WHITEOUT for name, kind, _ in self.names(path)}

    def target(self, path: bytes) -> bytes:
        node = self.node(path)
        assert node is not None and node.kind is Kind.SYMLINK
        return node.content

    def names_of(self, entry: Entry) -> Iterable[bytes]:
        return self.names_of_inode(entry.inode)

    def names_of_inode(self, inode: int) -> list[bytes]:
        return [path for path, node in everything(self.top) if node.inode == inode]


class Executor:
    """Carries out steps on the upper layer; what rename(2) would refuse is an assertion."""

    def __init__(self, view: View, upper: MemoryLayer, lower: MemoryLayer) -> None:
        self.view = view
        self.upper = upper
        self.lower = lower

    def single(self, steps: Iterable[Step]) -> Iterator[Step]:
        """The steps with each `CopyTree` taken apart when its turn comes."""
        for step in steps:
            if isinstance(step, CopyTree):
                found = self.view.at(step.path)
                assert found is not None
                yield from tree_steps(found)
            else:
                yield step

    def run(self, step: Step, made: Node) -> None:
        """One step. `made` is what a `Make` or an unnamed `Link` shows."""
        match step:
            case CopyUp(path, kind, size):
                self._copy_up(path, kind, size)
            case CopyTree():
                raise AssertionError("to be taken apart")
            case MarkOpaque(path):
                self._there(path, Kind.DIRECTORY).opaque = True
            case Make(path, kind, over_whiteout, opaque):
                assert made.kind is kind
                made.opaque = opaque
                self._show(path, made, over_whiteout)
            case Link(source, path, over_whiteout):
                self._show(path, made if source is None else self._there(source), over_whiteout)
            case Whiteout(path, over):
                directory, name = self._place(path)
                assert (directory.children[name].kind if name in directory.children else None) is over
                directory.children[name] = Node(Kind.WHITEOUT)
            case Remove(path, kind):
                self._there(path, kind)
                directory, name = self._place(path)
                gone = directory.children.pop(name)
                assert all(node.kind is Kind.WHITEOUT for node in gone.children.values())
            case Clear(path):
                old = self._there(path, Kind.DIRECTORY)
                assert all(node.kind is Kind.WHITEOUT for node in old.children.values())
                fresh = Node(Kind.DIRECTORY, old.mode)
                fresh.opaque = True
                directory, name = self._place(path)
                directory.children[name] = fresh
            case Move(source, path, whiteout):
                self._move(source, path, whiteout)
            case Exchange(first, second):
                one, one_name = self._place(first)
                two, two_name = self._place(second)
                one.children[one_name], two.children[two_name] = (
                    two.children[two_name],
                    one.children[one_name],
                )
            case _:
                assert_never(step)

    def _place(self, path: bytes) -> tuple[Node, bytes]:
        above, _, name = path.rpartition(b"/")
        directory = self.upper.node(above)
        assert directory is not None and directory.kind is Kind.DIRECTORY, f"no parent for {path!r}"
        return directory, name

    def _there(self, path: bytes, kind: Kind | None = None) -> Node:
        node = self.upper.node(path)
        assert node is not None and (kind is None or node.kind is kind)
        return node

    def _show(self, path: bytes, node: Node, over_whiteout: bool) -> None:
        directory, name = self._place(path)
        there = directory.children.get(name)
        assert (there is not None) is over_whiteout
        assert there is None or there.kind is Kind.WHITEOUT
        directory.children[name] = node

    def _copy_up(self, path: bytes, kind: Kind, size: int | None) -> None:
        node = self.lower.node(path)
        assert node is not None and node.kind is kind
        copy = Node(kind, node.mode, node.content[:size])
        copy.mtime = node.mtime
        if kind in (Kind.FILE, Kind.DIRECTORY):
            copy.origin = path, node.inode
        self._show(path, copy, over_whiteout=False)

    def _move(self, source: bytes, path: bytes, whiteout: bool) -> None:
        one, one_name = self._place(source)
        two, two_name = self._place(path)
        node, there = one.children[one_name], two.children.get(two_name)
        if there is not None:
            assert (node.kind is Kind.DIRECTORY) is (there.kind is Kind.DIRECTORY)
            assert not there.children and there is not node
        two.children[two_name] = node
        del one.children[one_name]
        if whiteout:
            one.children[one_name] = Node(Kind.WHITEOUT)


Shown = dict[bytes, tuple[Kind, int, bytes]]


def described(node: Node) -> tuple[Kind, int, bytes]:
    """What is compared of an object: a link has no mode of its own."""
    return node.kind, 0 if node.kind is Kind.SYMLINK else node.mode, node.content


def kernel_merge(upper: Node | None, lower: Node | None, path: bytes = b"") -> dict[bytes, Node]:
    """What overlayfs shows, written from Documentation/filesystems/overlayfs.rst and nothing of ours."""
    shown: dict[bytes, Node] = {}
    above = upper.children if upper is not None else {}
    below = lower.children if lower is not None and not (upper is not None and upper.opaque) else {}
    for name in {**below, **above}:
        one, two = above.get(name), below.get(name)
        if one is not None and one.kind is Kind.WHITEOUT:
            continue
        node = one or two
        assert node is not None
        child = path + b"/" + name if path else name
        shown[child] = node
        if node.kind is Kind.DIRECTORY:
            under = two if two is not None and two.kind is Kind.DIRECTORY else None
            shown |= kernel_merge(one, under, child)
    return shown


def ghosts(upper: Node, lower: Node | None) -> list[bytes]:
    """Whiteouts where overlayfs would list them: in a directory that is not merged."""
    found = []
    for name, node in upper.children.items():
        below = lower.children.get(name) if lower is not None else None
        if node.kind is Kind.WHITEOUT and lower is None:
            found.append(name)
        elif node.kind is Kind.DIRECTORY:
            is_merged = below is not None and below.kind is Kind.DIRECTORY and not node.opaque
            found += [name + b"/" + ghost for ghost in ghosts(node, below if is_merged else None)]
    return found


def view_merge(view: View, upper: MemoryLayer, lower: MemoryLayer) -> dict[bytes, Node]:
    """What the model shows; of a merged directory the upper node, which has the metadata."""
    shown: dict[bytes, Node] = {}

    def below(found: Found) -> None:
        for name in view.names(found):
            child = view.child(found, name)
            assert child.visible is not None
            node = (upper if child.upper is not None else lower).node(child.path)
            assert node is not None
            shown[child.path] = node
            if child.kind is Kind.DIRECTORY:
                below(child)

    below(view.top())
    return shown


def groups(shown: dict[bytes, Node]) -> set[frozenset[bytes]]:
    """Which names are hard links of each other."""
    found: dict[int, set[bytes]] = {}
    for path, node in shown.items():
        if node.kind is not Kind.DIRECTORY:
            found.setdefault(node.inode, set()).add(path)
    return {frozenset(names) for names in found.values()}
