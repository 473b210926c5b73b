"""The Landlock ruleset of a policy, and what the fast path may leave to it.

Landlock rules are recursive and cannot subtract, so a hole in a grant (`deny`, /proc, our own state) is made by
granting every sibling around it, level by level from the grant down to the hole. The directories on that way are the
*spine*: the kernel grants nothing on them, so whatever they hold later, the supervisor serves as opened and checked
objects or nobody does. This holds with the supervisor wrong, stopped or dead.
"""

from __future__ import annotations

import os
import stat

from sandlockd.kernel import landlock
from sandlockd.kernel.engine import (
    ZONE_ASKER,
    ZONE_IDENTITY,
    ZONE_SLOW,
    ZONE_TOLD,
    ZONE_TREE,
    ZONE_WHOLE,
    Zone,
)
from sandlockd.kernel.paths import mounts
from sandlockd.launch import hardlinks
from sandlockd.launch.features import check_features
from sandlockd.launch.temporary import is_own
from sandlockd.policy.files import LAW_PROC, LAW_STATE, WORKDIR_RULE
from sandlockd.policy.spelling import fits, is_within
from sandlockd.policy.verdict import Want

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sandlockd.launch.temporary import Temporary
    from sandlockd.policy.files import FileRules, Grant

# Where a path leads through the caller's own /proc, by its letters alone.
ASKER_LINKS = (b"/dev/fd", b"/dev/stdin", b"/dev/stdout", b"/dev/stderr", b"/etc/mtab")

SIBLINGS_MAX = 100_000

_RIGHTS: tuple[tuple[Want, int], ...] = (
    (Want.READ, landlock.READ_FILE | landlock.READ_DIR),
    (Want.EXECUTE, landlock.EXECUTE),
    (Want.WRITE, landlock.WRITE_FILE | landlock.TRUNCATE),
    (
        Want.CREATE,
        landlock.MAKE_DIR
        | landlock.MAKE_REG
        | landlock.MAKE_SOCK
        | landlock.MAKE_FIFO
        | landlock.MAKE_SYM
        | landlock.REFER,
    ),
    (Want.DELETE, landlock.REMOVE_DIR | landlock.REMOVE_FILE | landlock.REFER),
)

# Of a copy-on-write tree the kernel gives this only, whatever the rules say: everything else is the supervisor's.
_TREE = Want.READ | Want.EXECUTE


class WallError(Exception):
    """The ruleset could not be built. The text says why and what to do."""


def rights_of(want: Want) -> int:
    """The LANDLOCK_ACCESS_FS_* bits that a policy right stands for."""
    rights = 0
    for one, bits in _RIGHTS:
        if one in want:
            rights |= bits
    return rights


class Wall:
    """A ruleset ready to be entered, and the zones that tell the fast path what it grants."""

    def __init__(self, ruleset: landlock.Ruleset, missing: list[str], rules: FileRules) -> None:
        """rules: with every denied object in them, for the handlers."""
        self.ruleset = ruleset
        self.missing = missing
        self.rules = rules
        self.zones: dict[bytes, Zone] = {}

    def grant_upper(self, path: bytes) -> None:
        """The upper directory of a tree: what is executed from there, or was entered, is read there by the kernel.

        Only what the supervisor opened leads there; nobody writes by its own name. Raises WallError.
        """
        try:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                self.ruleset.allow_beneath(fd, rights_of(_TREE))
            finally:
                os.close(fd)
        except OSError as error:
            raise WallError(
                f"{os.fsdecode(path)}: the storage of changes cannot be granted: {error.strerror}"
            ) from None
        self.zones[path] = Zone(path, ZONE_SLOW | ZONE_TREE, 0)

    @property
    def scope_signals(self) -> bool:
        return "landlock.scope_signal" not in self.missing

    def close(self) -> None:
        self.ruleset.close()


