"""sandlockctl diff, commit, discard: by the service, where it knows the run; else on the runs of the foreground."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any

from sandlockd.cli import ctl_kept
from sandlockd.cli.ctl_service import DONE, REFUSED, found_or_none, put, put_json, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from sandlockd.client.sync import Sandbox


def diff(options: argparse.Namespace) -> int:
    sandbox = found_or_none(options, options.run)
    if sandbox is None:
        return ctl_kept.diff(options)
    if not _has_changes(sandbox):
        return REFUSED
    if options.json:
        for record in sandbox.changes(diff=not options.list, paths=options.paths):
            put_json(record)
    else:
        text = sandbox.diff(paths=options.paths, only_list=options.list)
        sys.stdout.write(_coloured(text) if _has_colours() else text)
    return DONE


def _has_changes(sandbox: Sandbox) -> bool:
    known = sandbox.known
    if known.state != "kept" and known.ended is not None:
        say(f"run {known.id} has no changes that are kept: it is {known.state}")
        return False
    return True  # of one that lives, the service says that it does


def _has_colours() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


_COLOURS = {
    "+": "\x1b[32m",
    "-": "\x1b[31m",
    "@": "\x1b[36m",
    "A": "\x1b[32m",
    "D": "\x1b[31m",
    "M": "\x1b[33m",
}


def _coloured(text: str) -> str:
    lines = [
        f"{_COLOURS[line[0]]}{line}\x1b[0m" if line[:1] in _COLOURS else line for line in text.splitlines()
    ]
    return "".join(f"{line}\n" for line in lines)


def commit(options: argparse.Namespace) -> int:
    sandbox = found_or_none(options, options.run)
    if sandbox is None:
        return ctl_kept.commit(options)
    if not _has_changes(sandbox):
        return REFUSED
    done = sandbox.commit(
        paths=options.paths, force=options.force, digest=options.digest, skip_marked=options.skip_marked
    )
    return _finished(sandbox, done, options)


def discard(options: argparse.Namespace) -> int:
    sandbox = found_or_none(options, options.run)
    if sandbox is None:
        return ctl_kept.discard(options)
    if not _has_changes(sandbox):
        return REFUSED
    return _finished(sandbox, sandbox.discard(paths=options.paths), options)


def _finished(sandbox: Sandbox, done: dict[str, Any], options: argparse.Namespace) -> int:
    with contextlib.suppress(BrokenPipeError):  # it is done, whoever reads of it
        if options.json:
            put_json(done)
        else:
            for line in finished_lines(sandbox, done):
                put(line)
    return DONE


def finished_lines(sandbox: Sandbox, done: dict[str, Any]) -> list[str]:
    from sandlockd.policy.spelling import printable
    from sandlockd.review.changelist import counted

    lines = [str(note) for note in done["notes"]]
    if any(done["counts"].values()) or not lines:
        lines.append(f"{done['kind']} in {printable(str(done['workdir']))}: {counted(done['counts'])}")
    if done["left"]:
        lines.append(f"{done['left']} more are kept: sandlockctl diff {sandbox.known.id}")
    return lines
