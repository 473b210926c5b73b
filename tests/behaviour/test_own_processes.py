"""`proc.pids = "own"`: the sandbox's own processes are as bare, and ordinary programs see nobody else's."""

from __future__ import annotations

import os
import re
import socket
import subprocess
from collections.abc import Iterator

import pytest
from harness.running import Runner, require, system_python
from harness.terminal import open_terminal
from harness.with_psutil import with_psutil
from security import broken

_POLICY = '[filesystem]\nbase = true\n[proc]\npids = "own"\n'

_NAMED = """
import ctypes, os, struct, subprocess, sys
libc = ctypes.CDLL(None, use_errno=True)
child = subprocess.Popen(["sleep", "100"])
known = {".": 0, "..": 1, "version": 2, "self": 3, "thread-self": 4, str(os.getpid()): 5, str(child.pid): 6}
"""

_LISTING = (
    _NAMED
    + """
fd = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)

def rows(size, limit=1 << 30):
    buffer = ctypes.create_string_buffer(size)
    while limit > 0:
        count = libc.syscall(217, fd, buffer, size)
        if count <= 0:
            if count < 0:
                print(os.strerror(ctypes.get_errno()))
            return
        at = 0
        while at < count:
            inode, offset, length, kind = struct.unpack_from("=QqHB", buffer.raw, at)
            yield buffer.raw[at + 19 : at + length].split(b"\\0")[0].decode(), offset, kind, inode
            at += length
            limit -= 1

def seen(found):
    return [(known[name], kind) for name, _, kind, _ in found if name in known]

whole = list(rows(1 << 16))
print(seen(whole), list(rows(1 << 16)))
for name, _, kind, inode in whole:
    if name in known and name not in (".", ".."):
        print(known[name], os.lstat("/proc/" + name).st_ino == inode)
for size in (32, 40, 64, 100, 1000):
    os.lseek(fd, 0, os.SEEK_SET)
    print(seen(rows(size)) == seen(whole))
place = [name for name, *_ in whole if name in known]
after = {}
for name, offset, *_ in whole:
    if name in known:
        os.lseek(fd, offset, os.SEEK_SET)
        left = [one for one, *_ in rows(1 << 12) if one in known]
        print(left == place[place.index(name) + 1 :])
os.lseek(fd, 0, os.SEEK_SET)
print(list(rows(16)))
print(sorted(map(int, os.listdir("/proc/self/task"))) == [os.getpid()])
child.kill()
child.wait()
print(str(child.pid) in os.listdir("/proc"))
"""
)


def test_a_listing_is_exact_with_any_buffer_at_any_offset(runner: Runner) -> None:
    ended = runner.both([system_python(), "-c", _LISTING], policy=_POLICY)
    assert b"False" in ended.stdout  # the child has gone
    assert ended.stdout.count(b"True") >= 15


_PARTS = (
    _NAMED
    + """
sleeping = [child, *(subprocess.Popen(["sleep", "100"]) for _ in range(40))]
fd = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
buffer = ctypes.create_string_buffer(64)
parts = 0
def rest():
    global parts
    while (count := libc.syscall(217, fd, buffer, 64)) > 0:
        parts += 1
        at = 0
        while at < count:
            length = struct.unpack_from("=H", buffer.raw, at + 16)[0]
            yield buffer.raw[at + 19 : at + length].split(b"\\0")[0].decode()
            at += length
def own(names):
    return [sleeper in names for sleeper in (str(one.pid) for one in sleeping)]
begun = rest()
while next(begun) != str(child.pid):
    pass
gone = sleeping[-3]
gone.kill()
gone.wait()
print(own(list(begun)))
sleeping.append(subprocess.Popen(["sleep", "100"]))
os.lseek(fd, 0, os.SEEK_SET)
print(own(list(rest())), parts > 40)
os.lseek(fd, 0, os.SEEK_SET)
begun = rest()
while next(begun) != str(child.pid):
    pass
at = os.lseek(fd, 0, os.SEEK_CUR)
os.close(fd)
sleeping.append(subprocess.Popen(["sleep", "100"]))
fd = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
os.lseek(fd, at + 1, os.SEEK_SET)
print(str(sleeping[-1].pid) in list(rest()))
for one in sleeping:
    one.kill()
"""
)