def build(
    rules: FileRules,
    degrade: frozenset[str],
    temporary: Temporary | None = None,
    told: tuple[bytes, ...] = (),
) -> Wall:
    """Grant what the rules allow, around their holes.

    temporary: a tree of which the kernel grants nothing, whatever its passages are granted.
    told: directories of which the kernel grants nothing: what the rules grant there, the supervisor serves.
    Raises:
        MissingFeatures: the kernel cannot, and the policy does not degrade it.
        WallError: a grant could not be opened, or a directory around a hole is too large to grant around.
    """
    version, missing = check_features(degrade)
    mounted = hardlinks.mounted_elsewhere(rules, mounts())
    if mounted:
        rules = rules.also_holes(mounted)
    try:
        names, linked = hardlinks.other_names(rules)
    except hardlinks.TooMany as error:
        if "hard_links" not in degrade:
            raise WallError(str(error)) from None
        names, linked = {}, {}
        missing.append("hard_links")
    wall = Wall(_empty_ruleset(version), missing, rules.also_denied(linked) if linked else rules)
    try:
        _Builder(wall, names, temporary, told).build()
    except BaseException:
        wall.close()
        raise
    return wall


def _empty_ruleset(version: int) -> landlock.Ruleset:
    return landlock.Ruleset(
        handled_fs=landlock.supported_fs(version),
        handled_net=landlock.NET_BIND_TCP | landlock.NET_CONNECT_TCP if version >= 4 else 0,
        scoped=landlock.SCOPE_SIGNAL | landlock.SCOPE_ABSTRACT_UNIX_SOCKET if version >= 6 else 0,
    )


