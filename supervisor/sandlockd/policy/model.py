"""Policy: what a program may do, parsed, merged and frozen. Field names are the key names of the TOML.

Pure values. How they are read is sandlockd.policy.keys, how they are judged sandlockd.policy.files and
syscalls.
"""

from __future__ import annotations

from sandlockd.policy.frozen import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Literal


class PathRule(Value):
    """One path of a list.

    path: absolute, without `.`, `..` and `//`; symbolic links are not resolved yet.
    rule: `filesystem.read[2]`, counted in the merged list.
    source: `my.toml:12`, `preset build` or `--read`.
    """

    path: bytes
    rule: str
    source: str


class NetworkRule(Value):
    """`tcp://example.org:8000-8010`. None means any.

    host: a name, or an address with or without `/prefix` as ipaddress prints it.
    """

    protocol: Literal["tcp", "udp"] | None
    host: str | None
    ports: tuple[int, int] | None  # first and last
    text: str


class Program(Value):
    """What is run, and with which surroundings."""

    exec: bytes | None  # an absolute path, or a name without "/" to be looked up in PATH
    args: tuple[str, ...]
    cwd: bytes | None
    env: tuple[tuple[str, str], ...]  # names are unique
    clean_env: bool
    pass_env: tuple[str, ...]
    umask: int | None

    def environment(self, inherited: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
        """What the program finds in its environment."""
        kept = {name.encode("utf-8", "surrogateescape") for name in self.pass_env}
        result = {name: value for name, value in inherited.items() if not self.clean_env or name in kept}
        for name, value in self.env:
            result[name.encode("utf-8", "surrogateescape")] = value.encode("utf-8", "surrogateescape")
        return result


class Filesystem(Value):
    base: bool
    read: tuple[PathRule, ...]
    execute: tuple[PathRule, ...]
    write: tuple[PathRule, ...]
    deny: tuple[PathRule, ...]
    workdir: bytes | None
    on_exit: Literal["commit", "discard", "keep", "ask"]
    on_error: Literal["commit", "discard", "keep", "ask"]
    storage: bytes | None


class Proc(Value):
    pids: Literal["own", "all"] | None  # None: see hides_processes
    hide: tuple[PathRule, ...]


class Limits(Value):
    """None: no limit."""

    memory: int | None  # bytes
    processes: int | None
    open_files: int | None
    cpu: int | None  # percent of one CPU
    cpu_time: float | None  # seconds
    timeout: float | None  # seconds
    disk: int | None  # bytes
    output: int | None  # bytes


class Network(Value):
    allow: tuple[NetworkRule, ...]
    deny: tuple[NetworkRule, ...]
    bind: tuple[NetworkRule, ...]
    unix: tuple[PathRule, ...]


class Syscalls(Value):
    deny: tuple[str, ...]
    allow: tuple[str, ...]  # names of sandlockd.policy.syscalls.GIVE_BACK


class Audit(Value):
    level: Literal["off", "denials", "all"]


class Degrade(Value):
    allow: tuple[str, ...]  # names of sandlockd.policy.values.FEATURES


class Policy(Value):
    program: Program
    filesystem: Filesystem
    proc: Proc
    limits: Limits
    network: Network
    syscalls: Syscalls
    audit: Audit
    degrade: Degrade
    sources: tuple[str, ...]  # the policies that it was made of, in the order in which they were applied


def hides_processes(policy: Policy) -> bool:
    """Do processes outside of the sandbox not exist for the program?

    Where the policy does not say, a run with a workdir has its own processes as it has its own /tmp. What only looks
    is trapped there anyway; elsewhere each stat of each program would be, for this alone.
    """
    if policy.proc.pids is None:
        return policy.filesystem.workdir is not None
    return policy.proc.pids == "own"
