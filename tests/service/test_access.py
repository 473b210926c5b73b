"""Who may connect, and what a user may see and touch of others: nothing."""

from __future__ import annotations

import contextlib
import grp
import http.client
import io
import json
import os
import pwd
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.running import Runner
from harness.service import Answer, Served, problem_of, service
from harness.survivors import marked
from harness.users import User
from harness.waiting import until

from sandlockd.control import access
from sandlockd.control.access import Refused, peer_of

_ROOT = pytest.mark.parametrize("as_user", ["root"], indirect=True)
_CLIENT = """
import json, os, socket, sys
path, uid, gid, groups, request = sys.argv[1], *json.loads(sys.argv[2]), sys.argv[3]
if os.geteuid() == 0:
    os.setgroups(groups); os.setresgid(gid, gid, gid); os.setresuid(uid, uid, uid)
line = socket.socket(socket.AF_UNIX)
line.connect(path)
line.sendall(request.encode("latin1"))
got = b""
while block := line.recv(65536):
    got += block
sys.stdout.buffer.write(got)
"""


_BODIES = {("POST", "exec"): {"command": ["id"]}, ("POST", "signal"): {"signal": 9}}


class _As:
    """Requests of another user."""

    def __init__(self, served: Served, uid: int, gid: int, groups: list[int] | None = None) -> None:
        self._served = served
        self._who = json.dumps([uid, gid, groups or []])

    def ask(self, method: str, path: str, body: Any = None) -> Answer:
        content = "" if body is None else json.dumps(body)
        head = f"{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {len(content)}\r\n\r\n"
        line = [
            sys.executable,
            "-I",
            "-S",
            "-c",
            _CLIENT,
            str(self._served.socket),
            self._who,
            head + content,
        ]
        done = subprocess.run(line, capture_output=True, timeout=30, check=True)
        response = http.client.HTTPResponse(_Said(done.stdout))  # type: ignore[arg-type]
        response.begin()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, headers, response.read())


class _Said:
    """In the place of a socket."""

    def __init__(self, said: bytes) -> None:
        self._said = said

    def makefile(self, mode: str) -> io.BytesIO:
        return io.BytesIO(self._said)


@contextlib.contextmanager
def _for_all(runner: Runner, access: str = "") -> Iterator[Served]:
    """root's, whose socket everybody may connect to."""
    users = runner.place.root / "users"
    users.mkdir()
    config = (
        f'[access]\nsocket_mode = "0666"\n{access}\n[keeping]\nusers_dir = "{users}"\n[starting]\nwarm = 1\n'
    )
    (runner.place.root / "service").mkdir(mode=0o755)
    with service(runner, config=config) as served:
        yield served
        served.remove_all()


