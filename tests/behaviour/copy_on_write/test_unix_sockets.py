"""AF_UNIX sockets in a tree are to the program what they are bare: who came, from where, how long it took."""

from __future__ import annotations

import json
import socket
import stat

import pytest
from harness.running import Ended, Runner, system_python
from harness.survivors import marked
from harness.waiting import line_of, until
from security import broken

_HEAD = """
import ctypes, os, signal, socket, struct, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
def new(kind=socket.SOCK_STREAM):
    return socket.socket(socket.AF_UNIX, kind)
def listening(path, backlog=5, kind=socket.SOCK_STREAM):
    server = new(kind)
    server.bind(path)
    server.listen(backlog)
    return server
def connected(path, kind=socket.SOCK_STREAM):
    client = new(kind)
    client.connect(path)
    return client
def tried(act, *args):
    try:
        return act(*args)
    except OSError as error:
        return os.strerror(error.errno) if error.errno else str(error)
def child(act):
    pid = os.fork()
    if not pid:
        code = 1
        try:
            code = act() or 0
        finally:
            sys.stdout.flush()
            os._exit(code)
    return pid
def credentials(who):
    return struct.unpack("=iII", who.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
"""

_PROGRAMS = {
    "names": """
os.mkdir("d"); os.symlink("d", "l")
here = os.getcwd()
for path in ("s1", "./s2", "d/s3", here + "/s4", "d/../s5", "l/s6", "/proc/self/cwd/s7", here + "//d/./s8",
             "../" * 20 + here[1:] + "/s9", "l/../l/s10", here + "/l/s11"):
    server = listening(path)
    client = new()
    client.bind(path + "-client")
    client.connect(path)
    accepted, peer = server.accept()
    client.sendall(b"x")
    print(*(name.replace(here, "HERE") for name in (server.getsockname(), client.getpeername(), accepted.getsockname(),
          accepted.getpeername(), peer, accepted.recvfrom(1)[1] or "")))
print(sorted(os.listdir("."))); print(sorted(os.listdir("d")))
""",
    "addresses": """
fd = new().fileno()
for call in ("bind", "connect"):
    act = getattr(libc, call)
    for bytes_, length in ((b"", 0), (b"\\1", 1), (b"\\1\\0", 2), (b"\\1\\0", 3), (b"\\2\\0x", 3), (b"\\0\\0x", 3),
                           (b"\\1\\0" + b"x" * 200, 111), (b"\\1\\0" + b"x" * 200, 128), (b"\\1\\0" + b"x" * 200, 129),
                           (b"\\1\\0missing/x\\0junk", 16), (b"\\1\\0x", -1), (b"\\1\\0x", 1 << 31)):
        if (call, length) == ("bind", 2):
            continue  # a name of the kernel's choice
        result = act(new().detach(), bytes_, ctypes.c_uint32(length & 0xffffffff))
        print(call, bytes_[:12], length, result, os.strerror(ctypes.get_errno()) if result else "")
    for number in (-1, 999, 0, os.open(".", os.O_RDONLY), os.pipe()[0]):
        print(call, act(number, b"\\1\\0missing/x\\0", 12), os.strerror(ctypes.get_errno()))
    print(call, act(fd, ctypes.c_void_p(8), 10), os.strerror(ctypes.get_errno()))
""",
    "credentials": """
server = listening("s")
def come():
    client = connected("s")
    pid, uid, gid = credentials(client)
    print(pid == os.getppid(), uid == os.getuid(), gid == os.getgid(), client.getpeername())
    client.send(b"x")
for _ in range(3):
    pid = child(come)
    accepted, _ = server.accept()
    os.waitpid(pid, 0)  # known after its end as well
    print(credentials(accepted)[0] == pid, credentials(accepted)[1:] == (os.getuid(), os.getgid()))
    print(len(accepted.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 5)), accepted.recv(1))
    thread = threading.Thread(target=connected, args=("s",))
    thread.start(); accepted, _ = server.accept(); thread.join()
    print(credentials(accepted)[0] == os.getpid())
one, other = socket.socketpair()
print(credentials(one)[0] == os.getpid())
print(tried(libc.getsockopt, 0, 1, 17, 0, 0))
server.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
client = connected("s"); client.sendall(b"y")
accepted, _ = server.accept()
accepted.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
for _, kind, data in accepted.recvmsg(1, 100)[1]:
    print(kind, struct.unpack("=iII", data)[0] == os.getpid())
fds = socket.send_fds(client, [b"z"], [os.open("/dev/null", os.O_RDONLY)])
print(len(socket.recv_fds(accepted, 1, 1)[1]))
""",
    "other-ids": """
if os.getuid() == 0:
    os.chmod(".", 0o777)
    server = listening("s")
    os.chmod("s", 0o666)
    def come():
        os.setgroups([7]); os.setresgid(4321, 4322, 4323); os.setresuid(1234, 1235, 1236)
        client = connected("s")
        print(tried(connected, "closed"))
        mine = listening("mine")
        print(os.stat("mine").st_uid, os.stat("mine").st_gid)
    listening("closed"); os.chmod("closed", 0o600)
    pid = child(come)
    accepted, _ = server.accept()
    os.waitpid(pid, 0)
    got = accepted.getsockopt(socket.SOL_SOCKET, 59, 4)
    print(credentials(accepted)[0] == pid, credentials(accepted)[1:], struct.unpack("=I", got))
""",
    "waiting": """
server = listening("s", 0)
first = connected("s")
other = new(); other.setblocking(False)
print(tried(other.connect, "s"))
timed = new(); timed.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("=qq", 0, 50000))
print(tried(timed.connect, "s"))
def interrupted(flags):
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.siginterrupt(signal.SIGALRM, flags)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    result = libc.connect(new().detach(), b"\\1\\0s\\0", 4)
    return result, os.strerror(ctypes.get_errno())
print(interrupted(True))
threading.Timer(0.3, lambda: [server.accept() for _ in range(2)]).start()
print(interrupted(False)[0])
pid = child(lambda: connected("s") and connected("s") and 0)
time.sleep(0.2)
os.kill(pid, signal.SIGKILL)
print(os.waitpid(pid, 0)[1])
""",
    "modes": """
for mode in (0o700, 0o666, 0o750):
    os.umask(0o22)
    made = new()
    os.fchmod(made.fileno(), mode)
    made.bind(f"m{mode:o}")
    print(oct(os.stat(f"m{mode:o}").st_mode), tried(made.bind, "again"), os.path.exists("again"))
os.symlink("nowhere", "dangling"); print(tried(new().bind, "dangling"))
print(tried(new().bind, "x" * 107 + "/y")) ; print(tried(os.open, "m700", os.O_RDONLY))
os.rename("m700", "moved"); os.link("moved", "hard"); print(os.stat("hard").st_nlink); os.unlink("moved")
""",
    "packets": """
server = listening("s", 5, socket.SOCK_SEQPACKET)
client = connected("s", socket.SOCK_SEQPACKET)
accepted, _ = server.accept()
client.send(b"one"); client.sendmsg([b"t", b"wo"], [], 0, "elsewhere"); client.sendto(b"three", "elsewhere")
print(accepted.recv(9), accepted.recv(9), accepted.recv(9), tried(connected, "s"))
print(tried(connected("t") if os.path.exists("t") else new().sendto, b"x", "s"))
one, other = socket.socketpair()
one.bind("pair"); print(one.getsockname(), other.getpeername(), tried(one.connect, "s"))
""",
    "an-own-table-of-descriptors": """
server = listening("s")
def work():
    libc.unshare(0x400)  # CLONE_FILES
    made = new()
    os.dup2(made.fileno(), 77)
    print(libc.connect(77, b"\\1\\0s\\0", 4), made.getpeername())
thread = threading.Thread(target=work); thread.start(); thread.join()
print(tried(os.fstat, 77))
""",
}


