"""Cgroups of version 2: one that was delegated to an ordinary user is used, and nobody in it but us is moved.

A machine where version 1 has memory and pids (hybrid) shows all of it but the limits themselves, with another
controller.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import groups, ledger
from harness.running import Runner, system_python
from harness.waiting import line_of

from sandlockd.kernel import cgroup_places, cgroups
from sandlockd.kernel.paths import mounts

pytestmark = pytest.mark.parametrize("as_user", ["ordinary"], indirect=True)

_SPARE = "hugetlb"


def _top() -> Path:
    if os.geteuid() != 0:
        pytest.skip("root makes the group")
    points = [mount.point for mount in mounts() if mount.kind == b"cgroup2"]
    if not points:
        pytest.skip("cgroup v2 is not mounted")
    return Path(os.fsdecode(points[-1]))


def _words(path: Path) -> set[str]:
    return set(path.read_text().split())


@pytest.fixture
def top() -> Iterator[Path]:
    """The topmost group, with some controller for those below. Where systemd has it, it is left as it is."""
    top = _top()
    control = top / "cgroup.subtree_control"
    if _words(control) or os.path.isdir("/run/systemd/system"):
        yield top
        return
    if _SPARE not in _words(top / "cgroup.controllers"):
        pytest.skip("no controller of version 2 is to be had here")
    control.write_text(f"+{_SPARE}")
    try:
        yield top
    finally:
        with contextlib.suppress(OSError):  # another session's test is in the middle of this
            control.write_text(f"-{_SPARE}")


@pytest.fixture
def delegated(top: Path, runner: Runner) -> Iterator[Path]:
    """A group with all that top gives, and its files the user's."""
    name = f"sandlockd-test-{runner.place.root.name.rpartition('-')[2]}"
    group = top / name
    ledger.own().note(ledger.Thing("cgroup", str(group)))
    group.mkdir()
    try:
        for path in (group, *(group / f"cgroup.{file}" for file in ("procs", "threads", "subtree_control"))):
            os.chown(path, runner.place.user.uid, runner.place.user.gid)
        if os.path.isdir("/run/systemd/system"):
            os.setxattr(group, "trusted.delegate", b"1")
        yield group
    finally:
        groups.remove([group])


_IN_IT = """
import json, os, signal, sys
from sandlockd.kernel import cgroup_places, cgroups
def own(pid="self"):
    with open(f"/proc/{pid}/cgroup") as file:
        return next(line.strip() for line in file if line.startswith("0::"))
found = cgroups.Groups(b"run", [word.encode() for word in sys.argv[2:]])
told = {"lacking": [text for text in found.lacking.values()], "own": own()}
if found.in_use:
    (group,) = found.in_use
    told["version"] = group.version
    child = os.fork()
    if child == 0:
        while True:
            signal.pause()
    found.take(child)
    told["child"] = own(child)
    group.write(b"cgroup.kill", b"1")
    told["signal"] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
told["left"] = [path.decode() for path in found.close()]
told["after"] = own()
print(json.dumps(told), flush=True)
sys.stdin.readline()
"""


@contextlib.contextmanager
def _in_group(runner: Runner, group: Path, script: str, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """Whoever starts there is put there before it begins."""
    line = ["sh", "-c", 'read -r line; exec "$@"', "sh", sys.executable, "-I", "-c", script, "-", *words]
    with runner.started(line) as process:
        (group / "cgroup.procs").write_text(str(process.pid))
        assert process.stdin is not None
        process.stdin.write(b"\n")
        yield process


def _told(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    assert process.stdout is not None and process.stderr is not None
    line = line_of(process.stdout.fileno())
    assert line, process.stderr.read()
    return dict(json.loads(line))


def _controllers(group: Path) -> list[str]:
    found = _words(group / "cgroup.controllers")
    return sorted(found & {"memory", "pids", "cpu"}) or sorted(found)[:1]


def _path(group: Path, top: Path, *more: str) -> str:
    return "0::/" + "/".join([str(group.relative_to(top)), *more])


def test_who_is_alone_in_a_delegated_group_uses_it_and_leaves_it_as_it_was(
    runner: Runner, top: Path, delegated: Path
) -> None:
    with _in_group(runner, delegated, _IN_IT, *_controllers(delegated)) as process:
        told = _told(process)
        assert (told["lacking"], told["version"]) == ([], 2)
        assert told["own"] == _path(delegated, top, "sandlockd-run.own")
        assert told["child"] == _path(delegated, top, "sandlockd-run")
        assert (told["signal"], told["left"]) == (-9, [])
        assert told["after"] == _path(delegated, top)
        assert not _words(delegated / "cgroup.subtree_control")
        assert not [path for path in delegated.iterdir() if path.is_dir()]


def test_nobody_else_is_moved(runner: Runner, top: Path, delegated: Path) -> None:
    with _in_group(runner, delegated, "import sys; sys.stdin.readline()") as other:
        with _in_group(runner, delegated, _IN_IT, *_controllers(delegated)) as process:
            told = _told(process)
            assert "not ours to move" in told["lacking"][0]
            assert told["own"] == told["after"] == _path(delegated, top)
        assert str(other.pid) in _words(delegated / "cgroup.procs")


def test_what_was_not_given_to_us_is_not_used(runner: Runner, top: Path, delegated: Path) -> None:
    os.chown(delegated, 0, 0)
    with _in_group(runner, delegated, _IN_IT, *_controllers(delegated)) as process:
        told = _told(process)
        assert "Permission denied" in told["lacking"][0]
        assert told["own"] == _path(delegated, top)


def test_where_there_are_threads_only_none_is_made(top: Path, delegated: Path) -> None:
    """No process can be put into a group below a threaded one."""
    threaded = delegated / "threaded"
    threaded.mkdir()
    try:
        (threaded / "cgroup.type").write_text("threaded")
        with pytest.raises(cgroup_places.NotOurs, match="threaded"):
            cgroups.Group(os.fsencode(threaded), b"run", 2)
        assert not [path for path in threaded.iterdir() if path.is_dir()]
    finally:
        groups.remove([threaded])


def test_a_delegated_group_keeps_the_limits(runner: Runner, delegated: Path) -> None:
    lacking = {"memory", "pids"} - _words(delegated / "cgroup.controllers")
    if lacking:
        pytest.skip(f"version 2 has no {' and '.join(sorted(lacking))} here")
    script = "held = [b'x' * (1 << 19) for _ in range(400)]; print('taken')"
    command = runner.command_line(
        [system_python(), "-S", "-c", script], options=["--memory", "64M", "--processes", "4"]
    )
    line = ["sh", "-c", 'read -r line; exec "$@"', "sh", *command]
    with runner.started(line) as process:
        (delegated / "cgroup.procs").write_text(str(process.pid))
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(b"\n")
        assert process.stdout.read() == b""
        assert process.wait() == 137
    status = runner.status()
    assert status is not None and status["reason"] == "memory"
    assert status["usage"]["kept_by"]["memory"] == "cgroup v2"
    assert not [path for path in delegated.iterdir() if path.is_dir()]
