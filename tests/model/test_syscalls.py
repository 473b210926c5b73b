"""The system call table against the world: headers, the kernel's own signatures, and what was promised."""

from __future__ import annotations

import errno
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sandlockd._native import lib
from sandlockd.kernel.syscalls import BY_NAME, ROWS, Architecture, Effect, Follow, Kind, Treatment, number_of
from sandlockd.kernel.syscalls_arguments import ARGUMENTS, OWN_PIDS
from sandlockd.kernel.syscalls_document import markdown
from sandlockd.launch.filter_plan import (
    GIVABLE,
    UNDENIABLE,
    BadPlan,
    FilterPlan,
    c_rows,
    decisions,
    rule_for,
    treatment_of,
)

_X86_64_HEADER = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
_GENERIC_HEADER = Path("/usr/include/asm-generic/unistd.h")
_TRACEFS = Path("/sys/kernel/tracing/events/syscalls")
_ROOT = Path(__file__).resolve().parents[2]
_NONE = (0,) * 6

# Every call of Linux 6.18 that is given a path, as the kernel names its arguments (tracefs, events/syscalls).
_PROTOTYPES = """
access(filename, mode)
acct(name)
chdir(filename)
chmod(filename, mode)
chown(filename, user, group)
chroot(filename)
creat(pathname, mode)
execve(filename, argv, envp)
execveat(fd, filename, argv, envp, flags)
faccessat(dfd, filename, mode)
faccessat2(dfd, filename, mode, flags)
fanotify_mark(fanotify_fd, flags, mask, dfd, pathname)
fchmodat(dfd, filename, mode)
fchmodat2(dfd, filename, mode, flags)
fchownat(dfd, filename, user, group, flag)
file_getattr(dfd, filename, ufattr, usize, at_flags)
file_setattr(dfd, filename, ufattr, usize, at_flags)
fspick(dfd, path, flags)
futimesat(dfd, filename, utimes)
getxattr(pathname, name, value, size)
getxattrat(dfd, pathname, at_flags, name, uargs, usize)
inotify_add_watch(fd, pathname, mask)
lchown(filename, user, group)
lgetxattr(pathname, name, value, size)
link(oldname, newname)
linkat(olddfd, oldname, newdfd, newname, flags)
listxattr(pathname, list, size)
listxattrat(dfd, pathname, at_flags, list, size)
llistxattr(pathname, list, size)
lremovexattr(pathname, name)
lsetxattr(pathname, name, value, size, flags)
mkdir(pathname, mode)
mkdirat(dfd, pathname, mode)
mknod(filename, mode, dev)
mknodat(dfd, filename, mode, dev)
mount(dev_name, dir_name, type, flags, data)
mount_setattr(dfd, path, flags, uattr, usize)
move_mount(from_dfd, from_pathname, to_dfd, to_pathname, flags)
name_to_handle_at(dfd, name, handle, mnt_id, flag)
newfstatat(dfd, filename, statbuf, flag)
lstat(filename, statbuf)
stat(filename, statbuf)
open(filename, flags, mode)
open_tree(dfd, filename, flags)
open_tree_attr(dfd, filename, flags, uattr, usize)
openat(dfd, filename, flags, mode)
openat2(dfd, filename, how, usize)
pivot_root(new_root, put_old)
quotactl(cmd, special, id, addr)
readlink(path, buf, bufsiz)
readlinkat(dfd, pathname, buf, bufsiz)
removexattr(pathname, name)
removexattrat(dfd, pathname, at_flags, name)
rename(oldname, newname)
renameat(olddfd, oldname, newdfd, newname)
renameat2(olddfd, oldname, newdfd, newname, flags)
rmdir(pathname)
setxattr(pathname, name, value, size, flags)
setxattrat(dfd, pathname, at_flags, name, uargs, usize)
statfs(pathname, buf)
statx(dfd, filename, flags, mask, buffer)
swapoff(specialfile)
swapon(specialfile, swap_flags)
symlink(oldname, newname)
symlinkat(oldname, newdfd, newname)
truncate(path, length)
umount2(name, flags)
unlink(pathname)
unlinkat(dfd, pathname, flag)
utime(filename, times)
utimensat(dfd, filename, utimes, flags)
utimes(filename, utimes)
"""

