"""`limits.processes` against whoever wants more of them than there may be, in whatever way.

Twice counted: by the processes themselves (attacks/forks.c), who say how many were alive at once, never too many of
them; and from outside, with the supervisor stopped, so that nobody is born while we look.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from harness.descendants import Below, below, held, init_of
from harness.forms import FORMS, in_its_form
from harness.running import Ended, Runner, system_python
from harness.waiting import line_of
from security import broken

from sandlockd.kernel.syscalls import number_of

LIMIT = 16
THREADS = 16 * LIMIT
_LOOKS = 4
_LOOKS_MAX = 200
_NO_CAP = 100_000
_CAP = 40  # of a build that does not refuse

_WAYS = ("fork", "double", "vfork", "zombie", "churn", "ignored", "sibling", "moving")
# They do not keep what they have: a moment with all of them need not be met.
_COME_AND_GO = ("churn", "ignored")
_NOT_TRAPPED = broken.give_back("fork", "vfork", "clone")

pytestmark = pytest.mark.parametrize("as_user", FORMS, indirect=True)


@pytest.fixture
def runner(runner: Runner, request: pytest.FixtureRequest) -> Runner:
    return in_its_form(runner, request)


class Bomb:
    """How it went. most: alive at once, by their own count; made, refused: forks."""

    def __init__(self, said: bytes, looks: list[Below]) -> None:
        found = re.fullmatch(rb"(\d+) (\d+) (\d+) (\w+)\n", said)
        assert found is not None, said
        self.most, self.made, self.refused = (int(found[at]) for at in (1, 2, 3))
        self.error = found[4].decode()
        self.looks = looks


@pytest.mark.parametrize("how", _WAYS)
def test_no_bomb_gets_above_the_limit_and_each_gets_there(runner: Runner, how: str) -> None:
    bomb = _run(runner, how, until_processes=0 if how in _COME_AND_GO else LIMIT)
    seen = max(len(look.processes) for look in bomb.looks)
    assert max(bomb.most, seen) <= LIMIT, (bomb.most, seen)
    if how not in _COME_AND_GO:
        assert max(bomb.most, seen) == LIMIT, (bomb.most, seen)
    assert bomb.refused > 0 and bomb.error == "EAGAIN"


def test_threads_of_all_processes_together_are_limited_too(runner: Runner) -> None:
    bomb = _run(runner, "thread", cap=10 * THREADS)
    assert bomb.most == THREADS and bomb.refused > 0 and bomb.error == "EAGAIN"
    assert max(look.tasks for look in bomb.looks) == THREADS


@pytest.mark.parametrize("how", [*_WAYS, "thread"])
def test_where_forks_are_not_counted_the_oracle_tells(runner: Runner, how: str) -> None:
    if how == "thread":
        bomb = _run(runner, how, cap=THREADS + 40, patch=_NOT_TRAPPED)
        most = max(bomb.most, *(look.tasks for look in bomb.looks))
        # A cgroup holds that, though nobody counts.
        assert most == THREADS if runner.with_cgroups else most > THREADS
        return
    bomb = _run(runner, how, cap=_CAP, patch=_NOT_TRAPPED)
    assert bomb.refused == 0
    if how not in _COME_AND_GO:
        assert max(bomb.most, *(len(look.processes) for look in bomb.looks)) > LIMIT


def test_who_asks_for_one_more_is_on_record_with_how_often(runner: Runner) -> None:
    ended = runner.sandboxed(
        [_program(runner), "fork", str(_NO_CAP)], options=["--processes", "4"], input=b""
    )
    assert ended.returncode == 0, ended.stderr
    bomb = Bomb(ended.stdout.removeprefix(b"full\n"), [])
    records = {record["number"]: record for record in _crowded(ended)}
    assert len(records) <= 2  # by name, and who was gone before he could be asked for it
    record = records[min(records)]
    assert (record["rule"], record["errno"]) == ("limits.processes", "EAGAIN")
    assert record["remedy"] == "[limits] processes = 8" and record["wanted"] == "make a process"
    assert sum(one["count"] for one in records.values()) == bomb.refused
    explained = runner.sandlockd("explain", "--last").stdout.decode()
    assert "to make a process: EAGAIN" in explained and "[limits] processes = 8" in explained


_COMES_BACK = """
import errno, os, signal, sys
how = sys.argv[1]
if how == "ignored":
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
def fork():
    while True:
        try:
            return os.fork()
        except BlockingIOError:
            if how not in ("ignored", "orphaned"):  # nobody tells when those have gone
                raise
