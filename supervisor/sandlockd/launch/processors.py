"""Which processors a program is shown that may have a share of them (`limits.cpu`)."""

from __future__ import annotations

import os

from sandlockd.handlers.limited import texts


def shown(percent: int | None) -> tuple[int, ...]:
    """As many as the share takes, of those that it may run on, by their numbers; none: as they are."""
    if percent is None:
        return ()
    own = sorted(os.sched_getaffinity(0))
    chosen = own[: texts.processors(percent, len(own))]
    return () if set(chosen) == online() else tuple(chosen)


def online() -> set[int]:
    """Of the machine."""
    try:
        with open(b"/sys/devices/system/cpu/online", "rb") as file:
            return texts.listed(file.read())
    except OSError:  # no /sys
        return os.sched_getaffinity(0)