# Where the kernel's name of an argument does not say it. A symlink's target is text, not a path.
_PATH_NAMES = frozenset(
    {
        *("filename", "pathname", "path", "oldname", "newname", "from_pathname", "to_pathname"),
        *("new_root", "put_old", "specialfile", "special"),
    }
)
_OTHER_PATHS = {
    "acct": {0},
    "mount": {0, 1},
    "umount2": {0},
    "name_to_handle_at": {1},
    "symlink": {1},
    "symlinkat": {2},
}
_DIRECTORY_NAMES = frozenset({"dfd", "olddfd", "newdfd", "from_dfd", "to_dfd"})

_LAWS = {
    "law.mount": "mount umount2 pivot_root chroot fsopen fsconfig fsmount fspick open_tree open_tree_attr "
    "move_mount mount_setattr",
    "law.ptrace": "ptrace",
    "law.process_access": "pidfd_getfd",
    "law.io_uring": "io_uring_setup io_uring_enter io_uring_register",
    "law.bpf": "bpf",
    "law.perf": "perf_event_open",
    "law.keyring": "add_key request_key keyctl",
    "law.userfaultfd": "userfaultfd",
    "law.modules": "init_module finit_module delete_module",
    "law.kexec": "kexec_load kexec_file_load",
    "law.namespaces": "setns unshare clone",
    "law.file_handle": "open_by_handle_at",
    "law.personality": "personality",
    "law.host": "swapon swapoff acct quotactl quotactl_fd syslog reboot sethostname setdomainname "
    "settimeofday clock_settime adjtimex clock_adjtime iopl ioperm vhangup uselib nfsservctl lookup_dcookie "
    "fanotify_init fanotify_mark",
    "law.sysv_ipc": "shmget shmat shmctl shmdt semget semop semctl semtimedop msgget msgsnd msgrcv msgctl",
    "law.mqueue": "mq_open mq_unlink mq_timedsend mq_timedreceive mq_notify mq_getsetattr",
    "law.file_flags": "ioctl",
    "network": "socket socketpair",
}


def _prototypes() -> list[tuple[str, list[str]]]:
    found = []
    for line in _PROTOTYPES.split("\n"):
        if line:
            name, _, arguments = line.rstrip(")").partition("(")
            found.append((name, arguments.split(", ")))
    return found


@pytest.mark.parametrize(("name", "arguments"), _prototypes())
def test_each_path_that_the_kernel_takes_is_a_path_of_the_row(name: str, arguments: list[str]) -> None:
    row = BY_NAME[name]
    named = {i for i, argument in enumerate(arguments) if argument in _PATH_NAMES}
    expected = _OTHER_PATHS.get(name, named)
    assert {path.position for path in row.paths} == expected
    directories = {i for i, argument in enumerate(arguments) if argument in _DIRECTORY_NAMES}
    if name == "execveat":
        directories = {0}
    assert {path.dirfd for path in row.paths} - {-1} == directories
    assert all(path.dirfd in (-1, path.position - 1) for path in row.paths)


def test_no_row_has_a_path_that_the_kernel_does_not_take() -> None:
    known = {name for name, _ in _prototypes()}
    assert {row.name for row in ROWS if row.paths} - known == {"uselib"}  # gone since 6.x, and refused


@pytest.mark.skipif(not _TRACEFS.is_dir(), reason="tracefs is not mounted or not readable")
def test_this_kernel_has_no_call_with_a_path_that_the_table_lacks() -> None:
    aliases = {"newstat": "stat", "newlstat": "lstat", "umount": "umount2"}
    calls = list(_TRACEFS.glob("sys_enter_*"))
    assert len(calls) > 200
    for call in calls:
        name = call.name.removeprefix("sys_enter_")
        arguments = re.findall(r"field:const char \* (\w+);", (call / "format").read_text())
        if _PATH_NAMES & set(arguments):
            assert BY_NAME[aliases.get(name, name)].paths, name


