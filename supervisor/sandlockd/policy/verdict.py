"""The answer to "may it?": allowed or not, and the rule that decided.

Pure. The same evaluator serves the handlers that enforce and `sandlockd explain` that tells.
"""

from __future__ import annotations

import enum

from sandlockd.policy.frozen import Value


class Want(enum.Flag):
    """What a call wants of one file system object."""

    READ = enum.auto()  # content of a file, or the list of a directory
    EXECUTE = enum.auto()
    WRITE = enum.auto()  # content of a file that exists, truncation included
    CREATE = enum.auto()  # a new name below a directory
    DELETE = enum.auto()  # taking a name away
    METADATA = enum.auto()  # mode, owner, times, extended attributes


class FileIdentity(Value):
    """Which object, whatever its name is now: (st_dev, st_ino)."""

    device: int
    inode: int


class Verdict(Value):
    """What a rule decided.

    rule: the name of the rule, in the words of the policy file: `filesystem.deny[0]`, `filesystem.read[2]`,
        `base`, `network`, `law.io_uring`.
    remedy: the policy line that would allow it, ready to paste, or None where nothing may.
    """

    allowed: bool
    rule: str
    remedy: str | None = None
