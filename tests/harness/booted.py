"""A machine of a test's own: a real systemd, the first process of namespaces of its own, on the files of this machine
(changes stay in memory). It is told what a person would type, and looked at from outside.

with booted() as machine:
    machine.systemctl("start", "sandlockd.socket")
    assert machine.ask("alice", "GET", "/v1/version").status == 200
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import ledger, unix_http
from harness.survivors import MARKER
from harness.unix_http import Answer
from harness.waiting import until
from sandlockd.kernel.paths import mounts

_INSIDE = Path(__file__).with_name("boot_inside.py")
_SYSTEMD = ("/usr/lib/systemd/systemd", "/lib/systemd/systemd")
_TOOLS = ("unshare", "nsenter", "setpriv", "systemctl", "systemd-analyze", "useradd", "journalctl")
_SEARCHED = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NAMESPACES = ("--pid", "--mount", "--cgroup", "--ipc", "--uts", "--net")
_BOOT_PATIENCE_S = 60.0
SOCKET = "/run/sandlockd/control.sock"


@dataclass(frozen=True)
class Inside:
    """A process of the machine. pid: as it is known there. group: its cgroup, from the machine's root."""

    pid: int
    outer_pid: int
    uid: int
    name: str
    command: str
    state: str
    group: str


def why_not() -> str | None:
    """Why none can be booted here."""
    if os.geteuid() != 0:
        return "needs root, to boot a systemd"
    if not any(map(os.path.exists, _SYSTEMD)):
        return "there is no systemd"
    for tool in _TOOLS:
        if shutil.which(tool, path=_SEARCHED) is None:
            return f"there is no {tool}"
    if hierarchy() is None:
        return "there is no cgroup2 hierarchy to boot in"
    tried = subprocess.run(["unshare", *_NAMESPACES, "--fork", "true"], capture_output=True, text=True)
    return f"no namespaces to boot in: {tried.stderr.strip()}" if tried.returncode else None


def hierarchy() -> Path | None:
    """Where cgroups of version 2 are, and may be made."""
    for mount in mounts():
        if mount.kind == b"cgroup2" and os.access(mount.point, os.W_OK):
            return Path(os.fsdecode(mount.point))
    return None