@pytest.mark.skipif(not _X86_64_HEADER.exists(), reason="no kernel headers for x86_64")
def test_numbers_of_x86_64_are_those_of_the_header() -> None:
    listed = re.findall(r"#define __NR_(\w+) (\d+)", _X86_64_HEADER.read_text())
    assert len(listed) > 300
    for name, number in listed:
        assert BY_NAME[name].x86_64 == int(number), name


@pytest.mark.skipif(not _GENERIC_HEADER.exists(), reason="no kernel headers")
def test_numbers_of_aarch64_are_those_of_the_generic_header() -> None:
    listed = re.findall(r"#define __NR(?:3264)?_(\w+) (\d+)$", _GENERIC_HEADER.read_text(), re.MULTILINE)
    for name, text in listed:
        number = int(text)
        # 403 to 423 and sync_file_range2 are for 32-bit architectures.
        if name not in ("syscalls", "arch_specific_syscall", "sync_file_range2") and not 403 <= number <= 423:
            assert BY_NAME[{"fstatat": "newfstatat"}.get(name, name)].aarch64 == number, name


@pytest.mark.parametrize("architecture", ["x86_64", "aarch64"])
def test_no_number_or_name_is_given_twice(architecture: Architecture) -> None:
    numbers = [number for row in ROWS if (number := row.number(architecture)) is not None]
    assert len(numbers) == len(set(numbers))
    assert len(BY_NAME) == len(ROWS)


def test_no_number_is_left_out() -> None:
    numbers = {row.x86_64 for row in ROWS}
    assert numbers - {None} == {*range(337), *range(424, 472)}
    # From 424 on all architectures share their numbers; two before that are x86's own.
    assert all(row.x86_64 == row.aarch64 for row in ROWS if (row.x86_64 or 0) >= 424)


def test_the_page_of_calls_is_the_table() -> None:
    page = (_ROOT / "docs/syscalls.md").read_text()
    assert page == markdown(), "run: python -m sandlockd.kernel.syscalls_document > docs/syscalls.md"


def test_importing_the_table_costs_no_heavy_imports() -> None:
    script = "import sandlockd.kernel.syscalls, sys; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-S", "-c", script], capture_output=True, text=True, check=False)
    if run.returncode:  # an editable install is found by site's hooks only
        command = [sys.executable, "-c", script]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert not {"dataclasses", "inspect", "ctypes", "subprocess", "trio"} & set(run.stdout.split())


def test_a_call_passes_only_if_all_it_does_to_a_path_is_look() -> None:
    for row in ROWS:
        if row.treatment is Treatment.PASS:
            for path in row.paths:
                assert path.effect == Effect.SEE, row.name


def test_what_makes_or_takes_a_name_does_not_follow_it() -> None:
    for row in ROWS:
        for path in row.paths:
            if path.effect in (Effect.CREATE, Effect.DELETE, Effect.CREATE | Effect.DELETE):
                assert path.follow is Follow.NEVER, row.name


def test_a_flag_that_decides_about_links_has_a_place() -> None:
    for row in ROWS:
        for path in row.paths:
            conditional = path.follow in (Follow.IF_FLAG, Follow.UNLESS_FLAG)
            assert conditional == (path.follow_flag != 0), row.name
            if conditional:
                assert row.flags >= 0, row.name


def test_the_fast_path_knows_a_right_for_each_path_that_it_judges() -> None:
    for row in ROWS:
        assert (row.treatment is Treatment.PATH) == any(path.need for path in row.paths), row.name
        if row.treatment is Treatment.PATH:
            assert all(path.need for path in row.paths), row.name


@pytest.mark.parametrize(("law", "names"), _LAWS.items())
def test_each_law_refuses_its_calls(law: str, names: str) -> None:
    refused = {row.name for row in ROWS if row.treatment is Treatment.REFUSE and row.rule == law}
    assert refused == set(names.split())