def _run(runner: Runner, source: str) -> tuple[Ended, Ended]:
    script = runner.place.file("program.py", _HEAD + source, 0o644)
    command = [system_python(), script]
    bare = runner.bare(command)
    runner.place.empty_work()
    options = ["--workdir", runner.work, "--on-exit", "discard", "--read", script, "--quiet"]
    return bare, runner.sandboxed(command, options=options)


@pytest.mark.parametrize("name", _PROGRAMS)
def test_as_bare(runner: Runner, name: str) -> None:
    bare, sandboxed = _run(runner, _PROGRAMS[name])
    assert bare.returncode == 0, bare.stderr.decode()
    assert sandboxed.stderr.decode() == bare.stderr.decode()
    assert sandboxed.stdout.decode().splitlines() == bare.stdout.decode().splitlines()
    assert sandboxed.returncode == 0


def test_a_socket_that_is_left_is_listed_and_committed(runner: Runner) -> None:
    """As overlayfs does: a name of a socket, to which nobody listens any more."""
    source = 'listening("left"); os.chmod("left", 0o640)'
    script = runner.place.file("program.py", _HEAD + source, 0o644)
    options = ["--workdir", runner.work, "--on-exit", "commit", "--read", script]
    ended = runner.sandboxed([system_python(), script], options=options)
    assert ended.returncode == 0, ended.stderr.decode()
    status = (runner.work / "left").lstat()
    assert stat.S_ISSOCK(status.st_mode)
    assert stat.S_IMODE(status.st_mode) == 0o640
    assert (status.st_uid, status.st_gid) == (runner.place.user.uid, runner.place.user.gid)
    with socket.socket(socket.AF_UNIX) as client, pytest.raises(ConnectionRefusedError):
        client.connect(str(runner.work / "left"))


