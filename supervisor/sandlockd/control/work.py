"""What is done with what a run has left, by a process of the service that has become the user whose run it was: list
and commit its changes, read its log, remove all of it. The answer is lines, written to whoever reads it.
"""

from __future__ import annotations

import contextlib
import os

from sandlockd.audit import state
from sandlockd.control.messages import Worked
from sandlockd.policy.spelling import printable
from sandlockd.review import kept
from sandlockd.review.kept import NoChanges, NotRemoved
from sandlockd.review.reviewing import CannotReview, InUse, NotCommitted, Review, open_review

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sandlockd.control.messages import Work

DONE, REFUSED, NONE, BROKEN = "done", "refused", "none", "broken"


class _Unknown(Exception):
    """No such verb."""


def carried_out(work: Work, state_dir: bytes, output_fd: int) -> Worked:
    """Never raises, but for what nobody foresaw. A reader that goes away ends a listing, not a commit."""
    os.umask(0)  # modes are given in full
    try:
        act = _VERBS[work.verb]
    except KeyError:
        raise _Unknown(work.verb) from None
    try:
        lines = list(act(work, state_dir)) if work.verb in _CHANGING else act(work, state_dir)
        with contextlib.suppress(BrokenPipeError), os.fdopen(output_fd, "wb", closefd=False) as output:
            for line in lines:
                output.write(line.encode("utf-8", "surrogateescape") + b"\n")
    except NoChanges as error:
        return Worked(NONE, (str(error),))
    except FileNotFoundError as error:
        return Worked(NONE, (f"{error.strerror}: {error.filename!r}" if error.filename else str(error),))
    except NotCommitted as error:
        return Worked(REFUSED, tuple(error.lines))
    except InUse as error:
        return Worked(REFUSED, (str(error),))
    except (CannotReview, NotRemoved, state.StateError) as error:
        return Worked(BROKEN, (str(error),))
    except OSError as error:
        return Worked(BROKEN, (f"{error.strerror}: {error.filename!r}" if error.filename else str(error),))
    return Worked(DONE)


def _changes(work: Work, state_dir: bytes) -> Iterator[str]:
    from sandlockd.review.listing import diff_output

    with open_review(state_dir, work.run_id) as review:
        _require_whole(review)
        rows = review.chosen(review.named(work.paths))
        yield from diff_output(review, rows, as_json=not work.as_text, only_list=work.verb == "changes")


def _require_whole(review: Review) -> None:
    if review.pending is not None:
        done, total = review.pending.done, review.pending.total
        raise NotCommitted(
            [f"a commit did not end ({done} of {total} steps): commit ends it, discard takes it back"]
        )


def _commit(work: Work, state_dir: bytes) -> Iterator[str]:
    from sandlockd.review.listing import finished_json

    with open_review(state_dir, work.run_id) as review:
        done = review.commit(
            review.named(work.paths),
            approved=work.digest,
            skip_marked=work.skip_marked,
            force=review.named(work.force),
        )
        yield from finished_json(review, "committed", done)


def _discard(work: Work, state_dir: bytes) -> Iterator[str]:
    from sandlockd.review.listing import finished_json

    with open_review(state_dir, work.run_id) as review:
        yield from finished_json(review, "discarded", review.discard(review.named(work.paths)))


def _denials(work: Work, state_dir: bytes) -> Iterator[str]:
    from sandlockd.audit import explain
    from sandlockd.audit.read import read_run

    log = read_run(state_dir, work.run_id)
    if work.as_text:
        yield explain.explanation(log)
    else:
        yield from explain.json_lines(log)


def _forget(work: Work, state_dir: bytes) -> Iterator[str]:
    """Nothing of it stays. Changes that wait for a word are dropped where that is said."""
    with contextlib.suppress(NoChanges, FileNotFoundError), open_review(state_dir, work.run_id) as review:
        if not work.drops_changes and (review.rows or review.pending is not None):
            raise NotCommitted(
                ["it keeps changes: commit or discard them first, or drop them with it (force)"]
            )
        review.discard()
    with contextlib.suppress(NoChanges, FileNotFoundError):
        if not kept.finish_removal(state_dir, work.run_id):
            kept.forget_unused(state_dir, work.run_id)
    if not state.remove_run(state_dir, work.run_id):
        raise NotRemoved(f"run {printable(work.run_id)} still holds something: it is left as it is")
    yield ""


_VERBS: dict[str, Callable[[Work, bytes], Iterator[str]]] = {
    "changes": _changes,
    "diff": _changes,
    "commit": _commit,
    "discard": _discard,
    "denials": _denials,
    "forget": _forget,
}
_CHANGING = frozenset({"commit", "discard", "forget"})