def test_a_listing_in_many_parts_has_who_is_there_all_the_while_and_nobody_who_is_gone(
    runner: Runner,
) -> None:
    ended = runner.both([system_python(), "-c", _PARTS], policy=_POLICY)
    assert ended.stdout.count(b"False") == 3, ended  # its beginning was told before; who is gone, twice


_COUNTING = """
import os
from sandlockd.kernel import procfs
members = procfs.members
def counted(*asked):
    os.write(2, b"look ")
    return members(*asked)
procfs.members = counted
"""


@pytest.mark.one_user
def test_a_listing_in_many_parts_is_not_looked_for_with_each_of_them(runner: Runner) -> None:
    ended = broken.run(runner, _COUNTING, [system_python(), "-c", _PARTS], policy=_POLICY)
    assert ended.stdout.endswith(b"True\n"), ended
    assert 2 <= ended.stderr.count(b"look ") <= 20, (
        ended
    )  # of 80 parts: a new one with each beginning, and each second


_CALLS = (
    _NAMED
    + """
import resource, signal, threading, time
own = os.getpid()
done = threading.Event()
thread = threading.Thread(target=done.wait, daemon=True)
thread.start()
zombie = os.fork()
if zombie == 0:
    os._exit(3)
os.waitid(os.P_PID, zombie, os.WEXITED | os.WNOWAIT)
for pid in (own, child.pid, thread.native_id, zombie, 0):
    def told(call, *args):
        ctypes.set_errno(0)
        result = libc.syscall(call, *args)
        return os.strerror(ctypes.get_errno()) if result < 0 else result
    buffer = ctypes.create_string_buffer(128)
    print(told(62, pid, 0) if pid else "", told(200, pid, 0), told(234, own, pid, 0), told(121, pid) == os.getpgid(0))
    print(told(124, pid) == os.getsid(0), told(140, 0, pid), told(252, 1, pid), told(145, pid), told(143, pid, buffer))
    print(told(204, pid, 128, buffer), told(148, pid, buffer))
    print(told(315, pid, buffer, 48, 0), told(302, pid, 7, 0, buffer))
    print(told(434, pid, 0) > 0 if pid in (own, child.pid) else told(434, pid, 0))
    for bits in (2, 6):
        print(told(228, ctypes.c_int(~pid << 3 | bits), buffer))
    header = ctypes.create_string_buffer(struct.pack("=Ii", 0x20080522, pid))
    print(told(125, header, buffer), buffer.raw[:24].hex() if False else "")
for which in (1, 2):
    print(libc.syscall(140, which, 0) > 0, libc.syscall(140, which, os.getpgid(0) if which == 1 else os.getuid()) > 0)
header = ctypes.create_string_buffer(struct.pack("=Ii", 7, 0))
print(libc.syscall(125, header, None), header.raw[:4].hex())
group = os.fork()
if group == 0:
    signal.pause()
os.setpgid(group, group)
print(os.getpgid(group) == group, os.getpriority(os.PRIO_PGRP, group))
try:
    os.setpgid(0, group)
    os.setpgid(0, 0)
except OSError as error:
    print(error.strerror)
os.kill(-group, 0)
os.kill(-group, signal.SIGKILL)
child.kill()
print(child.wait(), os.waitpid(zombie, 0)[1], os.waitpid(group, 0)[1])
for pid in (child.pid, zombie, group, -group):
    try:
        os.kill(pid, 0)
    except OSError as error:
        print(error.strerror)
r, w = os.pipe()
import fcntl
fcntl.fcntl(r, fcntl.F_SETOWN, own)
print(fcntl.fcntl(r, fcntl.F_GETOWN) == own)
done.set()
"""
)