class Machine:
    """init_pid: as it is known outside."""

    def __init__(self, init_pid: int, group: Path, console: Path) -> None:
        self.init_pid = init_pid
        self.root = Path(f"/proc/{init_pid}/root")
        self._group = group
        self._console = console
        self._namespace = os.readlink(f"/proc/{init_pid}/ns/pid")

    # ---- what a person would type

    def run(
        self, command: Sequence[str], *, user: str | None = None, check: bool = True, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """As root, or as that user with its groups."""
        flags = ["-p", "-m", "-C", "-i", "-u", "-n", "-r", "-w"]
        become = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"] if user else []
        path = f"{Path(sys.executable).parent}:{_SEARCHED}"
        given = {"PATH": path, "LANG": "C.UTF-8", MARKER: ledger.own().session, **environment}
        words = [f"{name}={value}" for name, value in given.items()]
        enter = ["nsenter", "-t", str(self.init_pid), *flags, "--", "env", "-i", *words]
        done = subprocess.run(
            [*enter, *become, *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="backslashreplace",
            timeout=_BOOT_PATIENCE_S,
        )
        assert not check or done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def systemctl(self, *words: str, check: bool = True) -> str:
        return self.run(["systemctl", "--no-pager", *words], check=check).stdout.strip()

    def property(self, unit: str, name: str) -> str:
        return self.systemctl("show", "--value", "-p", name, unit)

    def journal(self, unit: str = "sandlockd.service", *words: str) -> str:
        """Messages only."""
        return self.run(["journalctl", "--no-pager", "-o", "cat", "-u", unit, *words]).stdout

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """A file of root's."""
        target = self.root / path.removeprefix("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(mode)

    def remove(self, path: str) -> None:
        (self.root / path.removeprefix("/")).unlink(missing_ok=True)

    def ask(
        self, user: str | None, method: str, path: str, body: Any = None, *, socket: str = SOCKET
    ) -> Answer:
        return self.ask_all(user, [(method, path, body)], socket=socket)[0]

    def ask_all(
        self, user: str | None, requests: Sequence[tuple[str, str, Any]], *, socket: str = SOCKET
    ) -> list[Answer]:
        """Of that user. Raises ConnectionError, PermissionError, FileNotFoundError."""
        line = [sys.executable, "-I", "-c", _CLIENT, socket, json.dumps(requests)]
        done = self.run(line, user=user, check=False)
        if done.returncode:
            kinds = {
                one.__name__: one for one in (PermissionError, FileNotFoundError, ConnectionRefusedError)
            }
            raise kinds.get(done.stdout.strip(), ConnectionError)(done.stdout + done.stderr)
        return [
            Answer(status, headers, content.encode("utf-8", "surrogateescape"))
            for status, headers, content in json.loads(done.stdout)
        ]

    # ---- what is there, by /proc and cgroupfs alone

    def processes(self) -> list[Inside]:
        found = []
        for name in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{name}/ns/pid") == self._namespace:
                    found.append(_process(int(name), self._group.name))
        return [one for one in found if one.state not in "ZX"]

    def of_group(self, unit: str) -> list[int]:
        """Outer pids of whoever is in a unit's cgroup, or below it; none either if there is no such group."""
        lists = (self._group / unit).rglob("cgroup.procs")
        found: list[int] = []
        for one in lists:
            with contextlib.suppress(OSError):  # gone by now
                found += map(int, one.read_text().split())
        return found

    def console(self) -> str:
        return self._console.read_text(errors="backslashreplace")


_CLIENT = Path(unix_http.__file__).read_text()


def _process(pid: int, group: str) -> Inside:
    """Raises OSError."""
    directory = Path(f"/proc/{pid}")
    status = dict(line.split(":\t", 1) for line in (directory / "status").read_text().splitlines())
    words = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="backslashreplace")
    lines = (directory / "cgroup").read_text().splitlines()
    own = next((line.split(":", 2)[2] for line in lines if line.startswith("0::")), "")
    return Inside(
        pid=int(status["NSpid"].split()[-1]),
        outer_pid=pid,
        uid=int(status["Uid"].split()[1]),
        name=status["Name"],
        command=words.strip(),
        state=status["State"][0],
        group=own.removeprefix(f"/{group}"),
    )


@contextlib.contextmanager
def booted() -> Iterator[Machine]:
    """Everything of it is gone at the end."""
    where = hierarchy()
    assert where is not None
    with ledger.directory("boot") as place:
        group = ledger.make_hierarchy(where)
        try:
            with _started(group, place) as machine:
                yield machine
        finally:
            ledger.remove_hierarchy(group)


@contextlib.contextmanager
def _started(group: Path, place: Path) -> Iterator[Machine]:
    console = place / "console"
    (place / "root").mkdir()
    # A cgroup namespace begins where its maker is.
    script = 'echo $$ > "$0" && exec "$@"'
    line: list[str | Path] = ["sh", "-c", script, group / "cgroup.procs", "unshare", *_NAMESPACES]
    line += ["--fork", "--kill-child=SIGKILL", sys.executable, "-I", _INSIDE, place / "root", sys.prefix]
    with console.open("wb") as output:
        process = subprocess.Popen(
            line, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, cwd="/"
        )
    try:
        machine = Machine(_init_of(process, console), group, console)
        _await_boot(machine)
        yield machine
    finally:
        for pid in _children(process.pid):
            os.kill(pid, signal.SIGKILL)  # the first of a pid namespace takes all others with it
        process.kill()
        process.wait()


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def _init_of(process: subprocess.Popen[bytes], console: Path) -> int:
    def become() -> bool:
        assert process.poll() is None, f"it does not boot: {console.read_text()}"
        names = [Path(f"/proc/{pid}/comm").read_text() for pid in _children(process.pid)]
        return names == ["systemd\n"]

    until(become, "systemd is the first process", _BOOT_PATIENCE_S)
    return _children(process.pid)[0]


def _await_boot(machine: Machine) -> None:
    def is_up() -> bool:
        state = machine.systemctl("is-system-running", "--wait", check=False)
        return state in ("running", "degraded")

    until(is_up, "the machine is up", _BOOT_PATIENCE_S)
    failed = machine.systemctl("list-units", "--failed", "--plain", "--no-legend")
    assert not failed, f"{failed}\n{machine.console()}"
