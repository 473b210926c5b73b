"""Other names of what is denied: hard links, and mounts of the same directory elsewhere.

A rule of the kernel's on a granted tree reaches every file in it, also one that has a second name in a denied place.
So before the start: the denied files with more than one link are found, and if there are any, the granted trees of the
same file system are searched for the other names, which become holes themselves. Links made later are refused by the
kernel (Landlock lets no link or rename give an object more rights than it had).
"""

from __future__ import annotations

import os
import stat

from sandlockd.policy.files import Hole
from sandlockd.policy.verdict import FileIdentity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sandlockd.kernel.paths import Mount
    from sandlockd.policy.files import FileRules

DENIED_ENTRIES_MAX = 200_000
GRANTED_ENTRIES_MAX = 2_000_000


class TooMany(Exception):
    """A tree is too large to be searched at each start."""

    def __init__(self, path: bytes, limit: int) -> None:
        super().__init__(path, limit)
        self.path = path
        self.limit = limit

    def __str__(self) -> str:
        return (
            f"{os.fsdecode(self.path)}: more than {self.limit} files to look through for other names of denied files;"
            ' grant or deny less, or accept the risk with [degrade] allow = ["hard_links"]'
        )


def other_names(rules: FileRules) -> tuple[dict[bytes, str], dict[FileIdentity, str]]:
    """(path -> rule of each other name that a grant reaches, object -> rule of each file with several names).

    Raises: TooMany.
    """
    linked: dict[FileIdentity, str] = {}
    missing: dict[FileIdentity, int] = {}  # names of it that have not been met yet
    for hole in rules.holes():
        if not hole.rule.startswith("law."):  # /proc has no links, and our own files none but their own
            for found, links in _linked_files(hole.path):
                linked[found] = hole.rule
                missing[found] = missing.get(found, links) - 1
    names: dict[bytes, str] = {}
    if any(missing.values()):
        holes = frozenset(hole.path for hole in rules.holes())
        for path, found in _names_in_grants(rules, holes, linked):
            names[path] = linked[found]
            missing[found] -= 1
            if not any(missing.values()):
                break
    return names, linked


def _names_in_grants(
    rules: FileRules, holes: frozenset[bytes], linked: dict[FileIdentity, str]
) -> Iterator[tuple[bytes, FileIdentity]]:
    """The policy's own grants first: a user's link is more likely there than among the system's files."""
    devices = frozenset(one.device for one in linked)
    grants = sorted(rules.grants(), key=lambda grant: grant.rule.startswith("base"))
    for root in _outermost(grant.path for grant in grants):
        for path, identity in _search(root, holes, devices):
            if identity in linked:
                yield path, identity


def _linked_files(path: bytes) -> Iterator[tuple[FileIdentity, int]]:
    try:
        status = os.lstat(path)
    except OSError:
        return
    if stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
        yield FileIdentity(status.st_dev, status.st_ino), status.st_nlink
    if stat.S_ISDIR(status.st_mode):
        for entry in _walk(path, frozenset(), DENIED_ENTRIES_MAX):
            status = entry.stat(follow_symlinks=False)
            if status.st_nlink > 1 and stat.S_ISREG(status.st_mode):
                yield FileIdentity(status.st_dev, status.st_ino), status.st_nlink


def _search(
    root: bytes, holes: frozenset[bytes], devices: frozenset[int]
) -> Iterator[tuple[bytes, FileIdentity]]:
    try:
        status = os.lstat(root)
    except OSError:
        return
    if stat.S_ISREG(status.st_mode):
        yield root, FileIdentity(status.st_dev, status.st_ino)
        return
    for entry in _walk(root, holes, GRANTED_ENTRIES_MAX):
        if entry.is_file(follow_symlinks=False):
            status = entry.stat(follow_symlinks=False)
            if status.st_nlink > 1 and status.st_dev in devices:
                yield entry.path, FileIdentity(status.st_dev, status.st_ino)


def _walk(root: bytes, without: frozenset[bytes], limit: int) -> Iterator[os.DirEntry[bytes]]:
    """Everything below a directory that we may list. What we may not list, the program may not either."""
    waiting, seen = [root], 0
    while waiting:
        directory = waiting.pop()
        try:
            entries = list(os.scandir(directory))
        except OSError:
            continue
        seen += len(entries)
        if seen > limit:
            raise TooMany(root, limit)
        for entry in entries:
            if entry.path in without:
                continue
            try:
                yield entry
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
            except FileNotFoundError:
                continue  # it went away meanwhile


def _outermost(paths: Iterable[bytes]) -> list[bytes]:
    """Without those that lie below another, in their order."""
    given = list(dict.fromkeys(paths))
    return [
        path
        for path in given
        if not any(path != above and path.startswith(above.rstrip(b"/") + b"/") for above in given)
    ]


def mounted_elsewhere(rules: FileRules, mounts: list[Mount]) -> list[Hole]:
    """Each place where a mount shows something denied once more: a bind mount, say."""
    twice = _shown_twice(mounts)
    if not twice:
        return []
    at = {mount.point.rstrip(b"/"): mount for mount in reversed(mounts)}
    names: dict[bytes, Hole] = {}
    for hole in rules.holes():
        if hole.rule == "law.proc":
            continue  # every procfs is a hole by itself
        home = _home_of(hole.path, at)
        if home is None or home.device not in twice:
            continue
        inside = _joined(home.root, hole.path[len(home.point.rstrip(b"/")) :])
        for mount in twice[home.device]:
            if mount == home:
                continue
            if _is_at_or_below(inside, mount.root):
                path = _joined(mount.point, inside[len(mount.root.rstrip(b"/")) :])
                names[path] = Hole(path, hole.rule, None, hole.pattern)
            elif _is_at_or_below(mount.root, inside):
                names[mount.point] = Hole(mount.point, hole.rule, None)
    for hole in rules.holes():
        names.pop(hole.path, None)
    return list(names.values())


def _shown_twice(mounts: list[Mount]) -> dict[int, list[Mount]]:
    """By device, those of which there are several."""
    found: dict[int, list[Mount]] = {}
    for mount in mounts:
        found.setdefault(mount.device, []).append(mount)
    return {device: those for device, those in found.items() if len(those) > 1}


def _home_of(path: bytes, at: dict[bytes, Mount]) -> Mount | None:
    """The mount that is nearest above. at: by their points, which for the root is b"".

    None: where the root of this process is no mount point (chroot(2)), the mount that it lies on is not told.
    """
    path = path.rstrip(b"/")
    while path and path not in at:
        path = path[: path.rindex(b"/")]
    return at.get(path)


def _is_at_or_below(path: bytes, above: bytes) -> bool:
    return path == above or path.startswith(above.rstrip(b"/") + b"/")


def _joined(path: bytes, rest: bytes) -> bytes:
    return path.rstrip(b"/") + rest if rest else path
