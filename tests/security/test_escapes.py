"""Calls that would leave the wall: refused or unknown, whatever their high bits; and what a program does to itself."""

from __future__ import annotations

import errno
import os
import platform
import signal
import stat
import struct
from pathlib import Path

import pytest
from harness.running import Runner
from harness.terminal import open_terminal
from security import broken
from security.canaries import SECRET, outside
from security.raw_calls import AT_FDCWD, Buffer, Bytes, Script

_HIGH = 1 << 32
x86_64_only = pytest.mark.skipif(platform.machine() != "x86_64", reason="x86-64 has more than one way in")


def _refused(script: Script, runner: Runner, *options: object) -> list[str]:
    """The errors of all calls; asserts that none succeeded and that each left a record."""
    outcomes, ended = script.sandboxed(runner, *options)
    assert not any(outcome.ok for outcome in outcomes), list(zip(script.names, outcomes, strict=True))
    called = {refusal["call"] for refusal in ended.refusals}
    unknown = {
        name for name, outcome in zip(script.names, outcomes, strict=True) if outcome.error == "ENOSYS"
    }
    assert called | unknown >= set(script.names)
    return [outcome.error for outcome in outcomes]


def test_namespaces(runner: Runner) -> None:
    script = Script()
    for flag in (0x10000000, 0x20000, 0x40000000, 0x20000000, 0x04000000, 0x08000000, 0x02000000, 0x80):
        script.unshare(flag)
        script.unshare(_HIGH | flag)
        if flag != 0x80:
            script.clone(flag | signal.SIGCHLD, 0, 0, 0, 0)
            script.clone(_HIGH | flag | signal.SIGCHLD, 0, 0, 0, 0)
    script.setns(0, 0)
    assert set(_refused(script, runner)) == {"EPERM"}


def test_mounts_and_roots(runner: Runner) -> None:
    here = os.fsencode(runner.work)
    script = Script()
    script.mount(b"none", here, b"tmpfs", 0, 0)
    script.mount(b"/", here, 0, 4096, 0)  # MS_BIND
    script.mount(0, b"/", 0, 0x84000, 0)  # MS_REC | MS_PRIVATE
    script.umount2(here, 2)
    script.pivot_root(here, here)
    script.chroot(here)
    script.open_tree(AT_FDCWD, here, 1)
    script.move_mount(AT_FDCWD, here, AT_FDCWD, here, 0)
    script.fsopen(b"tmpfs", 0)
    script.fspick(AT_FDCWD, here, 0)
    script.fsmount(0, 0, 0)
    script.mount_setattr(AT_FDCWD, here, 0, Buffer(32), 32)
    script.open_tree_attr(AT_FDCWD, here, 1, 0, 0)
    _refused(script, runner, "--write", runner.work)


def test_rings_faults_programs_counters_and_keys(runner: Runner) -> None:
    script = Script()
    script.io_uring_setup(1, Buffer(120))
    script.io_uring_enter(0, 1, 0, 0, 0, 0)
    script.io_uring_register(0, 0, 0, 0)
    script.userfaultfd(1)
    script.userfaultfd(os.O_CLOEXEC | 1)
    script.bpf(0, Buffer(128), 128)
    script.bpf(5, Buffer(128), 128)
    script.perf_event_open(Bytes(struct.pack("=II", 1, 128) + bytes(120)), 0, -1, -1, 0)
    script.perf_event_open(Buffer(128), -1, 0, -1, 0)
    script.keyctl(0, -3, 0)
    script.add_key(b"user", b"name", b"secret", 6, -3)
    script.request_key(b"user", b"name", 0, -3)
    script.fanotify_init(0, 0)
    script.ptrace(0, 0, 0, 0)
    script.kexec_load(0, 0, 0, 0)
    script.init_module(Buffer(8), 8, b"")
    script.finit_module(0, b"", 0)
    script.delete_module(b"nothing", 0)
    script.personality(0x0400000)
    script.personality(_HIGH | 0x0040000)
    script.syslog(3, Buffer(64), 64)
    script.shmget(0, 4096, 0o1600)
    script.msgget(0, 0o1600)
    script.semget(0, 1, 0o1600)
    script.mq_open(b"name", 0o102, 0o600, 0)
    _refused(script, runner)


