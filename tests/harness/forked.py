"""Functions that a test has called in a process of their own: as somebody else, or to be ended halfway."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable

from harness.users import User


def in_child(action: Callable[[], object], user: User | None = None) -> int:
    """Returns: the exit status; 1 after an exception, which is shown."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    status = 1
    try:
        os.chdir("/")  # where we are may be nothing that this user can come back to
        if user is not None and user.uid != os.geteuid():
            os.setgroups([])
            os.setgid(user.gid)
            os.setuid(user.uid)
        os.umask(0)
        action()
        status = 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status)
