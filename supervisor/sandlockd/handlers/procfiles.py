"""/proc: never granted to Landlock, answered with descriptors that were opened and checked here.

What is served: the files of the sandbox's own processes, opened below their own number and recognised as objects of
procfs; and a list of harmless machine-wide files. Everything else below /proc does not exist for the program or is
refused. A path that leaves /proc through a magic link (`/proc/self/exe`, `fd/3`, `cwd/x`) is judged where it ends.
"""

from __future__ import annotations

import errno
import os
import stat

from sandlockd.handlers import proctrees, record
from sandlockd.handlers.answers import ENOENT, Errno, Fd
from sandlockd.kernel import acts, procfs
from sandlockd.policy.verdict import Verdict, Want

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandlockd.handlers.answers import Answer, Later
    from sandlockd.handlers.context import Caller, Context
    from sandlockd.handlers.lookup import Place
    from sandlockd.handlers.opening import How
    from sandlockd.kernel.paths import Object

RULE = "law.proc"

# Of a process of the sandbox, whoever in the sandbox asks. `fd`, `task` and the like are directories.
_OF_ANY = frozenset(
    b"cmdline comm cgroup cpuset exe fd fdinfo limits loginuid maps mountinfo mounts mountstats net ns "
    b"numa_maps oom_adj oom_score oom_score_adj personality sched schedstat sessionid setgroups smaps "
    b"smaps_rollup stack stat statm status task timers timerslack_ns uid_map gid_map wchan attr children "
    b"autogroup map_files coredump_filter root cwd io syscall patch_state arch_status environ auxv".split()
)
# Of itself only.
_OF_ITSELF = _OF_ANY | frozenset(b"mem pagemap clear_refs".split())
# What the kernel keeps between users; we may be root where the caller no longer is.
_PRIVATE = frozenset(
    b"environ auxv maps smaps smaps_rollup numa_maps mem pagemap fd fdinfo map_files cwd root exe io stack "
    b"syscall personality timers wchan patch_state clear_refs".split()
)
_WRITABLE = frozenset(b"comm oom_score_adj oom_adj coredump_filter timerslack_ns mem clear_refs".split())

# Machine-wide files that tell nothing about other users and are needed by ordinary programs.
_SHARED = frozenset(
    b"cgroups cmdline cpuinfo crypto devices diskstats filesystems interrupts loadavg locks meminfo misc "
    b"partitions stat swaps uptime version vmstat zoneinfo buddyinfo consoles dma softirqs".split()
)
_SHARED_BELOW = (b"sys/", b"tty/", b"driver/", b"pressure/")
_SECRET_BELOW = (b"sys/kernel/keys", b"sys/fs/binfmt_misc", b"sys/kernel/usermodehelper", b"tty/driver")
_LAST_NUMBER = b"sys/kernel/ns_last_pid"
# Directories whose list is served; what is in them is judged when it is opened.
_DIRECTORIES = frozenset((b"", b"sys", b"tty", b"driver", b"pressure", b"self", b"thread-self"))


def shared_names() -> list[bytes]:
    """What of the machine's lies in /proc itself, in an order that stays; not all of it is there on every machine."""
    return sorted(
        {*_SHARED, *(name for name in _DIRECTORIES if name), b"mounts", b"net"} - {b"self", b"thread-self"}
    )


def own_terminal(caller: Caller, found: Object) -> bool:
    """The terminal that the program was started on, opened again by its own name (`/dev/pts/3`).

    Or that of a program which was started later, by who belongs to its session: what is typed there is for no others.
    """
    context = caller.context
    if not stat.S_ISCHR(found.mode):
        return False
    if found.special == context.terminal_device:
        return True
    if found.special not in context.further_terminals:
        return False
    own = procfs.terminal_of(caller.tid)
    caller.require_alive()
    return found.special == own


def open_file(caller: Caller, place: Place, how: How, found: Object) -> Answer | Later:
    """Serve, or refuse, an object of procfs."""
    name = below_mount(found.path)
    if name is None:
        return _refuse(found.path, how)
    first, _, rest = name.partition(b"/")
    if first.isdigit():
        return _of_process(caller, how, int(first), rest, is_named=_first_of(place.shown) == first)
    tells_numbers = name == _LAST_NUMBER and caller.context.hidden is not None
    if not _shared(name) or how.want & Want.WRITE or tells_numbers:
        return _refuse(found.path, how)
    return _serve(caller, b"/proc/" + name, how)


def below_mount(path: bytes) -> bytes | None:
    """The path below /proc; None for procfs mounted elsewhere: no program needs that one."""
    if path == b"/proc":
        return b""
    return path[len(b"/proc/") :] if path.startswith(b"/proc/") else None


