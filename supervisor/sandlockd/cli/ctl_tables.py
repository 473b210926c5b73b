"""Tables: rich's on a terminal, else columns of plain text without headings, for other programs to read."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

_UNITS = ("", "K", "M", "G", "T")


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]], states_in: int | None = None) -> None:
    """states_in: the column that a state stands in."""
    if sys.stdout.isatty():
        if rows:
            from rich.console import Console

            Console(no_color=bool(os.environ.get("NO_COLOR")), highlight=False).print(
                rich_table(headings, rows, states_in)
            )
        return
    for line in plain_lines(rows):
        sys.stdout.write(line + "\n")


def plain_lines(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


_COLOURS = {
    "running": "green",
    "starting": "green",
    "paused": "yellow",
    "stopping": "yellow",
    "kept": "cyan",
    "failed": "red",
    "damaged": "red",
}


def rich_table(headings: Sequence[str], rows: Sequence[Sequence[str]], states_in: int | None) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for number, heading in enumerate(headings):
        is_last = number == len(headings) - 1
        # What is cut is the end of the last column, not an id that somebody wants to copy.
        table.add_column(
            heading, no_wrap=True, overflow="ellipsis" if is_last else "ignore", ratio=1 if is_last else None
        )
    for row in rows:
        cells = [Text(word) for word in row]
        if states_in is not None:
            cells[states_in].stylize(_COLOURS.get(row[states_in], ""))
        table.add_row(*cells)
    return table


def size(size_bytes: float) -> str:
    """`12.3M`"""
    for unit in _UNITS:
        if size_bytes < 1024 or unit == _UNITS[-1]:
            break
        size_bytes /= 1024
    return f"{size_bytes:.0f}{unit}" if unit == "" or size_bytes >= 100 else f"{size_bytes:.1f}{unit}"