def test_its_own_processes_threads_and_zombies_answer_as_bare(runner: Runner) -> None:
    runner.both([system_python(), "-c", _CALLS], policy=_POLICY)


@pytest.mark.parametrize(
    "script",
    [
        "sleep 100 & kill -0 $! && kill $!; wait $!; echo $?",
        "set -m; sleep 100 & kill -TERM -- -$!; wait $!; echo $?; (sleep 0.01) & fg >/dev/null; echo $?",
        "ulimit -n; prlimit --pid $$ --nofile --noheadings --raw; taskset -p $$ >/dev/null; echo $?",
        "chrt -p $$ | cut -d: -f2; ionice -p $$",
        "cat /proc/$$/comm /proc/self/../$$/comm /proc/self/task/../../$$/task/$$/comm; readlink /proc/$$/cwd",
        "cd /proc/self/task && ls ../../$$/comm | sed 's/[0-9][0-9]*/N/'; ls -d /proc/$$/../version | wc -c",
        "stat -c %F /proc /proc/self /proc/$$ /proc/version /dev/fd/0; stat -f -c %T /proc/self/",
        "readlink /proc/mounts; readlink /proc/self/task/../exe; readlink -f /proc/$$/root/proc/$$/../net | wc -l",
        "ls -ld /proc | cut -c1-10; test -e /proc/$$/status && test -d /proc/self/fd && test -r /proc/uptime; echo $?",
        "exec 9</proc; ls -d /proc/self/fd/9/version; cat /proc/self/fd/9/self/comm; find /proc/self/fd/9/ -maxdepth 0",
    ],
)
def test_scripts_about_themselves_are_as_bare(runner: Runner, script: str) -> None:
    require("chrt", "ionice", "taskset", "prlimit")
    runner.both(["bash", "-c", script], policy=_POLICY)


@pytest.fixture
def stranger(runner: Runner) -> Iterator[int]:
    """A process outside, of the same user, whose name nobody else has."""
    with subprocess.Popen(
        ["bash", "-c", "exec -a stranger-outside sleep 1000"], **runner.popen_arguments()
    ) as process:
        yield process.pid
        process.kill()


@pytest.mark.parametrize(
    "command",
    [
        "ps aux",
        "ps -eLf",
        "top -b -n1",
        "ls -la /proc",
        "find /proc -maxdepth 2",
        "pgrep -l .",
        "cat /proc/[0-9]*/stat; cat /proc/loadavg",
    ],
)
def test_programs_that_list_processes_show_the_sandboxs_own(
    runner: Runner, stranger: int, command: str
) -> None:
    require("ps", "top", "pgrep")
    ended = runner.sandboxed(
        ["sh", "-c", f"sleep 1000 & echo own $$ $! $PPID; {command} 2>&1 | cat; kill $!"], policy=_POLICY
    )
    head, _, listed = ended.stdout.decode().partition("\n")
    _, own, child, init = head.split()
    numbers = (
        re.findall(r"(?<![\d.:])\d+(?![\d.:])", listed)
        if "proc" not in command
        else re.findall(r"\d+", listed)
    )
    assert child in numbers or "loadavg" in command, listed
    assert str(stranger) not in numbers
    assert "stranger-outside" not in listed
    if command != "ps -eLf" and "stat" not in command:  # who their parent is, they know
        assert init not in numbers
    assert own in numbers or command.startswith("cat")


def test_programs_that_look_for_a_process_find_the_sandboxs_own(runner: Runner, stranger: int) -> None:
    require("pidof", "pgrep", "pkill")
    script = (
        "sleep 1000 & until grep -q sleep /proc/$!/comm; do :; done; pidof sleep | wc -w; pgrep -x sleep | wc -l;"
        " pgrep -f stranger-outside; echo $?;"
        f" kill -0 {stranger}; echo $?; ls -d /proc/{stranger} 2>/dev/null; pkill sleep; wait $!; echo $?"
    )
    ended = runner.sandboxed(["bash", "-c", script], policy=_POLICY)
    # The pattern is in pgrep's own command line only, which it leaves out, and in bash's.
    assert ended.stdout.split()[:2] == [b"1", b"1"]
    assert ended.stdout.split()[-2:] == [b"1", b"143"], ended
    assert b"No such process" in ended.stderr


