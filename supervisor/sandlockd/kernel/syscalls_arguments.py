"""The calls that are trapped for some arguments only, as far as BPF can see arguments.

Data only. The kernel cuts an int, an unsigned int and a pid_t down to 32 bits, while the filter sees the
whole register: what the kernel ignores must not make a difference here, so comparisons look at the low 32
bits unless they say otherwise.
"""

import errno
from typing import Final, NamedTuple

LOW32: Final = 0xFFFFFFFF
ALL64: Final = 0xFFFFFFFFFFFFFFFF


class Compare(NamedTuple):
    """`(arguments[argument] & mask) == value`, or != where equal is False (of a whole register)."""

    argument: int
    value: int
    mask: int = LOW32
    equal: bool = True


class Clause(NamedTuple):
    """Trap, or let pass, where all comparisons hold. rule: why, where it is not the row's rule."""

    trapped: bool
    compares: tuple[Compare, ...]
    rule: str = ""


class Conditions(NamedTuple):
    """The first clause that holds decides.

    Where clauses about one argument overlap, the one that compares more bits stands first: libseccomp keeps
    that order, and the filter's builder proves it.
    """

    clauses: tuple[Clause, ...]
    otherwise_trapped: bool


def _pass(*compares: Compare) -> Clause:
    return Clause(False, compares)


def _trap(*compares: Compare, rule: str = "") -> Clause:
    return Clause(True, compares, rule)


# CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET. CLONE_NEWTIME (0x80) lies within clone's
# exit signal and means a namespace to unshare (and clone3) only (clone(2)).
_CLONE_NEW: Final = 0x7E020000
_CLONE_NEWTIME: Final = 0x80

_ON_ITSELF: Final = Conditions((_pass(Compare(0, 0)),), otherwise_trapped=True)  # pid 0: the caller

_IOC_NUMBER: Final = 0xFFFF  # an ioctl without its size and direction: type << 8 | number (linux/ioctl.h)
_IOC_TYPE: Final = 0xFF00

# What changes a file, or makes one, through a descriptor that was opened for reading: Landlock judges ioctl
# on devices only. File systems keep adding such commands, so whole families are refused but for the readers.
_FILE_IOCTLS: Final = (
    _pass(Compare(1, 0x80086601)),  # FS_IOC_GETFLAGS
    _pass(Compare(1, 0x80086603)),  # EXT4_IOC_GETVERSION
    _pass(Compare(1, 0xC020660B)),  # FS_IOC_FIEMAP
    _pass(Compare(1, 0x400C6615)),  # FS_IOC_GET_ENCRYPTION_POLICY
    _pass(Compare(1, 0xC0096616)),  # FS_IOC_GET_ENCRYPTION_POLICY_EX
    _pass(Compare(1, 0xC0046686)),  # FS_IOC_MEASURE_VERITY
    _pass(Compare(1, 0x801C581F)),  # FS_IOC_FSGETXATTR
    _pass(Compare(1, 0x40049409)),  # FICLONE: into a descriptor opened for writing
    _pass(Compare(1, 0x4020940D)),  # FICLONERANGE
    _pass(Compare(1, 0xC0189436)),  # FIDEDUPERANGE: content stays the same
    _pass(Compare(1, 0x81009431)),  # FS_IOC_GETFSLABEL
    _trap(Compare(1, 0x6600, _IOC_TYPE)),  # 'f': SETFLAGS, fscrypt keys, ENABLE_VERITY, ext4's own
    _trap(Compare(1, 0x5800, _IOC_TYPE)),  # 'X': FSSETXATTR, FIFREEZE, FITHAW, FITRIM, SHUTDOWN, XFS's own
    _trap(Compare(1, 0x9400, _IOC_TYPE)),  # btrfs: makes and deletes subvolumes in any directory one can read
    _trap(Compare(1, 0x7602, _IOC_NUMBER)),  # FS_IOC_SETVERSION
    _trap(Compare(1, 0x7211, _IOC_NUMBER)),  # FAT_IOCTL_SET_ATTRIBUTES
    _trap(Compare(1, 0x6F04, _IOC_NUMBER)),  # OCFS2_IOC_REFLINK: makes a file by path
)

