"""The first process of a machine of a test's own (booted.py), until it becomes systemd. It has namespaces of its own,
but for users; what it mounts is gone with it, and what it changes below / is in memory.

python -I boot_inside.py MOUNTPOINT VISIBLE...      VISIBLE: directories of the host that are seen there, too
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Sequence
from pathlib import Path

_MS_RDONLY, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18
_MNT_DETACH = 2
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
# What is empty there, whatever the host has.
_EMPTY = ("etc/systemd/system", "etc/systemd/user", "etc/sandlockd", "var/lib/sandlockd", "home")
# What is the host's business, takes its time or wants what is not there.
_MASKED = (
    *(f"systemd-{name}.service" for name in ("udevd", "udev-trigger", "modules-load", "sysctl", "binfmt")),
    *(f"systemd-{name}.service" for name in ("random-seed", "update-utmp", "firstboot", "timesyncd")),
    *(f"systemd-{name}.service" for name in ("pstore", "machine-id-commit", "hwdb-update", "remount-fs")),
    *("systemd-udevd-kernel.socket", "systemd-udevd-control.socket", "kmod-static-nodes.service"),
    *("dev-hugepages.mount", "dev-mqueue.mount", "proc-sys-fs-binfmt_misc.automount", "timers.target"),
    *(f"sys-{name}.mount" for name in ("kernel-debug", "kernel-tracing", "kernel-config")),
    "sys-fs-fuse-connections.mount",
)
_TARGET = "[Unit]\nRequires=basic.target\nAfter=basic.target\nAllowIsolate=yes\n"
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "TERM": "linux", "container": "sandlockd-test"}

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _mount(source: str, target: Path, kind: str = "", flags: int = 0, data: str = "") -> None:
    words = (source.encode(), os.fsencode(target), kind.encode(), flags, data.encode())
    _check(_libc.mount(words[0], words[1], words[2], ctypes.c_ulong(words[3]), words[4]), f"mount {target}")


def _bind(source: Path, target: Path) -> None:
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.touch()
    _mount(str(source), target, flags=_MS_BIND | _MS_REC)


def _make_root(mountpoint: Path, visible: Sequence[Path]) -> Path:
    """The host's, read through an overlay whose upper layer is in memory."""
    _mount("", Path("/"), flags=_MS_REC | _MS_PRIVATE)
    _mount("tmpfs", mountpoint, "tmpfs", data="size=1g,mode=755")
    upper, work, root = (mountpoint / name for name in ("upper", "work", "root"))
    for directory in (upper, work, root):
        directory.mkdir()
    _mount("overlay", root, "overlay", data=f"lowerdir=/,upperdir={upper},workdir={work}")
    for directory in visible:
        _bind(directory, root / directory.relative_to("/"))
    for name in _EMPTY:
        (root / name).mkdir(parents=True, exist_ok=True)
        _mount("tmpfs", root / name, "tmpfs", data="mode=755")
    return root


def _make_kernels_places(root: Path) -> None:
    _mount("proc", root / "proc", "proc")
    _mount(str(root / "proc/sys"), root / "proc/sys", flags=_MS_BIND)
    _mount(
        "", root / "proc/sys", flags=_MS_REMOUNT | _MS_BIND | _MS_RDONLY
    )  # the host's settings are all there are
    _mount("sysfs", root / "sys", "sysfs", _MS_RDONLY)
    _mount("cgroup2", root / "sys/fs/cgroup", "cgroup2")
    for name, mode in (("run", "755"), ("tmp", "1777"), ("dev", "755")):
        _mount("tmpfs", root / name, "tmpfs", data=f"mode={mode}")
    for name in _DEVICES:
        _bind(Path("/dev", name), root / "dev" / name)
    for name in ("pts", "shm", "mqueue"):
        (root / "dev" / name).mkdir()
    _mount("devpts", root / "dev/pts", "devpts", data="newinstance,ptmxmode=0666,mode=620")
    _mount("tmpfs", root / "dev/shm", "tmpfs", data="mode=1777")
    (root / "dev/ptmx").symlink_to("pts/ptmx")
    (root / "dev/fd").symlink_to("/proc/self/fd")
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        (root / "dev" / name).symlink_to(f"fd/{number}")


def _configure(root: Path) -> None:
    units = root / "etc/systemd/system"
    for name in _MASKED:
        (units / name).symlink_to("/dev/null")
    (units / "sandlockd-test.target").write_text(_TARGET)
    for name in ("machine-id", "fstab"):
        (root / "etc" / name).write_bytes(b"")


def _enter(root: Path) -> None:
    os.chdir(root)
    _check(
        _libc.pivot_root(b".", b"."), "pivot_root"
    )  # pivot_root(2): the old one lies over the new one then
    _check(_libc.umount2(b".", _MNT_DETACH), "umount")
    os.chdir("/")


def main(mountpoint: Path, visible: Sequence[Path]) -> None:
    """Raises OSError."""
    root = _make_root(mountpoint, visible)
    _make_kernels_places(root)
    _configure(root)
    _enter(root)
    systemd = next(
        path for path in ("/usr/lib/systemd/systemd", "/lib/systemd/systemd") if os.path.exists(path)
    )
    line = [systemd, "--system", "--unit=sandlockd-test.target", "--log-target=console", "--show-status=no"]
    os.execve(systemd, line, _ENVIRONMENT)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
