"""Where the path of a call leads: into a tree, and to which name there, or not.

A tree is entered by its root spelled out, from a directory in it (the working directory, a descriptor, the magic links
of /proc to them), or by a symbolic link or `..` outside that leads there. The kernel cannot be asked: it walks the
lower tree. So outside of the trees the path is walked here as well, one component after the other, as soon as a
symbolic link or `..` makes it possible that it leads into one.
"""

from __future__ import annotations

import collections
import errno
import os
import re
import stat

from sandlockd.handlers import lookup
from sandlockd.kernel import acts, procfs
from sandlockd.kernel.mounts import mount_id
from sandlockd.kernel.paths import RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_NO_XDEV
from sandlockd.overlay.entries import FsError, Kind
from sandlockd.overlay.lookup import MAX_SYMLINKS, Enter, Goal, Outside, Scope, entrance, walk
from sandlockd.overlay.view import Found, Last
from sandlockd.store.tree import is_object, kernel_error, no_such_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NamedTuple

    from sandlockd.handlers.context import Caller
    from sandlockd.kernel.fds import OwnedFd
    from sandlockd.kernel.paths import Object
    from sandlockd.overlay.view import View
    from sandlockd.store.tree import Side, Tree

    class Place(NamedTuple):
        """A name in a tree, there or not."""

        tree: Tree
        side: Side
        found: Found

        @property
        def path(self) -> bytes: ...

    class Elsewhere(NamedTuple):
        """No name in a tree.

        text: the absolute path that means the same to the kernel; None: the path as it is written does.
        """

        text: bytes | None

else:  # without importing typing

    class Place(collections.namedtuple("Place", "tree side found")):
        __slots__ = ()

        @property
        def path(self):
            """The name as the program knows it."""
            inside = self.found.path
            return self.tree.root + b"/" + inside if inside else self.tree.root

    Elsewhere = collections.namedtuple("Elsewhere", "text")

_AS_WRITTEN = Elsewhere(None)

# Of the caller's own /proc: the link, and what is behind it.
_MAGIC = re.compile(rb"(/proc/(?:\d+/task/)?\d+/(?:cwd|root|fd/\d+))(/.*)?", re.DOTALL)
_PATH_MAX = 4096
_DOTS = {b".": Last.DOT, b"..": Last.DOTDOT}
_BENEATH, _IN_ROOT = 0x08, 0x10


def resolve(caller: Caller, text: bytes, dirfd: int, goal: Goal, *, resolve: int = 0) -> Place | Elsewhere:
    """Where a path of the call leads.

    resolve: RESOLVE_* of openat2(2); outside of the trees the kernel heeds them.

    Raises:
        OSError: as the walk in a tree would; what is to be found outside is left to whoever looks there.
        Gone.
    """
    if not text:
        raise no_such_name()
    if len(text) >= _PATH_MAX:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    try:
        place = _Resolving(caller, goal, resolve).begin(text, dirfd)
    except FsError as error:
        raise kernel_error(error) from None
    if isinstance(place, Elsewhere) and caller.context.hidden is not None:
        _require_shown(caller, text if place.text is None else place.text, dirfd)
    last = _DOTS.get(last_name(text)) if goal is Goal.NAME else None
    if last is None or not isinstance(place, Place):
        return place
    # By way of outside, or of another tree, it may have been found by its own name.
    return place._replace(found=place.found._replace(last=last))


def _require_shown(caller: Caller, text: bytes, dirfd: int) -> None:
    """Raises OSError ENOENT: the path comes by a process that does not exist for the caller."""
    from sandlockd.handlers.private import walk  # only where it is wanted

    if walk.missing(caller, text, dirfd, follow=False) is not None:
        raise no_such_name()


def last_name(text: bytes) -> bytes:
    """What a path ends in, without slashes behind it."""
    return text.rstrip(b"/").rpartition(b"/")[2]


def of_descriptor(caller: Caller, opened: OwnedFd) -> Place | Elsewhere | None:
    """The name of an object that the caller holds; None: of the tree, and without a name in it now."""
    found = described(caller, opened)
    return _AS_WRITTEN if found is None else _named(caller, found)


