"""The `sandlockctl` command: parse, call, print. Nothing else.

It works on the runs whose changes are kept, and needs no service.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys

from sandlockd import __version__
from sandlockd.cli.ending import end, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import NoReturn

    from sandlockd.review.reviewing import Done, Review

DONE, REFUSED, BROKEN = 0, 1, 125

_EXAMPLES = """\
examples:
  sandlockctl ps                                the runs whose changes are kept
  sandlockctl diff 4f2a1c                       what one changed; the end of its id is enough
  sandlockctl diff 4f2a1c src --list            the list only, below src
  sandlockctl commit 4f2a1c                     put all of it into the directory
  sandlockctl commit 4f2a1c src/main.c          only that
  sandlockctl commit 4f2a1c . .git/config       all, and that too, although git obeys it
  sandlockctl discard 4f2a1c build              drop what is below build, keep the rest

exit status: 0 done; 1 refused, nothing was changed; 125 used wrongly, or the storage is broken
"""

_VERB_EXAMPLES = {
    "ps": """\
examples:
  sandlockctl ps                                newest first: id, state, start, directory, command
  sandlockctl ps --json | jq -r 'select(.state == "kept") | .id'
""",
    "diff": """\
examples:
  sandlockctl diff 4f2a1c                       the list, and what changed in text files
  sandlockctl diff 4f2a1c src --list            the list only, of what is below src
  sandlockctl diff 4f2a1c --json                one record a line, with exact names
""",
    "commit": """\
examples:
  sandlockctl commit 4f2a1c                     everything
  sandlockctl commit 4f2a1c src/main.c          only that; the rest stays kept
  sandlockctl commit 4f2a1c . .git/config       everything, and what runs later by itself because it is named
  sandlockctl commit 4f2a1c --digest 57840d...  only if the list is still the one that had this digest
  sandlockctl commit 4f2a1c --force notes.txt   although notes.txt has changed underneath
""",
    "discard": """\
examples:
  sandlockctl discard 4f2a1c                    everything
  sandlockctl discard 4f2a1c build              what is below build; the rest stays kept
""",
    "completion": """\
examples:
  sandlockctl completion bash > ~/.local/share/bash-completion/completions/sandlockctl
  sandlockctl completion fish > ~/.config/fish/completions/sandlockctl.fish
