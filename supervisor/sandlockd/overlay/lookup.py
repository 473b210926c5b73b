"""The walk: from a directory along a path as the program wrote it, to a name of the merged view or out of it.

Pure. What Linux does is in fs/namei.c (link_path_walk, lookup_last, open_last_lookups, filename_create) and
path_resolution(7); the comments name what is easy to get wrong. Symbolic links are read in the view, so a
link may lead to what only the upper has, and through directories that a rename made.
"""

from __future__ import annotations

import enum
import errno
from collections.abc import Callable, Iterable
from typing import NamedTuple

from sandlockd.overlay.entries import FsError, Kind
from sandlockd.overlay.view import NAME_MAX, Found, Last, View

PATH_MAX = 4096  # with the NUL: the longest path has 4095 bytes
MAX_SYMLINKS = 40


class Goal(enum.Enum):
    """What the call wants with the last component."""

    FOLLOW = enum.auto()  # stat, chmod, open without O_CREAT: it must be there, a link is followed
    NOFOLLOW = enum.auto()  # lstat, O_NOFOLLOW: it must be there, a link is followed only before a slash
    NAME = enum.auto()  # mkdir, unlink, rename, link: the name itself, there or not, never followed
    CREATE = enum.auto()  # open with O_CREAT: there or not, a link is followed, to a missing name too
    CREATE_NOFOLLOW = enum.auto()  # O_CREAT with O_EXCL or O_NOFOLLOW


class Scope(enum.Enum):
    """How far the walk may go; the RESOLVE_ flags of openat2(2) that confine it."""

    ANYWHERE = enum.auto()
    BENEATH = enum.auto()
    IN_ROOT = enum.auto()


class Outside(NamedTuple):
    """The walk left the trees.

    at: the canonical absolute path where it goes on.
    rest: what is left of the path, its trailing slash included; b"" where `at` is the end.
    links: how many symbolic links were followed so far; they count on.
    last: how the walk came to `at`, where `at` is the end.
    """

    at: bytes
    rest: bytes
    links: int
    last: Last


# Maps an absolute path, as written, to a tree and what is left of the path in it.
Enter = Callable[[bytes], tuple[View, bytes] | None]


def entrance(views: Iterable[View]) -> Enter:
    """The way in for absolute paths that spell the root of one of these trees; the longest root wins.

    A path that comes to a tree by `..` or through a link outside is left to the kernel's own lookup. So is one that
    leads through a passage of the tree that it would be in.
    """
    roots = sorted(
        (([part for part in view.root.split(b"/") if part], view) for view in views),
        key=lambda known: -len(known[0]),
    )

    def enter(path: bytes) -> tuple[View, bytes] | None:
        # Each part with the place behind it, so that the rest keeps its slashes, but for those in front.
        parts: list[tuple[bytes, int]] = []
        end = 0
        for part in path.split(b"/"):
            end += len(part) + 1
            if part and part != b".":
                parts.append((part, end))
        for root, view in roots:
            if [part for part, _ in parts[: len(root)]] != root:
                continue
            inside = b"/".join(part for part, _ in parts[len(root) :])
            if view.passages and view.passage_on(inside) not in (None, inside):
                return None
            return view, path[parts[len(root) - 1][1] :].lstrip(b"/") if root else path
        return None

    return enter


def walk(
    start: Found,
    path: bytes,
    goal: Goal,
    *,
    enter: Enter,
    scope: Scope = Scope.ANYWHERE,
    symlinks: bool = True,
    jumps: bool = True,
    links: int = 0,
) -> Found | Outside:
    """Walk along a path.

    start: a directory of a view; for an absolute path, any.
    symlinks: False is RESOLVE_NO_SYMLINKS. jumps: False is RESOLVE_NO_XDEV where `/` is another mount.
    links: how many symbolic links an earlier part of this walk followed.
    Raises:
        FsError: ENOENT, ENOTDIR, ELOOP, ENAMETOOLONG, EISDIR (O_CREAT with a trailing slash), EXDEV
            (`Scope.BENEATH`, `jumps`), or what a layer or `Access` raised.
    """
    if not path:
        raise FsError(errno.ENOENT)
    if len(path) >= PATH_MAX:
        raise FsError(errno.ENAMETOOLONG)
    return _Walk(start, goal, enter, scope, symlinks, jumps, links).along(path)


