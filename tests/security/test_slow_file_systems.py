"""Attacks by a file system whose server does not answer: whoever runs it must not keep the supervisor waiting.

The file system is FUSE, mounted in a mount namespace of the command's own; its server is the test.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.fuse import Call, FileSystem, Hung
from harness.running import Runner
from harness.survivors import marked
from harness.users import User
from harness.waiting import line_of, until, wait_dead
from security.raw_calls import ATTACKS

from sandlockd.notify.dispatch import _WORKERS_MAX

# A single open takes 5 to 100 us here; a stalled loop would take as long as the server keeps silent.
_SLOWEST_US = 500_000
_END_S = 4.0


@pytest.fixture(autouse=True)
def _can_mount() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root mounts a file system in a mount namespace of its own")
    if not os.path.exists("/dev/fuse"):
        pytest.skip("there is no /dev/fuse")


@pytest.fixture(params=[False, True], ids=["without-tree", "with-tree"])
def tree(request: pytest.FixtureRequest, runner: Runner) -> list[Any]:
    """Options of a run with or without a copy-on-write tree, outside of which the slow file system is."""
    return ["--workdir", runner.work, "--on-exit", "discard"] if request.param else []


@pytest.fixture
def slow(runner: Runner, as_user: User) -> Iterator[FileSystem]:
    with new_file_system(runner, as_user) as made:
        yield made


def new_file_system(runner: Runner, user: User) -> FileSystem:
    made = FileSystem(runner.place.root / "slow", user)
    made.file("file", b"content\n")
    made.file("program", b"#!/bin/sh\nexit 3\n", 0o755)
    made.file("late", b"late content")
    made.link("link", "late")
    made.link("nowhere", "none")
    made.link("shadow", "/etc/shadow")
    made.link("stat", "/proc/self/stat")
    made.link("stdin", "/proc/self/fd/0")
    return made


def say_line(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.write(b"\n")


def next_line(process: subprocess.Popen[bytes], limit_s: float = 20.0) -> str:
    assert process.stdout is not None
    return line_of(process.stdout.fileno(), limit_s).decode().strip()


_SCRIPT = """
cd {point}
cat file ./file link; cat none nowhere none/x file/x; ls; ls -l file
echo made > made; cat made; echo more >> made; cat made; mkdir dir; mkdir dir; cat dir/x; cat dir
chmod 640 made; stat -c %a made; touch made; rm made; rm made; cat ../{name}/file {point}/../{name}/file
cut -d' ' -f2 stat; cat stdin; ./program; echo $?; {point}/program; echo $?; : < file; : > file; cat file
"""


def test_answers_are_those_of_bare(runner: Runner, as_user: User, tree: list[Any]) -> None:
    point = runner.place.root / "slow"
    ends = []
    for sandboxed in (False, True):
        with new_file_system(runner, as_user) as slow:
            command: list[Any] = ["sh", "-c", _SCRIPT.format(point=point, name=point.name)]
            with open("/etc/hostname", "rb") as stdin:
                run: dict[str, Any] = {**slow.popen(), "stdin": stdin}
                if sandboxed:
                    grants = ["--write", point, "--quiet", *tree]
                    ends.append(runner.sandboxed(command, options=grants, wrap=slow.wrap(), **run))
                else:
                    ends.append(runner.bare([*slow.wrap(), *command], **run))
    bare, ours = ends
    assert ours.stdout == bare.stdout
    assert ours.stderr == bare.stderr
    assert ours.returncode == bare.returncode == 0


def test_where_a_slow_link_leads_is_judged_and_recorded(runner: Runner, slow: FileSystem) -> None:
    options = ["--write", slow.point]
    command = ["sh", "-c", f"cat {slow.point}/shadow; chmod 600 {slow.point}/shadow"]
    ended = runner.sandboxed(command, options=options, wrap=slow.wrap(), **slow.popen())
    assert ended.stdout == b""
    assert {(record["path"], record["call"][:5]) for record in ended.refusals} == {
        ("/etc/shadow", "opena"),
        ("/etc/shadow", "fchmo"),
    }


_BY_LINKS = """
cd {work}
ln -s {point}/file link; ln -s {point} way; ln -s {point}/nowhere dangling; ln -s {point}/link twice
ln -s {point}/program runs; ln -s ../{name}/../{name}/file dotted; ln -s way/link chain
for name in link way way/file way/link way/none twice dangling dangling/x dotted chain; do
    echo == $name; cat $name; readlink $name; readlink -f $name; stat -c '%F %s %a' $name
    stat -L -c '%F %s %a' $name; test -w $name; echo $?; ls -d $name; ls -l $name | wc -l