@_ROOT
def test_users_neither_see_nor_touch_what_is_others(runner: Runner, _ordinary_user: User) -> None:
    with _for_all(runner) as served:
        nobody = pwd.getpwnam("nobody")
        first = _As(served, _ordinary_user.uid, _ordinary_user.gid)
        second = _As(served, nobody.pw_uid, nobody.pw_gid)
        request = {"command": ["sh", "-c", "id -u; sleep 100"], "name": "job"}
        theirs = first.ask("POST", "/v1/sandboxes", request).json
        mine = second.ask("POST", "/v1/sandboxes", request).json  # the same name
        roots = served.run(["sleep", "100"], name="job")
        assert (
            first.ask("POST", f"/v1/sandboxes/{theirs['id']}/exec", {"command": ["sleep", "100"]}).status
            == 201
        )
        assert (theirs["uid"], mine["uid"], roots["uid"]) == (_ordinary_user.uid, nobody.pw_uid, 0)
        until(lambda: served.output(theirs["id"]), "it runs")
        assert served.output(theirs["id"]) == b"%d\n" % _ordinary_user.uid
        for one in (theirs, roots):
            path = f"/v1/sandboxes/{one['id']}"
            unknown = {**problem_of(second.ask("GET", "/v1/sandboxes/none"), 404), "detail": ""}
            for method, verb in (
                *(
                    ("GET", what)
                    for what in (
                        "",
                        "/logs",
                        "/events",
                        "/stats",
                        "/processes",
                        "/policy",
                        "/denials",
                        "/changes",
                        "/exec",
                        "/exec/1",
                        "/exec/1/logs",
                    )
                ),
                ("POST", "/signal"),
                ("POST", "/exec"),
                ("POST", "/exec/1/signal"),
                ("GET", "/exec/1/attach"),
                *(
                    ("POST", f"/{verb}")
                    for verb in (
                        "stop",
                        "kill",
                        "wait",
                        "pause",
                        "resume",
                        "commit",
                        "discard",
                        "exec/1/wait",
                    )
                ),
                ("DELETE", "?force=true"),
                ("GET", "/attach"),
            ):
                body = _BODIES.get((method, verb.rpartition("/")[2]))
                told = problem_of(second.ask(method, path + verb, body), 404)
                assert {**told, "detail": ""} == unknown, "it is as if it were not there"
        shown = second.ask("GET", "/v1/sandboxes").json["sandboxes"]
        assert [one["id"] for one in shown] == [mine["id"]]
        assert second.ask("GET", "/v1/sandboxes/job").json["id"] == mine["id"]
        events = second.ask("GET", "/v1/events?after=1").lines
        assert {event["sandbox"] for event in events if "sandbox" in event} == {mine["id"]}
        assert served.get(f"/v1/sandboxes/{theirs['id']}")["state"] == "running"
        assert {one["uid"] for one in served.get("/v1/sandboxes")["sandboxes"]} == {
            0,
            *(one["uid"] for one in (theirs, mine)),
        }
        assert served.get("/v1/sandboxes/job")["id"] == roots["id"]


@_ROOT
def test_a_name_that_looks_like_a_part_of_roots_id_gets_nobody_what_root_asks_for(
    runner: Runner, _ordinary_user: User
) -> None:
    with _for_all(runner) as served:
        other = _As(served, _ordinary_user.uid, _ordinary_user.gid)
        roots = served.run(["sleep", "100"])["id"]
        theirs = []
        for name in (roots[-6:], roots[:-6].rstrip("-"), roots):
            made = other.ask("POST", "/v1/sandboxes", {"command": ["sleep", "100"], "name": name})
            assert made.status == 201
            theirs.append(made.json["id"])
            assert served.get(f"/v1/sandboxes/{name}")["id"] == roots
            # Its owner means its own by that.
            assert other.ask("GET", f"/v1/sandboxes/{name}").json["id"] == theirs[-1]
        # Who has none that is meant administers the others'.
        served.remove(roots[-6:])
        assert served.get(f"/v1/sandboxes/{roots[-6:]}")["id"] == theirs[0]


@_ROOT
@pytest.mark.parametrize("count", [1, 300], ids=["one-group", "300-groups"])
def test_members_of_the_admin_group_administer_and_nobody_else(runner: Runner, count: int) -> None:
    nobody, admin = pwd.getpwnam("nobody"), grp.getgrnam("daemon").gr_gid
    with _for_all(runner, 'admin_group = "daemon"') as served:
        one = served.run(["sleep", "100"])["id"]
        others = list(range(50_000, 50_000 + count))
        path = f"/v1/sandboxes/{one}"
        assert _As(served, nobody.pw_uid, nobody.pw_gid, others).ask("GET", path).status == 404
        assert _As(served, nobody.pw_uid, nobody.pw_gid, [*others, admin]).ask("GET", path).status == 200
        assert _As(served, nobody.pw_uid, admin).ask("GET", path).status == 200
        problem_of(_As(served, nobody.pw_uid, nobody.pw_gid, others).ask("GET", "/metrics"), 403)
        assert _As(served, nobody.pw_uid, admin).ask("GET", "/metrics").status == 200
        assert (
            _As(served, nobody.pw_uid, nobody.pw_gid, [*others, admin]).ask("POST", f"{path}/kill").status
            == 200
        )


