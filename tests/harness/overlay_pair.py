"""The model and the oracle side by side: what is done to both, and that they stay equal."""

from __future__ import annotations

from collections.abc import Callable

from harness.file_operations import Copied, Operation, aimed, on_plain
from harness.memory_layers import (
    MemoryLayer,
    Node,
    Shown,
    described,
    everything,
    ghosts,
    groups,
    kernel_merge,
    view_merge,
)
from harness.plain_files import ROOT, Left, PlainFiles
from sandlockd.overlay.entries import FsError, Kind
from sandlockd.overlay.view import View


def outcome(action: Callable[[], int]) -> int | str:
    try:
        return action()
    except Left:
        return "left"
    except FsError as error:
        return error.errno


def on_plain_or_left(files: PlainFiles, operation: Operation) -> int | str:
    return outcome(lambda: on_plain(files, operation))


Aimed = tuple[Operation, tuple[int, int]]


class Pair:
    """A lower tree from random calls on the oracle; what then is done is done to the oracle and the model."""

    def __init__(self, before: list[Aimed]) -> None:
        top = Node(Kind.DIRECTORY, 0o755)
        files = PlainFiles(top)
        for operation, at in before:
            on_plain_or_left(files, aimed(operation, at, top))
        self.files = PlainFiles(top.copy())
        self.lower = MemoryLayer(top, device=1)
        self.upper = MemoryLayer(Node(Kind.DIRECTORY, top.mode), device=2)
        self.view = View(ROOT, self.upper, self.lower, siblings=self.lower)
        self.model = Copied(self.view, self.upper, self.lower)
        self.untouched = {path: described(node) for path, node in everything(top)}
        self.check()

    def shown(self) -> Shown:
        shown = view_merge(self.view, self.upper, self.lower)
        assert shown == kernel_merge(self.upper.top, self.lower.top)
        return {path: described(node) for path, node in shown.items()}

    def call(self, operation: Operation, at: tuple[int, int]) -> None:
        operation = aimed(operation, at, self.files.top)
        expected = on_plain_or_left(self.files, operation)
        seen = [self.shown()]

        def run() -> int:
            for _ in self.model.run(operation):
                seen.append(self.shown())
            return 0

        assert outcome(run) == expected, operation
        final = self.check()
        # An open that makes or truncates the file and the write through it are two calls.
        allowed = [seen[0], final, seen[-1]] if operation.call == "open" else [seen[0], final]
        assert all(shown in allowed for shown in seen), operation

    def check(self) -> Shown:
        shown = self.shown()
        plain = self.files.shown()
        assert shown == {path: described(node) for path, node in plain.items()}
        assert groups(view_merge(self.view, self.upper, self.lower)) == groups(plain)
        assert {path: described(node) for path, node in everything(self.lower.top)} == self.untouched
        assert ghosts(self.upper.top, self.lower.top) == []
        for _, node in everything(self.upper.top):
            assert not node.opaque or node.kind is Kind.DIRECTORY
            assert node.origin is None or node.kind in (Kind.DIRECTORY, Kind.FILE)
        return shown