done
./runs; echo $?; way/program; echo $?; sh -c 'cd way && pwd -P && cat file && cd ../{base} && cat own'
cd way/../{base} && cat own
echo made > way/made; cat way/made; echo more >> dangling; cat dangling {point}/nowhere
chmod 600 way/made; stat -c %a way/made
mkdir way/made; mkdir way/dir; rm way/made; rm way/made; : > link; cat link
ln own way/own; ln way/file linked; ln {point}/file {point}/other; mv own {point}/none/own; rmdir way/file way/none
stat -f -c %t way; stat -f -c %t link
"""


@pytest.mark.one_user
def test_links_of_a_tree_that_lead_there(runner: Runner, as_user: User) -> None:
    """The kernel does not know them: all that is told and done there is ours to tell and do."""
    point = runner.place.root / "slow"
    script = _BY_LINKS.format(work=runner.work, base=runner.work.name, point=point, name=point.name)
    ends = []
    for sandboxed in (False, True):
        runner.place.empty_work()
        runner.place.file("work/own", "own\n")
        with new_file_system(runner, as_user) as slow:
            command: list[Any] = ["sh", "-c", script]
            if sandboxed:
                options = ["--workdir", runner.work, "--on-exit", "discard", "--write", point, "--quiet"]
                ends.append(
                    runner.sandboxed(command, options=options, wrap=slow.wrap(), cwd="/", **slow.popen())
                )
            else:
                ends.append(runner.bare([*slow.wrap(), *command], cwd="/", **slow.popen()))
    bare, ours = ends
    assert ours.stdout.decode().splitlines() == bare.stdout.decode().splitlines()
    assert ours.stderr.decode().splitlines() == bare.stderr.decode().splitlines()
    assert ours.returncode == bare.returncode


@pytest.mark.parametrize("hangs_in", [Call.LOOKUP, Call.GETATTR, Call.OPEN])
def test_a_link_of_a_tree_that_leads_to_what_hangs(runner: Runner, slow: FileSystem, hangs_in: Call) -> None:
    """Who goes by it waits; others look, write and make links in the tree meanwhile."""
    script = (
        f"ln -s {slow.point}/late link; cat link & cat - > made; mkdir x; cd x; ln -s ../made y; cat y; ls ..;"
        " rm y; cd ..; rmdir x; echo went on; wait"
    )
    line = runner.command_line(
        ["sh", "-c", script],
        options=["--workdir", runner.work, "--on-exit", "discard", "--write", slow.point],
        wrap=slow.wrap(),
    )
    hung = slow.hang(hangs_in, "late")
    with runner.started(line, **slow.popen()) as process, hung:
        hung.wait()
        assert process.pid not in hung.pids, "the supervisor itself waits"
        assert process.stdin is not None
        process.stdin.write(b"text\n")
        process.stdin.close()
        told = [next_line(process) for _ in range(5)]
        assert told == ["text", "link", "made", "x", "went on"]
        hung.answer()
        assert process.stdout is not None
        assert process.stdout.read() == b"late content"
        assert process.wait(10) == 0


# What hangs, in which call of the program, and what it is told in the end: as bare.
_HANGING = [
    ("open", "late", Call.LOOKUP, "late"),
    ("open", "none", Call.LOOKUP, "none"),
    ("open", "late", Call.OPEN, "late"),
    ("open", "link", Call.READLINK, "link"),
    ("open", "shadow", Call.READLINK, "shadow"),
    ("create", "new", Call.LOOKUP, "new"),
    ("create", "file", Call.LOOKUP, "file"),
    ("chmod", "file", Call.LOOKUP, "file"),
    ("chmod", "file", Call.GETATTR, "file"),
    ("chmod", "file", Call.SETATTR, "file"),
    ("mkdir", "directory", Call.LOOKUP, "directory"),
    ("unlink", "file", Call.LOOKUP, "file"),
    ("execute", "program", Call.LOOKUP, "program"),
]


def _outcome_bare(runner: Runner, user: User, call: str, name: str) -> str:
    program = runner.compiler.compile((ATTACKS / "hanging.c").read_text())
    with new_file_system(runner, user) as slow:
        ended = runner.bare([*slow.wrap(), program, call, slow.point / name], **_with_input(slow))
    return ended.stdout.decode().splitlines()[-1]


def _with_input(slow: FileSystem) -> dict[str, Any]:
    return {**slow.popen(), "input": b"\n"}


@pytest.mark.one_user
@pytest.mark.parametrize(("call", "name", "hangs_in", "hung_name"), _HANGING)
def test_a_call_that_hangs_keeps_no_other_waiting(
    runner: Runner, as_user: User, tree: list[Any], call: str, name: str, hangs_in: Call, hung_name: str
) -> None:
    """Opens that the supervisor serves and opens that the kernel makes go on; the one that hung ends as bare."""
    expected = "back -1 EACCES" if name == "shadow" else _outcome_bare(runner, as_user, call, name).strip()
    program = runner.compiler.compile((ATTACKS / "hanging.c").read_text())
    with new_file_system(runner, as_user) as slow:
        options = ["--write", slow.point, *tree]
        command: list[Any] = [program, call, slow.point / name]
        if tree:
            runner.place.file("work/directory/file", "text")
            # Not known by its letters, so that it is looked up under the lock of the trees.
            command.append(runner.work / "directory" / ".." / "directory" / "file")
        line = runner.command_line(command, options=options, wrap=slow.wrap())
        hung = slow.hang(hangs_in, hung_name)
        with runner.started(line, **slow.popen()) as process, hung:
            assert next_line(process) == "asking"
            hung.wait()
            assert process.pid not in hung.pids, "the supervisor itself waits"
            say_line(process)
            went, on, slowest_us = next_line(process).split()
            assert (went, on) == ("went", "on")
            assert int(slowest_us) < _SLOWEST_US
            hung.answer()
            assert next_line(process) == expected
            assert process.wait(10) == 0


def test_an_open_that_the_supervisor_makes_and_that_hangs(runner: Runner, slow: FileSystem) -> None:
    """Beside something denied: the kernel grants nothing on what came later, so the open itself is ours."""
    slow.file("denied", b"secret")
    program = runner.compiler.compile((ATTACKS / "hanging.c").read_text())
    options = ["--write", slow.point, "--deny", slow.point / "denied"]
    command = ["sh", "-c", f"echo ready; read line; exec {program} open {slow.point}/later"]
    options += ["--read", program.parent]
    line = runner.command_line(command, options=options, wrap=slow.wrap())
    hung = slow.hang(Call.OPEN, "later")
    with runner.started(line, **slow.popen()) as process, hung:
        assert next_line(process) == "ready"
        slow.file("later", b"came later")
        say_line(process)
        assert next_line(process) == "asking"
        hung.wait()
        assert process.pid not in hung.pids
        say_line(process)
        assert int(next_line(process).split()[2]) < _SLOWEST_US
        hung.answer()
        assert next_line(process) == "back 0 0 came later"
        assert process.wait(10) == 0


_WAITS_UNDER_A_TIMER = r"""
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/time.h>

