"""What a refused call gives the program: what the kernel says to somebody who may not, so that programs know it."""

from __future__ import annotations

import os
import stat
import struct

import pytest
from harness.running import Runner
from harness.terminal import open_terminal
from security.raw_calls import AT_FDCWD, Bytes, Script

from sandlockd.kernel.syscalls import number_of

_CLONE_NEWNS, _CLONE_NEWUTS = 0x20000, 0x4000000


def _what_an_ordinary_user_may_not(script: Script) -> None:
    """Calls that would harm nobody even if they were made."""
    script.mount(0, b"/", b"tmpfs", 0, 0)
    script.umount2(b"/", 0)
    script.pivot_root(b"/nowhere", b"/nowhere")
    script.chroot(b"/")
    script.swapon(b"/nowhere", 0)
    script.swapoff(b"/nowhere")
    script.acct(b"/nowhere")
    script.sethostname(b"x", 1 << 20)
    script.setdomainname(b"x", 1 << 20)
    script.reboot(0, 0, 0, 0)
    script.init_module(0, 0, 0)
    script.delete_module(b"nothing", 0)
    script.kexec_load(0, 0, 0, 0)
    script.unshare(_CLONE_NEWNS)
    script.unshare(_CLONE_NEWUTS)
    script.vhangup()
    script.iopl(3) if number_of("iopl") >= 0 else None
    script.syslog(5, 0, 0)  # SYSLOG_ACTION_CLEAR
    script.fanotify_init(0x0F, 1 << 20)
    script.open_by_handle_at(AT_FDCWD, Bytes(struct.pack("=Ii8x", 8, 1)), 0)
    script.mknod(b"null", stat.S_IFCHR | 0o600, 1 << 8 | 3)
    for name in ("nfsservctl", "lookup_dcookie", "uselib"):
        if number_of(name) >= 0:
            script.call(number_of(name), 0, 0, 0, name=name)


def test_privileged_calls_fail_as_they_fail_for_an_ordinary_user(runner: Runner) -> None:
    script = Script()
    _what_an_ordinary_user_may_not(script)
    options = ["--write", runner.work]
    outcomes, _ = script.sandboxed(runner, *options, cwd=runner.work)
    found = {name: one.error for name, one in zip(script.names, outcomes, strict=True)}
    gone = {"nfsservctl", "lookup_dcookie", "uselib"}
    assert found == {name: "ENOSYS" if name in gone else "EPERM" for name in script.names}
    if not runner.place.user.is_root:
        bare = {name: one.error for name, one in zip(script.names, script.bare(runner), strict=True)}
        # A kernel may lack one of them.
        assert {name: error for name, error in bare.items() if error != "ENOSYS"} == {
            name: found[name] for name, error in bare.items() if error != "ENOSYS"
        }


# request, its errno
_TERMINAL = (
    (0x5412, "EIO"),  # TIOCSTI, as with dev.tty.legacy_tiocsti = 0
    (0x541C, "ENOTTY"),  # TIOCLINUX
    (0x541D, "EPERM"),  # TIOCCONS
    (0x5423, "EPERM"),  # TIOCSETD
    (0x5437, "EPERM"),  # TIOCVHANGUP
    (0x540C, "EPERM"),  # TIOCEXCL
    (0x4B33, "ENOTTY"),  # KDGKBTYPE
    (0x4B3A, "ENOTTY"),  # KDSETMODE
    (0x5603, "ENOTTY"),  # VT_GETSTATE
    (0x5606, "ENOTTY"),  # VT_ACTIVATE
)
_FILES = (
    (0x40086602, "ENOTSUP"),  # FS_IOC_SETFLAGS
    (0x401C5820, "ENOTSUP"),  # FS_IOC_FSSETXATTR
    (0xC0045877, "EPERM"),  # FIFREEZE
    (0xC0185879, "EPERM"),  # FITRIM
)


def test_terminal_calls(runner: Runner) -> None:
    """On a pseudo-terminal; the kernel itself says the same of what only a console has."""
    script = Script()
    for request, _ in _TERMINAL:
        script.ioctl(0, request, Bytes(b"\x0f" + bytes(63)))
    line = runner.command_line(script.command(runner), options=["--read", runner.place.root / "script"])
    shell = ["/bin/sh", "-c", '"$@" >out; echo over', "sh", *map(str, line)]
    with open_terminal(
        shell, user=runner.place.user, cwd=str(runner.work), environment=runner.environment()
    ) as terminal:
        terminal.expect(rb"over")
        terminal.wait()
    outcomes = script.results((runner.work / "out").read_bytes())
    assert [outcome.error for outcome in outcomes] == [error for _, error in _TERMINAL]
    recorded = {r["target"]: (r["errno"], r["rule"]) for r in runner.audit() if r["kind"] == "refusal"}
    assert recorded == {f"request 0x{request:x}": (error, "law.terminal") for request, error in _TERMINAL}
    console = Script()
    for request, error in _TERMINAL:
        if error == "ENOTTY":
            console.ioctl(0, request, Bytes(bytes(64)))
    shell = ["/bin/sh", "-c", '"$@" >out; echo over', "sh", *map(str, console.command(runner))]
    with open_terminal(
        shell, user=runner.place.user, cwd=str(runner.work), environment=runner.environment()
    ) as terminal:
        terminal.expect(rb"over")
        terminal.wait()
    bare = console.results((runner.work / "out").read_bytes())
    assert {outcome.error for outcome in bare} == {"ENOTTY"}


@pytest.mark.parametrize("high", [0, 1 << 32])
def test_file_calls(runner: Runner, high: int) -> None:
    runner.place.file("work/file", "text")
    script = Script()
    fd = script.openat(AT_FDCWD, b"file", os.O_RDONLY)
    for request, _ in _FILES:
        script.ioctl(fd, high | request, Bytes(bytes(64)))
    outcomes, ended = script.sandboxed(runner, "--write", runner.work, cwd=runner.work)
    assert [outcome.error for outcome in outcomes[1:]] == [error for _, error in _FILES]
    assert [r["errno"] for r in ended.refusals] == [error for _, error in _FILES]


def test_a_call_that_the_policy_denies_whole_has_one_errno(runner: Runner) -> None:
    policy = '[filesystem]\nbase = true\n[syscalls]\ndeny = ["ioctl", "socket"]\n'
    script = Script()
    script.ioctl(0, 0x5412, Bytes(b"x"))
    script.ioctl(0, 0x5401, Bytes(bytes(64)))
    script.socket(2, 1, 0)
    outcomes, ended = script.sandboxed(runner, policy=policy)
    assert [outcome.error for outcome in outcomes] == ["EPERM"] * 3
    assert {(r["errno"], r["rule"]) for r in ended.refusals} == {
        ("EPERM", "syscalls.deny[0]"),
        ("EPERM", "syscalls.deny[1]"),
    }
