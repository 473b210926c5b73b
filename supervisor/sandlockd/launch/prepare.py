"""From a policy and a command to everything that a start needs: decided here, done by start.py.

Nothing runs yet when this returns, and whatever fails has one line that says which step, why and what to do.
"""

from __future__ import annotations

import fcntl
import os
import resource
import stat
import struct
import sys

from sandlockd.kernel.engine import LEDGER_BYTES
from sandlockd.kernel.syscalls import AUDIT_ARCH, native_architecture, number_of, numbered
from sandlockd.launch import wall as walls
from sandlockd.launch.command import CommandError, find_command, located
from sandlockd.launch.features import MissingFeatures
from sandlockd.launch.filter import FilterError, build
from sandlockd.launch.filter_plan import BadPlan, FilterPlan, c_refusals, c_rows, errno_for, rule_for
from sandlockd.policy.files import WORKDIR_RULE
from sandlockd.policy.model import hides_processes
from sandlockd.policy.syscalls import compile_syscalls
from sandlockd.policy.verdict import Want

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandlockd.kernel.syscalls import Syscall
    from sandlockd.launch.temporary import Temporary
    from sandlockd.policy.files import FileRules
    from sandlockd.policy.model import Policy


class CannotStart(Exception):
    """The sandbox could not be built. One line, with the step, the reason and the fix; further: more of them."""

    def __init__(self, text: str, exit_status: int = 125, further: tuple[str, ...] = ()) -> None:
        super().__init__(text)
        self.exit_status = exit_status
        self.further = further


class Prepared:
    """A wall, a filter and a command that fit together. Owns the ruleset."""

    def __init__(self, policy: Policy, rules: FileRules, wall: walls.Wall) -> None:
        self.policy = policy
        self.rules = rules
        self.wall = wall
        self.filter_plan = FilterPlan()
        self.temporary: Temporary | None = None
        self.given_back: frozenset[str] = frozenset()
        self.filter_program = b""
        self.rows: dict[int, Syscall] = {}
        self.c_rows: tuple[tuple[int, ...], ...] = ()
        self.c_refusals: tuple[tuple[int, int, int, int, int], ...] = ()
        self.argv: tuple[bytes, ...] = ()
        self.executable = b""
        self.environment: dict[bytes, bytes] = {}
        self.directory: bytes | None = None
        self.hidden: tuple[bytes, ...] = tuple(rule.path for rule in policy.proc.hide)
        self.processors: tuple[int, ...] = ()  # that are shown, where not all are
        self.entered: bytes | None = (
            None  # where the kernel finds that, if the program has it under another name
        )

    @property
    def native_arch(self) -> int:
        return AUDIT_ARCH[native_architecture()]

    @property
    def openers(self) -> tuple[int, int, int, int]:
        return number_of("open"), number_of("openat"), number_of("creat"), number_of("openat2")

    def rule_for(self, number: int, args: tuple[int, ...]) -> str:
        return rule_for(self.filter_plan, number, args)

    def errno_for(self, number: int, args: tuple[int, ...]) -> int:
        return errno_for(self.filter_plan, number, args)

    def close(self) -> None:
        self.wall.close()


# What a root program keeps: enough for files, users and low ports; nothing over the kernel, devices or others.
KEPT_CAPABILITIES = sum(
    1 << number
    for number in (
        0,  # CAP_CHOWN
        1,  # CAP_DAC_OVERRIDE
        3,  # CAP_FOWNER
        4,  # CAP_FSETID
        5,  # CAP_KILL
        6,  # CAP_SETGID
        7,  # CAP_SETUID
        8,  # CAP_SETPCAP
        10,  # CAP_NET_BIND_SERVICE
    )
)


def prepare(
    policy: Policy,
    rules: FileRules,
    command: Sequence[bytes],
    private_directory: bytes,
    temporary: Temporary | None = None,
) -> Prepared:
    """Decide everything.

    private_directory: for temporary files; with `temporary`, a name in that.
    Raises: CannotStart.
    """
    processors = _shown_processors(policy)
    told = _told_directories(policy, processors)
    try:
        wall = walls.build(rules, frozenset(policy.degrade.allow), temporary, told)
    except MissingFeatures as error:
        raise CannotStart(error.lines[0], further=error.lines[1:]) from None
    except walls.WallError as error:
        raise CannotStart(str(error)) from None
    prepared = Prepared(policy, wall.rules, wall)
    prepared.temporary = temporary
    prepared.processors = processors
    try:
        _protect_ourselves(wall.rules)
        _choose_command(prepared, command, private_directory)
        _choose_filter(prepared)
    except BaseException:
        wall.close()
        raise
    return prepared