static void tick(int number) { (void)number; }

int main(int argc, char **argv)
{
	struct sigaction action = {.sa_handler = tick};
	struct itimerval every = {{0, 20000}, {0, 20000}};
	int interrupted = 0;

	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &every, NULL);
	for (int i = 0; i < 5; i++)
		interrupted += open(argv[argc - 1], O_RDONLY) < 0 && errno == EINTR;
	printf("interrupted %d\n", interrupted);
	return 0;
}
"""


def test_a_fifo_on_a_slow_file_system_waits_until_a_signal(runner: Runner, slow: FileSystem) -> None:
    """Its open is made by the waiter, which is interrupted as a thread of ours would be."""
    slow.file("denied", b"secret")
    program = runner.compiler.compile(_WAITS_UNDER_A_TIMER)
    options = ["--write", slow.point, "--deny", slow.point / "denied", "--read", program.parent]
    command = ["sh", "-c", f"echo ready; read line; exec {program} {slow.point}/later"]
    line = runner.command_line(command, options=options, wrap=slow.wrap())
    with runner.started(line, **slow.popen()) as process:
        assert next_line(process) == "ready"
        slow.fifo("later")
        say_line(process)
        assert next_line(process) == "interrupted 5"
        assert process.wait(10) == 0


def test_a_file_system_that_is_mounted_during_the_run(runner: Runner, slow: FileSystem) -> None:
    program = runner.compiler.compile((ATTACKS / "hanging.c").read_text())
    path = slow.point / "late"
    waits = f"echo ready; read line; exec {program} open {path}"
    line = runner.command_line(
        ["sh", "-c", waits],
        options=["--read", program.parent, "--write", slow.point],
        wrap=slow.wrap(mounted=False),
    )
    hung = slow.hang(Call.LOOKUP, "late")
    with runner.started(line, **slow.popen()) as process, hung:
        assert next_line(process) == "ready"
        slow.mount_for(process.pid)
        say_line(process)
        assert next_line(process) == "asking"
        hung.wait()
        assert process.pid not in hung.pids
        say_line(process)
        assert int(next_line(process).split()[2]) < _SLOWEST_US
        hung.answer()
        # Landlock granted the directory that was there before; what is mounted over it is not granted.
        assert next_line(process).startswith("back ")
        assert process.wait(10) == 0


# ---- ending


@contextlib.contextmanager
def hanging_sandbox(
    runner: Runner, slow: FileSystem, command: list[Any]
) -> Iterator[tuple[subprocess.Popen[bytes], Hung]]:
    line = runner.command_line(command, options=["--write", slow.point], wrap=slow.wrap())
    hung = slow.hang(Call.LOOKUP, "late")
    with runner.started(line, **slow.popen()) as process, hung:
        hung.wait()
        yield process, hung


def _wait_ended(process: subprocess.Popen[bytes]) -> None:
    """All of the supervisor's threads: a process is not reaped before."""
    pidfd = os.pidfd_open(process.pid)
    try:
        wait_dead([pidfd], _END_S)
    finally:
        os.close(pidfd)