# What reaches the person at the terminal that the program was given: typing for them, redirecting, locking.
_TERMINAL_IOCTLS: Final = tuple(
    _trap(compare, rule="law.terminal")
    for compare in (
        Compare(1, 0x5412),  # TIOCSTI
        Compare(1, 0x541C),  # TIOCLINUX: pastes
        Compare(1, 0x541D),  # TIOCCONS
        Compare(1, 0x5423),  # TIOCSETD: and loads line disciplines into the kernel
        Compare(1, 0x5437),  # TIOCVHANGUP
        Compare(1, 0x540C),  # TIOCEXCL: the terminal stays closed to others when the program has gone
        Compare(1, 0x4B00, 0xFFFFFF00),  # KD*: the console's key map and function keys (linux/kd.h)
        Compare(1, 0x5600, 0xFFFFFF00),  # VT_*: switching and locking consoles (linux/vt.h)
    )
)

# Where memory is limited. Smaller ones are seen when they are touched (native/memlimit.c): kernel/memlimit.py.
_SMALL: Final = ALL64 & ~((1 << 20) - 1)
_PRIVATE: Final = Compare(3, 0x2, 0xF)  # MAP_PRIVATE of MAP_TYPE
_PROTECTS: Final = Conditions(
    (_pass(Compare(2, 0, 0x2)), _pass(Compare(1, 0, _SMALL))), otherwise_trapped=True
)  # no PROT_WRITE

ARGUMENTS: Final[dict[str, Conditions]] = {
    "brk": Conditions((_pass(Compare(0, 0, ALL64)),), otherwise_trapped=True),  # where it is
    "mmap": Conditions(
        (
            _pass(_PRIVATE, Compare(2, 0, 0x2)),  # not PROT_WRITE
            _pass(_PRIVATE, Compare(1, 0, _SMALL)),
            _pass(Compare(3, 0x4002, 0x400F)),  # MAP_NORESERVE as well
        ),
        otherwise_trapped=True,
    ),
    "mprotect": _PROTECTS,
    "pkey_mprotect": _PROTECTS,
    "mremap": Conditions((_pass(Compare(2, 0, _SMALL)),), otherwise_trapped=True),
    "alarm": Conditions((_pass(Compare(0, 0)),), otherwise_trapped=True),  # alarm(0) only takes one back
    "clone": Conditions((_pass(Compare(0, 0, _CLONE_NEW)),), otherwise_trapped=True),
    "unshare": Conditions((_pass(Compare(0, 0, _CLONE_NEW | _CLONE_NEWTIME)),), otherwise_trapped=True),
    "ioctl": Conditions((*_FILE_IOCTLS, *_TERMINAL_IOCTLS), otherwise_trapped=False),
    # Asking (0xffffffff) and having none: READ_IMPLIES_EXEC, ADDR_NO_RANDOMIZE ... undo protections.
    "personality": Conditions((_pass(Compare(0, LOW32)), _pass(Compare(0, 0))), otherwise_trapped=True),
    "prctl": Conditions(
        (
            # PR_SET_DUMPABLE other than 1 blinds a supervisor that is not root. (An unsigned long.)
            _trap(Compare(0, 4), Compare(1, 1, ALL64, equal=False), rule="law.dumpable"),
            _trap(Compare(0, 22), rule="law.seccomp"),  # PR_SET_SECCOMP
            # PR_CAPBSET_DROP, PR_SET_SECUREBITS: a root that has fewer capabilities after its next exec. Only noticed.
            _trap(Compare(0, 24)),
            _trap(Compare(0, 28)),
        ),
        otherwise_trapped=False,
    ),
    "seccomp": Conditions((_trap(Compare(0, 1)),), otherwise_trapped=False),  # SECCOMP_SET_MODE_FILTER
    "sched_setaffinity": _ON_ITSELF,
    "sched_setattr": _ON_ITSELF,
    "sched_setparam": _ON_ITSELF,
    "sched_setscheduler": _ON_ITSELF,
    "migrate_pages": _ON_ITSELF,
    "move_pages": _ON_ITSELF,
    # SO_PEERCRED and SO_PEERPIDFD of SOL_SOCKET, with copy-on-write trees: connections there are made on behalf.
    "getsockopt": Conditions(
        (_trap(Compare(1, 1), Compare(2, 17)), _trap(Compare(1, 1), Compare(2, 77))), otherwise_trapped=False
    ),
    # Only asking (no new limit), or about itself.
    "prlimit64": Conditions((_pass(Compare(2, 0, ALL64)), _pass(Compare(0, 0))), otherwise_trapped=True),
    # PRIO_PROCESS is 0, IOPRIO_WHO_PROCESS is 1. A process group or a user may hold processes outside.
    "setpriority": Conditions((_pass(Compare(0, 0), Compare(1, 0)),), otherwise_trapped=True),
    "ioprio_set": Conditions((_pass(Compare(0, 1), Compare(1, 0)),), otherwise_trapped=True),
}