def test_a_refusal_has_a_rule_and_an_errno_and_nothing_else_has_an_errno_without_rule() -> None:
    for row in ROWS:
        if row.treatment is Treatment.REFUSE:
            assert row.rule, row.name
        assert bool(row.errno) == bool(row.rule), row.name
    assert BY_NAME["socket"].errno == errno.EACCES
    assert BY_NAME["ioctl"].errno == errno.EOPNOTSUPP


def test_kinds_tell_what_a_call_names_first() -> None:
    kinds = {name: BY_NAME[name].kind for name in ("openat", "fchmod", "kill", "futex")}
    assert kinds == {
        "openat": Kind.PATH,
        "fchmod": Kind.DESCRIPTOR,
        "kill": Kind.PROCESS,
        "futex": Kind.OTHER,
    }


def test_arguments_are_told_of_calls_that_can_be_trapped() -> None:
    for name in ARGUMENTS:
        row = BY_NAME[name]
        is_seen_by_python = row.treatment is Treatment.SEE and not row.paths
        is_known = row.treatment in (Treatment.SLOW, Treatment.REFUSE, Treatment.MEMORY)
        assert is_seen_by_python or is_known, name


# ---- plans


def _treatment(plan: FilterPlan, name: str, *arguments: int) -> Treatment:
    return treatment_of(plan, number_of(name), (*arguments, *_NONE)[:6])


_NO_ACT = (lib.SLK_ACT_NONE, -1, -1)
_ALWAYS = True  # trapped, whatever the arguments
_TOUCHES = True  # it may change a tree


def test_the_rows_for_c_hold_positions_rights_and_errnos() -> None:
    rows = c_rows(FilterPlan())
    assert rows[number_of("read")] == (0, -1, -1, -1, -1, -1, 0, 0, 0, *_NO_ACT, False, False)
    assert rows[number_of("openat")] == (1, 0, 1, 2, -1, -1, 0, 0, 0, *_NO_ACT, _ALWAYS, _TOUCHES)
    assert rows[number_of("renameat2")] == (2, 0, 1, 4, 2, 3, 0, 1 << 5, 1 << 8, *_NO_ACT, _ALWAYS, _TOUCHES)
    assert rows[number_of("execve")] == (2, -1, 0, -1, -1, -1, 0, 1, 0, *_NO_ACT, _ALWAYS, False)
    assert rows[number_of("fchmod")][0] == 3
    assert rows[number_of("prctl")][0] == 3 and rows[number_of("prctl")][-2] != _ALWAYS
    assert rows[number_of("ioctl")][0] == 4 and rows[number_of("ioctl")][-2] != _ALWAYS
    assert rows[number_of("mount")] == (4, -1, 0, -1, -1, 1, errno.EPERM, 0, 0, *_NO_ACT, _ALWAYS, False)
    assert rows[number_of("clone3")][0] == 0
    assert len(rows) <= 1024  # SLK_CALLS_MAX
    with_trees = c_rows(FilterPlan(trees=True))
    assert with_trees[number_of("renameat2")] == (
        2,
        0,
        1,
        4,
        2,
        3,
        0,
        1 << 5,
        1 << 8,
        lib.SLK_ACT_RENAME,
        -1,
        -1,
        _ALWAYS,
        _TOUCHES,
    )
    assert with_trees[number_of("mkdirat")][9:] == (lib.SLK_ACT_MKDIR, -1, 2, _ALWAYS, _TOUCHES)
    assert with_trees[number_of("newfstatat")] == (
        6,
        0,
        1,
        3,
        -1,
        -1,
        0,
        0,
        0,
        lib.SLK_ACT_STAT,
        2,
        -1,
        _ALWAYS,
        False,
    )
    assert with_trees[number_of("getcwd")][0] == 3 and rows[number_of("getcwd")][0] == 0
    assert with_trees[number_of("umask")][0] == 5 and rows[number_of("umask")][0] == 0


