"""Limits that cgroups keep: the program cannot leave its group, nothing is left of it, and only what is ours is used.

What the limits do stands in test_memory_limit.py and test_process_limit.py, for both forms.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import groups, ledger
from harness.forms import in_its_form
from harness.running import Ended, Runner, system_python
from harness.sharing import GROUPED
from harness.waiting import line_of, until
from security import broken
from security.taking import NO_HANDLERS, NO_WATCHER, takers

from sandlockd.kernel import cgroup_places, cgroups
from sandlockd.kernel.paths import mounts

pytestmark = pytest.mark.parametrize("as_user", [GROUPED], indirect=True)

MEGA = 1 << 20
_LIMITS = ["--memory", "64M", "--processes", "8"]


@pytest.fixture
def runner(runner: Runner, request: pytest.FixtureRequest) -> Runner:
    return in_its_form(runner, request)


def _kept_by(ended: Ended) -> dict[str, str]:
    assert ended.status is not None
    return dict(ended.status["usage"]["kept_by"])


def _in(controller: bytes) -> Path:
    place = cgroup_places.own_place(controller, mounts())
    assert place is not None
    return Path(os.fsdecode(place.path))


def _made(where: Path) -> set[str]:
    return {name for name in os.listdir(where) if name.startswith("sandlockd-")}


# ---- who is in it

_WHERE = "echo ready; read -r line; cat /proc/self/cgroup"


@pytest.fixture
def waiting(runner: Runner) -> Iterator[Any]:
    line = runner.command_line(["sh", "-c", _WHERE], options=_LIMITS)
    with runner.started(line) as process:
        assert process.stdin is not None and process.stdout is not None
        assert line_of(process.stdout.fileno()) == b"ready\n"
        yield process
        if process.poll() is None:
            process.stdin.write(b"\n")
            process.wait()


def _group_of(runner: Runner, controller: bytes) -> Path:
    (run,) = os.listdir(runner.place.state / "runs")
    return _in(controller) / f"sandlockd-{run}"


@pytest.mark.parametrize("controller", [cgroups.MEMORY, cgroups.PIDS])
def test_the_program_alone_is_in_a_group_of_its_own(runner: Runner, waiting: Any, controller: bytes) -> None:
    group = _group_of(runner, controller)
    (pid,) = (group / "cgroup.procs").read_text().split()
    assert Path(f"/proc/{pid}/comm").read_text() == "sh\n"
    assert waiting.pid != int(pid)


def test_it_is_gone_when_the_run_has_ended(runner: Runner, waiting: Any) -> None:
    made = [_group_of(runner, controller) for controller in (cgroups.MEMORY, cgroups.PIDS)]
    assert all(group.is_dir() for group in made)
    waiting.stdin.write(b"\n")
    assert waiting.wait() == 0
    assert not any(group.exists() for group in made)


def test_who_kept_it_is_told(runner: Runner) -> None:
    ended = runner.sandboxed(["true"], options=[*_LIMITS, "-v"])
    assert list(_kept_by(ended)) == ["memory", "processes"]
    assert _kept_by(ended)["memory"].startswith("cgroup v")
    assert b"limits kept by: memory: cgroup v" in ended.stderr
    alone = runner.sandboxed(["true"], options=_LIMITS, env={cgroups.WITHOUT: "1"})
    assert _kept_by(alone) == {"memory": "sandlockd", "processes": "sandlockd"}
    assert _kept_by(runner.sandboxed(["true"])) == {}


def test_what_was_swapped_out_is_in_what_is_told(runner: Runner, waiting: Any) -> None:
    """As it is in the limit. (There is no swap here to be filled: what is asked of the kernel is looked at.)"""
    group = _group_of(runner, cgroups.MEMORY)
    if not (group / "memory.memsw.usage_in_bytes").exists():
        pytest.skip("version 2, or no swap: memory alone is limited")
    opened = [Path(os.readlink(link)) for link in Path(f"/proc/{waiting.pid}/fd").iterdir()]
    names = {path.name for path in opened if path.parent == group}
    assert names >= {"memory.memsw.usage_in_bytes", "memory.memsw.max_usage_in_bytes"}, names


# ---- the program cannot leave it

_LEAVES = """
import errno, os, sys
size = int(sys.argv[1]) << 20
for path in sys.argv[2:]:
    for name, text in (("cgroup.procs", b"0"), ("memory.limit_in_bytes", b"-1"), ("memory.max", b"max")):
        try:
            fd = os.open(os.path.join(path, name), os.O_WRONLY)
            os.write(fd, text)
            print(name, "written")
        except OSError as error:
            print(name, errno.errorcode[error.errno])
    try:
        os.mkdir(os.path.join(path, "further"))
        os.rmdir(os.path.join(path, "further"))
        print("made")
    except OSError as error:
        print(errno.errorcode[error.errno])