def test_psutil_sees_the_sandboxs_own(runner: Runner, stranger: int) -> None:
    text = (
        "import os, psutil; print(psutil.pids() == [os.getpid()], psutil.pid_exists(1),"
        f" psutil.pid_exists({stranger}), psutil.Process().parent(), [p.name() for p in psutil.process_iter()])"
    )
    ended = with_psutil(runner, text, policy=_POLICY)
    assert ended.stdout.startswith(b"True False False None ['python3"), ended


def test_what_is_hidden_is_not_there(runner: Runner) -> None:
    policy = _POLICY + 'hide = ["/proc/version", "/proc/self/environ"]\n'
    script = (
        "cat /proc/version; stat /proc/version; cat /proc/self/environ; ls /proc | grep -c version;"
        " cat /proc/$$/task/$$/environ; cat /proc/self/root/proc/version; cat /proc/uptime >/dev/null && echo others"
    )
    ended = runner.sandboxed(["sh", "-c", script], policy=policy)
    assert ended.stdout == b"0\nothers\n"
    assert ended.stderr.count(b"No such file or directory") == 5, ended.stderr


def test_a_shell_with_job_control_gives_the_terminal_back(runner: Runner) -> None:
    """To the group that it was started in, in which nobody of the sandbox may be left but itself."""
    wrap = ["sh", "-c", '"$@"; read word; echo "outside: $word"', "sh"]
    line = runner.command_line(["bash", "--norc", "-i"], policy=_POLICY, wrap=wrap)
    words = [os.fsdecode(word) for word in line]
    words[0] = "/bin/sh"
    place = {"user": runner.place.user, "cwd": str(runner.work), "environment": runner.environment()}
    with open_terminal(words, **place) as terminal:
        terminal.expect(rb"\$ |# ")
        terminal.send(b"cat /proc/self/comm | cat; exit\n")
        terminal.expect(rb"cat\r\n")
        terminal.expect(rb"exit\r\n")
        terminal.send(b"word\n")
        terminal.expect(rb"outside: word")
        assert terminal.wait() == 0


def _is_there(runner: Runner, stranger: int, policy: str) -> bytes:
    script = f"kill -0 {stranger}; test -e /proc/{stranger} && echo there"
    return runner.sandboxed(["bash", "-c", script], policy=policy).stdout


def test_a_run_with_a_workdir_has_its_own_processes(runner: Runner, stranger: int) -> None:
    """Where the policy does not say. Without one, what only looks would be trapped for that alone."""
    without = "[filesystem]\nbase = true\n"
    with_one = f'{without}workdir = "{runner.work}"\non_exit = "discard"\n'
    assert _is_there(runner, stranger, without) == b"there\n"
    assert _is_there(runner, stranger, with_one) == b""
    assert _is_there(runner, stranger, with_one + '[proc]\npids = "all"\n') == b"there\n"
    assert _is_there(runner, stranger, without + '[proc]\npids = "own"\n') == b""


def test_hiding_needs_own_processes(runner: Runner) -> None:
    ended = runner.sandboxed(["true"], policy='[proc]\nhide = ["/proc/version"]\n[filesystem]\nbase = true\n')
    assert ended.returncode == 125
    assert b'proc.hide needs [proc] pids = "own"' in ended.stderr