def test_for_processes_outside_nothing_is_trapped_where_they_may_be_seen() -> None:
    for own in (FilterPlan(own_pids=True), FilterPlan(own_pids=True, trees=True)):
        everybody = own._replace(own_pids=False)
        asking = [name for name in OWN_PIDS if BY_NAME[name].treatment in (Treatment.PASS, Treatment.TELL)]
        looking = ["stat", "newfstatat", "access", "readlinkat", "statfs", "chdir", "getdents64"]
        for name in (*asking, *([] if own.trees else looking)):
            high = (8, 8, 8) if name == "fcntl" else (-4000 & (1 << 64) - 1, 4000, 4000)
            assert _treatment(everybody, name, *high) is Treatment.PASS, name
            assert _treatment(own, name, *high) is not Treatment.PASS, name
        for name in asking:
            if OWN_PIDS[name].clauses:  # about itself
                which = 1 if name == "ioprio_get" else 0
                assert _treatment(own, name, which, 0) is Treatment.PASS, name


def test_what_may_change_a_tree_is_all_that_is_not_known_to_only_look() -> None:
    rows = c_rows(FilterPlan(trees=True))
    touching = {row.name for row in ROWS if number_of(row.name) >= 0 and rows[number_of(row.name)][-1]}
    assert touching >= {
        "openat",
        "openat2",
        "bind",
        "fchmod",
        "fsetxattr",
        "utimensat",
        "mknodat",
        "truncate",
    }
    assert touching.isdisjoint(
        {"newfstatat", "execve", "connect", "getxattr", "inotify_add_watch", "prctl", "umask"}
    )


def test_only_refused_rows_carry_an_errno_to_c() -> None:
    for row in c_rows(FilterPlan()):
        assert (row[6] != 0) == (row[0] == 4)


def test_a_denied_call_is_refused_under_the_rule_of_the_policy() -> None:
    plan = FilterPlan(deny=(("uname", "syscalls.deny[0]"), ("prctl", "syscalls.deny[1]")))
    assert _treatment(plan, "uname") is Treatment.REFUSE
    assert _treatment(plan, "prctl", 15) is Treatment.REFUSE
    assert rule_for(plan, number_of("prctl"), (15, *_NONE[1:])) == "syscalls.deny[1]"
    assert c_rows(plan)[number_of("uname")] == (
        4,
        -1,
        -1,
        -1,
        -1,
        -1,
        errno.EPERM,
        0,
        0,
        *_NO_ACT,
        _ALWAYS,
        False,
    )


def test_a_denied_call_stays_denied_when_its_law_is_given_back() -> None:
    plan = FilterPlan(deny=(("ptrace", "syscalls.deny[0]"),), give_back=frozenset({"ptrace"}))
    assert _treatment(plan, "ptrace") is Treatment.REFUSE


@pytest.mark.parametrize("name", sorted(UNDENIABLE))
def test_what_no_program_can_run_without_cannot_be_denied(name: str) -> None:
    with pytest.raises(BadPlan, match=name):
        decisions(FilterPlan(deny=((name, "syscalls.deny[0]"),)))


def test_a_call_that_does_not_exist_cannot_be_denied() -> None:
    with pytest.raises(BadPlan, match="opeanat"):
        decisions(FilterPlan(deny=(("opeanat", "syscalls.deny[0]"),)))


@pytest.mark.parametrize("law", ["mount", "io_uring", "seccomp", "network"])
def test_other_laws_cannot_be_given_back(law: str) -> None:
    with pytest.raises(BadPlan, match=law):
        decisions(FilterPlan(give_back=frozenset({law})))


