"""Attacks on the supervisor: floods, bad pointers, dying callers, handlers that fail, its cleaning up."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from harness.running import Runner, system_python
from harness.waiting import line_of, until
from security import broken
from security.canaries import changed, outside, snapshot
from security.raw_calls import AT_FDCWD, ATTACKS, Buffer, Bytes, Edge, Script

from sandlockd.notify.dispatch import _WORKERS_MAX

_FLOOD = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

/* argv[1]: how many; argv[2]: "same", "different" or "sockets". */
int main(int argc, char **argv)
{
	int count = atoi(argv[1]);
	char path[64];

	for (int i = 0; i < count; i++) {
		snprintf(path, sizeof(path), "/root/refused/%d", argv[2][0] == 'd' ? i : 0);
		if (argv[2][0] == 'm') {
			int fd = open("/etc/hostname", O_RDONLY);
			if (fd < 0)
				return 2;
			close(fd);
		} else if (argv[2][0] == 's' && argv[2][1] == 'o') {
			if (socket(AF_INET, SOCK_STREAM, 0) >= 0)
				return 3;
		} else if (open("/etc/shadow", O_RDONLY) >= 0 || (argv[2][0] == 'd' && truncate(path, 0) == 0)) {
			return 4;
		}
	}
	puts("over");
	fflush(stdout);
	return getchar() == EOF ? argc - 3 : 5;
}
"""


@pytest.mark.parametrize(("kind", "count"), [("same", 5_000), ("sockets", 30_000), ("many", 100_000)])
def test_a_flood(runner: Runner, kind: str, count: int, soak: bool) -> None:
    """The supervisor's memory stays bounded, and every refusal is counted."""
    attack = runner.compiler.compile(_FLOOD)
    with subprocess.Popen(
        runner.command_line([attack, str(count * (10 if soak else 1)), kind]),
        **runner.popen_arguments(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE),
    ) as process:
        assert process.stdout is not None
        assert line_of(process.stdout.fileno(), 120) == b"over\n"
        kib = int(Path(f"/proc/{process.pid}/status").read_text().split("VmRSS:")[1].split()[0])
        process.communicate(timeout=30)
    assert process.returncode == 0
    assert kib < 120 * 1024
    counted = {}
    for record in runner.audit():
        if record["kind"] == "refusal":
            counted[record["number"]] = record["count"]
    expected = 0 if kind == "many" else count * (10 if soak else 1)
    assert sum(counted.values()) == expected


# ---- pointers ----

_UNMAPPED = 0x10


def _pointers(work: Path) -> Script:
    script = Script()
    long = b"x" * 4096
    edge = os.fsencode(work / "file") + b"\0"
    for call in (
        "open",
        "creat",
        "chmod",
        "mkdir",
        "unlink",
        "rmdir",
        "mknod",
        "execve",
        "truncate",
        "chown",
    ):
        for address in (0, _UNMAPPED, 1 << 63, (1 << 64) - 1):
            getattr(script, call)(address, 0o644, 0)
        getattr(script, call)(long, 0o644, 0)
        getattr(script, call)(Edge(long), 0o644, 0)
        getattr(script, call)(b"", 0o644, 0)
        getattr(script, call)(b"d/" * 2047 + b"x", 0, 0)
        getattr(script, call)(b"y" * 256, 0, 0)
    for call in ("rename", "link", "symlink"):
        getattr(script, call)(work / "file", _UNMAPPED)
        getattr(script, call)(_UNMAPPED, work / "other")
        getattr(script, call)(work / "file", Edge(long))
        getattr(script, call)(work / "file", b"")
    script.openat(AT_FDCWD, Edge(edge), os.O_RDONLY)
    script.openat(AT_FDCWD, Edge(edge[:-1]), os.O_RDONLY)
    for fd in (99, -1, 1 << 31):
        script.openat(fd, b"file", os.O_RDONLY)
        script.fchmod(fd, 0o644)
        script.fchown(fd, -1, -1)
        script.fsetxattr(fd, b"user.x", b"y", 1, 0)
        script.mkdirat(fd, b"made", 0o755)
        script.unlinkat(fd, b"made", 0)
        script.inotify_add_watch(fd, work / "file", 2)
    for mode in (1 << 40, 1 << 31 | 0o644):  # the kernel takes 16 bits of it
        script.mknod(b"/nowhere/made", mode, 0)
        script.mknodat(AT_FDCWD, b"/nowhere/made", mode, 0)
    script.setxattr(work / "file", b"user.x", b"x", 1, 1 << 31)
    script.setxattr(work / "file", _UNMAPPED, b"x", 1, 0)
    script.setxattr(work / "file", b"user.x", _UNMAPPED, 1, 0)
    script.setxattr(work / "file", b"user.x", b"x", 1 << 40, 0)
    script.setxattr(work / "file", b"user." + b"x" * 300, b"x", 1, 0)
    script.setxattr(work / "file", b"", b"x", 1, 0)
    script.setxattr(work / "file", b"nonsense", b"x", 1, 0)
    script.setxattr(work / "file", b"user.x", b"x", 1, 77)
    script.getxattr(work / "file", b"user.none", Buffer(8), 8)
    script.listxattr(work / "file", _UNMAPPED, 0)
    script.utimensat(AT_FDCWD, work / "file", _UNMAPPED, 0)
    script.utimensat(AT_FDCWD, work / "file", Bytes(b"\xff" * 32), 0)
    script.utimensat(AT_FDCWD, work / "file", Bytes(bytes(32)), 0x8000)
    script.utimes(work / "file", Bytes(b"\xff" * 32))
    script.fchmodat2(AT_FDCWD, work / "file", 0o644, 0x8000)
    script.fchownat(AT_FDCWD, work / "file", -1, -1, 0x8000)
    script.unlinkat(AT_FDCWD, work / "file", 0x8000)
    script.renameat2(AT_FDCWD, work / "file", AT_FDCWD, work / "b", 0x8000)
    script.linkat(AT_FDCWD, work / "file", AT_FDCWD, work / "c", 0x8000)
    return script