held = [b"x" * (1 << 19) for _ in range(size >> 19)]
print("taken")
"""


def _leaving(runner: Runner, patch: str = "") -> Ended:
    command = [system_python(), "-S", "-c", _LEAVES, "200", _in(cgroups.MEMORY), _in(cgroups.PIDS)]
    if patch:
        return broken.run(runner, patch, command, options=["--memory", "64M"], timeout=60)
    return runner.sandboxed(command, options=["--memory", "64M"], timeout=60)


def test_a_program_of_roots_writes_no_file_of_a_group(runner: Runner) -> None:
    ended = _leaving(runner)
    assert b"written" not in ended.stdout and b"made" not in ended.stdout, ended.stdout
    assert b"taken" not in ended.stdout and ended.reason == "memory"


def test_without_the_wall_it_leaves_its_group(runner: Runner) -> None:
    assert b"cgroup.procs written" in _leaving(runner, broken.OPEN_WALL + broken.ALLOW_ALL_PATHS).stdout


_NOT_PUT = "from sandlockd.kernel import cgroups\ncgroups.Groups.take = lambda self, pid: None\n"


def test_who_is_not_put_into_the_group_is_not_held(runner: Runner) -> None:
    assert b"taken" in _leaving(runner, _NOT_PUT).stdout


@pytest.mark.parametrize("how", ["small-pieces", "memfd-written"])
def test_where_nobody_else_looks_it_keeps_the_memory(runner: Runner, how: str) -> None:
    patch = NO_WATCHER + NO_HANDLERS
    command = [takers(runner), how, "100", runner.work / "counter"]
    ended = broken.run(
        runner, patch, command, options=["--write", runner.work, "--memory", "64M"], timeout=60
    )
    assert b"taken" not in ended.stdout and ended.reason == "memory"


def test_where_it_may_write_the_groups_none_is_relied_on(runner: Runner) -> None:
    for granted in (_in(cgroups.MEMORY), "/sys"):
        ended = runner.sandboxed(["true"], options=[*_LIMITS, "--write", granted])
        assert ended.returncode == 0, ended.stderr
        assert _kept_by(ended) == {"memory": "sandlockd", "processes": "sandlockd"}


def test_if_it_were_it_would_be_left(runner: Runner) -> None:
    patch = "from sandlockd.sandbox import grouped\ngrouped._may_be_left = lambda prepared: False\n"
    command = [system_python(), "-S", "-c", _LEAVES, "0", _in(cgroups.PIDS)]
    options = ["--processes", "8", "--write", "/sys/fs/cgroup"]
    assert b"cgroup.procs written" in broken.run(runner, patch, command, options=options).stdout


# ---- what counts

_SOCKETS = """
import resource, socket
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
held = []
for _ in range(1000):
    one, other = socket.socketpair()
    one.setblocking(False)
    try:
        while True:
            one.send(bytes(1 << 16))
    except BlockingIOError:
        held += [one, other]
print("taken", flush=True)
"""


def test_buffers_of_the_kernels_count_where_a_cgroup_counts(runner: Runner) -> None:
    command = [system_python(), "-S", "-c", _SOCKETS]
    assert b"taken" in runner.bare(command).stdout
    ended = runner.sandboxed(command, options=["--memory", "64M"])
    assert ended.reason == "memory" and b"taken" not in ended.stdout


_FILES = """
import os
for _ in range(2):
    with open("large", "wb") as file:
        for _ in range(200):
            file.write(bytes(1 << 20))
    with open("large", "rb") as file:
        while file.read(1 << 20):
            pass