class _Walk:
    """One walk under way: `here`, and the components still to go, the next one last."""

    __slots__ = (
        "enter",
        "goal",
        "here",
        "jumps",
        "last",
        "links",
        "scope",
        "slash",
        "start",
        "symlinks",
        "todo",
    )

    def __init__(
        self, start: Found, goal: Goal, enter: Enter, scope: Scope, symlinks: bool, jumps: bool, links: int
    ) -> None:
        self.start = start
        self.here = start
        self.goal = goal
        self.enter = enter
        self.scope = scope
        self.symlinks = symlinks
        self.jumps = jumps
        self.links = links
        self.todo: list[bytes] = []
        self.slash = False
        self.last = Last.DOT

    def along(self, path: bytes) -> Found | Outside:
        out = self._push(path)
        todo = self.todo
        while todo and out is None:
            access = self.here.view.access
            if access is not None:
                access.search(self.here)
            name = todo.pop()
            if name == b".":
                self.last = Last.DOT
            elif name == b"..":
                self.last = Last.DOTDOT
                out = self._up()
            else:
                child = self._child(name)
                kind = child.kind
                if child.path in child.view.passages:
                    if not todo and self.goal is Goal.NAME:
                        return child._replace(last=Last.ROOT, slash=self.slash)
                    return self._pass(child)
                if kind is Kind.SYMLINK and (todo or self._follows_last()):
                    out = self._through(child)
                elif not todo:
                    return self._end(child, kind)
                elif kind is Kind.DIRECTORY:
                    self.here = child
                else:
                    raise FsError(errno.ENOENT if kind is None else errno.ENOTDIR)
        if out is not None:
            return out
        last = Last.ROOT if self.last is Last.NORM else self.last
        return self.here._replace(last=last, slash=self.slash)

    def _push(self, path: bytes) -> Outside | None:
        """Go on along this path, and then along what is left."""
        absolute = path.startswith(b"/")
        if not self.todo:
            self.slash = self.slash or path.endswith(b"/")
        parts = [part for part in path.split(b"/") if part]
        self.todo += parts[::-1]
        if not absolute:
            return None
        if self.scope is Scope.BENEATH or not self.jumps:
            raise FsError(errno.EXDEV)
        self.last = Last.ROOT
        if self.scope is Scope.IN_ROOT:
            self.here = self.start
            return None
        return self._out(b"/")

    def _up(self) -> Outside | None:
        if self.scope is not Scope.ANYWHERE and self.here.path == self.start.path:
            if self.scope is Scope.BENEATH:
                raise FsError(errno.EXDEV)
            return None
        if self.here.parent is not None:
            self.here = self.here.parent
            return None
        return self._out(self.here.view.root.rpartition(b"/")[0] or b"/")

    def _pass(self, passage: Found) -> Found | Outside:
        """What is to be seen there is no name of this tree."""
        at = b"%b/%b" % (passage.view.root, passage.path)
        if not self.todo:
            # A slash behind a file is an error of who finds it.
            self.last = Last.NORM
            rest = b"." if self.slash else b""
        else:
            rest = b"/".join(self.todo[::-1]) + (b"/" if self.slash else b"")
        return Outside(at, rest, self.links, self.last)

    def _out(self, at: bytes) -> Outside | None:
        """Leave the tree for an absolute directory, and come back in where the path does."""
        rest = b"/".join(self.todo[::-1])
        if self.slash and rest:
            rest += b"/"
        entered = self.enter(b"%b/%b" % (at.rstrip(b"/"), rest))
        if entered is None:
            return Outside(at, rest, self.links, self.last)
        view, inside = entered
        self.here = view.top()
        self.todo[:] = [part for part in inside.split(b"/") if part][::-1]
        self.last = Last.ROOT
        return None

    def _child(self, name: bytes) -> Found:
        if not self.todo and self.slash and self.goal in (Goal.CREATE, Goal.CREATE_NOFOLLOW):
            # Before the name is looked up, and so also where it is missing (open_last_lookups).
            raise FsError(errno.EISDIR)
        here = self.here
        if len(name) > NAME_MAX and not self.todo and self.goal is Goal.NAME:
            # Looked up only after both parents of a rename, so it is the plan that refuses it.
            return Found(here.view, b"%b/%b" % (here.path, name) if here.path else name, None, None, here)
        return here.view.child(here, name)

    def _follows_last(self) -> bool:
        goal = self.goal
        return goal is Goal.FOLLOW or goal is Goal.CREATE or (goal is Goal.NOFOLLOW and self.slash)

    def _through(self, link: Found) -> Outside | None:
        self.links += 1
        if self.links > MAX_SYMLINKS or not self.symlinks:
            raise FsError(errno.ELOOP)
        self.last = Last.DOT
        return self._push(link.view.target(link))

    def _end(self, found: Found, kind: Kind | None) -> Found:
        goal = self.goal
        if goal is Goal.FOLLOW or goal is Goal.NOFOLLOW:
            if kind is None:
                raise FsError(errno.ENOENT)
            if self.slash and kind is not Kind.DIRECTORY:
                raise FsError(errno.ENOTDIR)
        return found._replace(slash=True) if self.slash else found