def test_bad_pointers_and_arguments_fail_as_bare(runner: Runner) -> None:
    """EFAULT, ENAMETOOLONG, EBADF, EINVAL: what the kernel says, call by call."""
    runner.place.file("work/file", "text")
    script = _pointers(runner.work)
    bare = script.bare(runner, cwd=runner.work)
    runner.place.empty_work()
    runner.place.file("work/file", "text")
    outcomes, _ = script.sandboxed(runner, "--write", runner.work, cwd=runner.work)
    differing = [
        (script.names[index], script.lines[index][:60], one.error or one.result, other.error or other.result)
        for index, (one, other) in enumerate(zip(bare, outcomes, strict=True))
        if one.result != other.result
    ]
    assert differing == [], "\n".join(map(str, differing))


def test_a_full_descriptor_table(runner: Runner) -> None:
    """EMFILE where a descriptor would have been handed over; nothing is left in the supervisor."""
    script = Script()
    script.setrlimit(7, Bytes((3).to_bytes(8, "little") * 2))
    script.openat(AT_FDCWD, b"/proc/self/status", os.O_RDONLY)
    script.openat(AT_FDCWD, b"/etc/hostname", os.O_RDONLY)
    outcomes, _ = script.sandboxed(runner)
    assert (
        [outcome.error for outcome in outcomes[1:]]
        == ["EMFILE"] * 2
        == [outcome.error for outcome in script.bare(runner)[1:]]
    )


# ---- threads and processes that end while they are judged ----


@pytest.mark.parametrize(
    "case", ["thread-dies", "exec-from-a-thread", "leader-exits-first", "vfork", "orphans"]
)
def test_callers_that_vanish(runner: Runner, case: str) -> None:
    program = runner.compiler.compile((ATTACKS / "vanishing.c").read_text())
    ended = runner.both([program, case])
    assert ended.stdout.endswith(b"over\n")


def test_a_fifo_that_nobody_opens(runner: Runner) -> None:
    """An open on the spine that waits for its other end keeps nobody else waiting, nor the end of the sandbox."""
    work = runner.work
    (work / "denied").mkdir()
    runner.place.give(work)
    program = (
        "mkfifo pipe; (cat pipe & cat pipe & cat pipe & echo to-be-read > pipe2 & true); mkfifo pipe3;"
        " cat /etc/hostname >/dev/null && echo went on; (cat pipe3 & echo text > pipe3; wait)"
    )
    ended = runner.sandboxed(
        ["sh", "-c", program], options=["--write", work, "--deny", work / "denied"], timeout=30
    )
    assert ended.stdout == b"went on\ntext\n"