class _Builder:
    def __init__(
        self,
        wall: Wall,
        other_names: Mapping[bytes, str],
        temporary: Temporary | None = None,
        told: tuple[bytes, ...] = (),
    ) -> None:
        """other_names: further holes, where denied files have a second name. temporary, told: as `build`."""
        self.wall = wall
        self.temporary = temporary
        self.told = told
        self.grants: tuple[Grant, ...] = tuple(
            grant
            for grant in wall.rules.grants()
            if not any(is_within(grant.path, directory) for directory in told)
        )
        # Nothing leads to our state in a tree that starts empty, so nothing there must be kept from it.
        holes = [
            hole
            for hole in wall.rules.holes()
            if hole.rule != LAW_STATE or temporary is None or not is_own(temporary, hole.path)
        ]
        self.hole_paths = frozenset((*(hole.path for hole in holes), *other_names, *told))
        self.hole_parents = _ancestors(self.hole_paths)
        self.trees = tuple(grant.path for grant in self.grants if grant.rule == WORKDIR_RULE)
        self.denied = frozenset(
            (hole.identity.device, hole.identity.inode) for hole in holes if hole.identity is not None
        )
        self.own = (*self.trees, *(() if temporary is None else (temporary.root,)))
        self.siblings = 0

    def build(self) -> None:
        asker = {*ASKER_LINKS, *(hole.path for hole in self.wall.rules.holes() if hole.rule == LAW_PROC)}
        for path in (*self.hole_paths, *ASKER_LINKS):
            kind = (ZONE_ASKER if path in asker else 0) | (ZONE_TOLD if path in self.told else 0)
            self._zone(path, ZONE_SLOW | kind, 0)
        for grant in self.grants:
            want = grant.want & _TREE if grant.rule == WORKDIR_RULE else grant.want
            self._grant(grant.path, rights_of(want), top=True)
        if self.temporary is not None:
            root, denied = self.temporary.root, [path for path in self.hole_paths if self._is_temporary(path)]
            self.wall.zones[root] = Zone(root, ZONE_SLOW | ZONE_TREE | (0 if denied else ZONE_WHOLE), 0)
        self._add_up()

    def _add_up(self) -> None:
        """Landlock gives an object what any directory above it was given; a slow zone was given nothing."""
        zones = self.wall.zones
        for path in sorted(zones, key=len):
            zone = zones[path]
            if zone.flags & ZONE_SLOW or not path:
                continue
            for part in _prefixes(path):
                above = zones.get(b"" if part == b"/" else part)
                if part != path and above is not None:
                    if not above.flags & ZONE_SLOW:
                        zones[path] = zone._replace(rights=zone.rights | above.rights)
                    break

    def _grant(self, path: bytes, rights: int, *, top: bool, may_be_own: bool = True) -> None:
        """may_be_own: the path may be of a tree."""
        if path in self.hole_parents:
            self._grant_around(path, rights)
            return
        try:
            device, inode = self._allow(path, rights)
        except FileNotFoundError:
            if top:
                raise WallError(f"{os.fsdecode(path)}: it was there a moment ago and is gone") from None
            return  # a sibling that went away while we listed: nothing to grant
        except OSError as error:
            if top:
                raise WallError(f"{os.fsdecode(path)}: cannot be granted: {error.strerror}") from None
            return  # not granted is safe; the supervisor will answer for it
        flags = 0 if top else ZONE_IDENTITY
        self._zone(path, flags, rights, device, inode, may_be_own=may_be_own)

    def _allow(self, path: bytes, rights: int) -> tuple[int, int]:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            status = os.fstat(fd)
            if (status.st_dev, status.st_ino) in self.denied:
                return 0, 0  # a hard link to a denied file
            if stat.S_ISCHR(status.st_mode) and rights & landlock.WRITE_FILE:
                rights |= landlock.IOCTL_DEV
            if not stat.S_ISDIR(status.st_mode):
                rights &= landlock.FS_FILE
            self.wall.ruleset.allow_beneath(fd, rights)
            return status.st_dev, status.st_ino
        finally:
            os.close(fd)

    def _grant_around(self, directory: bytes, rights: int) -> None:
        self._zone(directory, ZONE_SLOW, 0)
        try:
            with os.scandir(directory) as listed:
                entries = list(listed)
        except OSError:
            return  # what we may not list we do not grant
        self.siblings += len(entries)
        if self.siblings > SIBLINGS_MAX:
            raise WallError(
                f"{os.fsdecode(directory)}: a deny below it would need more than {SIBLINGS_MAX} rules around it;"
                " grant the directories beside the denied one instead"
            )
        prefix = directory if directory != b"/" else b""
        patterns = self.wall.rules.patterns_in(directory)
        may_be_own = any(is_within(directory, own) or is_within(own, directory) for own in self.own)
        for entry in entries:
            child = prefix + b"/" + entry.name
            if child in self.hole_paths or (patterns and _fits_one_of(entry.name, patterns)):
                continue
            if not entry.is_symlink():
                self._grant(child, rights, top=False, may_be_own=may_be_own)

    def _is_temporary(self, path: bytes) -> bool:
        return self.temporary is not None and is_own(self.temporary, path)

    def _zone(
        self,
        path: bytes,
        flags: int,
        rights: int,
        device: int = 0,
        inode: int = 0,
        *,
        may_be_own: bool = True,
    ) -> None:
        key = b"" if path == b"/" else path
        if not may_be_own:
            pass
        elif any(is_within(path, tree) for tree in self.trees):
            whole = path in self.trees and path not in self.hole_parents
            flags, rights = ZONE_SLOW | ZONE_TREE | (ZONE_WHOLE if whole else 0), 0
        elif self._is_temporary(path):
            flags, rights = ZONE_SLOW | ZONE_TREE, 0
        old = self.wall.zones.get(key)
        if old is not None and not flags & ZONE_SLOW and not old.flags & ZONE_SLOW:
            # Landlock adds up, and so does the wider of two ways to know the object.
            flags, rights = old.flags & flags, old.rights | rights
        self.wall.zones[key] = Zone(key, flags, rights, device, inode)


def _fits_one_of(name: bytes, patterns: list[bytes]) -> bool:
    for pattern in patterns:
        if fits(name, pattern):
            return True
    return False


def _prefixes(path: bytes) -> Iterable[bytes]:
    """The path and every directory above it, the root included."""
    while True:
        yield path
        if path == b"/" or not path:
            return
        path = path[: path.rindex(b"/")] or b"/"


def _ancestors(paths: Iterable[bytes]) -> frozenset[bytes]:
    found: set[bytes] = set()
    for path in paths:
        for part in _prefixes(path):
            if part != path:
                found.add(part)
    return frozenset(found)
