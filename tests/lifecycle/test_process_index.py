"""ProcessIndex and the watchers, with real processes: who is in, how each ended, and nobody taken for another."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
import trio
import trio.testing
from harness.compiling import Compiler
from harness.waiting import line_of, until

from sandlockd.kernel import pidfd as pidfds
from sandlockd.process.index import ProcessIndex
from sandlockd.process.key import PidKey
from sandlockd.process.watcher import Exit, watch

# Waits for one byte, then ends as its argument says: an exit code, or -n for signal n.
_LEAVER = r"""
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>
int main(int argc, char **argv)
{
	char byte;
	int how = atoi(argv[argc - 1]);
	struct rlimit none = {0, 0};
	setrlimit(RLIMIT_CORE, &none);
	if (read(0, &byte, 1) < 0)
		return 99;
	if (how < 0) {
		signal(-how, SIG_DFL);
		raise(-how);
		pause();
	}
	_exit(how);
}
"""

# Starts a process with the very number that it is given; says "ready"; both wait for the end of input.
_NUMBERED = r"""
#define _GNU_SOURCE
#include <linux/sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <errno.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
int main(int argc, char **argv)
{
	pid_t wanted = atoi(argv[argc - 1]);
	struct clone_args args = {.exit_signal = SIGCHLD, .set_tid = (unsigned long)&wanted, .set_tid_size = 1};
	char byte;
	long pid = syscall(SYS_clone3, &args, sizeof(args));
	if (pid == 0) {
		while (read(0, &byte, 1) > 0)
			;
		_exit(0);
	}
	printf("%s\n", pid < 0 ? strerror(errno) : "ready");
	fflush(stdout);
	if (pid > 0)
		waitpid((pid_t)pid, NULL, 0);
	return 0;
}
"""

# A second thread; then the leader ends before it. Says the thread's id, then waits for input in the thread.
_LEADERLESS = r"""
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>
static void *stay(void *nothing)
{
	char byte;
	printf("%d\n", (int)gettid());
	fflush(stdout);
	while (read(0, &byte, 1) > 0)
		;
	_exit(11);
	return nothing;
}
int main(void)
{
	pthread_t thread;
	pthread_create(&thread, NULL, stay, NULL);
	pthread_exit(NULL);
}
"""


class Leaver:
    """A child that ends when told to, in the way it was told at its start."""

    def __init__(self, process: subprocess.Popen[bytes], how: int) -> None:
        self.process = process
        self.how = how

    @property
    def pid(self) -> int:
        return self.process.pid

    def leave(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()


class Leavers:
    def __init__(self, compiler: Compiler) -> None:
        self._program = compiler.compile(_LEAVER)
        self.all: list[Leaver] = []

    def start(self, how: int) -> Leaver:
        process = subprocess.Popen([self._program, str(how)], stdin=subprocess.PIPE)
        self.all.append(Leaver(process, how))
        return self.all[-1]

    def close(self) -> None:
        for leaver in self.all:
            leaver.process.kill()
            leaver.leave()
            leaver.process.wait()


@pytest.fixture
def leavers(compiler: Compiler) -> Iterator[Leavers]:
    made = Leavers(compiler)
    yield made
    made.close()


@pytest.fixture
def index() -> Iterator[ProcessIndex]:
    """The test is the init: all its children are members."""
    before = sorted(os.listdir("/proc/self/fd"))
    made = ProcessIndex(os.getpid())
    yield made
    made.on_unregister = None
    made.clear()
    assert len(os.listdir("/proc/self/fd")) <= len(before) + 2


def _key(index: ProcessIndex, pid: int) -> PidKey:
    key = index.register(pid)
    assert key is not None
    return key


def _dead_not_reaped(leaver: Leaver) -> None:
    leaver.leave()
    os.waitid(os.P_PID, leaver.pid, os.WEXITED | os.WNOWAIT)


# --- membership ---


def test_a_child_is_registered_once_under_one_key(index: ProcessIndex, leavers: Leavers) -> None:
    child = leavers.start(0)
    key = _key(index, child.pid)
    assert index.register(child.pid) == key
    assert (key.tgid, index.key_for(child.pid), index.contains(key)) == (child.pid, key, True)
    assert (len(index), index.registered, index.pids_snapshot()) == (1, 1, (child.pid,))
    entry = index.entry_for(key)
    assert entry is not None and entry.key == key


@pytest.mark.parametrize("pid", [0, -1, -2, -(1 << 31), 1 << 22, (1 << 31) - 1])
def test_a_number_that_is_nobodys_is_refused(index: ProcessIndex, pid: int) -> None:
    assert index.register(pid) is None
    assert index.register_thread(pid) is None
    assert index.key_for(pid) is None
    assert len(index) == 0


def test_a_process_outside_is_refused(index: ProcessIndex) -> None:
    assert index.register(1) is None
    assert index.register(os.getppid()) is None


def test_a_process_that_has_ended_is_refused(index: ProcessIndex, leavers: Leavers) -> None:
    zombie, gone = leavers.start(0), leavers.start(0)
    _dead_not_reaped(zombie)
    gone.leave()
    gone.process.wait()
    assert index.register(zombie.pid) is None
    assert index.register(gone.pid) is None
    assert len(index) == 0


def test_a_grandchild_whose_parent_died_is_a_member_of_its_subreaper_only(index: ProcessIndex) -> None:
    script = "sleep 1000 & echo $!"
    with subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE) as shell:
        assert shell.stdout is not None
        orphan = int(shell.stdout.readline())
        shell.wait()
        try:
            assert index.register(orphan) is None  # it hangs from somebody else now
        finally:
            os.kill(orphan, signal.SIGKILL)


def test_unregister_lets_go_of_exactly_that_process(index: ProcessIndex, leavers: Leavers) -> None:
    child = leavers.start(0)
    key = _key(index, child.pid)
    assert not index.unregister(PidKey(key.tgid, key.birth + 1))
    assert not index.unregister(PidKey(key.tgid + 1, key.birth))
    assert index.contains(key)
    assert index.unregister(key)
    assert not index.unregister(key)
    assert index.key_for(child.pid) is None


def test_unregistering_closes_what_the_entry_owns_after_it_told(
    index: ProcessIndex, leavers: Leavers
) -> None:
    key = _key(index, leavers.start(0).pid)
    entry = index.entry_for(key)
    assert entry is not None
    owned = pidfds.open_pidfd(os.getpid())
    entry.own(owned)
    told: list[bool] = []
    index.on_unregister = lambda gone: told.append(gone.pidfd.closed)
    index.unregister(key)
    assert told == [False]
    assert entry.pidfd.closed and owned.closed


def test_prune_dead_lets_go_of_the_dead_only(index: ProcessIndex, leavers: Leavers) -> None:
    alive, zombie, reaped = leavers.start(0), leavers.start(0), leavers.start(0)
    keys = [_key(index, leaver.pid) for leaver in (alive, zombie, reaped)]
    _dead_not_reaped(zombie)
    reaped.leave()
    reaped.process.wait()
    assert index.prune_dead() == 2
    assert [index.contains(key) for key in keys] == [True, False, False]
    assert index.prune_dead() == 0


def test_a_number_used_again_is_another_process(
    index: ProcessIndex, leavers: Leavers, compiler: Compiler
) -> None:
    if os.geteuid() != 0:
        pytest.skip("choosing a process number (clone3, set_tid) needs root")
    first = leavers.start(0)
    old = _key(index, first.pid)
    first.leave()
    first.process.wait()
    program = compiler.compile(_NUMBERED)
    with subprocess.Popen([program, str(first.pid)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as second:
        assert second.stdout is not None and second.stdin is not None
        said = line_of(second.stdout.fileno())
        if said != b"ready\n":
            second.stdin.close()
            pytest.skip(f"the number could not be used again: {said.decode().strip()}")
        new = _key(index, first.pid)
        assert new != old
        assert new.tgid == old.tgid
        assert not index.contains(old)
        assert index.entry_for(old) is None
        assert not index.unregister(old)
        assert index.contains(new)
        second.stdin.close()


# --- threads ---


def test_a_thread_is_its_leaders(index: ProcessIndex) -> None:
    text = (
        "import threading, sys; wait = lambda: (print(threading.get_native_id(), flush=True), sys.stdin.read());"
        "threading.Thread(target=wait).start()"
    )
    command = [sys.executable, "-c", text]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdin is not None
        tid = int(line_of(process.stdout.fileno()))
        assert tid != process.pid
        assert index.register(tid) is None  # not a process
        key = index.register_thread(tid)
        assert key is not None and key.tgid == process.pid
        assert index.register_thread(process.pid) == key
        entry = index.entry_for(key)
        assert entry is not None and entry.threads == {tid, process.pid}
        process.stdin.close()


@pytest.mark.trio
async def test_a_process_lives_as_long_as_its_last_thread(index: ProcessIndex, compiler: Compiler) -> None:
    program = compiler.compile(_LEADERLESS)
    with subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdin is not None
        tid = int(line_of(process.stdout.fileno()))

        def leader_is_dead() -> bool:
            with open(f"/proc/{process.pid}/stat") as file:
                return file.read().rpartition(")")[2].split()[0] == "Z"

        until(leader_is_dead, "the death of the leader")
        key = index.register_thread(tid)
        assert key is not None and key.tgid == process.pid
        assert index.prune_dead() == 0
        exits: list[Exit] = []
        entry = index.entry_for(key)
        assert entry is not None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch, index, entry, exits.append)
            process.stdin.close()
        assert exits == [Exit(key, 11, None)]
        assert not index.contains(key)


# --- how each ended ---


@contextlib.asynccontextmanager
async def _watching(index: ProcessIndex, exits: list[Exit]):  # type: ignore[no-untyped-def]
    """Everybody who is registered within is watched; ends when all have ended."""
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            index.on_register = lambda entry: nursery.start_soon(watch, index, entry, exits.append)
            yield


_ENDS = [0, 1, 7, 126, 127, 255, *(-number for number in (1, 2, 3, 6, 9, 11, 13, 15))]


@pytest.mark.trio
@pytest.mark.parametrize("reaped", [False, True])
@pytest.mark.parametrize("how", _ENDS)
async def test_a_watcher_tells_how_a_process_ended(
    index: ProcessIndex, leavers: Leavers, how: int, reaped: bool
) -> None:
    exits: list[Exit] = []
    child = leavers.start(how)
    async with _watching(index, exits):
        key = _key(index, child.pid)
        await trio.lowlevel.checkpoint()
        child.leave()
        if reaped:
            child.process.wait()  # before the watcher had a chance to run
    (told,) = exits
    if reaped and told.code is told.signal is None:
        pytest.skip("this kernel does not tell how a reaped process ended (Linux 6.15 does)")
    assert told == Exit(key, how if how >= 0 else None, -how if how < 0 else None)
    assert len(index) == 0


@pytest.mark.trio
async def test_a_process_killed_from_outside(index: ProcessIndex, leavers: Leavers) -> None:
    exits: list[Exit] = []
    child = leavers.start(0)
    async with _watching(index, exits):
        key = _key(index, child.pid)
        child.process.kill()
    assert exits == [Exit(key, None, signal.SIGKILL)]


@pytest.mark.trio
async def test_three_hundred_processes_end_at_once(index: ProcessIndex, leavers: Leavers) -> None:
    exits: list[Exit] = []
    expected: dict[PidKey, int] = {}
    async with _watching(index, exits):
        for number in range(300):
            child = leavers.start(number % 256 if number % 3 else -9)
            expected[_key(index, child.pid)] = child.how
        assert len(index) == 300
        for child in leavers.all:
            child.leave()
    assert {told.key: told.code if told.signal is None else -told.signal for told in exits} == expected
    assert len(exits) == 300
    assert len(index) == 0


@pytest.mark.trio
async def test_a_process_that_somebody_else_let_go_ends_its_watcher_without_a_word(
    index: ProcessIndex, leavers: Leavers
) -> None:
    exits: list[Exit] = []
    child = leavers.start(0)
    index.on_unregister = lambda entry: trio.lowlevel.notify_closing(entry.pidfd.fd)
    async with _watching(index, exits):
        key = _key(index, child.pid)
        await trio.testing.wait_all_tasks_blocked()
        index.unregister(key)
    assert exits == []
