"""What must be known of the machine to make sense of the numbers."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path

from suite.place import Place

Facts = dict[str, object]

_INSTALLED = """
import importlib.metadata, json
text = importlib.metadata.distribution("sandlockd").read_text("direct_url.json") or "{}"
print("editable" if json.loads(text).get("dir_info", {}).get("editable") else "installed")
"""


def collect(place: Place, sandlockd: Path, python: str) -> Facts:
    return {
        "kernel": f"{platform.release()} {platform.machine()}",
        "cpu": _cpu(),
        "cpus": len(os.sched_getaffinity(0)),
        "governor": _text(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")) or "unknown",
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "file_system": _said(["stat", "-f", "-c", "%T", str(place.root)]),
        "user": "root" if os.geteuid() == 0 else "ordinary",
        "lang": place.lang,
        "sandlockd": _said([str(sandlockd), "--version"]),
        "installation": _said([python, "-c", _INSTALLED]),
        "python": _said([python, "--version"]),
        "cc": _said(["cc", "--version"]),
        "bash": _said(["bash", "--version"]),
        "git": _said(["git", "--version"]),
        "bwrap": _said(["bwrap", "--version"]),
    }


def _cpu() -> str:
    found = re.search(r"^model name\s*: (.*)$", _text(Path("/proc/cpuinfo")), re.MULTILINE)
    return found[1] if found else platform.processor() or "unknown"


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _said(command: list[str]) -> str:
    """The first line of what it prints."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return "not found"
    lines = done.stdout.splitlines()
    return lines[0] if lines and done.returncode == 0 else "unknown"