held = bytearray(b"x") * (30 << 20)
os.unlink("large")
"""


@pytest.mark.parametrize("how", ["--write", "--workdir"])
def test_files_that_the_kernel_keeps_in_memory_are_no_reason(runner: Runner, how: str) -> None:
    command = [system_python(), "-S", "-c", _FILES]
    ended = runner.sandboxed(command, options=["--memory", "64M", how, runner.work], timeout=60)
    assert (ended.returncode, ended.reason) == (0, "exited"), ended.stderr


def test_where_we_would_write_into_memory_for_the_program_we_count(runner: Runner) -> None:
    """A copy of a file on a tmpfs would be ours to the kernel."""
    if not os.path.ismount("/dev/shm"):
        pytest.skip("there is no tmpfs at /dev/shm")
    with ledger.directory("shm", Path("/dev/shm")) as shm:
        work = shm / "work"
        work.mkdir()
        options = ["--memory", "64M", "--workdir", work, "--on-exit", "discard"]
        (work / "large").write_bytes(b"x" * (100 * MEGA))
        script = (
            "import os\nos.close(os.open('large', os.O_RDWR))\nprint('taken', flush=True)\nwhile True: pass"
        )
        ended = runner.sandboxed([system_python(), "-S", "-c", script], options=options, cwd=work)
        assert _kept_by(ended) == {"memory": "sandlockd"}
        assert ended.reason == "memory", ended.stderr


# ---- what killed runs leave


def _killed(runner: Runner, *, with_init: bool) -> list[Path]:
    """The groups of a run that was killed while its program ran."""
    runner.may_leave_temporary = True
    line = runner.command_line(["sh", "-c", "echo ready; exec sleep 1000"], options=_LIMITS)
    with runner.started(line) as process:
        assert process.stdout is not None
        assert line_of(process.stdout.fileno()) == b"ready\n"
        made = [_group_of(runner, controller) for controller in (cgroups.MEMORY, cgroups.PIDS)]
        program = int((made[0] / "cgroup.procs").read_text())
        init = int(Path(f"/proc/{program}/stat").read_text().split(")")[1].split()[1])
        process.send_signal(signal.SIGSTOP)
        for pid in (init, program) if with_init else ():
            os.kill(pid, signal.SIGKILL)
        process.send_signal(signal.SIGKILL)
        process.wait()
    until(lambda: not Path(f"/proc/{program}").exists(), "the end of the program")
    return made


def test_what_a_killed_supervisor_left_is_removed_by_init(runner: Runner) -> None:
    made = _killed(runner, with_init=False)
    until(lambda: not any(group.exists() for group in made), "the groups to go")


def _is_idle(group: Path) -> bool:
    """Nobody is in it, and nobody who was started by the killed one has its lock still. Or it is gone already."""
    try:
        fd = os.open(group, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return not (group / "cgroup.procs").read_text()
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV):  # another run has removed it meanwhile
            return True
        raise
    finally:
        os.close(fd)


def test_what_nobody_could_remove_goes_at_the_next_start(runner: Runner, waiting: Any) -> None:
    """And not what a living neighbour has, or somebody else made."""
    living = [_group_of(runner, controller) for controller in (cgroups.MEMORY, cgroups.PIDS)]
    other = Runner(runner.place, runner.marker, runner.compiler)
    for path in (runner.place.state / "runs").iterdir():
        path.rename(runner.place.root / path.name)
    left = _killed(other, with_init=True)
    until(lambda: all(_is_idle(group) for group in left), "the groups of the killed run to have nobody")
    runner.may_leave_temporary = True
    strangers = [
        _in(cgroups.MEMORY) / f"{begin}-{os.getpid()}"
        for begin in ("strangers", "sandlockd", "sandlockd-web")
    ]
    for group in strangers:
        group.mkdir()
    try:
        # Any other run of root's may have been the next by now.
        line = other.command_line(["true"], options=[*_LIMITS, "--status-file", other.place.root / "o.json"])
        assert other.run(line).returncode == 0
        # If another run had one of them in hand, it is removed by that one.
        until(lambda: not any(group.exists() for group in left), "the groups to go")
        assert all(group.is_dir() for group in (*living, *strangers))
    finally:
        groups.remove([*left, *strangers])
        for path in runner.place.root.iterdir():
            if path.name == living[0].name.removeprefix("sandlockd-"):
                path.rename(runner.place.state / "runs" / path.name)


# ---- where there is none

_HIDDEN = 'mount -t tmpfs none /sys/fs/cgroup && exec "$@"'


_WITHOUT_CGROUPS = (
    "from sandlockd.kernel import cgroup_places\ncgroup_places._OWN_GROUPS = '/proc/self/none'\n"
)


def test_on_a_kernel_that_has_none_the_limits_hold_without(runner: Runner) -> None:
    """This one has them: another name is asked for, which is not there either."""
    ended = broken.run(runner, _WITHOUT_CGROUPS, ["echo", "begun"], options=_LIMITS)
    assert (ended.returncode, ended.stdout) == (0, b"begun\n"), ended.stderr
    assert _kept_by(ended) == {"memory": "sandlockd", "processes": "sandlockd"}


def test_who_has_a_realtime_priority_is_held_without(runner: Runner) -> None:
    """The controller holds none such, and some kernels take none into a group."""
    policy = '[filesystem]\nbase = true\n[limits]\ncpu = "50%"\n'
    ended = runner.sandboxed(["echo", "begun"], policy=policy, wrap=["chrt", "--fifo", "1"])
    assert (ended.returncode, ended.stdout) == (0, b"begun\n"), ended.stderr
    assert _kept_by(ended)["cpu"] == "sandlockd"


def test_where_none_is_to_be_seen_the_limits_hold_without(runner: Runner) -> None:
    """As in many containers. The mount is in a namespace of its own."""
    wrap = ["unshare", "--mount", "sh", "-c", _HIDDEN, "sh"]
    command = [system_python(), "-S", "-c", _LEAVES, "200"]
    ended = runner.sandboxed(command, options=_LIMITS, wrap=wrap)
    assert ended.reason == "memory" and b"taken" not in ended.stdout
    assert _kept_by(ended) == {"memory": "sandlockd", "processes": "sandlockd"}
    told = json.loads(runner.run([*wrap, *runner.command_line(["x"])[:1], "doctor", "--json"]).stdout)
    (check,) = (one for one in told["checks"] if one["name"] == "cgroup.delegation")
    assert check["state"] == "missing" and "no cgroup of ours is to be seen here" in check["detail"]