def _shown_processors(policy: Policy) -> tuple[int, ...]:
    if policy.limits.cpu is None:
        return ()
    from sandlockd.launch.processors import shown  # only where it is limited

    return shown(policy.limits.cpu)


def _told_directories(policy: Policy, processors: tuple[int, ...]) -> tuple[bytes, ...]:
    if policy.limits.memory is None and not processors:
        return ()
    from sandlockd.handlers.limited import view  # likewise

    return view.directories(memory=policy.limits.memory is not None, processors=bool(processors))


def _protect_ourselves(rules: FileRules) -> None:
    """What the program may change must never be code that we run: we import late, and the next run starts anew."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    own = [package, os.path.dirname(os.__file__), sys.executable, *(entry or os.curdir for entry in sys.path)]
    for path in dict.fromkeys(own):
        real = os.fsencode(os.path.realpath(path))
        if os.path.exists(real) and _may_change(rules, real):
            raise CannotStart(
                f"the policy lets the program change {os.fsdecode(real)}, which sandlockd itself runs from; install"
                " sandlockd elsewhere, or deny that directory"
            )
    user_site = _user_site()
    if user_site is not None and _may_change(rules, os.fsencode(os.path.realpath(user_site))):
        raise CannotStart(
            f"the policy lets the program change {user_site}, from which Python loads code whenever sandlockd starts;"
            " deny that directory, or install sandlockd into a virtual environment"
        )
    for name in _LOADED_FROM:
        for path in _places_named_by(name):
            real = os.fsencode(os.path.realpath(path))
            if _may_change(rules, real):
                raise CannotStart(
                    f"the policy lets the program change {os.fsdecode(real)}, from which {name} has sandlockd itself"
                    f" load code; unset it, and give it to the program alone: --env {name}=..."
                )


def _user_site() -> str | None:
    """Where python(1) looks for `.pth` files and sitecustomize of the user's own, once there is such a directory."""
    site = sys.modules.get("site")
    if site is None or not getattr(site, "ENABLE_USER_SITE", False):
        return None
    path = getattr(site, "USER_SITE", None)
    return path if isinstance(path, str) else None


# Variables by which we, too, load code: ld.so(8), python(1), openssl-env(7). Libraries are opened as late as modules.
_LOADED_FROM = (
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "LD_AUDIT",
    "PYTHONPYCACHEPREFIX",
    "OPENSSL_CONF",
    "OPENSSL_ENGINES",
    "OPENSSL_MODULES",
)


def _places_named_by(variable: str) -> list[str]:
    value = os.environ.get(variable, "")
    if not value or not variable.startswith("LD_"):
        return [value] if value else []
    parts = value.replace(";", ":").replace(" ", ":").split(":")
    if variable == "LD_LIBRARY_PATH":
        return [part or os.curdir for part in parts]
    return [part for part in parts if "/" in part]  # others are searched for where libraries are


def _may_change(rules: FileRules, path: bytes) -> bool:
    verdict = rules.judge(path, Want.WRITE)
    if os.path.isdir(path) or not os.path.exists(path):
        verdict = rules.judge(path + b"/new", Want.CREATE)
    # In a copy-on-write tree only the copies are changed, and nothing of ours is run from there.
    return verdict.allowed and verdict.rule != WORKDIR_RULE


_STREAMS = ("stdin", "stdout", "stderr")
_F_SETOWN_EX, _F_GETOWN_EX = 15, 16  # fcntl has no name for them, and F_GETOWN none for groups


def refuse_descriptors_that_lead_out(fds: Sequence[int] = (0, 1, 2)) -> None:
    """Those that the program gets for 0 to 2. Raises CannotStart."""
    _refuse_open_sockets(fds)
    _refuse_owners(fds)


def _refuse_owners(fds: Sequence[int]) -> None:
    """Who is to get SIGIO when there is something to read, was named outside of Landlock's scope (F_SETOWN).

    The program could make it SIGKILL (F_SETSIG), and have it sent.
    """
    for fd, name in zip(fds, _STREAMS, strict=True):
        try:
            kind, owner = struct.unpack("=ii", fcntl.fcntl(fd, _F_GETOWN_EX, bytes(8)))
        except OSError:
            continue  # closed, or it can do nothing
        if owner or kind:  # 0: dead, or in a PID namespace that ours does not show
            whom = (
                f"process or group {owner}" if owner else "a process or group that cannot be seen from here"
            )
            raise CannotStart(
                f"{name} has its signals sent to {whom}: the program could choose which, and when;"
                " redirect it, from /dev/null or through `| cat`"
            )
        # A thread that cannot be seen is told as nobody is: from now on it is nobody, and told the same the next time.
        fcntl.fcntl(fd, _F_SETOWN_EX, bytes(8))


