"""The runs of the foreground whose changes are kept: list them, show, commit and discard what they changed.

No service is needed for it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys

from sandlockd.cli.ending import say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandlockd.review.reviewing import Done, Review

DONE, REFUSED, BROKEN = 0, 1, 125


def _say(text: str) -> None:
    say("sandlockctl", text)


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")


def _state_dir() -> bytes:
    from sandlockd.audit.state import own_state_directory

    return own_state_directory()


# ---- all runs


def ps(options: argparse.Namespace) -> int:
    from sandlockd.audit.state import StateError
    from sandlockd.review.kept import kept_runs

    try:
        state_dir = _state_dir()
        runs = kept_runs(state_dir)
    except (StateError, OSError) as error:
        _say(str(error))
        return BROKEN
    from sandlockd.review.listing import ps_json, ps_lines

    lines = ps_json(state_dir, runs) if options.json else ps_lines(state_dir, runs, sys.stdout.isatty())
    for line in lines:
        _print(line)
    return DONE


# ---- one run


def _on_run(
    options: argparse.Namespace,
    act: Callable[[Review], int],
    done_already: Callable[[bytes, str], str | None] | None = None,
) -> int:
    from sandlockd.audit import state
    from sandlockd.policy.spelling import printable
    from sandlockd.review.kept import NoChanges, NotRemoved
    from sandlockd.review.reviewing import CannotReview, InUse, NotCommitted, open_review

    try:
        directory = _state_dir()
        found = state.matching_runs(state.run_ids(directory), options.run)
        if len(found) != 1:
            wrong = f"may be any of {' '.join(found[:5])}" if found else "is no run: see sandlockctl ps"
            _say(f"{printable(options.run)} {wrong}")
            return BROKEN
        told = None if done_already is None else done_already(directory, found[0])
        if told is not None:
            _say(told)
            return DONE
        with open_review(directory, found[0]) as review:
            return act(review)
    except (NoChanges, InUse) as error:
        _say(str(error))
        return REFUSED
    except NotCommitted as error:
        for line in error.lines:
            _say(line)
        return REFUSED
    except (CannotReview, NotRemoved, state.StateError) as error:
        _say(str(error))
        return BROKEN
    except BrokenPipeError:
        raise  # of our output
    except OSError as error:
        _say(f"{error.strerror}: {error.filename!r}" if error.filename else str(error.strerror))
        return BROKEN


def diff(options: argparse.Namespace) -> int:
    def act(review: Review) -> int:
        from sandlockd.review.listing import diff_output

        if review.pending is not None:
            _say(_half_done(review))
            return REFUSED
        rows = review.chosen(review.named(map(os.fsencode, options.paths)))
        for line in diff_output(review, rows, as_json=options.json, only_list=options.list):
            _print(line)
        return DONE

    return _on_run(options, act)


def _half_done(review: Review) -> str:
    assert review.pending is not None
    done, total = review.pending.done, review.pending.total
    return (
        f"a commit of run {review.run_id} did not end ({done} of {total} steps):"
        f" sandlockctl commit {review.run_id} ends it, discard takes it back"
    )


def commit(options: argparse.Namespace) -> int:
    def act(review: Review) -> int:
        done = review.commit(
            review.named(map(os.fsencode, options.paths)),
            approved=options.digest,
            skip_marked=options.skip_marked,
            force=review.named(map(os.fsencode, options.force)),
        )
        return _finished(review, "committed", done, options)

    return _on_run(options, act)


def discard(options: argparse.Namespace) -> int:
    def act(review: Review) -> int:
        return _finished(
            review, "discarded", review.discard(review.named(map(os.fsencode, options.paths))), options
        )

    return _on_run(options, act, _removed)


def _removed(directory: bytes, run_id: str) -> str | None:
    """Where nothing is to be reviewed."""
    from sandlockd.review.kept import finish_removal, forget_unused

    if finish_removal(directory, run_id):
        return f"run {run_id}: what was left of its storage is removed"
    if forget_unused(directory, run_id):
        return f"run {run_id} never began: what was made for it is removed"
    return None


def _finished(review: Review, word: str, done: Done, options: argparse.Namespace) -> int:
    from sandlockd.review.listing import finished_json, finished_lines

    for line in done.notes:
        _say(line)
    lines = finished_json(review, word, done) if options.json else finished_lines(review, word, done)
    with contextlib.suppress(BrokenPipeError):  # it is done, whoever reads of it
        for line in lines:
            _print(line)
    return DONE