def _descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_more_waiting_opens_than_workers(runner: Runner) -> None:
    """Those past the limit are refused at once; others go on; all that was held for them is given back."""
    work = runner.work
    (work / "denied").mkdir()
    runner.place.give(work)
    program = runner.compiler.compile((ATTACKS / "fifos.c").read_text())
    # The first waiting open makes the supervisor import what it needs for them.
    script = f"mkfifo warm pipe; (cat warm & echo > warm; wait) > /dev/null; exec {program} pipe 300"
    options = ["--write", work, "--deny", work / "denied", "--read", program.parent]
    with runner.started(runner.command_line(["sh", "-c", script], options=options)) as process:
        assert process.stdin is not None and process.stdout is not None

        def said() -> bytes:
            assert process.stdout is not None
            return line_of(process.stdout.fileno(), 30)

        assert said() == b"ready\n"
        before = _descriptors(process.pid)
        process.stdin.write(b"\n")
        assert {said() for _ in range(300 - _WORKERS_MAX)} == {b"refused EAGAIN\n"}
        assert _descriptors(process.pid) >= before + _WORKERS_MAX
        process.stdin.write(b"\n")
        assert said() == b"served\n"
        with open(work / "pipe", "wb"):  # from outside: every reader has its other end
            until(lambda: _descriptors(process.pid) == before, "the descriptors of the supervisor given back")
        process.stdin.write(b"\n")
        assert said() == b"served\n"
        process.stdin.close()
        assert said() == b"opened %d\n" % _WORKERS_MAX
        assert process.wait(10) == 0
    failures = [record for record in runner.audit() if record["kind"] in ("refusal", "error")]
    assert {record["errno"] for record in failures} == {"EAGAIN"}, failures


def test_a_fifo_that_is_opened_without_waiting(runner: Runner) -> None:
    """O_NONBLOCK on the spine: ENXIO without a reader, a descriptor with one; no worker is needed for it."""
    work = runner.work
    (work / "denied").mkdir()
    os.mkfifo(work / "pipe")
    runner.place.give(work)
    script = Script()
    for flags in (os.O_WRONLY, os.O_RDONLY, os.O_WRONLY):
        script.openat(AT_FDCWD, work / "pipe", flags | os.O_NONBLOCK)
    bare = script.bare(runner)
    outcomes, _ = script.sandboxed(runner, "--write", work, "--deny", work / "denied")
    assert [outcome.error for outcome in outcomes] == [outcome.error for outcome in bare]
    assert bare[0].error == "ENXIO"


# ---- handlers that fail ----


@pytest.mark.parametrize(
    ("error", "name"), [("ValueError('broken')", "EACCES"), ("OSError(5, 'broken')", "EIO")]
)
def test_a_handler_that_raises_has_refused(runner: Runner, error: str, name: str) -> None:
    directory = outside(runner)
    before = snapshot(directory)
    patch = (
        "from sandlockd.handlers import metadata, opening\n"
        f"def broken(*_): raise {error}\n"
        "metadata.handle = opening.handle = broken\n"
    )
    script = Script()
    script.chmod(directory / "canary", 0o777)
    script.openat(AT_FDCWD, directory / "canary", os.O_RDONLY)
    script.openat(AT_FDCWD, b"/proc/self/environ", os.O_RDONLY)
    options = ["--read", runner.place.root / "script"]
    ended = broken.run(runner, patch, script.command(runner), options=options)
    assert [outcome.error for outcome in script.results(ended.stdout)] == [name] * 3
    assert changed(before, snapshot(directory)) == set()
    errors = [record for record in ended.audit if record["kind"] == "error"]
    assert {record["call"] for record in errors} == {"chmod", "openat"}
    assert all("broken" in record["traceback"] for record in errors)


def test_an_answer_that_cannot_be_given_is_an_error_and_the_next_call_has_its_turn(runner: Runner) -> None:
    patch = (
        "from sandlockd.notify import dispatch\nreal = dispatch.reply\n"
        "def broken(engine, request, answer, kill):\n"
        "    if request.path and request.path.endswith(b'comm'): raise ValueError('broken')\n"
        "    real(engine, request, answer, kill)\n"
        "dispatch.reply = broken\n"
    )
    script = Script()
    script.openat(AT_FDCWD, b"/proc/self/comm", os.O_RDONLY)
    script.openat(AT_FDCWD, b"/proc/self/status", os.O_RDONLY)
    options = ["--read", runner.place.root / "script"]
    ended = broken.run(runner, patch, script.command(runner), options=options)
    unanswered, answered = script.results(ended.stdout)
    assert unanswered.error == "EIO"
    assert answered.ok
    assert ["broken" in record["traceback"] for record in ended.audit if record["kind"] == "error"] == [True]


def test_a_call_that_no_handler_knows_is_refused(runner: Runner) -> None:
    patch = (
        "from sandlockd.handlers import table\nmade = table._numbered\n"
        "table._numbered = lambda context, names: {}\n"
    )
    directory = outside(runner)
    script = Script()
    script.chmod(directory / "canary", 0o777)
    options = ["--read", runner.place.root / "script"]
    ended = broken.run(runner, patch, script.command(runner), options=options)
    assert script.results(ended.stdout)[0].error == "EACCES"
    assert stat.S_IMODE((directory / "canary").stat().st_mode) == 0o640


