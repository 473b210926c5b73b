"""How a sandbox is started: where the program can put what is counted, what the new process is told, and what a failed
start means.

Nothing here lives on: `sandbox` has the life.
"""

from __future__ import annotations

import errno
import os

from sandlockd.kernel import launching
from sandlockd.kernel.launching import Plan
from sandlockd.kernel.memlimit import lies_in_memory
from sandlockd.kernel.paths import mounts
from sandlockd.launch.prepare import KEPT_CAPABILITIES, CannotStart
from sandlockd.sandbox.limits import TERM_GRACE_S
from sandlockd.sandbox.result import SANDBOX_FAILED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandlockd.kernel.engine import Engine
    from sandlockd.kernel.launching import Report
    from sandlockd.kernel.memlimit import Memory
    from sandlockd.launch.prepare import Prepared
    from sandlockd.sandbox.limits import Limits
    from sandlockd.store.tree import Tree

_WRITES = 1 << 1 | 1 << 8  # LANDLOCK_ACCESS_FS_WRITE_FILE, MAKE_REG

# What a failed step means, and what to do about it.
_STAGE_HELP = {
    "signal_scope": "the kernel did not confine init's signals; `sandlockd doctor` tests it",
    "throttle": (
        "limits.cpu cannot be kept here: who computes too much is held by ptrace(2), which this machine forbids;"
        " to fix: set kernel.yama.ptrace_scope to 0 or 1; `sandlockd doctor` tests it"
    ),
    "landlock": "the Landlock ruleset could not be entered; `sandlockd doctor` tests it",
    "seccomp": "the filter could not be installed; is another supervisor's listener on this process already?",
    "directory": "the working directory cannot be entered",
    "rlimits": "a limit above the hard limit needs privileges",
    "terminal": "it belongs to another session",
}


def leave_group_for_trees(limits: Limits, trees: tuple[Tree, ...]) -> None:
    """Where we would write what lies in memory for the program, a cgroup does not count it. Raises CannotStart."""
    for tree in trees:
        if lies_in_memory(tree.storage.upper):
            limits.trees_lie_in_memory(have_files=tree.lower_directory is not None)


def add_places(memory: Memory, prepared: Prepared, trees: tuple[Tree, ...]) -> None:
    """Where the program can make files that lie in memory. Raises CannotStart."""
    if memory.is_by_group:
        return
    places = [zone.path for zone in prepared.wall.zones.values() if zone.rights & _WRITES]
    places += [tree.upper_path for tree in trees]
    places += [
        mount.point
        for mount in mounts()
        if mount.kind == b"tmpfs" and any(mount.point.startswith(path.rstrip(b"/") + b"/") for path in places)
    ]
    try:
        for path in dict.fromkeys(places):
            memory.add_place(path)
    except OSError:
        raise CannotStart(
            "limits.memory: the policy grants too many directories that lie in memory (tmpfs)"
        ) from None


def umask_of(prepared: Prepared, asked: int) -> tuple[int, int]:
    """(what the new process sets, what it has then). asked: -1, nothing; so may be what it sets."""
    own = prepared.policy.program.umask
    umask = asked if own is None else own
    return umask, umask if umask >= 0 else _current_umask()


def plan_of(
    prepared: Prepared,
    limits: Limits | None,
    *,
    tracer: Engine | None,
    stdio: tuple[int, int, int],
    umask: int,
    blocked_signals: int,
    descriptor_limit: tuple[int, int] | None,
    new_session: bool,
    may_execute: bool,
    is_kept: bool,
) -> Plan:
    """tracer: whose calls init makes processes restart; None: the program may trace them itself.

    may_execute: further programs may be started beside it. Raises CannotStart.
    """
    return Plan(
        executable=prepared.executable,
        argv=prepared.argv,
        environment=prepared.environment,
        filter_program=prepared.filter_program,
        engine=tracer,
        ruleset_fd=prepared.wall.ruleset.fd,
        directory=prepared.entered or prepared.directory,
        stdio=stdio,
        umask=umask,
        wait_killable=2 if "seccomp.wait_killable" in prepared.policy.degrade.allow else 1,
        scope_signals=prepared.wall.scope_signals,
        new_session=new_session,
        kept_capabilities=KEPT_CAPABILITIES if os.geteuid() == 0 else None,
        blocked_signals=blocked_signals,
        rlimits=[
            *([(7, *descriptor_limit)] if descriptor_limit else ()),  # RLIMIT_NOFILE
            *(limits.rlimits() if limits is not None else ()),
        ],
        timeout_s=limits.timeout_s if limits is not None else None,
        cpu_time_s=limits.cpu_time_s if limits is not None else None,
        cpu_percent=limits.held_to_percent(may_trace=tracer is not None) if limits is not None else None,
        grace_s=TERM_GRACE_S,
        groups=limits.groups if limits is not None else (),
        keeps_ruleset=may_execute,
        is_kept=is_kept,
    )


def why_failed(report: Report, executable: bytes) -> tuple[str, int]:
    """(one line, the exit status) of a start that failed. executable: as it was named."""
    stage = launching.STAGES[report.stage]
    reason = os.strerror(report.error)
    if stage == "exec":
        name = os.fsdecode(executable)
        return f"{name}: cannot be executed: {reason}{_exec_help(report.error)}", _exec_status(report.error)
    help_text = _STAGE_HELP.get(stage)
    return f"start: step {stage}: {reason}" + (f"; {help_text}" if help_text else ""), SANDBOX_FAILED


def _exec_status(error: int) -> int:
    """EIO is what we refuse with where we could not judge the call: then it is not the command that is wrong."""
    if error == errno.EIO:
        return SANDBOX_FAILED
    return 127 if error == errno.ENOENT else 126


def _exec_help(error: int) -> str:
    """The file itself was looked at before; what remains is what it needs."""
    if error == errno.EIO:
        return (
            "; sandlockd had too few descriptors (`ulimit -n`) or too little memory to look at it, or the disk fails:"
            " `sandlockd explain --last`"
        )
    if error in (errno.EACCES, errno.ENOENT):
        return "; its loader or interpreter is missing or not granted ([filesystem] base = true grants the system's)"
    return ""


def _current_umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask
