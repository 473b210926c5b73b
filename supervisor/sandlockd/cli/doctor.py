"""`sandlockd doctor`: what this machine can enforce, found out by doing it. Changes nothing that stays."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from sandlockd.audit.state import StateError, create_run, own_state_directory
from sandlockd.kernel import probe_cgroups, probe_landlock, probe_machine, probe_seccomp
from sandlockd.kernel.probe import (
    Broken,
    Finding,
    Missing,
    State,
    in_child,
    scratch_directory,
)
from sandlockd.launch.features import (
    LANDLOCK_FEATURES,
    LANDLOCK_FIX,
    NO_FILES,
    NO_SUPERVISION,
    REPEATED,
    SECCOMP_FIX,
    WAIT_KILLABLE,
    landlock_fix,
    wait_killable_fix,
)
from sandlockd.policy.spelling import printable

_RUN_TIMEOUT_S = 60

# How much depends on a check.
NEEDED = "needed"  # no run without it
PROMISED = "promised"  # no run without it, unless the policy accepts that by name ([degrade] allow)
USEFUL = "useful"  # runs do without it, slower or with less to tell
LATER = "later"  # for what sandlockd will do; nothing uses it yet


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    need: str
    probe: Callable[..., str]  # of a directory to work in where scratch is set, else of nothing
    means: str  # without it: what that is to the user
    fix: str
    scratch: bool = False


@dataclass(frozen=True, slots=True)
class Checked:
    check: Check
    finding: Finding


def doctor(*, json: bool) -> int:
    """Print one line per check, or one JSON object.

    Returns: 0 if a run with the base policy works here, else 1.
    """
    _flush()
    results = []
    for checked in examine():
        results.append(checked)
        if not json:
            _print_line(checked)
    works = all(one.finding.state is State.OK for one in results if one.check.name in _DECISIVE)
    if json:
        _print_json(results, works=works)
    else:
        print(_verdict(results, works=works))
    return 0 if works else 1


def examine() -> Iterator[Checked]:
    """Each check with what was found; the last is a run from end to end."""
    for check in (*CHECKS, END_TO_END):
        if check.scratch:
            with scratch_directory() as directory:
                finding = in_child(partial(check.probe, directory))
        else:
            finding = in_child(check.probe, _RUN_TIMEOUT_S + 5)
        yield Checked(check, finding)


# ---- what only this floor can try


def _libseccomp() -> str:
    from sandlockd.launch.filter import FilterError, build
    from sandlockd.launch.filter_plan import FilterPlan

    try:
        program = build(FilterPlan())
    except FilterError as error:
        text = str(error.__cause__ or error)
        raise (Missing if isinstance(error.__cause__, ImportError) else Broken)(text) from error
    return f"libseccomp {_libseccomp_version()}, a filter of {len(program) // 8} instructions"


def _libseccomp_version() -> str:
    """struct scmp_version of seccomp_version(3): three unsigned numbers."""
    import ctypes

    class Version(ctypes.Structure):
        _fields_ = (("major", ctypes.c_uint), ("minor", ctypes.c_uint), ("micro", ctypes.c_uint))

    function = ctypes.CDLL("libseccomp.so.2").seccomp_version
    function.restype = ctypes.POINTER(Version)
    found = function().contents
    return f"{found.major}.{found.minor}.{found.micro}"


def _state_directory() -> str:
    """Usable as it is, or it can be made. What was not there before is not left behind."""
    try:
        path = own_state_directory()
        existing = path
        while not os.path.lexists(existing):
            existing = os.path.dirname(existing)
        if existing != path:
            if not os.access(existing, os.W_OK | os.X_OK):
                raise Broken(
                    f"{os.fsdecode(path)} cannot be made: {os.fsdecode(existing)} is not ours to write"
                )
            return f"{os.fsdecode(path)}, not made yet"
        run_id, log_fd = create_run(path, None, _now_ns())
    except StateError as error:
        raise Broken(str(error)) from None
    os.close(log_fd)
    shutil.rmtree(os.path.join(path, b"runs", os.fsencode(run_id)))
    return os.fsdecode(path)


def _now_ns() -> int:
    import time

    return time.time_ns()


def _end_to_end() -> str:
    """`sandlockd -- true` with the base policy, its records in a place of their own."""
    program = shutil.which("true")
    if program is None:
        raise Broken("no program `true` to run")
    with tempfile.TemporaryDirectory(prefix="sandlockd-doctor-") as state:
        done = subprocess.run(
            [sys.executable, "-m", "sandlockd", "--", program],
            env={**os.environ, "SANDLOCKD_STATE_DIR": state},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_RUN_TIMEOUT_S,
            check=False,
        )
    if done.returncode != 0:
        words = done.stderr.decode("utf-8", "backslashreplace").strip().splitlines()
        raise Broken(words[0].removeprefix("sandlockd: ") if words else f"exit status {done.returncode}")
    return f"{program} ran and ended with 0"


# ---- the checks


def _landlock(feature: str, probe: Callable[..., str]) -> Check:
    name, abi, linux, means = next(row for row in LANDLOCK_FEATURES if row[0] == f"landlock.{feature}")
    fix = landlock_fix(name, abi, linux)
    return Check(name, PROMISED, probe, means, fix, scratch=probe.__code__.co_argcount > 0)


CHECKS: tuple[Check, ...] = (
    Check(
        "kernel",
        NEEDED,
        probe_machine.kernel_version,
        "nothing is known about this kernel",
        "sandlockd needs Linux on x86_64 or aarch64",
    ),
    Check(
        "seccomp.user_notification",
        NEEDED,
        probe_seccomp.user_notification,
        NO_SUPERVISION,
        SECCOMP_FIX,
    ),
    Check(
        "seccomp.refusal",
        NEEDED,
        probe_seccomp.errno_answer,
        "what is refused would not be",
        SECCOMP_FIX,
    ),
    Check(
        "seccomp.addfd_send",
        NEEDED,
        probe_seccomp.addfd_send,
        "files that sandlockd opens for a program cannot be given to it",
        SECCOMP_FIX,
    ),
    Check(
        "seccomp.id_valid",
        NEEDED,
        probe_seccomp.id_valid,
        "a dead caller could be taken for another process",
        SECCOMP_FIX,
    ),
    Check(
        WAIT_KILLABLE,
        PROMISED,
        probe_seccomp.wait_killable,
        REPEATED,
        wait_killable_fix(),
    ),
    Check(
        "seccomp.sync_wake_up",
        USEFUL,
        probe_seccomp.sync_wake_up,
        "every supervised call takes some 70 microseconds instead of 4",
        "Linux 6.6 or newer",
    ),
    Check(
        "libseccomp",
        NEEDED,
        _libseccomp,
        "no filter can be built",
        "install libseccomp2 2.5 or newer, and pyseccomp",
    ),
    Check(
        "no_new_privs",
        NEEDED,
        probe_seccomp.no_new_privs,
        "a set-user-ID program could leave the sandbox with more rights",
        "Linux 3.5 or newer",
    ),
    Check("landlock", NEEDED, probe_landlock.abi, NO_FILES, LANDLOCK_FIX),
    Check(
        "landlock.files",
        NEEDED,
        probe_landlock.files,
        NO_FILES,
        LANDLOCK_FIX,
        scratch=True,
    ),
    _landlock("refer", probe_landlock.refer),
    _landlock("truncate", probe_landlock.truncate),
    _landlock("tcp", probe_landlock.tcp),
    _landlock("ioctl_dev", probe_landlock.ioctl_dev),
    _landlock("scope_signal", probe_landlock.scope_signal),
    _landlock("scope_abstract_unix", probe_landlock.scope_abstract_unix),
    Check(
        "process.memory",
        NEEDED,
        probe_machine.process_memory,
        "the paths that a program passes cannot be read",
        "set kernel.yama.ptrace_scope to 0 or 1; in a container, allow process_vm_readv(2)",
    ),
    Check(
        "process.caller",
        NEEDED,
        probe_seccomp.caller_facts,
        "who asks, and for what, cannot be told",
        "set kernel.yama.ptrace_scope to 0 or 1; mount /proc without hidepid, or run as its gid",
    ),
    Check(
        "process.pidfd",
        USEFUL,
        probe_machine.pidfd_identity,
        "processes are told apart by number and start time",
        "Linux 6.9 or newer",
    ),
    Check(
        "process.subreaper",
        NEEDED,
        probe_machine.subreaper,
        "processes could outlive their sandbox",
        "Linux 3.4 or newer; in a container, allow prctl(2)",
    ),
    Check(
        "process.hold",
        USEFUL,
        probe_machine.held_processes,
        "a run with limits.cpu is refused where no cgroup keeps it",
        "set kernel.yama.ptrace_scope to 0 or 1; in a container, allow ptrace(2)",
    ),
    Check(
        "state_directory",
        NEEDED,
        _state_directory,
        "what was refused cannot be recorded",
        "make it yours with mode 0700, or set SANDLOCKD_STATE_DIR to another",
    ),
    Check(
        "temporary_directory",
        NEEDED,
        probe_machine.temporary_directory,
        "a program has no place of its own for temporary files",
        "set TMPDIR to a directory that you may write",
    ),
    Check(
        "cgroup.delegation",
        USEFUL,
        probe_cgroups.cgroup_delegation,
        "limits of these are kept by sandlockd alone: memory is counted a moment later",
        "run as root; or in a cgroup v2 that is delegated and has nobody else in it, as by `systemd-run --user --scope"
        " -p Delegate=yes`",
    ),
    Check(
        "overlay.user_xattrs",
        LATER,
        probe_machine.user_xattrs,
        "replaced directories of a copy-on-write tree cannot be marked",
        "set TMPDIR to a file system with user.* attributes (tmpfs since Linux 6.6)",
        scratch=True,
    ),
    Check(
        "overlay.whiteouts",
        LATER,
        probe_machine.whiteouts,
        "removed files of a copy-on-write tree cannot be marked",
        "Linux 5.8 or newer, and a file system with device files",
        scratch=True,
    ),
)

END_TO_END = Check(
    "run",
    NEEDED,
    _end_to_end,
    "`sandlockd -- COMMAND` does not work here",
    "see the first lines above that are not ok",
)


# The run itself; it keeps its records elsewhere, so whether yours can be kept is a question of its own.
_DECISIVE = frozenset(("state_directory", "run"))


# ---- printing


def _flush() -> None:
    """What is buffered when a child is forked would be written twice."""
    sys.stdout.flush()
    sys.stderr.flush()


def _print_line(checked: Checked) -> None:
    check, finding = checked.check, checked.finding
    text = printable(finding.detail)
    if finding.state is not State.OK:
        later = "; not used yet" if check.need == LATER else ""
        text = f"{text}; {check.means}{later}; to fix: {check.fix}"
    print(f"{finding.state.value:8} {check.name:28} {text}")
    _flush()


def _verdict(results: list[Checked], *, works: bool) -> str:
    if works:
        return "sandlockd works here."
    named = [one.check.name for one in results if _counts(one)]
    return f"sandlockd does not work here: {', '.join(named)}"


def _counts(checked: Checked) -> bool:
    return checked.check.need in (NEEDED, PROMISED) and checked.finding.state is not State.OK


def _print_json(results: list[Checked], *, works: bool) -> None:
    import json

    checks = [
        {
            "name": one.check.name,
            "state": one.finding.state.value,
            "need": one.check.need,
            "detail": one.finding.detail,
            "means": None if one.finding.state is State.OK else one.check.means,
            "fix": None if one.finding.state is State.OK else one.check.fix,
        }
        for one in results
    ]
    print(json.dumps({"ok": works, "checks": checks}))
