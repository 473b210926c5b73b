"""Calls that were being done when the supervisor died, asked again of its replacement: nothing is done twice.

Before the act nothing stood against it, or it would not have been begun; and it is asked again before anything else is
done. So if it fails now because it is done, this call has done it. (How it fails is in this table; an open that has
made its file opens it, an exchange is told by what it noted: handlers/merged.)
"""

from __future__ import annotations

import errno

from sandlockd.handlers.answers import Errno, Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandlockd.handlers.answers import Answer
    from sandlockd.kernel.engine import Request
    from sandlockd.kernel.syscalls import Syscall

_MADE = frozenset({errno.EEXIST})
_GONE = frozenset({errno.ENOENT})
_SIGNS = {
    **dict.fromkeys(
        ("mkdir", "mkdirat", "mknod", "mknodat", "symlink", "symlinkat", "link", "linkat"), _MADE
    ),
    **dict.fromkeys(("unlink", "unlinkat", "rmdir"), _GONE),
    **dict.fromkeys(
        ("rename", "renameat", "renameat2"), _GONE | _MADE
    ),  # RENAME_NOREPLACE looks at the new name first
    "bind": frozenset({errno.EADDRINUSE, errno.EINVAL}),
}


def as_done(rows: Mapping[int, Syscall], request: Request, answer: Answer) -> Answer:
    """The answer to a call of which the act was begun, where it turns out that it was done."""
    row = rows.get(request.nr)
    if row is not None and isinstance(answer, Errno) and answer.error in _SIGNS.get(row.name, ()):
        return Value(0)
    return answer