def test_file_handles(runner: Runner) -> None:
    """A handle names an inode, past every directory: asking for one is harmless, opening it is not."""
    directory = outside(runner)
    script = Script()
    handle = struct.pack("=Ii", 128, 0) + bytes(128)
    mount = script.openat(AT_FDCWD, b"/", os.O_PATH)
    script.name_to_handle_at(AT_FDCWD, directory / "canary", Bytes(handle), Buffer(4), 0)
    script.open_by_handle_at(mount, Bytes(handle), os.O_RDONLY)
    outcomes, ended = script.sandboxed(runner)
    assert outcomes[2].error == "EPERM"
    assert ended.refusals[0]["rule"] == "law.file_handle"


def test_clone3_is_unknown(runner: Runner) -> None:
    """Its flags lie in memory, where no filter sees them; libc then takes clone."""
    script = Script()
    script.clone3(Bytes(struct.pack("=Q", 0x10000000) + bytes(80)), 88)
    assert _refused(script, runner) == ["ENOSYS"]


@x86_64_only
@pytest.mark.parametrize("way", ["int 0x80", "x32"])
def test_calls_of_another_architecture_end_the_program(runner: Runner, way: str) -> None:
    if way == "x32":
        code = "return (int)syscall(0x40000000 | 39) > 0 ? 42 : 43;"
    else:
        code = 'long r; __asm__ volatile("int $0x80" : "=a"(r) : "a"(20) : "memory"); return r > 0 ? 42 : 43;'
    attack = runner.compiler.compile("#include <unistd.h>\nint main(void) { " + code + " }\n")
    bare = runner.bare([attack])
    ended = runner.sandboxed([attack])
    assert ended.returncode == 128 + signal.SIGSYS, (bare, ended)


def test_typing_for_the_person_at_the_terminal(runner: Runner) -> None:
    """TIOCSTI puts characters into the terminal's input, as if they had been typed."""
    script = Script()
    for high in (0, _HIGH, 0xFFFFFFFF << 32):
        script.ioctl(0, high | 0x5412, b"X")  # TIOCSTI
        script.ioctl(0, high | 0x541C, Bytes(b"\x03"))  # TIOCLINUX
        script.ioctl(0, high | 0x5423, Bytes(struct.pack("=i", 15)))  # TIOCSETD
    fd = script.openat(AT_FDCWD, b"/dev/tty", os.O_RDWR)
    script.ioctl(fd, 0x5412, b"Y")
    line = runner.command_line(script.command(runner), options=["--read", runner.place.root / "script"])
    shell = [
        "/bin/sh",
        "-c",
        '"$@" >out 2>&1; echo over; read -r line; echo "[$line]"',
        "sh",
        *map(str, line),
    ]
    with open_terminal(
        shell, user=runner.place.user, cwd=str(runner.work), environment=runner.environment()
    ) as terminal:
        terminal.expect(rb"over")
        terminal.send(b"mine\n")
        terminal.expect(rb"\[mine\]")
        terminal.wait()
    outcomes = script.results((runner.work / "out").read_bytes().split(b"sandlockd:")[0])
    assert [outcome.error for outcome in outcomes[:9]] == ["EPERM"] * 9 or not any(o.ok for o in outcomes[:9])
    assert not outcomes[10].ok


# ---- what a program does to itself, to hide from the supervisor ----


def test_hiding_its_memory(runner: Runner) -> None:
    script = Script()
    for high in (0, _HIGH):
        script.prctl(high | 4, 0)  # PR_SET_DUMPABLE
        script.prctl(high | 4, 2)
    assert _refused(script, runner) == ["EPERM"] * 4