for _ in range(int(sys.argv[2])):
    child = fork()
    if child == 0:
        if how == "orphaned" and fork() > 0:
            os._exit(0)
        os._exit(0)
    if how == "not hanging":
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            pass
    elif how == "killed":
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    elif how != "ignored":
        os.waitpid(child, 0)
"""


@pytest.mark.one_user
@pytest.mark.parametrize(
    ("how", "times"),
    [("waited", 600), ("not hanging", 300), ("killed", 300), ("ignored", 300), ("orphaned", 300)],
)
def test_who_has_ended_makes_room(runner: Runner, how: str, times: int) -> None:
    options = ["--processes", "2" if how in ("waited", "not hanging", "killed") else "8"]
    command = [system_python(), "-S", "-c", _COMES_BACK, how, str(times)]
    ended = runner.sandboxed(command, options=options)
    assert ended.returncode == 0, ended.stderr
    if how in ("waited", "not hanging", "killed"):
        assert _crowded(ended) == []


_ALL_AT_ONCE = """
import os, signal, time
for _ in range(20):
    children = []
    for _ in range(7):
        child = os.fork()
        if child == 0:
            signal.pause()
        children.append(child)
    try:
        os.fork()
        print("one too many")
    except BlockingIOError:
        pass
    for child in children:
        os.kill(child, signal.SIGKILL)
    for child in children:
        os.waitpid(child, 0)
print("done")
"""


def test_killing_many_at_once_makes_room_for_as_many(runner: Runner) -> None:
    ended = runner.sandboxed([system_python(), "-S", "-c", _ALL_AT_ONCE], options=["--processes", "8"])
    assert ended.stdout == b"done\n", ended.stderr


_FAILS_BY_ITSELF = """
import errno, os, resource
resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
for _ in range(200):
    try:
        if os.fork() == 0:
            os._exit(0)
        os.wait()
    except BlockingIOError:
        pass

"""


def test_forks_that_the_kernel_refuses_take_no_room(runner: Runner) -> None:
    """They are none of ours to record either."""
    command = [system_python(), "-S", "-c", _FAILS_BY_ITSELF]
    ended = runner.sandboxed(command, options=["--processes", "4"])
    assert ended.returncode == 0 and _crowded(ended) == [], ended.stderr


_EXEC_FROM_A_THREAD = """
import os, subprocess, sys, threading, time
left = int(sys.argv[1])
subprocess.run(["/bin/true"], check=True)
if left:
    again = [sys.executable, "-S", "-c", sys.argv[2], str(left - 1), sys.argv[2]]
    threading.Thread(target=os.execv, args=(sys.executable, again)).start()
    time.sleep(60)
