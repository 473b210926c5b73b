"""Names in directories of the upper that a program watches (inotify): they come and go as in a plain directory.

The kernel tells a watch of each system call that changes a directory's names. So what shows to the program as a new
name must be a name that is made in its place, and what shows as a removal must be one; whatever else a step needs is
done while the watch is kept quiet. A whiteout makes two calls out of each; a record in work, made before the first,
says how it ends, should we be killed between them.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import stat

from sandlockd.kernel import beneath
from sandlockd.kernel.fds import OwnedFd
from sandlockd.overlay.entries import Kind
from sandlockd.store import watches
from sandlockd.store.lending import lent
from sandlockd.store.removal import remove
from sandlockd.store.watches import Watches

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    NewWhiteout = Callable[[OwnedFd, bytes], None]

# Symbolic links in work whose target is a path. It is to be a whiteout, whatever is there:
GONE_PREFIX = b"gone#"
# ... only where nothing is there; a directory is to be opaque:
MADE_PREFIX = b"made#"
OPAQUE_ATTRIBUTE = b"user.overlay.opaque"


class WatchedNames:
    """Of one tree, for its executor. The descriptors are borrowed."""

    def __init__(
        self, upper: OwnedFd, work: OwnedFd, lower: OwnedFd | None, known: Watches, new_whiteout: NewWhiteout
    ) -> None:
        """new_whiteout: makes one of that name in an opened directory."""
        self._upper = upper
        self._work = work
        self._lower = lower
        self._known = known
        self._new_whiteout = new_whiteout
        self._numbers = itertools.count()

    def watch(self, *directories: OwnedFd) -> bool:
        """Does anybody watch one of these?"""
        return any(self._known.has(directory) for directory in directories)

    @contextlib.contextmanager
    def quiet(self, path: bytes, bits: int = watches.ALL, *, itself: bool = False) -> Iterator[None]:
        """What happens to this name, and to the directory that it is in, is not told meanwhile.

        bits: of the two; the directory above that one is not told of attributes. itself: nor who watches the object.
        """
        if not self._known:
            yield
            return
        with contextlib.ExitStack() as stack:
            above = path.rpartition(b"/")[0] if path else None
            with self._known.asking_once():
                if above is not None:
                    self._quiet(stack, above, bits)
                    if above:
                        self._quiet(stack, above.rpartition(b"/")[0], bits & watches.ATTRIBUTES)
                if itself:
                    self._quiet(stack, path, bits)
            yield

    def _quiet(self, stack: contextlib.ExitStack, path: bytes, bits: int) -> None:
        with contextlib.suppress(OSError):
            opened = stack.enter_context(beneath.open_below(self._upper.fd, path, os.O_PATH))
            stack.enter_context(self._known.quiet(opened, bits))

    @contextlib.contextmanager
    def _record(self, prefix: bytes, path: bytes) -> Iterator[contextlib.ExitStack]:
        """Yields: what removes it in the end; who takes that over leaves the record to the next opening."""
        name = b"%b%d" % (prefix, next(self._numbers))
        beneath.make_symlink(self._work, name, path)
        with contextlib.ExitStack() as removal:
            removal.callback(beneath.unlink, self._work, name)
            yield removal

    def white_out(self, parent: OwnedFd, path: bytes, over: Kind | None) -> bool:
        """As `Whiteout` of overlay/steps.py. False: it cannot be done so, and nothing has changed.

        Raises OSError.
        """
        name = path.rpartition(b"/")[2]
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(self._record(GONE_PREFIX, path))
            except OSError:
                return False  # a path that is too long for a link
            reserve = b"reserve#%d" % next(self._numbers)
            self._new_whiteout(self._work, reserve)
            # Should this fail, the name goes all the same, and only those who watch are not told.
            with contextlib.suppress(OSError):
                self._remove(parent, path, over or self._stand_in(parent, path))
            with self.quiet(path):
                _put_whiteout(self._work, reserve, parent, name)
        return True

    def _remove(self, parent: OwnedFd, path: bytes, kind: Kind) -> None:
        name = path.rpartition(b"/")[2]
        if kind is not Kind.DIRECTORY:
            beneath.unlink(parent, name)
            return
        try:
            beneath.remove_directory(parent, name)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            self.empty(path)
            beneath.remove_directory(parent, name)

    def _stand_in(self, parent: OwnedFd, path: bytes) -> Kind:
        """Something of the lower object's kind, to be removed in its stead."""
        name = path.rpartition(b"/")[2]
        assert self._lower is not None, "there is nothing to hide"
        mode = beneath.look(self._lower.fd, path).mode
        with self.quiet(path):
            if stat.S_ISDIR(mode):
                beneath.make_directory(parent, name, 0o700)
                return Kind.DIRECTORY
            beneath.make_node(parent, name, stat.S_IFREG)
            return Kind.FILE

    def empty(self, path: bytes) -> None:
        """Of a directory of which nothing shows: its whiteouts."""
        with (
            beneath.open_below(self._upper.fd, path, os.O_PATH | os.O_DIRECTORY) as directory,
            self.quiet(path, itself=True),
        ):
            mode = stat.S_IMODE(os.fstat(directory.fd).st_mode)
            if mode & 0o700 != 0o700 and os.geteuid() != 0:
                beneath.set_owner_and_mode(directory, 0xFFFFFFFF, 0xFFFFFFFF, mode | 0o700)
            with beneath.open_below(self._upper.fd, path, os.O_RDONLY | os.O_DIRECTORY) as opened:
                for below, _, _ in list(beneath.rows(opened)):
                    beneath.unlink(opened, below)

    @contextlib.contextmanager
    def in_place_of_whiteout(self, parent: OwnedFd, path: bytes, *, opaque: bool) -> Iterator[None]:
        """The block makes a new object there, as if no whiteout were; where it fails, the whiteout is there again.

        opaque: a directory is made opaque then. Raises OSError.
        """
        name = path.rpartition(b"/")[2]
        aside = b"aside#%d" % next(self._numbers)
        with self._record(MADE_PREFIX, path) as removal:
            with self.quiet(path):
                # Kept, not unlinked: a disk that fills up meanwhile has no room for another one.
                beneath.rename(parent, name, self._work, aside)
            try:
                yield
                if opaque:
                    with self.quiet(path, itself=True):
                        mark_opaque(self._work, parent, name, path)
            except BaseException:
                settled = removal.pop_all()
                self._put_back(parent, path, aside)
                settled.close()
                raise
            with contextlib.suppress(OSError):  # what resists is swept later
                beneath.unlink(self._work, aside)

    def _put_back(self, parent: OwnedFd, path: bytes, aside: bytes) -> None:
        """The whiteout. A directory that was made was told as new, so its end is told, too."""
        name = path.rpartition(b"/")[2]
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            beneath.remove_directory(parent, name)
        with self.quiet(path):
            beneath.rename(self._work, aside, parent, name)