def _shared(name: bytes) -> bool:
    if name in _DIRECTORIES or name in _SHARED:
        return True
    if any(name == secret or name.startswith(secret + b"/") for secret in _SECRET_BELOW):
        return False
    return name.startswith(_SHARED_BELOW)


def _first_of(shown: bytes) -> bytes:
    return shown.removeprefix(b"/proc/").partition(b"/")[0]


def _of_process(caller: Caller, how: How, pid: int, rest: bytes, *, is_named: bool) -> Answer | Later:
    """is_named: by its number, in the path itself."""
    context = caller.context
    if pid in context.files.pids and not is_named:
        # A link led to `self`, which was us: the caller means itself.
        pid = caller.tgid
        if rest.startswith(b"task/"):  # and to `thread-self`
            rest = b"/".join((b"task", b"%d" % caller.tid, *rest.split(b"/")[2:]))
    own = _is_own(caller, pid)
    if not own and not _in_sandbox(context, pid):
        # What is outside does not exist.
        return record.refuse(_verdict(), path=b"/proc/<pid>/" + rest, wanted=how.want, error=errno.ENOENT)
    leaf = _leaf(rest)
    known = _OF_ITSELF if own else _OF_ANY
    writes = bool(how.want & Want.WRITE)
    if (leaf and leaf not in known) or (writes and (not own or leaf not in _WRITABLE)):
        return _refuse(b"/proc/%d/" % pid + rest, how)
    if not own and leaf in _PRIVATE and not _same_user(caller, pid):
        return _refuse(b"/proc/%d/" % pid + rest, how)
    return _serve(caller, (b"/proc/%d/" % pid + rest).rstrip(b"/"), how, pid=pid)


def _same_user(caller: Caller, pid: int) -> bool:
    """As ptrace(2), "Ptrace access mode checking", would have it for somebody without capabilities."""
    if caller.identity is None:
        return True
    try:
        target = procfs.status(pid)
    except OSError:
        return False
    fsuid, fsgid = caller.identity.fsuid, caller.identity.fsgid
    return set(target.uids[:3]) == {fsuid} and set(target.gids[:3]) == {fsgid}


def _is_own(caller: Caller, pid: int) -> bool:
    """/proc/<tid> works for every thread."""
    if pid in (caller.tid, caller.tgid):
        return True
    return procfs.member_leader(pid, caller.context.init_pid) == caller.tgid


def _leaf(rest: bytes) -> bytes:
    """`task/12/status` is judged as `status`; empty for a directory of a process or a thread."""
    parts = rest.split(b"/") if rest else []
    if len(parts) >= 2 and parts[0] == b"task":
        parts = parts[2:]
    return parts[0] if parts else b""


def _in_sandbox(context: Context, pid: int) -> bool:
    from sandlockd.handlers.private import members  # late: who reads nothing of others does without

    return members.belongs(context, pid)


def _serve(caller: Caller, path: bytes, how: How, pid: int | None = None) -> Answer | Later:
    """Open below the number itself, check what was opened, and hand it over."""
    flags = how.flags & ~(os.O_CREAT | os.O_EXCL | os.O_TRUNC | os.O_CLOEXEC)
    try:
        nofollow = 0 if how.follow else os.O_NOFOLLOW
        with caller.context.files.open(None, path, os.O_PATH | nofollow, identity=caller.identity) as opened:
            if not caller.act(acts.is_procfs, opened):
                return ENOENT  # a magic link was put in between
            if pid is not None and not _still_member(caller.context, caller, pid):
                return ENOENT
            with caller.act(acts.reopen, opened, flags & ~os.O_NOFOLLOW) as file:
                caller.require_alive()
                close_on_exec = bool(how.flags & os.O_CLOEXEC)
                told: Answer | Later | None = None
                if how.want is Want.READ and not how.flags & os.O_PATH:
                    if caller.context.hidden is not None:
                        from sandlockd.handlers.private import told as private  # only where it is wanted

                        told = private.tell(caller, path, file, close_on_exec=close_on_exec)
                    if told is None and caller.context.view is not None:
                        told = caller.context.view.tell(caller, path, file, close_on_exec=close_on_exec)
                    told = told or proctrees.tell(caller, path, file, close_on_exec=close_on_exec)
                return Fd(file.take(), close_on_exec) if told is None else told
    except OSError as error:
        return Errno(error.errno or errno.EIO)


def _still_member(context: Context, caller: Caller, pid: int) -> bool:
    """Asked after opening: the number could have been given to a stranger before."""
    if _is_own(caller, pid):
        caller.require_alive()
        return True
    return _in_sandbox(context, pid)


def _verdict() -> Verdict:
    return Verdict(False, RULE, None)


def _refuse(path: bytes, how: How) -> Answer:
    return record.refuse(_verdict(), path=path, wanted=how.want)