"""


def test_exec_from_a_thread_changes_nothing_about_the_number(runner: Runner) -> None:
    command = [system_python(), "-S", "-c", _EXEC_FROM_A_THREAD, "10", _EXEC_FROM_A_THREAD]
    ended = runner.sandboxed(command, options=["--processes", "2"])
    assert ended.returncode == 0 and _crowded(ended) == [], ended.stderr


# The first line fails on EINTR of a fork, where a signal withdraws the question and nobody asks it anew.
_PIPELINES = """
i=0; while [ $i -lt 150 ]; do echo $i | cat | tr 0-9 a-j; i=$((i+1)); done
(echo one; (echo two; (echo three | cat) | cat) | cat) | sort
for i in 1 2 3; do sleep 0.01 & done; wait; echo $(echo $(echo nested))
trap 'echo child' CHLD; /bin/true; echo end
"""


@pytest.mark.one_user
@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_pipelines_of_shells_are_what_they_are_bare(runner: Runner, shell: str) -> None:
    ended = runner.both([shell, "-c", _PIPELINES], options=["--processes", "12"])
    assert _crowded(ended) == []


_MANY_THREADS = """
import threading
stop = threading.Event()
threads = [threading.Thread(target=stop.wait) for _ in range(200)]
[thread.start() for thread in threads]
stop.set()
[thread.join() for thread in threads]
print("done")
"""


def test_a_program_of_many_threads_runs_with_few_processes(runner: Runner) -> None:
    ended = runner.both([system_python(), "-S", "-c", _MANY_THREADS], options=["--processes", "16"])
    assert _crowded(ended) == []


def test_the_program_alone_may_run_with_one(runner: Runner) -> None:
    ended = runner.sandboxed(["sh", "-c", "echo alone; /bin/true && true"], options=["--processes", "1"])
    assert ended.stdout == b"alone\n" and ended.returncode == 2
    assert b"fork" in ended.stderr.lower()


def test_none_at_all_is_an_error(runner: Runner) -> None:
    ended = runner.sandboxed(["true"], options=["--processes", "0"])
    assert ended.returncode == 125
    assert b"limits.processes: must be from 1" in ended.stderr


_NEW_USER = """
import ctypes, errno, sys
libc = ctypes.CDLL(None, use_errno=True)
assert libc.syscall(int(sys.argv[1]), 0x10000011, 0, 0, 0, 0) == -1 and ctypes.get_errno() == errno.EPERM
"""


def test_new_namespaces_are_refused_as_ever(runner: Runner) -> None:
    command = [system_python(), "-S", "-c", _NEW_USER, str(number_of("clone"))]
    ended = runner.sandboxed(command, options=["--processes", "4"])
    assert ended.returncode == 0, ended.stderr
    assert _crowded(ended) == []
    (record,) = (record for record in ended.refusals if record["call"] == "clone")
    assert (record["rule"], record["errno"]) == ("law.namespaces", "EPERM")


def test_at_level_all_each_fork_is_on_record(runner: Runner) -> None:
    policy = '[filesystem]\nbase = true\n[limits]\nprocesses = 4\n[audit]\nlevel = "all"\n'
    ended = runner.sandboxed(["sh", "-c", "/bin/true; /bin/true; (exit 3)"], policy=policy)
    assert ended.returncode == 3, ended.stderr
    forks = {
        record["number"]: record for record in ended.audit if record.get("call") in ("fork", "vfork", "clone")
    }
    assert sum(record["count"] for record in forks.values()) == 3
    assert {record["rule"] for record in forks.values()} == {"kernel.registers"}


def test_without_the_limit_no_fork_is_trapped(runner: Runner) -> None:
    policy = '[filesystem]\nbase = true\n[audit]\nlevel = "all"\n'
    ended = runner.sandboxed(["sh", "-c", "/bin/true; (exit 3)"], policy=policy)
    assert ended.returncode == 3
    assert not [record for record in ended.audit if record.get("call") in ("fork", "vfork", "clone")]


def test_another_sandbox_goes_on_beside_a_bomb(runner: Runner) -> None:
    line = runner.command_line([_program(runner), "fork", str(_NO_CAP)], options=["--processes", str(LIMIT)])
    with runner.started(line) as process:
        assert process.stdout is not None and process.stdin is not None
        assert line_of(process.stdout.fileno()) == b"full\n"
        other = ["sh", "-c", "for i in 1 2 3 4 5; do echo $i | cat; done"]
        beside = runner.run(runner.command_line(other, options=["--processes", "4"]))
        assert (beside.returncode, beside.stdout) == (0, b"1\n2\n3\n4\n5\n"), beside.stderr
        process.stdin.close()
        assert process.wait() == 0


def _crowded(ended: Ended) -> list[dict[str, Any]]:
    return [record for record in ended.refusals if record["rule"] == "limits.processes"]


def _program(runner: Runner) -> Path:
    return runner.compiler.compile((Path(__file__).parent / "attacks" / "forks.c").read_text())


def _run(runner: Runner, how: str, cap: int = _NO_CAP, patch: str = "", until_processes: int = 0) -> Bomb:
    line = runner.command_line(
        [_program(runner), how, str(cap)], options=["--processes", str(LIMIT), "--quiet"]
    )
    looks: list[Below] = []
    with runner.started(broken.command_line(patch, line) if patch else line) as process:
        assert process.stdout is not None and process.stdin is not None
        assert line_of(process.stdout.fileno()) == b"full\n"
        init_pid = init_of(process.pid)
        # On a busy machine it takes a while until so many live at the same time.
        while len(looks) < _LOOKS or (len(looks) < _LOOKS_MAX and len(looks[-1].processes) < until_processes):
            with held(process.pid):
                looks.append(below(init_pid))
        process.stdin.close()
        said = line_of(process.stdout.fileno())
        assert process.wait() == 0
    return Bomb(said, looks)
