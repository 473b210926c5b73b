"""What /tmp is to a program with a copy-on-write tree: a tree of the run's own, which starts empty and goes with it.

Nothing of the real /tmp is granted for that. What the policy grants below it stays what it grants: its place in the
tree is a *passage*, as to a mount point, and the directories above it are the tree's own.
"""

from __future__ import annotations

import collections
import os

from sandlockd.policy.spelling import is_within, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import NamedTuple

    from sandlockd.policy.files import FileRules

    class Temporary(NamedTuple):
        """root: canonical. passages: the outermost grants below it, relative to it."""

        root: bytes
        passages: tuple[bytes, ...]

else:  # without importing typing
    Temporary = collections.namedtuple("Temporary", "root passages")

NAME = b"/tmp"


def temporary_of(root: bytes, rules: FileRules) -> Temporary:
    """rules: which grant neither the root nor anything above it."""
    below = sorted({grant.path for grant in rules.grants() if is_within(grant.path, root)}, key=len)
    outermost: list[bytes] = []
    for path in below:
        if not any(is_within(path, above) for above in outermost):
            outermost.append(path)
    return Temporary(root, tuple(path[len(root) + 1 :] for path in outermost))


def described(temporary: Temporary | None) -> str:
    """For people: what is the program's place for temporary files?"""
    if temporary is None:
        return "temporary files: a directory of the run's own in the real one, named by TMPDIR"
    told = "/tmp: the run's own, empty at the start, gone at the end"
    if not temporary.passages:
        return told
    names = (printable(os.fsdecode(temporary.root + b"/" + passage)) for passage in temporary.passages)
    return f"{told}; as granted: {' '.join(names)}"


def is_own(temporary: Temporary, path: bytes) -> bool:
    """Is this canonical path one of the tree, and no passage?"""
    if not is_within(path, temporary.root):
        return False
    inside = path[len(temporary.root) + 1 :]
    return not any(is_within(inside, passage) for passage in temporary.passages)


def links_of(temporary: Temporary, written: Iterable[bytes]) -> dict[bytes, bytes]:
    """Of paths as a policy has them: the names in the tree that are links, and where they lead."""
    links: dict[bytes, bytes] = {}
    for path in written:
        normal = os.path.normpath(path)
        if is_within(normal, NAME):
            normal = temporary.root + normal[len(NAME) :]
        real = os.path.realpath(path)
        if real != normal and is_own(temporary, normal) and normal != temporary.root:
            links[normal[len(temporary.root) + 1 :]] = real
    return links


def furnish(temporary: Temporary, upper: bytes, links: dict[bytes, bytes]) -> None:
    """Put the placeholders of the passages, and the links, into an empty upper directory. Raises OSError."""
    for passage in temporary.passages:
        here = upper + b"/" + passage
        if os.path.isdir(temporary.root + b"/" + passage):
            os.makedirs(here, 0o755, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(here), 0o755, exist_ok=True)
            os.close(os.open(here, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))
    for inside, target in links.items():
        here = upper + b"/" + inside
        if not os.path.lexists(here):
            os.makedirs(os.path.dirname(here), 0o755, exist_ok=True)
            os.symlink(target, here)
