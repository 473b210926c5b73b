"""What a policy is made from, and what pure code cannot find out for itself. Filled by the caller.

Pure: the callables are the caller's; the loader only calls them.
"""

from __future__ import annotations

import enum

from sandlockd.policy.frozen import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from typing import Any

MAX_POLICY_BYTES = 1 << 20  # larger is a mistake or an attack, not a policy
MAX_POLICIES = 64  # files and presets that one policy may be made of
MAX_EXTENDS_DEPTH = 16


class PathKind(enum.Enum):
    """What stands at a path, symbolic links followed."""

    MISSING = "missing"
    FILE = "file"
    DIRECTORY = "directory"
    OTHER = "other"  # a device, a socket, a FIFO
    UNREADABLE = "unreadable"  # it cannot be told: no search permission above it, a loop of links


class Source(Value):
    """One policy, read but not parsed.

    name: as the user named it; errors begin with it.
    directory: absolute and without symbolic links; relative paths of the policy start there.
    content: at most MAX_POLICY_BYTES are looked at.
    size_bytes: how large the policy is, where that is known to be more than `content`.
    identity: the same for the same file under another name; by default the name.
    table: parsed already (the shipped presets), instead of the content.
    """

    name: str
    directory: bytes
    content: bytes
    size_bytes: int | None = None
    identity: bytes = b""
    table: Mapping[str, Any] | None = None


class Overrides(Value):
    """What the command line says; applied last. Paths are bytes, taken literally, relative to the working
    directory.

    Texts are unparsed: the loader parses them with the same code as the policy file's.
    """

    read: tuple[bytes, ...] = ()
    write: tuple[bytes, ...] = ()
    deny: tuple[bytes, ...] = ()
    env: tuple[bytes, ...] = ()  # NAME=VALUE
    clean_env: bool = False
    cwd: bytes | None = None
    workdir: bytes | None = None
    on_exit: str | None = None
    dry_run: bool = False
    allow_net: tuple[str, ...] = ()
    disk: str | None = None
    memory: str | None = None
    processes: str | None = None
    timeout: str | None = None


def _unchanged(path: bytes) -> bytes:
    return path


class Context(Value):
    """The machine as far as a policy needs it.

    home: for `~`; None where there is none.
    cwd: absolute and without symbolic links; options' relative paths start there.
    find: gives the policy that `extends` names, relative to a directory; raises errors.Unavailable.
    kind_of: what stands at an absolute path.
    syscall_names: the system calls that this build knows by name; asked only if a policy names one.
    resolve: a path without symbolic links, for a `..` behind one.
    """

    environment: Mapping[bytes, bytes]
    home: bytes | None
    cwd: bytes
    find: Callable[[str, bytes], Source]
    kind_of: Callable[[bytes], PathKind]
    syscall_names: Callable[[], Collection[str]]
    overrides: Overrides = Overrides()
    resolve: Callable[[bytes], bytes] = _unchanged


class Scope(Value):
    """How the values of one source are read."""

    context: Context
    directory: bytes