def test_nothing_of_the_machines_network_locks_and_mounts(runner: Runner, stranger: int) -> None:
    script = (
        "cat /proc/net/tcp /proc/net/unix /proc/self/net/dev /proc/thread-self/net/route | wc -l;"
        " cat /proc/locks | wc -l; cut -d' ' -f4 /proc/loadavg; cat /proc/sys/kernel/ns_last_pid;"
        " cat /proc/mounts /etc/mtab /proc/self/mountinfo"
    )
    ended = runner.sandboxed(["sh", "-c", script], policy=_POLICY)
    lines = ended.stdout.decode().splitlines()
    assert lines[:3] == ["5", "0", "1/2"]
    points = {line.split()[1] for line in lines[3:] if line.endswith(" 0 0")}
    assert "/proc" in points
    assert points <= {"/", "/proc", "/sys", "/dev", "/tmp"} | {
        point for point in points if point.startswith("/usr")
    }
    assert not any(" /dev/" in line.partition(" - ")[2] for line in lines)
    assert b"ns_last_pid: Permission denied" in ended.stderr


_INTERFACES = """
import os
of_all = {"all", "default", "lo"}
seen = False
for place in ("sys/net/ipv4/conf", "sys/net/ipv4/neigh", "sys/net/ipv6/conf", "self/net/dev_snmp6", "net/dev_snmp6"):
    directory = "/proc/" + place
    if not os.path.isdir(directory):
        continue
    names = os.listdir(directory)
    assert len(names) == len(set(names)) and "lo" in names, names
    seen |= bool(set(names) - of_all)
    for name in {MORE!r}:
        ways = directory + "/" + name, directory + "/lo/../" + name, directory + "/" + name + "/../lo"
        seen |= any(os.path.lexists(way) for way in ways)
print(seen)
print(open("/proc/sys/net/ipv4/conf/lo/forwarding").read() in ("0\\n", "1\\n"))
"""


def _sees_interfaces(runner: Runner, patch: str = "") -> bytes:
    names = [name for _, name in socket.if_nameindex() if name != "lo"]
    if not names:
        pytest.skip("there is no network interface beside lo")
    code = [system_python(), "-c", _INTERFACES.replace("{MORE!r}", repr(names))]
    assert runner.bare(code).stdout == b"True\nTrue\n"
    return broken.run(runner, patch, code, policy=_POLICY).stdout


def test_the_machines_network_interfaces_have_no_names(runner: Runner) -> None:
    assert _sees_interfaces(runner) == b"False\nTrue\n"


@pytest.mark.one_user
@pytest.mark.parametrize(
    "patch",
    [
        "from sandlockd.handlers.private import walk\nwalk.lists_interfaces = lambda _: False\n",
        "from sandlockd.handlers.private import walk\nimport re\nwalk._OF_INTERFACES = re.compile(b'(x)y')\n",
    ],
)
def test_with_interfaces_not_looked_at_their_names_are_told(runner: Runner, patch: str) -> None:
    assert _sees_interfaces(runner, patch) == b"True\nTrue\n"


def test_a_sealed_file_is_read_as_bare(runner: Runner) -> None:
    text = (
        "import os, select; f = os.open('/proc/self/mounts', os.O_RDONLY); whole = os.read(f, 1 << 16);"
        " os.lseek(f, 3, 0); parts = [os.read(f, 1) for _ in range(5)]; print(b''.join(parts) == whole[3:8]);"
        " poll = select.poll(); poll.register(f, select.POLLIN); print(poll.poll(0)[0][1] & 1);"
        " print(os.pread(f, 4, 2) == whole[2:6], os.lseek(f, 0, os.SEEK_CUR))\n"
        "try: os.write(f, b'x')\nexcept OSError as error: print(error.strerror)\n"
        "try: os.write(os.open('/proc/self/fd/%d' % f, os.O_RDWR), b'x')\nexcept OSError as error: print('no')"
    )
    ended = runner.sandboxed([system_python(), "-c", text], policy=_POLICY)
    assert ended.stdout.splitlines()[:4] == [b"True", b"1", b"True 8", b"Bad file descriptor"], ended
    assert len(ended.stdout.splitlines()) == 5
