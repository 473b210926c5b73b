"""`sandlockd doctor` finds everything here, and says what is missing where a system call is taken away."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from harness.interpreter import SANDLOCKD
from harness.running import Runner, require

from sandlockd.cli.doctor import CHECKS, Check
from sandlockd.kernel.probe import Broken, Finding, Missing, State, in_child
from sandlockd.kernel.syscalls import AUDIT_ARCH, native_architecture, number_of

# Installs a filter under which one system call fails, and becomes the command after it.
_TAKE_AWAY = f"""
import ctypes, os, struct, sys
number, error, *command = sys.argv[1:]
code = [(0x20, 0, 0, 4), (0x15, 0, 3, {AUDIT_ARCH[native_architecture()]}), (0x20, 0, 0, 0),
        (0x15, 0, 1, int(number)), (0x06, 0, 0, 0x00050000 | int(error)), (0x06, 0, 0, 0x7FFF0000)]
text = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *one) for one in code))
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
assert libc.prctl(22, 2, ctypes.byref(Program(len(code), ctypes.addressof(text)))) == 0  # PR_SET_SECCOMP
os.execv(command[0], command)
"""

LATER = {"overlay.user_xattrs", "overlay.whiteouts"}
# Runs do without it, and it is not everybody's to have.
USEFUL = {"cgroup.delegation"}


def _without(call: str, error: int) -> list[str]:
    return [sys.executable, "-c", _TAKE_AWAY, str(number_of(call)), str(error)]


def _run(runner: Runner, *words: object, wrap: list[str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*(wrap or []), str(SANDLOCKD), *map(str, words)],
        **runner.popen_arguments(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def _checks(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    assert done.stderr == ""
    found = json.loads(done.stdout)
    assert found["ok"] == (done.returncode == 0)
    return {check["name"]: check for check in found["checks"]}


def _row(check: Check) -> dict[str, str]:
    return {"name": check.name, "means": check.means, "fix": check.fix}


def test_here_everything_that_a_run_needs_is_found(runner: Runner) -> None:
    done = _run(runner, "doctor", "--json")
    checks = _checks(done)
    assert {name: check for name, check in checks.items() if check["state"] != "ok"}.keys() <= LATER | USEFUL
    assert done.returncode == 0
    for check in checks.values():
        assert check["detail"]
        assert (check["fix"] is None) == (check["state"] == "ok")
        assert check["need"] == "later" or check["name"] not in LATER


def test_there_is_one_line_per_check_and_one_of_summary(runner: Runner) -> None:
    checks = _checks(_run(runner, "doctor", "--json"))
    done = _run(runner, "doctor")
    assert (done.returncode, done.stderr) == (0, "")
    *lines, last = done.stdout.splitlines()
    assert [line.split()[1] for line in lines] == list(checks)
    assert [line.split()[0] for line in lines] == [check["state"] for check in checks.values()]
    assert last == "sandlockd works here."


def test_nothing_stays_behind(runner: Runner) -> None:
    assert _run(runner, "doctor").returncode == 0
    assert not os.listdir(runner.place.temporary)
    runs = runner.place.state / "runs"
    assert not runs.exists() or not os.listdir(runs)
    assert not os.listdir(runner.work)


@pytest.mark.parametrize(
    ("error", "words"),
    [(38, "no Landlock"), (95, "switched off at boot")],
    ids=["ENOSYS", "EOPNOTSUPP"],
)
def test_without_landlock_it_says_so_and_what_to_do(runner: Runner, error: int, words: str) -> None:
    wrap = _without("landlock_create_ruleset", error)
    done = _run(runner, "doctor", "--json", wrap=wrap)
    checks = _checks(done)
    assert done.returncode == 1
    assert {name for name in checks if name.startswith("landlock")} == {
        name for name, check in checks.items() if check["state"] == "missing" and name not in LATER | USEFUL
    }
    assert words in checks["landlock"]["detail"]
    assert "boot with lsm=landlock" in checks["landlock"]["fix"]
    assert checks["run"]["state"] == "broken"
    text = _run(runner, "doctor", wrap=wrap)
    assert text.returncode == 1
    (line,) = (line for line in text.stdout.splitlines() if line.split()[1] == "landlock.files")
    assert line.startswith("missing ")
    assert "no file can be protected" in line
    assert text.stdout.splitlines()[-1].startswith("sandlockd does not work here: landlock")


def test_without_landlock_a_run_is_refused_and_names_the_doctor(runner: Runner) -> None:
    done = _run(runner, "--", "true", wrap=_without("landlock_create_ruleset", 38))
    assert (done.returncode, done.stdout) == (125, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("sandlockd: ")
    assert "Landlock" in line
    assert "sandlockd doctor" in line


def test_a_run_on_a_kernel_without_both_names_both(runner: Runner) -> None:
    wrap = [*_without("landlock_create_ruleset", 38), *_without("seccomp", 22)]
    done = _run(runner, "--status-file", runner.status_path, "--", "true", wrap=wrap)
    assert (done.returncode, done.stdout) == (125, "")
    first, second = done.stderr.splitlines()
    assert "lacks Landlock" in first and "lacks seccomp.user_notification" in second
    status = json.loads(runner.status_path.read_text())
    assert status["reason"] == "sandbox_error" and "seccomp.user_notification" in status["error"]


# What each ABI version lacks, in the order in which a run misses it.
_MISSING = {
    5: ("landlock.scope_signal", "landlock.scope_abstract_unix"),
    3: ("landlock.tcp", "landlock.ioctl_dev"),
    2: ("landlock.truncate",),
    1: ("landlock.refer",),
}


@pytest.mark.parametrize("version", list(_MISSING))
def test_on_an_older_kernel_a_run_names_what_is_missing_and_does_without_it_if_it_may(
    runner: Runner, version: int
) -> None:
    """Only the answer to "which version?" is another: the wall is then built of what that version has."""
    require("strace")
    inject = f"inject=landlock_create_ruleset:retval={version}:when=1"
    wrap = ["strace", "-q", "-o", "/dev/null", "-e", "trace=landlock_create_ruleset", "-e", inject]
    missing = [name for since, names in _MISSING.items() if since >= version for name in names]
    policy = runner.work / "degraded.toml"
    for kept in _MISSING[version]:  # the others are the news of other versions
        policy.write_text(f"[degrade]\nallow = {json.dumps([name for name in missing if name != kept])}\n")
        done = _run(runner, "--policy", policy, "--", "echo", "started", wrap=wrap)
        assert (done.returncode, done.stdout) == (125, "")
        assert f'[degrade] allow = ["{kept}"]' in done.stderr
    done = _run(runner, "--", "echo", "started", wrap=wrap)
    lines = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (125, "")
    order = [name for row in reversed(_MISSING.values()) for name in row if name in missing]
    assert [line.split()[4] for line in lines[: len(missing)]] == order
    fixes = {check["name"]: check for check in map(_row, CHECKS)}
    for name, line in zip(order, lines, strict=False):
        assert fixes[name]["means"] in line and fixes[name]["fix"] in line
    assert lines[len(missing) :] == (
        [f"sandlockd: to run without all of them: [degrade] allow = {json.dumps(order)}"]
        if len(order) > 1
        else []
    )
    policy.write_text(f"[degrade]\nallow = {json.dumps(missing)}\n")
    # The sleeper holds the pipe that is read to its end: nothing outlives the sandbox without the scope, either.
    script = "(setsid sleep 300 &); cat degraded.toml 2>/dev/null || echo refused"
    done = subprocess.run(
        [*wrap, str(SANDLOCKD), "--policy", "base", "--policy", str(policy), "--", "sh", "-c", script],
        **runner.popen_arguments(cwd=runner.work),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "refused\n")
    assert sorted(done.stderr.splitlines()) == sorted(
        f"sandlockd: running without {name}, as [degrade] allows" for name in missing
    )


# The filter flag of Linux 5.19 is EINVAL, as it is before; everything else is the kernel's.
_BEFORE_5_19 = _TAKE_AWAY.replace("(0x15, 0, 3,", "(0x15, 0, 5,").replace(
    "(0x15, 0, 1, int(number)),", "(0x15, 0, 3, int(number)), (0x20, 0, 0, 24), (0x45, 0, 1, 1 << 5),"
)


def test_before_linux_5_19_a_run_is_refused_unless_the_policy_says_so_and_then_that_is_told(
    runner: Runner,
) -> None:
    name = "seccomp.wait_killable"
    wrap = [sys.executable, "-c", _BEFORE_5_19, str(number_of("seccomp")), "22"]
    refused = _run(runner, "--", "true", wrap=wrap)
    assert (refused.returncode, refused.stdout) == (125, "")
    (line,) = refused.stderr.splitlines()
    allow = f'[degrade] allow = ["{name}"]'
    assert f"lacks {name} (Linux before 5.19)" in line and allow in line
    checks = _checks(_run(runner, "doctor", "--json", wrap=wrap))
    assert (checks[name]["state"], checks[name]["need"]) == ("missing", "promised")
    assert allow in checks[name]["fix"]
    section, rest = allow.split(" ", 1)
    policy = runner.place.file("degraded.toml", f"{section}\n{rest}\n")
    done = _run(runner, "-v", "--policy", "base", "--policy", policy, "--", "echo", "ran", wrap=wrap)
    assert (done.returncode, done.stdout) == (0, "ran\n")
    told = done.stderr.splitlines()
    assert f"sandlockd: running without {name}, as [degrade] allows" in told
    assert f"sandlockd: runs without: {name} ([degrade] allow)" in told
    (note,) = [record for record in runner.audit() if record["kind"] == "note"]
    assert note["subject"] == "missing-feature" and note["text"].startswith(name)


def test_without_filters_the_seccomp_checks_fail_and_the_others_do_not(runner: Runner) -> None:
    done = _run(runner, "doctor", "--json", wrap=_without("seccomp", 38))
    checks = _checks(done)
    assert done.returncode == 1
    assert checks["seccomp.user_notification"]["state"] == "missing"
    assert "ENOSYS" in checks["seccomp.user_notification"]["detail"]
    assert checks["landlock.files"]["state"] == "ok"
    assert checks["process.memory"]["state"] == "ok"


def test_memory_that_cannot_be_read_is_broken_with_the_errno(runner: Runner) -> None:
    done = _run(runner, "doctor", "--json", wrap=_without("process_vm_readv", 1))
    checks = _checks(done)
    assert done.returncode == 1
    assert checks["process.memory"]["state"] == "broken"
    assert "EPERM" in checks["process.memory"]["detail"]
    assert "ptrace_scope" in checks["process.memory"]["fix"]


@pytest.mark.one_user
def test_where_nobody_can_be_held_it_says_what_limits_cpu_comes_to(runner: Runner) -> None:
    """Which is what a run with it comes to. Runs without it go on."""
    done = _run(runner, "doctor", "--json", wrap=_without("ptrace", 1))
    check = _checks(done)["process.hold"]
    assert (done.returncode, check["state"]) == (0, "broken") and "EPERM" in check["detail"]
    assert "limits.cpu is refused" in check["means"] and "ptrace_scope" in check["fix"]
    policy = runner.place.file("work/policy.toml", '[filesystem]\nbase = true\n[limits]\ncpu = "50%"\n')
    run = ["env", "SANDLOCKD_NO_CGROUPS=1", *_without("ptrace", 1)]
    refused = _run(runner, "--policy", policy, "--", "true", wrap=run)
    assert refused.returncode == 125 and "limits.cpu cannot be kept here" in refused.stderr


def test_a_state_directory_that_others_may_write_is_told(runner: Runner) -> None:
    runner.place.state.mkdir(exist_ok=True)
    runner.place.state.chmod(0o777)
    done = _run(runner, "doctor", "--json")
    checks = _checks(done)
    assert done.returncode == 1
    assert checks["run"]["state"] == "ok"
    assert checks["state_directory"]["state"] == "broken"
    assert "may be written by others" in checks["state_directory"]["detail"]


# ---- the frame that probes run in


def _raise(error: Exception) -> str:
    raise error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (Missing("not there"), Finding(State.MISSING, "not there")),
        (Broken("did not hold"), Finding(State.BROKEN, "did not hold")),
        (
            OSError(38, "Function not implemented"),
            Finding(State.MISSING, "Function not implemented (ENOSYS)"),
        ),
        (OSError(1, "Operation not permitted"), Finding(State.BROKEN, "Operation not permitted (EPERM)")),
        (ValueError("x"), Finding(State.BROKEN, "the probe failed: ValueError('x')")),
    ],
)
def test_what_a_probe_raises_is_its_finding(error: Exception, expected: Finding) -> None:
    assert in_child(lambda: _raise(error)) == expected


def test_a_probe_that_dies_is_broken() -> None:
    found = in_child(lambda: str(os.kill(os.getpid(), 31)))
    assert found.state is State.BROKEN
    assert "SIGSYS" in found.detail


def test_a_probe_that_hangs_is_broken_and_its_children_are_killed() -> None:
    reading, writing = os.pipe()

    def hang() -> str:
        os.fork()
        while True:
            os.read(reading, 1)

    found = in_child(hang, timeout_s=0.2)
    os.close(writing)
    assert found == Finding(State.BROKEN, "no answer within 0.2 s")
    assert os.read(reading, 1) == b""
    os.close(reading)
