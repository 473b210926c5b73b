"""The merged view: what programs see at a canonical path, from what the two layers say.

Pure. No symbolic link is followed here; `lookup` does that.

A merged directory (in both layers, not opaque) is represented by the lower object, so that its inode number
does not change when something in it does; anything else by the upper object where there is one.
"""

from __future__ import annotations

import enum
import errno
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

from sandlockd.overlay.entries import Entry, FsError, Kind, Layer

NAME_MAX = 255


class Last(enum.Enum):
    """How the last component of a path was written; the names are those of fs/namei.c."""

    NORM = enum.auto()
    DOT = enum.auto()
    DOTDOT = enum.auto()
    # Also the root of a tree by whatever name, and a passage: what its parent holds is not for the program to change.
    ROOT = enum.auto()


class Found(NamedTuple):
    """A name in the merged view, there or not.

    upper: what the upper says, whiteouts included.
    lower: the lower object that shows; None where it is hidden or there is none.
    parent: the directory that the name is in; None for the root of the tree.
    slash: the path ended in a slash.
    """

    view: View
    path: bytes
    upper: Entry | None
    lower: Entry | None
    parent: Found | None
    last: Last = Last.NORM
    slash: bool = False

    @property
    def visible(self) -> Entry | None:
        """The object that represents the name to programs, or None where nothing is to be seen."""
        if self.lower is not None:
            return self.lower
        upper = self.upper
        return None if upper is None or upper.kind is Kind.WHITEOUT else upper

    @property
    def kind(self) -> Kind | None:
        """The kind of what is to be seen."""
        visible = self.visible
        return None if visible is None else visible.kind

    @property
    def is_merged(self) -> bool:
        """Whether it is a directory with content of both layers."""
        return self.upper is not None and self.lower is not None

    @property
    def is_whiteout(self) -> bool:
        """Whether the upper says that the name is gone."""
        return self.upper is not None and self.upper.kind is Kind.WHITEOUT


class Access(Protocol):
    """Who may do what to what the program sees; each method raises FsError (EACCES, EPERM) or returns."""

    def search(self, directory: Found) -> None:
        """Execute permission on a directory that is walked through."""

    def change(self, directory: Found) -> None:
        """Write and execute permission on a directory that gets a name."""

    def delete(self, victim: Found) -> None:
        """What may_delete() of fs/namei.c asks: write and execute on its parent, and the sticky bit."""

    def write(self, found: Found) -> None:
        """Write permission on a file or directory itself."""


class Siblings(Protocol):
    """The lower tree's hard links."""

    def names_of(self, entry: Entry) -> Iterable[bytes]:
        """Every path in the lower tree that is this object. Asked only for objects with several links."""


class View:
    """One tree: its two layers and what goes with them.

    root: the absolute path of the tree as programs know it, canonical.
    access: None where the real calls do the checking, or nothing is to be checked.
    siblings: None leaves the other names of a lower object alone when one is copied up, as overlayfs does
        without an index; otherwise they follow it, and a program's hard links stay what they were.
    passages: names, canonical, at which something else is to be seen, as at a mount point: another tree, or what is
        really there. The upper has a placeholder under each of them, which nobody sees but in a listing.
    """

    __slots__ = ("access", "lower", "passages", "root", "siblings", "upper")

    def __init__(
        self,
        root: bytes,
        upper: Layer,
        lower: Layer,
        *,
        access: Access | None = None,
        siblings: Siblings | None = None,
        passages: frozenset[bytes] = frozenset(),
    ) -> None:
        self.root = root
        self.passages = passages
        self.upper = upper
        self.lower = lower
        self.access = access
        self.siblings = siblings

    def top(self) -> Found:
        """The root of the tree."""
        return Found(self, b"", self.upper.entry(b""), self.lower.entry(b""), None, Last.ROOT)

    def child(self, here: Found, name: bytes) -> Found:
        """One name in a directory of the view, there or not.

        Raises:
            FsError: ENAMETOOLONG, or what a layer raised.
        """
        if len(name) > NAME_MAX:
            raise FsError(errno.ENAMETOOLONG)
        path = b"%b/%b" % (here.path, name) if here.path else name
        upper = self.upper.entry(path) if here.upper is not None else None
        if here.lower is None or (upper is not None and (upper.kind is not Kind.DIRECTORY or upper.opaque)):
            return Found(self, path, upper, None, here)
        lower = self.lower.entry(path)
        if lower is not None:
            # The kernel's overlayfs takes a whiteout in a lower layer for one, too; and a directory merges
            # with nothing but a directory.
            hidden = lower.kind is Kind.WHITEOUT or (upper is not None and lower.kind is not Kind.DIRECTORY)
            lower = None if hidden else lower
        return Found(self, path, upper, lower, here)

    def at(self, path: bytes) -> Found | None:
        """A canonical path, no link followed; None where a directory on the way is not to be seen."""
        found = self.top()
        if not path:
            return found
        for name in path.split(b"/"):
            if found.kind is not Kind.DIRECTORY:
                return None
            found = self.child(found, name)
        return found

    def passage_on(self, path: bytes) -> bytes | None:
        """The passage that a canonical path leads through, or ends at."""
        return next((name for name in self.passages if path == name or path.startswith(name + b"/")), None)

    def has_passage_in(self, path: bytes) -> bool:
        """Whether there is one at this name or below it."""
        return any(name == path or name.startswith(path + b"/") for name in self.passages)

    def covers(self, found: Found) -> bool:
        """Whether a lower name comes to light when the upper name goes."""
        if found.lower is not None:
            return True
        if found.upper is None or found.parent is None or found.parent.lower is None:
            return False
        lower = self.lower.entry(found.path)
        return lower is not None and lower.kind is not Kind.WHITEOUT

    def names(self, directory: Found) -> Iterator[bytes]:
        """The names that show in a directory, lower ones first; whose they are is for `listing`."""
        hiding = {} if directory.upper is None else self.upper.is_hiding(directory.path)
        if directory.lower is not None:
            for name, kind, _ in self.lower.names(directory.path):
                if name not in hiding and kind is not Kind.WHITEOUT:
                    yield name
        yield from (name for name, is_whiteout in hiding.items() if not is_whiteout)

    def is_empty(self, directory: Found) -> bool:
        """Whether nothing shows in a directory."""
        return next(self.names(directory), None) is None

    def target(self, link: Found) -> bytes:
        """Where a symbolic link of the view points."""
        return (self.upper if link.upper is not None else self.lower).target(link.path)