@pytest.mark.parametrize(
    ("law", "name", "arguments"),
    [
        ("ptrace", "ptrace", (0,)),
        ("sysv_ipc", "shmget", (0,)),
        ("mqueue", "mq_open", (0,)),
        ("personality", "personality", (0x40000,)),
        ("dumpable", "prctl", (4, 0)),
    ],
)
def test_a_law_given_back_lets_its_calls_pass_and_no_others(
    law: str, name: str, arguments: tuple[int, ...]
) -> None:
    assert _treatment(FilterPlan(), name, *arguments) in (Treatment.REFUSE, Treatment.SLOW)
    given = FilterPlan(give_back=frozenset({law}))
    assert _treatment(given, name, *arguments) is Treatment.PASS
    assert _treatment(given, "prctl", 22) is Treatment.SLOW
    assert _treatment(given, "mount") is Treatment.REFUSE
    assert {"ptrace", "sysv_ipc", "mqueue", "personality", "dumpable"} == GIVABLE


@pytest.mark.parametrize("name", [name for name in ("fork", "vfork", "clone") if number_of(name) >= 0])
def test_forks_are_trapped_only_where_processes_are_limited(name: str) -> None:
    limited = FilterPlan(processes_limited=True)
    assert _treatment(FilterPlan(), name) is Treatment.PASS
    assert _treatment(limited, name) is Treatment.COUNT
    row = c_rows(limited)[number_of(name)]
    assert row[0] == lib.SLK_CALL_COUNT and row[-2] == _ALWAYS
    denying = FilterPlan(deny=((name, "syscalls.deny[0]"),), processes_limited=True)
    assert _treatment(denying, name) is Treatment.REFUSE


_LIMITS = ("memory_limited", "processes_limited", "processors_hidden", "own_pids", "disk_limited", "trees")


@pytest.mark.parametrize(
    ("name", "limits"),
    [
        ("sysinfo", {"memory_limited", "processes_limited", "own_pids"}),
        ("sched_getaffinity", {"processors_hidden"}),
        ("getdents64", {"processors_hidden", "own_pids", "trees"}),
    ],
)
def test_what_tells_of_the_machine_is_trapped_only_where_a_limit_needs_it(
    name: str, limits: set[str]
) -> None:
    assert _treatment(FilterPlan(), name) is Treatment.PASS
    trapping = {
        limit
        for limit in _LIMITS
        if _treatment(FilterPlan()._replace(**{limit: True}), name) is not Treatment.PASS
    }
    assert trapping == limits


def test_nobody_finds_the_processor_that_it_runs_on_by_a_number_that_is_not_shown() -> None:
    assert _treatment(FilterPlan(processors_hidden=True), "rseq") is Treatment.ENOSYS
    assert _treatment(FilterPlan(), "rseq") is Treatment.PASS


def test_a_new_namespace_has_its_own_errno_where_processes_are_limited() -> None:
    limited = FilterPlan(processes_limited=True)
    assert c_rows(limited)[number_of("clone")][6] == errno.EPERM
    assert rule_for(limited, number_of("clone"), (0x10000000, *_NONE[1:])) == "law.namespaces"


@pytest.mark.parametrize(
    ("name", "arguments", "rule"),
    [
        ("ioctl", (0, 0x5412), "law.terminal"),
        ("ioctl", (0, 1 << 32 | 0x541C), "law.terminal"),
        ("ioctl", (0, 0x40086602), "law.file_flags"),
        ("prctl", (4, 0), "law.dumpable"),
        ("prctl", (22, 2), "law.seccomp"),
        ("clone", (0x10000000,), "law.namespaces"),
        ("socket", (2, 1), "network"),
        ("chmod", (), ""),
        ("prlimit64", (1, 0, 1), "law.process_access"),
    ],
)
def test_a_refusal_is_recorded_under_the_rule_that_its_arguments_broke(
    name: str, arguments: tuple[int, ...], rule: str
) -> None:
    assert rule_for(FilterPlan(), number_of(name), (*arguments, *_NONE)[:6]) == rule


def test_with_network_rules_the_families_that_a_rule_can_name_pass() -> None:
    plan = FilterPlan(network_closed=False)
    passing = {family for family in range(64) if _treatment(plan, "socket", family, 1) is Treatment.PASS}
    assert passing == {1, 2, 10, 16}
    assert c_rows(plan)[number_of("socket")][6] == errno.EAFNOSUPPORT
    assert _treatment(plan, "socketpair", 1, 2) is Treatment.PASS