def test_hiding_its_memory_by_a_file_that_it_may_not_read(runner: Runner) -> None:
    """An ordinary user's program of mode 0111 cannot be read by the supervisor: so its opens are refused."""
    directory = outside(runner)
    if runner.place.user.is_root:
        pytest.skip("root reads everything")
    attack = runner.compiler.compile(_HIDDEN, static=True)
    hidden = runner.work / "hidden"
    hidden.write_bytes(attack.read_bytes())
    runner.place.give(hidden)
    hidden.chmod(0o111)
    command = [hidden, directory / "canary", runner.work / "made"]
    assert runner.bare(command).stdout == b"0 0 0 0\n"
    (directory / "canary").chmod(0o640)
    (runner.work / "made").rmdir()
    ended = runner.sandboxed(command, options=["--write", runner.work])
    assert ended.stdout == b"%d %d %d %d\n" % (errno.EACCES, errno.EACCES, errno.EPERM, errno.EACCES), ended
    assert {refusal["rule"] for refusal in ended.refusals} == {"law.unreadable"}
    assert stat.S_IMODE((directory / "canary").stat().st_mode) == 0o640
    assert not (runner.work / "made").exists()


_HIDDEN = r"""
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#define ERROR(call) ((call) < 0 ? errno : 0)

int main(int argc, char **argv)
{
	int opened = ERROR(open(argv[1], O_RDONLY)), granted = ERROR(open("/etc/passwd", O_RDONLY));
	int changed = ERROR(chmod(argv[1], 0777)), made = ERROR(mkdir(argv[2], 0755));

	printf("%d %d %d %d\n", opened, granted, changed, made);
	return argc - 3;
}
"""


_STACKED = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* A filter whose answer to openat and socket is argv[1]; then both are tried. */
int main(int argc, char **argv)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_openat, 1, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_socket, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, (unsigned)strtoul(argv[1], NULL, 0)),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog filter = {5, code};
	long result = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, strtoul(argv[2], NULL, 0), &filter);
	char text[64] = "";
	int fd;

	printf("%d ", result < 0 ? errno : 0);
	fd = open(argv[3], O_RDONLY);
	if (fd > 0 && read(fd, text, 63) < 0)
		text[0] = '\0';
	printf("%s %ld\n", text, syscall(SYS_socket, 1, 1, 0));
	return argc - 4;
}
"""


@pytest.mark.parametrize("action", [0x7FFF0000, 0x7FC00000, 0x7FF00000, 0x7FFC0000, 0x00050000, 0x00050001])
def test_stacking_a_filter_gains_nothing(runner: Runner, action: int) -> None:
    """ALLOW, USER_NOTIF without a listener, TRACE, LOG, ERRNO 0 and EPERM."""
    directory = outside(runner)
    attack = runner.compiler.compile(_STACKED)
    ended = runner.sandboxed([attack, hex(action), "0", directory / "canary"])
    assert SECRET not in ended.stdout
    assert not ended.stdout.endswith(b" 3\n"), ended.stdout
    notes = [record for record in ended.audit if record["kind"] == "note"]
    assert [note["subject"] for note in notes] == ["stacked-filter"]


def test_a_listener_of_its_own(runner: Runner) -> None:
    attack = runner.compiler.compile(_STACKED)
    ended = runner.sandboxed([attack, "0x7fc00000", "8", "/etc/hostname"])
    assert ended.stdout.startswith(b"%d " % errno.EBUSY)
    assert ended.refusals[0]["rule"] == "law.seccomp"


def test_programs_with_the_rights_of_others(runner: Runner, as_user: object) -> None:
    """A set-user-ID program runs with the caller's own rights."""
    if os.geteuid() != 0 or runner.place.user.is_root:
        pytest.skip("needs root to make one, and somebody else to run it")
    attack = runner.compiler.compile("#include <unistd.h>\nint main(void) { return geteuid() == 0; }\n")
    privileged = runner.place.root / "privileged"
    privileged.write_bytes(attack.read_bytes())
    privileged.chmod(0o4755)
    assert runner.bare([privileged]).returncode == 1
    assert runner.sandboxed([privileged], options=["--read", privileged]).returncode == 0


# ---- root ----