@_ROOT
def test_a_users_own_service_serves_nobody_else(_ordinary_user: User, runner: Runner, compiler: Any) -> None:
    from harness.places import new_place

    with new_place(_ordinary_user) as place:
        theirs = Runner(place, f"{runner.marker}-theirs", compiler)
        with service(theirs, config='[access]\nsocket_mode = "0666"\n') as served:
            nobody = pwd.getpwnam("nobody")
            answer = _As(served, nobody.pw_uid, nobody.pw_gid).ask("GET", "/v1/sandboxes")
            problem_of(answer, 403)
            made = served.run(["id", "-u"])  # by root, as its user
            assert made["uid"] == _ordinary_user.uid
            served.wait(made["id"])
            assert served.output(made["id"]) == b"%d\n" % _ordinary_user.uid
            served.remove_all()


_THIEF = """
import ctypes, os, sys
pid = int(sys.argv[1])
os.setgroups([]); os.setresgid(*[int(sys.argv[3])] * 3); os.setresuid(*[int(sys.argv[2])] * 3)
pidfd = os.pidfd_open(pid)
for fd in range(64):
    taken = ctypes.CDLL(None).syscall(438, pidfd, fd, 0)  # pidfd_getfd
    if taken >= 0:
        print(os.readlink(f"/proc/self/fd/{taken}"))
"""


@_ROOT
def test_a_users_supervisors_have_nothing_open_that_is_the_services(
    runner: Runner, _ordinary_user: User
) -> None:
    """Its user can take any descriptor of it (pidfd_getfd), and standard error is a log of root's, or a terminal."""
    with _for_all(runner) as served:
        other = _As(served, _ordinary_user.uid, _ordinary_user.gid)
        work = runner.place.root / "tree"
        work.mkdir()
        os.chown(work, _ordinary_user.uid, _ordinary_user.gid)
        script = f"for n in $(seq 4000); do : > {'x' * 200}$n; done"
        body = {"command": ["sh", "-c", script], "workdir": str(work)}
        kept = other.ask("POST", "/v1/sandboxes", {**body, "cwd": str(work)}).json["id"]
        assert other.ask("POST", f"/v1/sandboxes/{kept}/wait").json["state"] == "kept"
        made = other.ask("POST", "/v1/sandboxes", {"command": ["sleep", "100"], "tty": True}).json
        with served.connected() as line:
            # Its answer is long, and nobody reads it: who works on it is there until then.
            line.sendall(f"GET /v1/sandboxes/{kept}/changes HTTP/1.1\r\nhost: x\r\n\r\n".encode())
            line.recv(100)
            worker = _child_as(served.process.pid, _ordinary_user.uid, made["supervisor_pid"])
            for pid in (made["supervisor_pid"], worker):
                words = [str(pid), str(_ordinary_user.uid), str(_ordinary_user.gid)]
                thief = [sys.executable, "-I", "-S", "-c", _THIEF, *words]
                taken = subprocess.run(thief, capture_output=True, check=True, text=True).stdout.splitlines()
                if not taken:
                    pytest.skip("nobody may take descriptors here (kernel.yama.ptrace_scope)")
                service_of = str(runner.place.root / "service")
                assert not [
                    path for path in taken if path.startswith((service_of, "/dev/pts", "/dev/tty"))
                ], taken
                assert Path(f"/proc/{pid}/fd/2").readlink() == Path("/dev/null")
            # Stopped by its user it would stay, although nobody wants its answer any more.
            os.kill(worker, signal.SIGSTOP)
        until(lambda: not Path(f"/proc/{worker}").exists(), "who works for nobody is ended")


def _child_as(service: int, uid: int, but_for: int) -> int:
    """A supervisor of that user."""
    found: list[int] = []

    def is_there() -> bool:
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError, IndexError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                above = int(Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[1])
                if above == service and entry.stat().st_uid == uid and int(entry.name) != but_for:
                    found.append(int(entry.name))
        return bool(found)

    until(is_there, "somebody works on it")
    return found[0]


def _of_name(runner: Runner, name: str) -> int:
    found: list[int] = []

    def is_there() -> bool:
        found[:] = [one.pid for one in marked(runner.marker) if one.command == name]
        return bool(found)

    until(is_there, f"{name} runs")
    return found[0]


