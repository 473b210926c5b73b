"""To become the user that work is done for, for good, and what the machine knows of users."""

from __future__ import annotations

import os
import pwd

from sandlockd.kernel.native import check, lib

_SEARCHED = b"/usr/local/bin:/usr/bin:/bin"
_SEARCHED_BY_ROOT = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class NoUser(Exception):
    """The user database has none of that number."""


def become(uid: int) -> None:
    """This user, with its groups, as a login has them. Of a process with one thread.

    Raises:
        NoUser, OSError.
        PermissionError: we are not root, and another user.
    """
    entry = _entry(uid)
    if os.getuid() == os.geteuid() == uid != 0:
        return
    check(lib.slk_leave_keyring())
    os.initgroups(entry.pw_name, entry.pw_gid)
    os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
    os.setresuid(uid, uid, uid)
    # Changing ids makes a process as closed to its new user as one of root's: /proc/self could not be looked into, and
    # what it forks could not be served.
    check(lib.slk_become_dumpable())


def look_up(uid: int) -> None:
    """As `become` does, so that the C library has loaded what it needs for it. Raises NoUser, OSError."""
    entry = _entry(uid)
    os.getgrouplist(entry.pw_name, entry.pw_gid)


def login_environment(uid: int) -> dict[bytes, bytes]:
    """What a login of that user begins with (environ(7)). Raises NoUser."""
    entry = _entry(uid)
    name = os.fsencode(entry.pw_name)
    return {
        b"HOME": os.fsencode(entry.pw_dir),
        b"LOGNAME": name,
        b"PATH": _SEARCHED if uid else _SEARCHED_BY_ROOT,
        b"SHELL": os.fsencode(entry.pw_shell) or b"/bin/sh",
        b"USER": name,
    }


def _entry(uid: int) -> pwd.struct_passwd:
    try:
        return pwd.getpwuid(uid)
    except KeyError:
        raise NoUser(f"the user database has no user {uid}") from None