""",
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        _say(f"{message}; see {self.prog} --help")
        raise SystemExit(BROKEN)


def _new_parser(prog: str, description: str, epilog: str | None = None) -> _Parser:
    return _Parser(
        prog=prog,
        description=description,
        epilog=epilog or _VERB_EXAMPLES[prog.rpartition(" ")[2]],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def _with_run(parser: _Parser, paths: str) -> _Parser:
    parser.add_argument("run", metavar="ID", help="the run's id, or the beginning or end of it")
    parser.add_argument("paths", nargs="*", metavar="PATH", help=f"{paths}, as the list shows it; . is all")
    return parser


def _with_json(parser: _Parser, text: str = "JSON Lines (default: text for people)") -> _Parser:
    parser.add_argument("--json", action="store_true", help=text)
    return parser


def _ps_parser() -> _Parser:
    return _with_json(_new_parser("sandlockctl ps", "List the runs whose changes are kept."))


def _diff_parser() -> _Parser:
    parser = _new_parser("sandlockctl diff", "Show what a run changed: the list, and what changed in files.")
    _with_run(parser, "only what is at and below it")
    parser.add_argument(
        "--list", action="store_true", help="the list only (default: with what changed in text files)"
    )
    return _with_json(parser)


def _commit_parser() -> _Parser:
    parser = _new_parser(
        "sandlockctl commit",
        "Put a run's changes into its directory. A commit that did not end is ended first.",
    )
    _with_run(parser, "only what is at and below it; what runs later by itself must be named exactly")
    parser.add_argument(
        "--digest",
        metavar="D",
        help="refuse if the changes are not those that had this digest (default: whatever they are)",
    )
    parser.add_argument(
        "--force",
        action="append",
        default=[],
        metavar="PATH",
        help="overwrite or delete it although it has changed underneath; repeatable (default: nothing)",
    )
    parser.add_argument(
        "--skip-marked",
        action="store_true",
        help="leave out, and keep, what runs later by itself (default: refuse)",
    )
    return _with_json(parser)


def _discard_parser() -> _Parser:
    parser = _new_parser(
        "sandlockctl discard", "Drop a run's changes. A commit that did not end is taken back first."
    )
    return _with_json(_with_run(parser, "only what is at and below it"))


def _completion_parser() -> _Parser:
    parser = _new_parser("sandlockctl completion", "Print a completion script for a shell.")
    parser.add_argument("shell", choices=("bash", "zsh", "fish"))
    return parser


_PARSERS: dict[str, Callable[[], _Parser]] = {
    "ps": _ps_parser,
    "diff": _diff_parser,
    "commit": _commit_parser,
    "discard": _discard_parser,
    "completion": _completion_parser,
}


def main_parser() -> _Parser:
    parser = _new_parser(
        "sandlockctl",
        "Look at, commit and discard what runs of sandlockd changed. Verbs: " + ", ".join(_PARSERS) + ".",
        epilog=_EXAMPLES,
    )
    parser.add_argument("--version", action="version", version=f"sandlockctl {__version__}")
    parser.add_argument("verb", choices=tuple(_PARSERS), metavar="VERB", help="what to do")
    parser.add_argument("rest", nargs=argparse.REMAINDER, metavar="...", help="see sandlockctl VERB --help")
    return parser


def command() -> NoReturn:
    end("sandlockctl", main)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in _PARSERS:
        verb, rest = arguments[0], arguments[1:]
    else:
        found = main_parser().parse_args(arguments)
        verb, rest = found.verb, found.rest
    options = _PARSERS[verb]().parse_intermixed_args(rest)
    os.umask(0)  # modes are given in full
    return _VERBS[verb](options)


def _say(text: str) -> None:
    say("sandlockctl", text)


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")


def _state_dir() -> bytes:
    from sandlockd.audit.state import own_state_directory

    return own_state_directory()


# ---- ps


def _ps(options: argparse.Namespace) -> int:
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


def _paths(given: Sequence[str], review: Review) -> list[bytes]:
    """Relative to the tree, or absolute and in it. A slash behind a directory, as the list shows it, says nothing."""
    found = []
    for path in map(os.fsencode, given):
        if path.startswith(review.workdir + b"/"):
            path = path[len(review.workdir) + 1 :]
        found.append(path.removeprefix(b"./").rstrip(b"/") or b".")
    return found


def _diff(options: argparse.Namespace) -> int:
    def act(review: Review) -> int:
        from sandlockd.review.listing import diff_output

        if review.pending is not None:
            _say(_half_done(review))
            return REFUSED
        rows = review.chosen(_paths(options.paths, review))
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


def _commit(options: argparse.Namespace) -> int:
    def act(review: Review) -> int:
        done = review.commit(
            _paths(options.paths, review),
            approved=options.digest,
            skip_marked=options.skip_marked,
            force=_paths(options.force, review),
        )
        return _finished(review, "committed", done, options)

    return _on_run(options, act)


def _discard(options: argparse.Namespace) -> int:
    def act(review: Review) -> int:
        return _finished(review, "discarded", review.discard(_paths(options.paths, review)), options)

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


def _completion(options: argparse.Namespace) -> int:
    from sandlockd.cli.completion import completion

    parsers = {name: make() for name, make in _PARSERS.items()}
    sys.stdout.write(completion(main_parser(), parsers, options.shell))
    return DONE


_VERBS: dict[str, Callable[[argparse.Namespace], int]] = {
    "ps": _ps,
    "diff": _diff,
    "commit": _commit,
    "discard": _discard,
    "completion": _completion,
}


if __name__ == "__main__":
    command()