_ALWAYS: Final = Conditions((), otherwise_trapped=True)
_MINUS_1: Final = LOW32
# The clock of a process or thread is its number, inverted, above three bits; in two of them 3 is that of a descriptor
# (linux/posix-timers_types.h).
_ON_OWN_CLOCKS: Final = Conditions(
    (
        _pass(Compare(0, 0xFFFFFFF8, 0xFFFFFFF8)),
        _pass(Compare(0, 0x80000003, 0x80000003)),
        _pass(Compare(0, 0, 0x80000000)),
    ),
    otherwise_trapped=True,
)

# TIOCSPGRP, FIOSETOWN, SIOCSPGRP: a terminal's group, and who gets a file's signals; whose number, lies in memory.
_WHOSE: Final = (Compare(1, 0x5410), Compare(1, 0x8901), Compare(1, 0x8902))

# Where processes outside do not exist for the program: the calls that could tell, for the arguments that name one.
# They come before what stands above. wait4 and waitid tell of children only, whoever else is there.
OWN_PIDS: Final[dict[str, Conditions]] = {
    "kill": Conditions((_pass(Compare(0, 0)), _pass(Compare(0, _MINUS_1))), otherwise_trapped=True),
    "tkill": _ALWAYS,
    "tgkill": _ALWAYS,
    "rt_sigqueueinfo": _ALWAYS,
    "rt_tgsigqueueinfo": _ALWAYS,
    "getpgid": _ON_ITSELF,
    "getsid": _ON_ITSELF,
    "getpriority": Conditions((_pass(Compare(0, 0), Compare(1, 0)),), otherwise_trapped=True),
    "ioprio_get": Conditions((_pass(Compare(0, 1), Compare(1, 0)),), otherwise_trapped=True),
    "sched_getparam": _ON_ITSELF,
    "sched_getscheduler": _ON_ITSELF,
    "sched_getattr": _ON_ITSELF,
    "sched_getaffinity": _ON_ITSELF,
    "sched_rr_get_interval": _ON_ITSELF,
    "get_robust_list": _ON_ITSELF,
    "pidfd_open": _ON_ITSELF,
    "prlimit64": _ON_ITSELF,
    "setpgid": Conditions((_pass(Compare(0, 0), Compare(1, 0)),), otherwise_trapped=True),
    "capget": _ALWAYS,  # whose, lies in memory
    "clock_gettime": _ON_OWN_CLOCKS,
    "clock_getres": _ON_OWN_CLOCKS,
    "clock_nanosleep": _ON_OWN_CLOCKS,
    "timer_create": _ON_OWN_CLOCKS,
    # F_SETOWN, F_SETOWN_EX
    "fcntl": Conditions((_trap(Compare(1, 8)), _trap(Compare(1, 15))), otherwise_trapped=False),
    "ptrace": Conditions(  # where it is given back: PTRACE_ATTACH, PTRACE_SEIZE
        (_trap(Compare(0, 16)), _trap(Compare(0, 0x4206))), otherwise_trapped=False
    ),
    "prctl": Conditions(
        (
            *ARGUMENTS["prctl"].clauses,
            _trap(Compare(0, 62)),  # PR_SCHED_CORE
            _trap(Compare(0, 0x59616D61)),  # PR_SET_PTRACER
        ),
        otherwise_trapped=False,
    ),
    "getsockopt": ARGUMENTS["getsockopt"],  # of whoever a socket came from outside with
    "ioctl": Conditions(
        (
            *ARGUMENTS["ioctl"].clauses,
            *(_trap(compare) for compare in _WHOSE),
            # NS_GET_PID_FROM_PIDNS and the three behind it (linux/nsfs.h): is this number in use?
            _trap(Compare(1, 0x8004B706), rule="law.proc"),
            _trap(Compare(1, 0x8004B707), rule="law.proc"),
            _trap(Compare(1, 0x8004B708), rule="law.proc"),
            _trap(Compare(1, 0x8004B709), rule="law.proc"),
        ),
        otherwise_trapped=False,
    ),
}