def _only_waiter_left(runner: Runner, hung: Hung) -> bool:
    """What hangs in the kernel cannot be killed by anybody; it holds nothing of the sandbox."""
    return {survivor.pid for survivor in marked(runner.marker)} <= hung.pids


@pytest.mark.parametrize("how", ["program-ends", "program-is-killed", "SIGTERM", "SIGKILL"])
def test_the_sandbox_ends_while_a_lookup_hangs(runner: Runner, slow: FileSystem, how: str) -> None:
    runner.may_leave_temporary = how == "SIGKILL"
    command = f"cat {slow.point}/late & read line; exit 7" if how == "program-ends" else None
    with hanging_sandbox(runner, slow, ["sh", "-c", command or f"cat {slow.point}/late"]) as (process, hung):
        if how == "program-ends":
            say_line(process)
        elif how == "program-is-killed":
            for survivor in marked(runner.marker):
                if survivor.command == "cat":
                    os.kill(survivor.pid, signal.SIGKILL)
        else:
            process.send_signal(getattr(signal, how))
        _wait_ended(process)
        assert process.pid not in hung.pids
        until(lambda: _only_waiter_left(runner, hung), "the end of every process of the sandbox")
        expected = {"program-ends": 7, "program-is-killed": 137, "SIGTERM": 143, "SIGKILL": -9}
        assert process.wait() == expected[how]
    # The server has answered: nothing at all is left, and the mount is gone with the last process of its namespace.
    until(lambda: not marked(runner.marker), "the end of what hung in the kernel")
    assert slow.unmounted.wait(10)


def test_a_slow_file_system_in_the_temporary_directory(runner: Runner, slow: FileSystem) -> None:
    """Its removal at the end neither waits for the server nor removes what is on it."""
    runner.may_leave_temporary = True  # it cannot be removed, and sandlockd says so
    line = runner.command_line(
        ["sh", "-c", 'mkdir "$TMPDIR/d"; echo "$TMPDIR/d"; read line; exit 7'], wrap=slow.wrap(mounted=False)
    )
    hung = slow.hang(Call.OPENDIR, "")
    with runner.started(line, **slow.popen()) as process, hung:
        slow.mount_for(process.pid, Path(next_line(process)))
        say_line(process)
        _wait_ended(process)
        assert process.wait() == 7
        assert process.stderr is not None
        assert b"temporary directory could not be removed" in process.stderr.read()


def test_a_server_that_dies_while_a_lookup_hangs(runner: Runner, slow: FileSystem) -> None:
    """As bare: the lookup fails, and so does every later one."""
    program = f"cat {slow.point}/late; cat {slow.point}/file; cat /proc/self/stat > /dev/null && echo over"
    with hanging_sandbox(runner, slow, ["sh", "-c", program]) as (process, _):
        slow.end()
        assert next_line(process) == "over"
        assert process.wait(10) == 0


def test_more_hanging_lookups_than_workers(runner: Runner, slow: FileSystem) -> None:
    """Those past the limit are refused, and other calls go on."""
    program = runner.compiler.compile((ATTACKS / "fifos.c").read_text())
    line = runner.command_line(
        [program, slow.point / "late", "300"], options=["--read", slow.point], wrap=slow.wrap()
    )
    hung = slow.hang(Call.LOOKUP, "late")
    with runner.started(line, **slow.popen()) as process, hung:
        assert next_line(process) == "ready"
        say_line(process)
        assert [next_line(process) for _ in range(300 - _WORKERS_MAX)] == ["refused EAGAIN"] * (
            300 - _WORKERS_MAX
        )
        say_line(process)
        assert next_line(process) == "served"
        hung.answer()
        assert process.stdin is not None
        process.stdin.close()
        assert next_line(process) == f"opened {_WORKERS_MAX}"
        assert process.wait(10) == 0