def mark_opaque(work: OwnedFd, parent: OwnedFd, name: bytes, path: bytes) -> None:
    """Of a directory that nobody has opened yet. path: where it is in the upper, or will be."""
    with (
        beneath.open_directory(parent.fd, name) as directory,
        lent(work, directory, path, stat.S_IWUSR),
    ):
        beneath.set_attribute(directory, OPAQUE_ATTRIBUTE, b"y")


def _put_whiteout(work: OwnedFd, reserve: bytes, parent: OwnedFd, name: bytes) -> None:
    """Over whatever is there; a directory is left in work then."""
    try:
        beneath.rename(work, reserve, parent, name)
    except OSError as error:
        if error.errno not in (errno.EISDIR, errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        with beneath.open_directory(
            parent.fd, name
        ) as gone:  # its `..` changes: we must be able to write to it
            beneath.set_owner_and_mode(gone, 0xFFFFFFFF, 0xFFFFFFFF, 0o700)
        beneath.rename(work, reserve, parent, name, beneath.RENAME_EXCHANGE)


def settle(upper: OwnedFd, work: OwnedFd, record: bytes, path: bytes, new_whiteout: NewWhiteout) -> None:
    """What a record in work says, after an end."""
    name = path.rpartition(b"/")[2]
    try:
        parent = beneath.open_directory(upper.fd, path.rpartition(b"/")[0])
    except FileNotFoundError:
        return  # it has come to nothing, or was taken elsewhere since
    with parent:
        try:
            mode = beneath.look(parent.fd, name).mode
        except FileNotFoundError:
            mode = 0
        if record.startswith(MADE_PREFIX) and mode:
            if stat.S_ISDIR(mode):
                mark_opaque(work, parent, name, path)
            return
        reserve = b"reserve#settled"
        remove(work, reserve)  # of one who was killed here
        new_whiteout(work, reserve)
        _put_whiteout(work, reserve, parent, name)