# Of these Python decides, where processes outside do not exist for the program; the row tells of the others.
ASKED: Final[dict[str, tuple[Compare, ...]]] = {"ioctl": _WHOSE}

# What a refused call gets, where its arguments decide that too: the first comparison that holds. What is not
# listed gets the errno of its row. Each is what the kernel says to somebody who may not, so programs know it.
REFUSED_WITH: Final[dict[str, tuple[tuple[Compare, int], ...]]] = {
    "ioctl": (
        (Compare(1, 0x5412), errno.EIO),  # TIOCSTI, with dev.tty.legacy_tiocsti = 0
        (Compare(1, 0x541D), errno.EPERM),  # TIOCCONS, TIOCSETD, TIOCVHANGUP: for the administrator
        (Compare(1, 0x5423), errno.EPERM),
        (Compare(1, 0x5437), errno.EPERM),
        (Compare(1, 0x540C), errno.EPERM),  # TIOCEXCL
        (Compare(1, 0x541C), errno.ENOTTY),  # TIOCLINUX, KD*, VT_*: what a terminal that is no console says
        (Compare(1, 0x4B00, 0xFFFFFF00), errno.ENOTTY),
        (Compare(1, 0x5600, 0xFFFFFF00), errno.ENOTTY),
        (Compare(1, 0xC0045877), errno.EPERM),  # FIFREEZE, FITHAW, FITRIM: CAP_SYS_ADMIN
        (Compare(1, 0xC0045878), errno.EPERM),
        (Compare(1, 0xC0185879), errno.EPERM),
        *((Compare(1, 0x8004B706 + one), errno.ESRCH) for one in range(4)),
    ),
}

# Without network rules. Either end of a datagram pair can send to any socket by path, which Landlock does not
# judge; stream and seqpacket pairs are bound to each other for life (unix(7), net/unix/af_unix.c). With
# copy-on-write trees also of socket: their addresses come in bind and connect only, which are trapped then, and
# what sendmsg names is refused or ignored (unix_stream_sendmsg, unix_seqpacket_sendmsg).
UNIX_STREAMS: Final = Conditions(
    (
        _pass(Compare(0, 1), Compare(1, 1, 0xF)),  # AF_UNIX, SOCK_STREAM; the rest of the type are flags
        _pass(Compare(0, 1), Compare(1, 5, 0xF)),  # AF_UNIX, SOCK_SEQPACKET
    ),
    otherwise_trapped=True,
)
# With network rules: AF_UNIX, AF_INET, AF_INET6, AF_NETLINK. No rule can name the others, such as AF_VSOCK.
SOCKET_OPEN: Final = Conditions(
    tuple(_pass(Compare(0, family)) for family in (1, 2, 10, 16)), otherwise_trapped=True
)
