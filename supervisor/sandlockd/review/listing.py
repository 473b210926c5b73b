"""What `sandlockctl` prints: lines for people, JSON Lines for programs."""

from __future__ import annotations

from sandlockd.audit.read import RunLog, read_run, text
from sandlockd.policy.spelling import printable
from sandlockd.review.changelist import (
    Row,
    counts,
    json_line,
    json_path,
    json_record,
    list_lines,
    shown,
    style_for,
    summary,
)
from sandlockd.review.diffs import diff_lines
from sandlockd.review.kept import KeptRun
from sandlockd.review.reviewing import Done, Review

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

_HEADINGS = ("RUN", "STATE", "STARTED", "DIRECTORY", "COMMAND")


def ps_lines(state_dir: bytes, runs: Collection[KeptRun], with_headings: bool) -> Iterator[str]:
    """A table; headings are for terminals."""
    rows = [ps_columns(state_dir, run) for run in runs]
    if with_headings and rows:
        rows.insert(0, _HEADINGS)
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))] if rows else []
    for row in rows:
        yield "  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip()


def ps_columns(state_dir: bytes, run: KeptRun) -> tuple[str, ...]:
    header = _header(state_dir, run.run_id)
    where = shown(run.workdir) or "-"
    what = run.problem if run.problem is not None else _command(header)
    return run.run_id, run.state.value, text(header, "time")[:19] or "-", where, printable(what or "-")


def ps_json(state_dir: bytes, runs: Collection[KeptRun]) -> Iterator[str]:
    for run in runs:
        header = _header(state_dir, run.run_id)
        yield json_line(
            {
                "kind": "run",
                "id": run.run_id,
                "name": header.get("name"),
                "state": run.state.value,
                "started": header.get("time"),
                **json_path("workdir", run.workdir),
                "command": header.get("command"),
                **json_path("storage", run.storage),
                "problem": run.problem,
            }
        )


def _header(state_dir: bytes, run_id: str) -> dict[str, object]:
    """What the audit log says of the run; nothing where it was off or is damaged."""
    try:
        log: RunLog = read_run(state_dir, run_id)
    except OSError:
        return {}
    return log.header or {}


def _command(header: dict[str, object]) -> str:
    command = header.get("command")
    return " ".join(map(str, command)) if isinstance(command, list) else ""


def diff_output(review: Review, rows: Collection[Row], *, as_json: bool, only_list: bool) -> Iterator[str]:
    """The list, then what changed in files."""
    if as_json:
        yield json_line(
            {
                "kind": "run",
                "id": review.run_id,
                **json_path("workdir", review.workdir),
                "digest": review.digest,
                "counts": counts(row.change for row in rows),
            }
        )
        for row in rows:
            diff = None if only_list else "\n".join(diff_lines(row, review.storage))
            yield json_line(json_record(row, diff, with_diff=not only_list))
        return
    style = style_for(1)
    yield f"{style.strong}run {review.run_id}{style.end}: {summary([row.change for row in rows])}"
    yield f"directory {shown(review.workdir)}, digest {review.digest}"
    yield from list_lines(rows, style)
    if not only_list:
        for row in rows:
            yield from diff_lines(row, review.storage, style)


def finished_lines(review: Review, word: str, done: Done) -> Iterator[str]:
    if done.changes or not done.notes:  # what a commit before had begun is in the notes
        yield f"{word} in {shown(review.workdir)}: {summary(done.changes)}"
    if done.left:
        yield f"{done.left} more are kept: sandlockctl diff {review.run_id}"


def finished_json(review: Review, word: str, done: Done) -> Iterator[str]:
    yield json_line(
        {
            "kind": word,
            "id": review.run_id,
            **json_path("workdir", review.workdir),
            "counts": counts(done.changes),
            "left": done.left,
            "notes": list(done.notes),
        }
    )