def _refuse_open_sockets(fds: Sequence[int]) -> None:
    """A socket that can still go anywhere would be a way out of the wall.

    A connected stream leads where its owner has connected it.
    """
    for fd, name in zip(fds, _STREAMS, strict=True):
        try:
            is_socket = stat.S_ISSOCK(os.fstat(fd).st_mode)
        except OSError:
            continue  # closed
        if is_socket and not _is_connected_stream(fd):
            raise CannotStart(
                f"{name} is a socket that is not a connected stream: the program could reach other places by it;"
                " redirect it, from /dev/null or through `| cat`"
            )


def _is_connected_stream(fd: int) -> bool:
    import socket  # late: 5 ms, and hardly ever needed

    with socket.socket(fileno=os.dup(fd)) as duplicate:
        if duplicate.type not in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
            return False
        try:
            duplicate.getpeername()
        except OSError:
            return False
    return True


def _choose_command(prepared: Prepared, command: Sequence[bytes], private_directory: bytes) -> None:
    policy = prepared.policy
    if command:
        prepared.argv = tuple(command)
    elif policy.program.exec is not None:
        arguments = (argument.encode("utf-8", "surrogateescape") for argument in policy.program.args)
        prepared.argv = (policy.program.exec, *arguments)
    else:
        raise CannotStart("no command: give one after --, or [program] exec in the policy")
    prepared.environment = policy.program.environment(os.environb)
    prepared.environment.setdefault(b"PATH", b"/usr/local/bin:/usr/bin:/bin")
    prepared.environment[b"TMPDIR"] = private_directory
    prepared.directory = policy.program.cwd
    if prepared.directory is not None and not os.path.isdir(prepared.directory):
        raise CannotStart(f"{os.fsdecode(prepared.directory)}: the program's cwd is not a directory")
    try:
        prepared.executable = find_command(prepared.argv[0], prepared.environment, prepared.directory)
    except CommandError as error:
        raise CannotStart(str(error), error.exit_status) from None
    real = os.path.realpath(located(prepared.executable, prepared.directory))
    problem = why_not_executed(prepared, prepared.argv[0], real)
    if problem is not None:
        raise CannotStart(problem, 126)


def why_not_executed(prepared: Prepared, name: bytes, real: bytes) -> str | None:
    """None: the policy lets it be. name: as the command has it. real: canonical."""
    verdict = prepared.rules.judge(real, Want.EXECUTE)
    if verdict.allowed:
        return None
    fix = f"; to allow it: {verdict.remedy}" if verdict.remedy else ""
    return (
        f"{os.fsdecode(name)}: the policy does not let {os.fsdecode(real)} be executed ({verdict.rule}){fix}"
    )


def _choose_filter(prepared: Prepared) -> None:
    calls = compile_syscalls(prepared.policy)
    own_pids = hides_processes(prepared.policy)
    if prepared.hidden and not own_pids:
        raise CannotStart('proc.hide needs [proc] pids = "own"')
    prepared.given_back = calls.calls
    prepared.filter_plan = FilterPlan(
        deny=tuple(calls.denied.items()),
        give_back=calls.given_back,
        network_closed=True,
        trees=prepared.policy.filesystem.workdir is not None,
        disk_limited=prepared.policy.limits.disk is not None,
        own_pids=own_pids,
        memory_limited=prepared.policy.limits.memory is not None,
        processes_limited=prepared.policy.limits.processes is not None,
        processors_hidden=bool(prepared.processors),
    )
    try:
        prepared.filter_program = build(prepared.filter_plan)
        prepared.c_rows = c_rows(prepared.filter_plan)
        prepared.c_refusals = c_refusals(prepared.filter_plan)
    except (BadPlan, FilterError) as error:
        raise CannotStart(str(error)) from None
    prepared.rows = numbered(native_architecture())


def require_room_in_files() -> None:
    """Raises CannotStart. Of the program's own limit nothing is changed: what it is served counts as well."""
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if (
        limit != resource.RLIM_INFINITY and limit < LEDGER_BYTES
    ):  # the largest file that we make for ourselves
        raise CannotStart(
            f"the limit of file sizes (`ulimit -f`) is {limit} bytes, and sandlockd itself needs {LEDGER_BYTES};"
            " raise it, and lower it within: sandlockd -- sh -c 'ulimit -f ...; exec COMMAND'"
        )


def raise_own_descriptor_limit() -> tuple[int, int]:
    """A pidfd per process of the program: take all that we may have. Returns what the program is to get."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return soft, hard
