"""Whether the machine is idle. One stray busy process spoils everything here, or flatters it: it keeps a CPU awake, and
waking a sleeping one is most of what a notification costs."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
# Of one CPU. Below it is what any machine does for itself.
_MACHINE_BUSY = 0.10
_PROCESS_BUSY = 0.05


@dataclass(frozen=True)
class Load:
    """What others did while we slept. cpus: how many CPUs' worth; process: the busiest one, and its own share."""

    cpus: float
    process_cpus: float
    process: str

    @property
    def is_idle(self) -> bool:
        return self.cpus < _MACHINE_BUSY and self.process_cpus < _PROCESS_BUSY

    def __str__(self) -> str:
        text = f"others keep {self.cpus:.2f} CPUs busy"
        return text + (
            f"; the busiest is {self.process} with {self.process_cpus:.2f}" if self.process else ""
        )


def look(for_s: float) -> Load:
    """Sleeps for for_s seconds and tells what ran meanwhile."""
    busy_before, processes_before = _busy_ticks(), _process_ticks()
    begun = time.monotonic()
    time.sleep(for_s)
    slept_ticks = (time.monotonic() - begun) * _TICKS_PER_S
    busy = _busy_ticks() - busy_before
    used = {pid: ticks - processes_before.get(pid, 0) for pid, ticks in _process_ticks().items()}
    own = used.pop(os.getpid(), 0)
    busiest = max(used, key=used.__getitem__, default=0)
    ticks = used.get(busiest, 0)
    return Load(
        max(busy - own, 0) / slept_ticks,
        ticks / slept_ticks,
        f"{_command_of(busiest)} (process {busiest})" if ticks else "",
    )


def _busy_ticks() -> int:
    """Of all CPUs, with what the hypervisor took (steal). Source: proc_stat(5), the line `cpu`."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(
        int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    )
    return user + nice + system + irq + softirq + steal


def _process_ticks() -> dict[int, int]:
    """By process. Source: proc_pid_stat(5), fields 14 and 15; the name in field 2 may hold anything."""
    ticks = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            fields = Path("/proc", name, "stat").read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        ticks[int(name)] = int(fields[11]) + int(fields[12])
    return ticks


def _command_of(pid: int) -> str:
    try:
        words = (
            Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace").split()
        )
        return " ".join(words)[:80] or Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "one that has ended"
