"""The names of processes. A number alone is never one: numbers are used again."""

from __future__ import annotations

import collections

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NewType

    Tgid = NewType("Tgid", int)
else:

    def Tgid(value: int) -> int:
        """The id of a process: that of its leader."""
        return value


# birth: the pidfs inode (unique for ever, Linux 6.9), else the start time in clock ticks.
PidKey = collections.namedtuple("PidKey", "tgid birth")


class Gone(Exception):
    """The process is gone; nobody is left to answer."""