def described(caller: Caller, opened: OwnedFd) -> Object | None:
    """None: a file in a directory that is deeper than any path is long. Nobody can tell where it is."""
    try:
        return caller.context.files.run(acts.describe_at_length, opened)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return None


def _named(caller: Caller, found: Object) -> Place | Elsewhere | None:
    number = found.device, found.inode
    for tree in caller.context.trees:
        virtual = tree.virtual_path(found.path)
        if virtual is None:
            if tree.may_hold(found.path):
                return None  # moved away, and removed since
            continue
        if found.deleted:
            return None
        side = tree.side(caller.identity)
        at = side.view.at(tree.inside(virtual))
        if at is None or not (
            is_object(at.lower, number) or is_object(at.upper, number) or tree.is_copied(at, number)
        ):
            return None
        return Place(tree, side, at)
    return _AS_WRITTEN


class _Resolving:
    """One path under way. written: is the path that is walked the one that the program wrote?"""

    def __init__(self, caller: Caller, goal: Goal, resolve: int) -> None:
        self.scope = Scope.BENEATH if resolve & _BENEATH else Scope.ANYWHERE
        if resolve & _IN_ROOT:
            self.scope = Scope.IN_ROOT
        self.symlinks = not resolve & RESOLVE_NO_SYMLINKS
        self.magic_links = self.symlinks and not resolve & RESOLVE_NO_MAGICLINKS
        self.one_mount = bool(resolve & RESOLVE_NO_XDEV)
        self.mount = 0  # where the walk began, if it may not leave that
        self.caller = caller
        self.goal = goal
        self.trees: Sequence[Tree] = caller.context.trees
        self.links = 0
        self.written = True

    def begin(self, text: bytes, dirfd: int) -> Place | Elsewhere:
        if text.startswith(b"/") and self.scope is Scope.BENEATH:
            raise FsError(errno.EXDEV)
        if text.startswith(b"/") and self.scope is Scope.ANYWHERE:
            asked = lookup.as_asked_by(self.caller, text)
            self._begins_at(None)
            return self._absolute(text if asked is None else asked)
        return self._from(procfs.directory_of(self.caller.tid, dirfd), text)

    def _from(self, link: bytes, text: bytes, *, missing: int = errno.EBADF) -> Place | Elsewhere:
        """From the directory that a magic link of the caller's leads to; or that object itself, where text is b"".

        missing: the errno where there is no such link.
        """
        try:
            with self.caller.context.files.jump(link) as base:
                self.caller.require_alive()
                found = described(self.caller, base)
                base_mount = mount_id(base) if self.one_mount else 0
        except FileNotFoundError:
            self.caller.require_alive()
            raise OSError(missing, os.strerror(missing)) from None
        if found is None:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        if not found.path.startswith(b"/") or found.proc:
            return _AS_WRITTEN
        place = _named(self.caller, found)
        if isinstance(place, Elsewhere):
            floor = found.path.rstrip(b"/")
            is_around = any(tree.root.startswith(floor + b"/") for tree in self.trees)
            if not text or (self.scope is not Scope.ANYWHERE and not is_around):
                return _AS_WRITTEN
            self._begins_at(base_mount)
            if self.scope is not Scope.ANYWHERE:
                return self._outside(text, floor)
            return self._absolute(found.path.rstrip(b"/") + b"/" + text, is_base=True)
        if not text:
            return _AS_WRITTEN if place is None else place
        if not stat.S_ISDIR(found.mode):
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        self._begins_at(base_mount if place is None else mount_id(place.tree.storage.workdir))
        if place is None:
            return self._from_removed(found, text)
        return self._walk(place.side.view, place.found, text)

    def _from_removed(self, found: Object, text: bytes) -> Place | Elsewhere:
        """From a directory that was removed: nothing is in it, but it is still there, and so is the one above."""
        names = [name for name in text.split(b"/") if name not in (b"", b".")]
        if not names and self.goal in (Goal.FOLLOW, Goal.NOFOLLOW):
            return _AS_WRITTEN
        if names and names[0] == b".." and self.scope is Scope.ANYWHERE:
            for tree in self.trees:
                virtual = tree.virtual_path(found.path)
                side = tree.side(self.caller.identity)
                above = None
                if virtual is not None and virtual != tree.root:
                    above = side.view.at(tree.inside(virtual).rpartition(b"/")[0])
                if above is not None and above.kind is Kind.DIRECTORY:
                    return self._walk(side.view, above, b"/".join(names[1:]) or b".")
        raise no_such_name()

    def _absolute(self, path: bytes, *, is_base: bool = False) -> Place | Elsewhere:
        self._require_shown(path)
        magic = None if is_base else _MAGIC.fullmatch(path)
        if magic is not None and not magic[2] and self.goal in (Goal.NOFOLLOW, Goal.NAME):
            return _AS_WRITTEN  # the link itself
        if magic is not None and not self.magic_links:
            raise FsError(errno.ELOOP)
        if magic is not None and self.one_mount:
            raise FsError(errno.EXDEV)
        if magic is not None:
            link, rest = magic[1], magic[2] or b""
            if link.endswith(b"/root"):
                return self._absolute(rest or b"/")
            return self._from(link, rest.lstrip(b"/") or (b"." if rest else b""), missing=errno.ENOENT)
        entered = self._enter(path)
        if entered is not None:
            view, inside = entered
            return self._walk(view, view.top(), inside)
        if self._is_surely_outside(path):
            return self._elsewhere(path)
        return self._outside(path)

    def _require_shown(self, path: bytes) -> None:
        """Of a process that does not exist for the caller nothing is there."""
        if self.caller.context.hidden is not None and path.startswith(b"/proc/"):
            from sandlockd.handlers.private import walk  # only where it is wanted

            if walk.is_missing(self.caller, path):
                raise no_such_name()

    def _enter(self, path: bytes) -> tuple[View, bytes] | None:
        return self._entrance()(path)

    def _entrance(self) -> Enter:
        return entrance([tree.side(self.caller.identity).view for tree in self.trees])

    def _begins_at(self, mount: int | None) -> None:
        """mount: None is that of `/`."""
        if self.one_mount and not self.mount:
            self.mount = self._root_mount() if mount is None else mount

    def _root_mount(self) -> int:
        with self.caller.context.files.open(None, b"/", os.O_PATH) as opened:
            return mount_id(opened)

    def _in(self, tree: Tree, found: Found) -> Place:
        if self.one_mount and mount_id(tree.storage.workdir) != self.mount:
            raise FsError(errno.EXDEV)
        return Place(tree, tree.side(self.caller.identity), found)

    def _walk(
        self, view: View, start: Found, text: bytes, *, scope: Scope | None = None
    ) -> Place | Elsewhere:
        """text: b"" is where it starts: the root of a tree, by its name."""
        tree = next(tree for tree in self.trees if tree.root == view.root)
        if not text.strip(b"/"):
            return self._in(tree, start)
        reached = walk(
            start,
            text,
            self.goal,
            enter=self._entrance(),
            scope=self.scope if scope is None else scope,
            symlinks=self.symlinks,
            jumps=not self.one_mount or self._root_mount() == self.mount,
            links=self.links,
        )
        if isinstance(reached, Outside):
            return self._leave(reached)
        tree = next(tree for tree in self.trees if tree.root == reached.view.root)
        return self._in(tree, reached)

    def _leave(self, reached: Outside) -> Place | Elsewhere:
        rest = b"/" + reached.rest if reached.rest else b""
        path = reached.at.rstrip(b"/") + rest or b"/"
        self.links = reached.links
        self.written = False
        tree = next((tree for tree in self.trees if tree.root == reached.at), None)
        if tree is not None:  # behind a passage
            view = tree.side(self.caller.identity).view
            return self._walk(view, view.top(), reached.rest)
        if self._is_surely_outside(path):
            return self._elsewhere(path)
        return self._outside(path)

    def _elsewhere(self, path: bytes) -> Elsewhere:
        return _AS_WRITTEN if self.written else Elsewhere(path)

    def _is_surely_outside(self, path: bytes) -> bool:
        """No symbolic link and no `..` is on the way, as far as there is one: the letters have told."""
        if b".." in path.split(b"/"):
            return False
        try:
            self.caller.context.files.open(
                None, path, os.O_PATH, resolve=RESOLVE_NO_SYMLINKS, identity=self.caller.identity
            ).close()
        except OSError as error:
            return error.errno != errno.ELOOP
        return True

    def _outside(self, path: bytes, floor: bytes | None = None) -> Place | Elsewhere:
        """Walk where the kernel knows better, but for where it leads into a tree.

        floor: what a walk that is confined (self.scope) may not leave; path is from there. In a tree it is confined to
        that, which is stricter than it ought to be: EXDEV for what leads out of the tree and stays above the floor.
        """
        slash = path.endswith((b"/", b"/."))
        todo = [part for part in path.split(b"/") if part not in (b"", b".")][::-1]
        at = self._passage(todo) if floor is None else floor
        scope = None if floor is None else Scope.BENEATH
        while todo:
            name = todo.pop()
            if name == b".":
                continue
            if name == b".." and at == floor:
                if self.scope is Scope.BENEATH:
                    raise FsError(errno.EXDEV)
            elif name == b"..":
                self._require_directory(at)
                at = at[: at.rindex(b"/")] if at else at
            else:
                child = at + b"/" + name
                self._require_shown(child)
                target = self._link_target(child, is_last=not todo, slash=slash)
                if target is not None:
                    self.links += 1
                    if self.links > MAX_SYMLINKS or not self.symlinks:
                        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                    if not todo:
                        slash = slash or target.endswith(b"/")
                    todo += [part for part in target.split(b"/") if part][::-1]
                    if target.startswith(b"/"):
                        if self.scope is Scope.BENEATH:
                            raise FsError(errno.EXDEV)
                        at = floor or b""
                    continue
                at = child
            if floor is None and _MAGIC.fullmatch(at):  # by way of `..`
                return self._absolute(at + b"/" + b"/".join(todo[::-1]) if todo or slash else at)
            tree = next((tree for tree in self.trees if _is_entered(tree, at)), None)
            if tree is not None:
                inside = tree.inside(at)
                rest = b"/".join([*([inside] if inside else []), *todo[::-1]])
                view = tree.side(self.caller.identity).view
                return self._walk(view, view.top(), rest + b"/" if slash and todo else rest, scope=scope)
        if floor is not None:
            return _AS_WRITTEN
        return self._elsewhere(at + b"/" if slash or not at else at)

    def _require_directory(self, path: bytes) -> None:
        """What `..` is asked of. Raises OSError, as the kernel's walk."""
        if path:
            self.caller.context.files.open(
                None, path + b"/.", os.O_PATH | os.O_DIRECTORY, identity=self.caller.identity
            ).close()

    def _passage(self, todo: list[bytes]) -> bytes:
        """Take from the front of a path what spells a passage: that is where it is, whatever is around it."""
        path = b"/".join(todo[::-1])
        for tree in self.trees:
            for passage in tree.passages:
                start = tree.root[1:] + b"/" + passage
                if path == start or path.startswith(start + b"/"):
                    del todo[len(todo) - start.count(b"/") - 1 :]
                    return b"/" + start
        return b""

    def _link_target(self, path: bytes, *, is_last: bool, slash: bool) -> bytes | None:
        """Where a symbolic link points that is to be followed; None for all else, what is missing included."""
        if is_last and not slash and self.goal not in (Goal.FOLLOW, Goal.CREATE):
            return None
        files = self.caller.context.files
        try:
            with files.open(None, path, os.O_PATH | os.O_NOFOLLOW, identity=self.caller.identity) as opened:
                found = files.run(acts.describe, opened)
                if not stat.S_ISLNK(found.mode) or found.proc:
                    return None  # the links of /proc are not what they say
                return files.run(acts.read_link, opened, b"")
        except OSError:
            return None


def _is_entered(tree: Tree, at: bytes) -> bool:
    """Does a walk outside come into the tree here? Into one with passages also from below, by `..`."""
    if at == tree.root:
        return True
    if not tree.passages or not at.startswith(tree.root + b"/"):
        return False
    inside = tree.inside(at)
    return not any(inside == passage or inside.startswith(passage + b"/") for passage in tree.passages)