_NO_ROOTS = """
from sandlockd.kernel import sockets
apart = sockets._apart
def without_roots(opened, address, connects, root, *rest):
    if root is not None:
        raise sockets.Refused
    apart(opened, address, connects, root, *rest)
sockets._apart = without_roots
"""


def test_where_no_root_is_to_be_had_the_last_name_is_told(runner: Runner) -> None:
    source = """
os.mkdir("d")
server = listening(os.path.abspath("d/s")); client = connected("d/s")
print(server.getsockname(), client.getpeername(), server.accept()[0] is not None, os.listdir("d"))
"""
    script = runner.place.file("program.py", _HEAD + source, 0o644)
    options = ["--workdir", runner.work, "--on-exit", "discard", "--read", script]
    ended = broken.run(runner, _NO_ROOTS, [system_python(), script], options=options)
    assert ended.stdout == b"s s True ['s']\n", ended.stderr


def test_a_connect_that_waits_ends_with_its_supervisor(runner: Runner) -> None:
    source = """
server = listening("s", 0); connected("s")
print("waiting", flush=True)
connected("s")
"""
    script = runner.place.file("program.py", _HEAD + source, 0o644)
    options = ["--workdir", runner.work, "--on-exit", "discard", "--read", script]
    line = runner.command_line([system_python(), script], options=options)
    runner.may_leave_temporary = True
    with runner.started(line) as process:
        assert process.stdout is not None
        assert line_of(process.stdout.fileno()) == b"waiting\n"
        until(
            lambda: len(marked(runner.marker)) >= 4, "the process that connects"
        )  # with init and the program
        process.kill()
        process.wait()
        until(lambda: not marked(runner.marker), "the end of all", limit_s=5)


def test_at_audit_level_all_it_is_the_same(runner: Runner) -> None:
    source = (
        'server = listening("s"); connected("s"); print(credentials(server.accept()[0])[0] == os.getpid())'
    )
    script = runner.place.file("program.py", _HEAD + source, 0o644)
    policy = f'extends = ["base"]\n[filesystem]\nread = ["{script}"]\n[audit]\nlevel = "all"\n'
    options = ["--workdir", runner.work, "--on-exit", "discard"]
    ended = runner.sandboxed([system_python(), script], options=options, policy=policy)
    assert ended.stdout == b"True\n", ended.stderr
    assert {"bind", "connect", "getsockopt"} <= {record.get("call") for record in ended.audit}


def test_without_a_tree_there_is_no_socket(runner: Runner) -> None:
    script = runner.place.file("program.py", _HEAD + "print(tried(new))", 0o644)
    ended = runner.sandboxed([system_python(), script], options=["--write", runner.work, "--read", script])
    assert ended.stdout == b"Permission denied\n"
    assert json.dumps([refusal["rule"] for refusal in ended.refusals]).count("network") == 1
