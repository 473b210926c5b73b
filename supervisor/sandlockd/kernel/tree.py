"""The processes below one, as /proc has them now: for people who look, not for decisions."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple

    class Seen(NamedTuple):
        """cpu_s: user and system. rss_bytes: as the kernel counts, shared pages in each."""

        pid: int
        ppid: int
        name: bytes
        state: str
        threads: int
        cpu_s: float
        rss_bytes: int
        argv: tuple[bytes, ...]

else:  # without importing typing
    import collections

    Seen = collections.namedtuple("Seen", "pid ppid name state threads cpu_s rss_bytes argv")

_ARGV_BYTES = 1 << 12
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def below(top: int, most: int) -> list[Seen]:
    """All but itself, at most so many; those that end meanwhile are left out. Raises OSError."""
    children: dict[int, list[tuple[int, bytes]]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (text := _read(f"/proc/{name}/stat")) is not None:
            children.setdefault(int(_fields(text)[1]), []).append((int(name), text))
    found: list[Seen] = []
    waiting = [top]
    while waiting and len(found) < most:
        for pid, text in children.get(waiting.pop(), ()):
            found.append(_seen(pid, text))
            waiting.append(pid)
    return found[:most]


def _fields(stat: bytes) -> list[bytes]:
    """Behind the name: state, ppid, ... (proc_pid_stat(5), from field 3 on)."""
    return stat[stat.rindex(b")") + 2 :].split()


def _seen(pid: int, stat: bytes) -> Seen:
    fields = _fields(stat)
    argv = _read(f"/proc/{pid}/cmdline") or b""
    return Seen(
        pid,
        int(fields[1]),
        stat[stat.index(b"(") + 1 : stat.rindex(b")")],
        fields[0].decode(),
        int(fields[17]),
        (int(fields[11]) + int(fields[12])) / _TICKS,
        int(fields[21]) * _PAGE_BYTES,
        tuple(argv[:_ARGV_BYTES].rstrip(b"\0").split(b"\0")) if argv else (),
    )


def _read(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