def test_a_supervisor_that_says_continue_to_what_c_refuses(runner: Runner) -> None:
    """The native core sends no CONTINUE for a call that the table refuses, whatever Python says."""
    patch = (
        "from sandlockd.notify import dispatch\nfrom sandlockd.handlers import answers\n"
        "dispatch.Dispatcher._ask = lambda self, request: answers.LANDLOCK_FILES\n"
        "from sandlockd.launch import filter_plan as plan\nrows = plan.c_rows\n"
        "def slow(given):\n"
        "    return [(3, *row[1:]) if row[0] == 4 else row for row in rows(given)]\n"
    )
    script = Script()
    script.unshare(0x10000000)
    script.socket(1, 1, 0)
    script.ptrace(0, 0, 0, 0)
    outcomes = broken.results(runner, patch, script)
    assert not any(outcome.ok for outcome in outcomes)


# ---- what is left to the supervisor when the program has ended ----


def test_a_link_to_a_directory_outside_in_the_temporary_directory(runner: Runner) -> None:
    """Removing what the program left must not change the mode of what a link of its leads to."""
    directory = outside(runner)
    directory.chmod(0o751)
    before = snapshot(directory)
    attack = (
        f'mkdir "$TMPDIR/d" && ln -s {directory} "$TMPDIR/d/link" && ln -s {directory}/sub "$TMPDIR/d/sub";'
    )
    runner.sandboxed(["sh", "-c", attack + ' chmod 500 "$TMPDIR/d"; chmod 500 "$TMPDIR"'])
    assert changed(before, snapshot(directory)) == set()


def test_a_module_planted_where_the_supervisor_imports_from(runner: Runner) -> None:
    """Some modules are imported late, when the program is running or has ended: trio, shutil, json, traceback."""
    planted = runner.work / "modules"
    planted.mkdir()
    runner.place.give(planted)
    marker = runner.place.root / "home/executed-outside"
    attack = (
        "for m in trio shutil json traceback tempfile subprocess; do"
        f" echo \"open('{marker}', 'w')\" > modules/$m.py; done;"
        ' : > "$TMPDIR/not-empty"'
    )
    line = runner.command_line(["sh", "-c", attack], options=["--write", runner.work])
    path = os.pathsep.join([str(planted), *(entry for entry in sys.path if entry)])
    ended = runner.run(line, env={"PYTHONPATH": path})
    assert not marker.exists(), "a module of the program's was executed by the supervisor"
    assert ended.returncode in (0, 125)


def test_a_module_planted_where_the_next_start_looks(runner: Runner) -> None:
    """Outside of a virtual environment Python runs what `.pth` files of the user's own directory say, before we do."""
    python = system_python()
    if os.path.basename(python) != "python{}.{}".format(*sys.version_info):
        pytest.skip(f"{python} is not the Python that sandlockd is installed for")
    base = runner.work / "base"
    packages = os.pathsep.join(entry for entry in sys.path if entry.endswith("site-packages"))
    line = runner.command_line(["sh", "-c", "echo started"], options=["--write", runner.work])
    command = [python, "-m", "sandlockd", *line[1:]]
    ended = runner.run(command, env={"PYTHONPATH": packages, "PYTHONUSERBASE": str(base)}, cwd="/")
    assert (ended.returncode, ended.stdout) == (125, b"")
    assert f"{base}/lib/python".encode() in ended.stderr and b"deny that directory" in ended.stderr
    ended = runner.run(command, env={"PYTHONPATH": packages, "PYTHONUSERBASE": "/nowhere"}, cwd="/")
    assert (ended.returncode, ended.stdout) == (0, b"started\n"), ended


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("LD_LIBRARY_PATH", "/nowhere:{work}/lib"),
        ("LD_LIBRARY_PATH", "{work}/not/there/yet"),
        ("LD_LIBRARY_PATH", "/nowhere:"),
        ("LD_PRELOAD", "{work}/lib/none.so"),
        ("PYTHONPYCACHEPREFIX", "{work}/lib"),
        ("OPENSSL_CONF", "{work}/lib/openssl.cnf"),
    ],
)
def test_a_library_planted_where_the_supervisor_loads_from(runner: Runner, variable: str, value: str) -> None:
    """trio brings ssl, and that libssl, two seconds after the program has started."""
    (runner.work / "lib").mkdir()
    runner.place.give(runner.work / "lib")
    line = runner.command_line(["sh", "-c", "echo started"], options=["--write", runner.work])
    value = value.format(work=runner.work)
    ended = runner.run(line, env={variable: value}, cwd=runner.work)
    assert (ended.returncode, ended.stdout) == (125, b"")
    assert variable.encode() in ended.stderr
    given = [f"--env={variable}={value}", "--write", runner.work]
    ended = runner.run(
        runner.command_line(["sh", "-c", f'echo "${variable}"'], options=given), cwd=runner.work
    )
    assert (ended.returncode, ended.stdout) == (0, os.fsencode(value) + b"\n")
