"""Tables: rich's on a terminal, else columns of plain text without headings, for other programs to read."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from rich.table import Table

_END = 6  # characters of an id that are by chance
_WIDE = 120
_UNITS = ("", "K", "M", "G", "T")


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """The first column is ids. STATE has a colour; DIRECTORY is for wide terminals."""
    if sys.stdout.isatty():
        if rows:
            console = new_console()
            console.print(rich_table(headings, rows, console.width))
        return
    for line in plain_lines(rows):
        sys.stdout.write(line + "\n")


def plain_lines(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def new_console() -> Console:
    from rich.console import Console

    return Console(no_color=bool(os.environ.get("NO_COLOR")), highlight=False)


_COLOURS = {
    "running": "green",
    "starting": "green",
    "paused": "yellow",
    "stopping": "yellow",
    "kept": "cyan",
    "failed": "red",
    "damaged": "red",
}


def rich_table(headings: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> Table:
    """Of an id its end is shown, which is enough to name it by, if no other here has the same."""
    from rich.table import Table
    from rich.text import Text

    ends = {row[0][-_END:] for row in rows}
    if len(ends) == len(rows):
        rows = [(row[0][-_END:], *row[1:]) for row in rows]
    shown = [place for place, name in enumerate(headings) if name != "DIRECTORY" or width >= _WIDE]
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for place in shown:
        widest = max(len(headings[place]), *(len(row[place]) for row in rows))
        is_last = place == len(headings) - 1
        # What is cut is the end of the last column, nothing that somebody wants to copy.
        table.add_column(headings[place], no_wrap=True, min_width=None if is_last else widest)
    for row in rows:
        cells = [Text(row[place]) for place in shown]
        if "STATE" in headings:
            place = headings.index("STATE")
            cells[shown.index(place)].stylize(_COLOURS.get(row[place], ""))
        table.add_row(*cells)
    return table


def size(size_bytes: float) -> str:
    """`12.3M`"""
    for unit in _UNITS:
        if size_bytes < 1024 or unit == _UNITS[-1]:
            break
        size_bytes /= 1024
    return f"{size_bytes:.0f}{unit}" if unit == "" or size_bytes >= 100 else f"{size_bytes:.1f}{unit}"
