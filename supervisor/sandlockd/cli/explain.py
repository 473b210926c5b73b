"""`sandlockd explain`: find the run that is meant, and print its refusals. Judges nothing, writes nothing."""

from __future__ import annotations

import os
import sys

from sandlockd.audit import explain as rendering
from sandlockd.audit import state
from sandlockd.audit.read import RunLog, read_run
from sandlockd.cli.ending import say

# What a person who mistyped a run id is offered.
_RECENT_SHOWN = 5


def explain(run: str | None, last: bool, json: bool, state_dir: bytes, name: str = "sandlockd") -> int:
    """Print what was refused in one run; the newest if none is named.

    run: an id, or the beginning or end of one. name: of the command that says what is wrong.
    Returns: 0; 1 if there is no such run or its log cannot be read; 2 if both a run and --last were given.
    """

    def complain(words: str, status: int = 1) -> int:
        say(name, words)
        return status

    if run is not None and last:
        return complain("give a run or --last, not both", status=2)
    try:
        ids = state.run_ids(state_dir)
        run_id = _chosen(ids, run)
        if run_id is None:
            return complain(_no_such_run(ids, run, state_dir))
        log = read_run(state_dir, run_id)
    except state.StateError as error:
        return complain(str(error))
    except OSError as error:
        where = os.fsdecode(state_dir)
        return complain(f"cannot read the log below {rendering.printable(where)}: {error.strerror}")
    _print(log, json=json)
    return 0


def _chosen(ids: list[str], run: str | None) -> str | None:
    if run is None:
        return ids[0] if ids else None
    found = state.matching_runs(ids, run)
    return found[0] if len(found) == 1 else None


def _no_such_run(ids: list[str], run: str | None, state_dir: bytes) -> str:
    if not ids:
        return f"no run has left a log in {rendering.printable(os.fsdecode(state_dir))} yet"
    assert run is not None
    several = state.matching_runs(ids, run)
    if several:
        return f"{rendering.printable(run)} may be any of: {' '.join(several[:_RECENT_SHOWN])}"
    return f"no run {rendering.printable(run)}; the newest are: {' '.join(ids[:_RECENT_SHOWN])}"


def _print(log: RunLog, *, json: bool) -> None:
    if json:
        for line in rendering.json_lines(log):
            print(line)
        return
    coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    text = rendering.explanation(log, rendering.COLOURED if coloured else rendering.PLAIN)
    sys.stdout.write(text)
