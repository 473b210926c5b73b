"""What becomes of changes that nobody needs to look at: nothing changed, or all of it is discarded unseen.

Both only remove a storage, in which the supervisor may write anyway, so that no other process is needed, which takes 35
ms to start. What is in doubt, and whatever leads to the real tree, is left to `review/disposing.py`.
"""

from __future__ import annotations

import os

from sandlockd.audit.state import StateError
from sandlockd.kernel import beneath, copying
from sandlockd.review import kept
from sandlockd.review.kept import NoChanges
from sandlockd.store import storage
from sandlockd.store.storage import JOURNAL_NAME, Storage, StorageError
from sandlockd.store.watched_names import OPAQUE_ATTRIBUTE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandlockd.store.storage import Meta


def drop(
    state_dir: bytes,
    run_id: str,
    *,
    unseen: bool,
    meta: Meta | None = None,
    say: Callable[[str], None] | None = None,
) -> str | None:
    """Remove the storage if nothing changed or, `unseen`, whatever changed. When whoever used it has closed it.

    meta: of the storage, where it is known: to read it takes json. say: told what could not be removed of it.

    Returns: `none` (nothing had changed), `discarded`, or None: it is there as it was, to be reviewed. Never raises.
    """
    try:
        path = kept.storage_of(state_dir, run_id)
        with storage.open_existing(path, known=meta) as opened:
            if os.path.lexists(path + b"/" + JOURNAL_NAME):
                return None  # somebody committed, and did not end
            unchanged = _is_unchanged(opened)
            if not unchanged and not unseen:
                return None
            left = kept.remove_storage(state_dir, run_id, path, flush=not unchanged)
            if left is not None and say is not None:
                say(left)
            return "none" if unchanged else "discarded"
    except (NoChanges, StateError, StorageError, OSError, RecursionError):
        return None


def _is_unchanged(opened: Storage) -> bool:
    """Whether the upper is as it was made: as the list of changes judges the root, and nothing below it."""
    with beneath.open_below(opened.upper.fd, b"", os.O_RDONLY | os.O_DIRECTORY) as upper:
        if any(True for _ in beneath.rows(upper)) or beneath.attribute(upper, OPAQUE_ATTRIBUTE) is not None:
            return False
        new, old = os.fstat(upper.fd), os.fstat(opened.workdir.fd)
        if (new.st_mode, new.st_uid, new.st_gid) != (old.st_mode, old.st_uid, old.st_gid):
            return False
        return copying.attributes_of(upper) == copying.attributes_of(opened.workdir)
