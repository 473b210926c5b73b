"""sandlockctl top: what each sandbox uses, from two looks at it."""

from __future__ import annotations

import sys
import time
from typing import Any, NamedTuple

import msgspec

from sandlockd.cli.ctl_look import ALIVE
from sandlockd.cli.ctl_service import DONE, client_of, put_json, until_interrupted
from sandlockd.cli.ctl_tables import new_console, print_table, rich_table, size
from sandlockd.client.errors import ApiError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from sandlockd.client.sync import Client

_EVERY_S = 1.0
_FIRST_S = 0.5
_HEADINGS = ("ID", "NAME", "STATE", "CPU%", "MEMORY", "PROCS", "CALLS/S", "DENIALS", "COMMAND")


class Use(msgspec.Struct):
    """cpu_percent: of one processor. memory: bytes. calls_per_s: that were judged by its supervisor."""

    id: str
    name: str | None
    state: str
    cpu_percent: float
    memory: int
    processes: int
    calls_per_s: float
    denials: int
    command: list[str]


class _Seen(NamedTuple):
    at: float
    cpu_s: float
    calls: int


class _Looks:
    def __init__(self, client: Client) -> None:
        self._client = client
        self._before: dict[str, _Seen] = {}

    def look(self) -> list[Use]:
        """Since the last time; the busiest first."""
        found, seen = [], {}
        for sandbox in self._client.list():
            if sandbox.known.state not in ALIVE:
                continue
            try:
                stats = sandbox.stats()
            except ApiError:
                continue  # it has just ended
            known = sandbox.known
            now = _Seen(time.monotonic(), stats.get("cpu", 0.0), stats.get("calls", {}).get("received", 0))
            seen[known.id] = now
            found.append(_use(known, stats, now, self._before.get(known.id, now)))
        self._before = seen
        return sorted(found, key=lambda use: (-use.cpu_percent, use.id))


def _use(known: Any, stats: dict[str, Any], now: _Seen, before: _Seen) -> Use:
    took_s = max(now.at - before.at, 1e-9)
    return Use(
        id=known.id,
        name=known.name,
        state=stats["state"],
        # Processes that ended take theirs with them: less than nothing is nothing.
        cpu_percent=round(max(now.cpu_s - before.cpu_s, 0.0) / took_s * 100, 1),
        memory=stats.get("memory", 0),
        processes=stats.get("processes", 0),
        calls_per_s=round((now.calls - before.calls) / took_s, 1),
        denials=stats.get("denials", known.denials),
        command=known.command,
    )


def _row(use: Use) -> tuple[str, ...]:
    from sandlockd.cli.ctl_service import command_line

    return (
        use.id,
        use.name or "-",
        use.state,
        f"{use.cpu_percent:.1f}",
        size(use.memory),
        str(use.processes),
        f"{use.calls_per_s:.0f}",
        str(use.denials),
        command_line(use.command),
    )


def top(options: argparse.Namespace) -> int:
    looks = _Looks(client_of(options))
    looks.look()
    if sys.stdout.isatty() and not options.json:
        with until_interrupted():
            _live(looks)
        return DONE
    time.sleep(_FIRST_S)
    uses = looks.look()
    if options.json:
        for use in uses:
            put_json(use)
    else:
        print_table(_HEADINGS, [_row(use) for use in uses])
    return DONE


def _live(looks: _Looks) -> None:
    from rich.live import Live
    from rich.text import Text

    console = new_console()
    with Live(console=console, auto_refresh=False, screen=True) as live:
        wait_s = _FIRST_S / 2
        while True:
            time.sleep(wait_s)
            rows = [_row(use) for use in looks.look()]
            live.update(
                rich_table(_HEADINGS, rows, console.width) if rows else Text("nothing runs"), refresh=True
            )
            wait_s = _EVERY_S
