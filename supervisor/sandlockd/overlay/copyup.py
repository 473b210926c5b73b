"""Copy-up: how a lower object comes to the upper without anything being seen to change.

Pure. Hard links follow: when a lower object with several names is copied up, its other names that show are
linked to the copy (`View.siblings` finds them). overlayfs without an index breaks the link instead, and then
a program that wrote through one name reads old content through the other, which no file system does. The
kernel's overlayfs shows our result alike, since in the upper the names are ordinary hard links. A name outside
of the tree stays behind, as it must: it is not the program's to change.
"""

from __future__ import annotations

from collections.abc import Iterator

from sandlockd.overlay.entries import Entry, FsError, Kind
from sandlockd.overlay.steps import CopyTree, CopyUp, Link, MarkOpaque, Remove, Step
from sandlockd.overlay.view import Found, View


class CopyUps:
    """What one plan copies up: each path once, however many reasons there are.

    steps: in the order in which they must be carried out.
    trees: whole directories, to be copied up after them.
    """

    __slots__ = ("lifted", "steps", "trees")

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.trees: list[CopyTree] = []
        self.lifted: set[bytes] = set()

    def all_steps(self) -> list[Step]:
        """The trees last: their single steps are told from what is there when their turn comes, while the others
        are told now, and hard links may lead from one into the other.
        """
        return [*self.steps, *self.trees]

    def parents(self, found: Found) -> None:
        """The directories above a name, from the top."""
        missing = []
        parent = found.parent
        while parent is not None and parent.upper is None:
            missing.append(parent.path)
            parent = parent.parent
        for path in reversed(missing):
            if path not in self.lifted:
                self._lift(path, Kind.DIRECTORY)

    def object(self, found: Found, size: int | None = None) -> None:
        """What is seen under a name, where only the lower has it; of a file this many bytes."""
        if found.lower is None or found.upper is not None or found.path in self.lifted:
            return
        self.parents(found)
        names = list(_other_names(found)) if found.lower.links > 1 else []
        # Truncated by the copy, the names would differ between two steps.
        self._lift(found.path, found.lower.kind, None if names else size)
        for other in names:
            if other.path not in self.lifted:
                self.parents(other)
                self.steps.append(Link(found.path, other.path, over_whiteout=False, is_copy_up=True))
                self.lifted.add(other.path)

    def tree(self, directory: Found) -> None:
        """All that shows below a directory, then its opaque mark, and then away with the whiteouts in it.

        They hide nothing any more, and the kernel's overlayfs does not filter the listing of a directory that
        is not merged: they would be listed, and then not be found.
        """
        whiteouts: list[bytes] = []
        self.parents(directory)
        self._content(directory, whiteouts)
        self.steps.append(MarkOpaque(directory.path))
        self.steps += [Remove(path, Kind.WHITEOUT) for path in whiteouts]

    def _content(self, directory: Found, whiteouts: list[bytes]) -> None:
        view = directory.view
        self.object(directory)
        if directory.upper is not None:
            for name, is_whiteout in view.upper.is_hiding(directory.path).items():
                if is_whiteout:
                    whiteouts.append(directory.path + b"/" + name)
        for name in list(view.names(directory)):
            child = view.child(directory, name)
            if child.kind is Kind.DIRECTORY:
                self._content(child, whiteouts)
            else:
                self.object(child)

    def _lift(self, path: bytes, kind: Kind, size: int | None = None) -> None:
        self.steps.append(CopyUp(path, kind, size))
        self.lifted.add(path)


def _other_names(found: Found) -> Iterator[Found]:
    """The other names of a lower object that show and are still the lower's."""
    view, entry = found.view, found.lower
    if view.siblings is None or entry is None or entry.kind is Kind.DIRECTORY:
        return
    for path in view.siblings.names_of(entry):
        other = _lower_at(view, path) if path != found.path else None
        if other is not None and other.lower is not None and is_same(other.lower, entry):
            yield other


def _lower_at(view: View, path: bytes) -> Found | None:
    try:
        other = view.at(path)
    except FsError:
        # A directory above it that nobody may look into: the program cannot name it either.
        return None
    return other if other is not None and other.upper is None else None


def is_same(one: Entry, other: Entry) -> bool:
    """Whether two entries are one object."""
    return one.inode == other.inode and one.device == other.device


def shown_links(found: Found, links: int) -> int:
    """The link count that a lower file would have if what the program unlinked were unlinked.

    links: st_nlink of the lower object. Names outside of the tree still count; those in it only while they show.
    """
    view, entry = found.view, found.lower
    if found.upper is not None or entry is None or links == 1 or view.siblings is None:
        return links
    in_tree = sum(1 for _ in view.siblings.names_of(entry))
    shown = 1 + sum(1 for _ in _other_names(found))
    return max(1, links - in_tree + shown)
