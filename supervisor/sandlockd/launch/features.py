"""What a run needs of the kernel, asked before anything is made: everything that is missing is named at once.

The doctor tries the same features by using them, and has its words for them from here.
"""

from __future__ import annotations

import errno
import os

from sandlockd.kernel import landlock
from sandlockd.kernel.landlock import seccomp_flags_error

# The name under which a policy may do without it ([degrade] allow), the Landlock ABI that brought it, the Linux that
# has that, and what it is to the user that it is missing.
LANDLOCK_FEATURES: tuple[tuple[str, int, str, str], ...] = (
    ("landlock.refer", 2, "5.19", "files cannot be moved between directories"),
    ("landlock.truncate", 3, "6.2", "files that may not be written can be emptied"),
    ("landlock.tcp", 4, "6.7", "TCP is closed by the supervisor's filter alone"),
    ("landlock.ioctl_dev", 5, "6.10", "a granted device takes every command"),
    ("landlock.scope_signal", 6, "6.12", "a program can signal your other processes"),
    (
        "landlock.scope_abstract_unix",
        6,
        "6.12",
        "a program can reach abstract sockets (X11, D-Bus) of yours",
    ),
)
WAIT_KILLABLE = "seccomp.wait_killable"
LANDLOCK_FIX = (
    "build the kernel with CONFIG_SECURITY_LANDLOCK=y and boot with lsm=landlock,... (5.13 or newer)"
)
SECCOMP_FIX = (
    "Linux 5.14 or newer with CONFIG_SECCOMP_FILTER=y; in a container, allow seccomp(2) in its profile"
)
_OUTSIDE_FIX = "start it outside of the other sandbox: there is none in another"
NO_FILES = "no file can be protected: no run is possible"
NO_SUPERVISION = "no program can be supervised"
REPEATED = "a signal could make the program repeat a call that was done already"

_NEW_LISTENER, _WAIT_KILLABLE_RECV = 1 << 3, 1 << 5  # SECCOMP_FILTER_FLAG_* (linux/seccomp.h)


class MissingFeatures(Exception):
    """What the kernel lacks and the policy does not do without: a line for each, and how to do without them."""

    def __init__(self, lines: tuple[str, ...]) -> None:
        super().__init__(*lines)
        self.lines = lines


def landlock_fix(name: str, abi: int, linux: str) -> str:
    return f"Linux {linux} or newer (Landlock ABI {abi}), or {_degraded([name])} in the policy"


def check_features(degrade: frozenset[str]) -> tuple[int, list[str]]:
    """(the Landlock ABI, the features that the run does without). Raises MissingFeatures."""
    version = landlock.abi()
    seccomp = _seccomp()
    missing = [row for row in LANDLOCK_FEATURES if 1 <= version < row[1]]
    lines = [] if version else [_line("landlock", "switched off or not built in", NO_FILES, LANDLOCK_FIX)]
    lines += [
        _line(name, f"Landlock ABI {version}", means, landlock_fix(name, abi, linux))
        for name, abi, linux, means in missing
        if name not in degrade
    ]
    if seccomp is not None and seccomp[0] not in degrade:
        lines.append(_line(*seccomp))
    names = [name for name, _, _, _ in missing]
    if seccomp is not None and seccomp[0] == WAIT_KILLABLE:
        names.append(WAIT_KILLABLE)
    if lines:
        told = [name for name in names if name not in degrade]
        if len(told) == len(lines) > 1:
            lines.append(f"to run without all of them: {_degraded(told)}")
        raise MissingFeatures(tuple(lines))
    return version, names


def _seccomp() -> tuple[str, str, str, str] | None:
    error = seccomp_flags_error(_NEW_LISTENER)
    if error == errno.EBUSY:  # a process has one listener at most
        return "seccomp.user_notification", "another sandbox has it already", NO_SUPERVISION, _OUTSIDE_FIX
    if error:
        return "seccomp.user_notification", os.strerror(error), NO_SUPERVISION, SECCOMP_FIX
    if seccomp_flags_error(_NEW_LISTENER | _WAIT_KILLABLE_RECV):
        return WAIT_KILLABLE, "Linux before 5.19", REPEATED, wait_killable_fix()
    return None


def wait_killable_fix() -> str:
    return f"Linux 5.19 or newer, or {_degraded([WAIT_KILLABLE])} in the policy"


def _line(name: str, found: str, means: str, fix: str) -> str:
    shown = "Landlock" if name == "landlock" else name
    return f"this kernel lacks {shown} ({found}): {means}; to fix: {fix}; `sandlockd doctor` tests it"


def _degraded(names: list[str]) -> str:
    return f"[degrade] allow = [{', '.join(f'{chr(34)}{name}{chr(34)}' for name in names)}]"