def test_who_is_inside_a_sandbox_is_known_whoever_started_it(runner: Runner) -> None:
    with runner.started(runner.command_line(["sh", "-c", "(setsid sleep 100 &); sleep 100"])) as process:
        pid = _of_name(runner, "sleep")
        assert access._is_inside(pid) is True
        assert access._is_inside(process.pid) is False and access._is_inside(os.getpid()) is False
        process.terminate()
        process.wait()
    until(lambda: not marked(runner.marker), "all end")
    with service(runner) as served:
        made = served.run(["sh", "-c", "(setsid sleep 100 &); sleep 100"])
        assert access._is_inside(_of_name(runner, "sleep")) is True
        assert access._is_inside(made["supervisor_pid"]) is False
        served.remove_all()
    assert access._is_inside(1 << 22) is None


_PRETENDER = """
import socket, sys
open('/proc/self/comm', 'w').write('sandlockd-init')
line = socket.socket(socket.AF_UNIX); line.connect(sys.argv[1])
line.sendall(b'GET /v1/sandboxes HTTP/1.1\\r\\nhost: x\\r\\n\\r\\n')
got = b''
while block := line.recv(65536): got += block
sys.stdout.buffer.write(got)
"""


@pytest.mark.one_user
def test_a_connection_from_below_an_init_is_refused_whatever_its_uid(runner: Runner) -> None:
    """No policy lets a program connect to a socket outside, so this one has the name of an init, as far as anybody
    can see from outside; refused is root's, too.
    """
    with service(runner) as served:
        done = runner.run([sys.executable, "-I", "-S", "-c", _PRETENDER, served.socket])
        assert b" 403 " in done.stdout.split(b"\r\n")[0] and b"inside a sandbox" in done.stdout
        assert json.loads(done.stdout.partition(b"\r\n\r\n")[2])["status"] == 403
        served.get("/healthz")


@pytest.mark.one_user
def test_a_program_in_a_sandbox_cannot_connect(runner: Runner) -> None:
    with service(runner) as served:
        script = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); print('connected')"
        python = "/usr/bin/python3"
        made = served.run([python, "-S", "-c", script, str(served.socket)], read=[str(served.socket.parent)])
        assert served.wait(made["id"])["exit_status"] == 1 and b"connected" not in served.output(made["id"])
        work = str(runner.work)
        made = served.run(
            [python, "-S", "-c", script, str(served.socket)],
            workdir=work,
            on_exit="discard",
            write=[str(served.socket.parent)],
        )
        served.wait(made["id"])
        assert b"connected" not in served.output(made["id"])
        served.remove_all()


@_ROOT
def test_a_peer_that_has_no_number_here_is_refused(runner: Runner) -> None:
    """Of another PID namespace than ours, that is not below ours."""
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(str(runner.place.root / "x"))
        listener.listen()
        client.connect(str(runner.place.root / "x"))
        connection, _ = listener.accept()
        with connection:
            assert peer_of(connection, None).pid == os.getpid()
            script = (
                "import socket, sys; from sandlockd.control.access import *\n"
                "try: print(peer_of(socket.socket(fileno=int(sys.argv[1])), None))\n"
                "except Refused as error: print('refused:', error)\n"
            )
            line = ["unshare", "--pid", "--fork", sys.executable, "-c", script, str(connection.fileno())]
            done = subprocess.run(line, pass_fds=[connection.fileno()], capture_output=True, check=False)
            if b"unshare" in done.stderr:
                pytest.skip(done.stderr.decode())
    assert done.stdout.decode().strip() == "refused: it is a process of another PID namespace"


def test_who_has_ended_is_refused(runner: Runner) -> None:
    """Its number may be somebody else's by now."""
    path = runner.place.root / "x"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        path.chmod(0o666)
        script = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])"
        subprocess.run([sys.executable, "-I", "-S", "-c", script, str(path)], check=True)
        connection, _ = listener.accept()
        with connection, pytest.raises(Refused):
            peer_of(connection, None)
    assert Path(path).exists()