def test_root_without_its_capabilities(runner: Runner) -> None:
    """What a root program keeps is about files and users; nothing over the kernel, devices or other processes."""
    if not runner.place.user.is_root:
        pytest.skip("root only")
    ended = runner.sandboxed(["grep", "Cap", "/proc/self/status"])
    sets = dict(line.split(":\t") for line in ended.stdout.decode().splitlines())
    dangerous = [
        2,
        9,
        12,
        13,
        14,
        16,
        17,
        18,
        19,
        20,
        21,
        22,
        23,
        24,
        25,
        26,
        27,
        28,
        29,
        30,
        34,
        36,
        37,
        38,
        39,
        40,
    ]
    for name in ("CapPrm", "CapEff", "CapBnd"):
        assert [bit for bit in dangerous if int(sets[name], 16) >> bit & 1] == [], name
    assert int(sets["CapInh"], 16) == int(sets["CapAmb"], 16) == 0


def test_device_nodes(runner: Runner) -> None:
    """Made or found: neither."""
    script = Script()
    for kind, device in ((stat.S_IFCHR, os.makedev(1, 1)), (stat.S_IFBLK, os.makedev(254, 0))):
        script.mknod(runner.work / f"node{kind}", kind | 0o666, device)
        script.mknodat(AT_FDCWD, runner.work / f"at{kind}", kind | 0o666, device)
    for name in (
        "mem",
        "kmem",
        "port",
        "kmsg",
        "ptmx",
        "console",
        "fuse",
        "kvm",
        "loop-control",
        "vda",
        "vsock",
        "tty1",
    ):
        script.openat(AT_FDCWD, f"/dev/{name}", os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY)
        script.openat(AT_FDCWD, f"/dev/{name}", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        script.openat(AT_FDCWD, f"/dev/{name}", 3 | os.O_NONBLOCK | os.O_NOCTTY)
    outcomes, _ = script.sandboxed(runner, "--write", runner.work)
    assert not any(outcome.ok for outcome in outcomes)
    assert list(runner.work.iterdir()) == []


def test_a_set_user_id_program_of_root_s_for_others(runner: Runner) -> None:
    """A root program in a directory that others reach could leave them a way to root."""
    if not runner.place.user.is_root:
        pytest.skip("root only")
    (runner.work / "tool").write_bytes(Path("/bin/true").read_bytes())
    script = Script()
    script.chmod(runner.work / "tool", 0o4755)
    script.openat(AT_FDCWD, runner.work / "made", os.O_WRONLY | os.O_CREAT, 0o4755)
    script.setxattr(
        runner.work / "tool",
        b"security.capability",
        Bytes(struct.pack("=IQQ", 0x02000001, 1 << 21, 0)),
        20,
        0,
    )
    script.sandboxed(runner, "--write", runner.work)
    modes = {path.name: path.stat().st_mode & 0o6000 for path in runner.work.iterdir()}
    assert set(modes.values()) == {0}, modes
    assert os.listxattr(runner.work / "tool") == []


# ---- the tests above can fail ----


@pytest.mark.parametrize(
    "names",
    [("unshare",), ("userfaultfd",), ("personality",), ("chroot",), ("add_key",), ("shmget",)],
    ids=str,
)
def test_the_attack_succeeds_when_the_filter_gives_the_call_back(
    runner: Runner, names: tuple[str, ...]
) -> None:
    script = Script()
    calls = {
        "unshare": (0x10000000,),
        "userfaultfd": (1,),
        "personality": (0x0040000,),
        "chroot": (b"/",),
        "add_key": (b"user", b"name", b"secret", 6, -2),
        "shmget": (0, 4096, 0o1600),
    }
    getattr(script, names[0])(*calls[names[0]])
    bare = script.bare(runner)
    outcomes = broken.results(runner, broken.give_back(*names), script)
    # chroot needs a capability that the program lacks: then it is the kernel that says so.
    assert outcomes[0].ok == bare[0].ok or names == ("chroot",)
    if names == ("shmget",) and outcomes[0].ok:
        for segment in (bare[0].result, outcomes[0].result):
            cleaner = Script()
            cleaner.shmctl(segment, 0, 0)
            assert cleaner.bare(runner)[0].ok
