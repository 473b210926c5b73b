"""The trees of a run: their storages are made, or it does not start; what changed in the workdir is disposed of."""

from __future__ import annotations

import contextlib
import os

from sandlockd.audit.state import StateError
from sandlockd.kernel.aside import TreesLock
from sandlockd.kernel.mounts import Mounts
from sandlockd.launch.prepare import CannotStart
from sandlockd.launch.temporary import furnish, is_own, links_of
from sandlockd.review.disposing import Disposer, Request
from sandlockd.review.dropping import drop
from sandlockd.review.kept import NoChanges, forget_unused, kept_lines, make_storage_directory
from sandlockd.review.places import place_for
from sandlockd.store import storage
from sandlockd.store.tree import Tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sandlockd.kernel.disk import Disk
    from sandlockd.launch.prepare import Prepared
    from sandlockd.policy.model import Filesystem
    from sandlockd.sandbox.result import Result


class RunTree:
    """To be made before the supervisor starts threads or becomes a subreaper: who will commit is forked here.

    Raises CannotStart.
    """

    def __init__(
        self,
        files: Filesystem,
        state_dir: bytes,
        run_id: str,
        *,
        is_dry_run: bool,
        disk: Disk | None = None,
    ) -> None:
        assert files.workdir is not None
        self._files = files
        self._state_dir = state_dir
        self._run_id = run_id
        self._is_dry_run = is_dry_run
        self._is_dropped = False
        may_commit = not {"commit", "ask"}.isdisjoint((files.on_exit, files.on_error)) and not is_dry_run
        self._disposer = Disposer(may_commit=may_commit)
        try:
            self.tree = self._make(os.path.realpath(files.workdir), disk)
        except BaseException:
            self.close()
            raise

    def _make(self, root: bytes, disk: Disk | None) -> Tree:
        _require_local(root)
        try:
            made = self._make_storage(root)
        except (storage.StorageError, StateError) as error:
            raise CannotStart(str(error)) from None
        except OSError as error:
            raise CannotStart(f"the storage of changes cannot be made: {error.strerror}") from None
        try:
            return Tree(root, made, TreesLock(), disk=disk)
        except BaseException:
            made.close()
            raise

    def _make_storage(self, root: bytes) -> storage.Storage:
        """On the workdir's file system, if there is a place for it that can hold an upper. Raises as storage.create."""
        place = None if self._files.storage is not None else place_for(root, self._state_dir)
        if place is not None:
            try:
                path = make_storage_directory(self._state_dir, self._run_id, place=place)
                return storage.create(path, root, settles_later=True)
            except (storage.StorageError, OSError):
                with contextlib.suppress(NoChanges, FileNotFoundError):
                    forget_unused(self._state_dir, self._run_id)
        path = make_storage_directory(self._state_dir, self._run_id, self._files.storage)
        return storage.create(path, root, settles_later=True)

    def dispose(self, result: Result, say: Callable[[str], None], *, quiet: bool, counted: bool) -> None:
        """When the program is dead and the tree closed. What it comes to is put into the result.

        counted: the result is to tell how many changes there were.
        """
        how = self._files.on_exit if result.succeeded else self._files.on_error
        unseen = how == "discard" and not self._is_dry_run and not counted
        dropped = drop(self._state_dir, self._run_id, unseen=unseen, meta=self.tree.storage.meta, say=say)
        if dropped is not None:
            self._is_dropped = True
            self._disposer.close()
            if counted:
                result.changes = _no_changes(dropped)
            return
        disposed = self._disposer.dispose(Request(self._state_dir, self._run_id, how, self._is_dry_run))
        result.changes = disposed.changes
        for line in disposed.lines:
            if not quiet or self._is_dry_run:
                say(line)
        if disposed.problem is not None:
            result.not_disposed(disposed.problem)

    def abandon(self, say: Callable[[str], None], *, has_run: bool) -> None:
        """The sandbox failed: what the program changed until then is kept, whatever the policy says."""
        self._disposer.close()
        if self._is_dropped:
            return
        meta = self.tree.storage.meta
        dropped = drop(self._state_dir, self._run_id, unseen=not has_run, meta=meta, say=say)
        if dropped is None and has_run:
            say(f"what the program has changed until then is kept: sandlockctl diff {self._run_id}")

    def kept_before(self) -> list[str]:
        """What to say of other runs that keep changes of the same workdir. Looks through all runs."""
        assert self._files.workdir is not None
        return kept_lines(self._state_dir, self._files.workdir, but=self._run_id)

    @property
    def disposers(self) -> tuple[int, ...]:
        """Children of ours that wait for the end."""
        return (self._disposer.pid,) if self._disposer.pid else ()

    def close(self) -> None:
        """Nothing was run."""
        self._disposer.close()
        with contextlib.suppress(
            NoChanges, StateError, OSError
        ):  # what stays behind is told of by sandlockctl ps
            if not forget_unused(self._state_dir, self._run_id):
                drop(self._state_dir, self._run_id, unseen=True)


def _require_local(root: bytes) -> None:
    """The trees are looked at where nothing may wait. Raises CannotStart."""
    mounts = Mounts()
    try:
        slow = next(iter(mounts.slow_in(root)), None)
    finally:
        mounts.close()
    if slow is None:
        return
    inside = slow.point.startswith(root.rstrip(b"/") + b"/")
    where = f"there is one mounted in it: {os.fsdecode(slow.point)}" if inside else "it is on one"
    raise CannotStart(
        f"{os.fsdecode(root)}: a workdir may not wait for the server of a file system ({os.fsdecode(slow.kind)}), and"
        f" {where}; take a directory on a local disk"
    )


def _no_changes(state: str) -> dict[str, object]:
    from sandlockd.overlay.changes import digest
    from sandlockd.review.changelist import counts

    return {"state": state, "digest": digest(()), "counts": counts(())}


def make_temporary(
    prepared: Prepared, path: bytes, written: Iterable[bytes], beside: Tree, disk: Disk | None
) -> Tree:
    """The tree that is /tmp to the program, in a directory made for it. Raises CannotStart.

    written: paths of the policy, as they were written. beside: the other tree of the run.
    """
    temporary = prepared.temporary
    assert temporary is not None
    try:
        made = storage.create_temporary(path, temporary.root)
        try:
            tree_path = path + b"/upper"
            furnish(temporary, tree_path, links_of(temporary, written))
            where = _working_directory(prepared)
            if where is not None and is_own(temporary, where):
                prepared.entered = tree_path + where[len(temporary.root) :]
                os.makedirs(prepared.entered, 0o755, exist_ok=True)
            passages = frozenset(temporary.passages)
            return Tree(temporary.root, made, beside.lock, starts_empty=True, passages=passages, disk=disk)
        except BaseException:
            made.close()
            raise
    except storage.StorageError as error:
        raise CannotStart(str(error)) from None
    except OSError as error:
        raise CannotStart(f"{os.fsdecode(path)}: /tmp cannot be made there: {error.strerror}") from None


def _working_directory(prepared: Prepared) -> bytes | None:
    """Canonical; None: it was removed."""
    try:
        return os.path.realpath(prepared.directory or os.getcwdb())
    except FileNotFoundError:
        return None
