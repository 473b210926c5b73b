"""A commit carried out in memory, with a stop wherever a kill could come."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

from harness.memory_layers import MemoryLayer, Node
from sandlockd.overlay import journal
from sandlockd.overlay.commit import STAGED, Action, CommitPlan, Do, Temporaries
from sandlockd.overlay.entries import Kind
from sandlockd.overlay.identity import Facts, Origin
from sandlockd.overlay.journal import Journal, Next


def facts_of(layer: MemoryLayer, node: Node) -> Facts:
    links = 1 if node.kind is Kind.DIRECTORY else len(layer.names_of_inode(node.inode))
    size, mode = len(node.content), 0o777 if node.kind is Kind.SYMLINK else node.mode
    return Facts(node.kind, layer.device, node.inode, links, size, mode, 0, 0, node.mtime, node.mtime)


class MemoryInspector:
    """An `Inspector` of two layers in memory."""

    def __init__(self, upper: MemoryLayer, lower: MemoryLayer) -> None:
        self.layers = {"upper": upper, "lower": lower}

    def _node(self, layer: str, path: bytes) -> Node:
        node = self.layers[layer].node(path)
        assert node is not None
        return node

    def upper(self, path: bytes) -> Facts:
        return facts_of(self.layers["upper"], self._node("upper", path))

    def lower(self, path: bytes) -> Facts:
        return facts_of(self.layers["lower"], self._node("lower", path))

    def origin(self, path: bytes) -> Origin | None:
        origin = self._node("upper", path).origin
        return None if origin is None else Origin(origin[0], self.lower(origin[0]).identity)

    def content(self, path: bytes) -> str:
        return hashlib.sha256(self._node("upper", path).content).hexdigest()

    def keeps_owner(self, old: Facts) -> bool:
        return True

    def same_content(self, path: bytes, lower_path: bytes) -> bool:
        return self._node("upper", path).content == self._node("lower", lower_path).content


class CommitRun:
    """A real tree in memory, its journal, and whoever commits."""

    def __init__(self, real: MemoryLayer, upper: MemoryLayer) -> None:
        self.real = real
        self.upper = upper
        self.journal = b""

    def now(self, path: bytes) -> Facts | None:
        node: Node | None = self.real.top
        for name in path.split(b"/") if path else ():
            node = node.children.get(name) if node is not None else None
        return None if node is None else facts_of(self.real, node)

    def names(self, path: bytes) -> Iterable[bytes]:
        return [row.name for row in self.real.names(path)]

    def first(self, plan: CommitPlan) -> Iterator[None]:
        """A first run; comes back wherever a kill could come."""
        self.journal = journal.encode_plan(plan)
        self.temporaries = Temporaries(plan)
        yield
        for action in plan.actions:
            yield from self._act(action)
        self.journal += journal.ended(plan)

    def again(self) -> Iterator[None]:
        """A rerun from the journal."""
        read = journal.read_journal(self.journal)
        assert read is not None
        self.temporaries = Temporaries(read.plan)
        for action in read.plan.actions:
            match self._next(read, action):
                case Next.DO:
                    names, temporary = self._place(self.temporaries.of(action))
                    names.pop(temporary, None)
                    yield from self._act(action)
                case Next.SKIP:
                    self.journal += journal.done(action)
                    yield
                case Next.CONFLICT:
                    raise AssertionError(f"conflict: {action}")
        self.journal += journal.ended(read.plan)

    def _next(self, read: Journal, action: Action) -> Next:
        return journal.next_step(read, action, self.now(action.path))

    def _place(self, path: bytes) -> tuple[dict[bytes, Node], bytes]:
        above, _, name = path.rpartition(b"/")
        directory = self.real.node(above)
        assert directory is not None and directory.kind is Kind.DIRECTORY
        return directory.children, name

    def _act(self, action: Action) -> Iterator[None]:
        self.journal += journal.begin(action)
        yield
        if action.do is Do.SYNC:
            assert self.real.node(action.path) is not None
        elif action.do in STAGED:
            yield from self._stage(action)
        else:
            self._change(action)
        yield
        self.journal += journal.done(action)
        yield

    def _stage(self, action: Action) -> Iterator[None]:
        aside, temporary = self._place(self.temporaries.of(action))
        names, name = self._place(action.path)
        if action.do is Do.LINK:
            assert action.source is not None
            node = self.real.node(action.source)
        else:
            node = self.upper.node(action.path)
            if node is not None:
                twin = node.copy()
                node = Node(twin.kind, twin.mode, twin.content)
        assert node is not None and temporary not in aside
        aside[temporary] = node
        yield
        self.journal += journal.staged(action, self.real.device, node.inode)
        yield
        there = names.get(name)
        assert there is None or there.kind is not Kind.DIRECTORY
        del aside[temporary]
        names[name] = node

    def _change(self, action: Action) -> None:
        names, name = self._place(action.path)
        if action.do is Do.DIRECTORY:
            assert name not in names
            names[name] = Node(Kind.DIRECTORY, 0o700)
        elif action.do is Do.METADATA:
            assert action.facts is not None
            node = self.real.node(action.path)
            assert node is not None and node.kind is action.facts.kind
            node.mode = action.facts.mode
        else:
            gone = names.pop(name)
            assert not gone.children
            assert (gone.kind is Kind.DIRECTORY) is (action.do is Do.REMOVE_DIRECTORY)
