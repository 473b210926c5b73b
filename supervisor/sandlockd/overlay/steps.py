"""The steps that change the upper directory.

Pure: data only. Each step is atomic to a reader of the merged tree: what it needs is prepared in the work
directory, and one rename, exchange, link or unlink shows it. In a plan at most one step changes what is seen;
those before it and after it change only how it is stored, so that a kill between any two leaves the old tree
or the new one.
"""

from __future__ import annotations

from typing import NamedTuple

from sandlockd.overlay.entries import Kind


class CopyUp(NamedTuple):
    """Make the lower object appear in the upper: owner, mode, times, attributes, the record of its origin.

    Made in work, renamed into place. A directory comes alone, without its content, and not opaque.
    size: how many bytes of a file are wanted at most; None is all. 0 for a file that is truncated at once.
    """

    path: bytes
    kind: Kind
    size: int | None = None


class CopyTree(NamedTuple):
    """Copy up all that shows below a directory, in place, make it opaque, and then remove the whiteouts in it.

    `plans.tree_steps` gives the single steps, from the facts when this step's turn comes. None of them changes
    what is seen, however many of them are done.
    """

    path: bytes


class MarkOpaque(NamedTuple):
    """Set `user.overlay.opaque=y` on a directory of the upper through which nothing shows anyway."""

    path: bytes


class Make(NamedTuple):
    """A new object: made in work with its mode, owner and content (of a link), then renamed into place.

    over_whiteout: renamed over the whiteout; a directory is exchanged with it, the whiteout is then removed.
    opaque: a directory that must hide a lower one.
    """

    path: bytes
    kind: Kind
    over_whiteout: bool
    opaque: bool


class Link(NamedTuple):
    """A further name for an object of the upper.

    source: None is the caller's unnamed file (O_TMPFILE), which lies in the work directory.
    over_whiteout: linked in work, then renamed over the whiteout.
    is_copy_up: another name of a lower object that was copied up: nothing changes to who looks, and the
        directory keeps its times.
    """

    source: bytes | None
    path: bytes
    over_whiteout: bool
    is_copy_up: bool = False


class Whiteout(NamedTuple):
    """Hide the lower name: mknod in work, and rename to the path.

    over: the kind of what the upper has there. A directory is exchanged with the whiteout, and what is then in
        work is removed; anything else is renamed over.
    """

    path: bytes
    over: Kind | None


class Remove(NamedTuple):
    """Take a name out of the upper that hides no lower one.

    kind: a directory is renamed into work, and removed there with the whiteouts that it may contain.
    """

    path: bytes
    kind: Kind


class Clear(NamedTuple):
    """Exchange a directory, of which nothing shows, with an empty opaque one of the same owner, mode, times
    and attributes: it may hold whiteouts, and rename(2) wants its target really empty.
    """

    path: bytes


class Move(NamedTuple):
    """Rename within the upper, over what is there.

    whiteout: leave one behind, in the same call (RENAME_WHITEOUT).
    """

    source: bytes
    path: bytes
    whiteout: bool


class Exchange(NamedTuple):
    """RENAME_EXCHANGE within the upper."""

    first: bytes
    second: bytes


Step = CopyUp | CopyTree | MarkOpaque | Make | Link | Whiteout | Remove | Clear | Move | Exchange
