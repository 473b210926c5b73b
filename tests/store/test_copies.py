"""What a copy-up keeps of a file, and what becomes of new objects in directories with rules of their own."""

from __future__ import annotations

import errno
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.disk_pair import Disk, described, old_time
from harness.file_operations import Operation
from harness.forked import in_child
from harness.places import Place

from sandlockd.kernel.paths import Identity
from sandlockd.overlay import plans
from sandlockd.overlay.entries import FsError, Kind
from sandlockd.overlay.lookup import Goal
from sandlockd.store.layer import DirectoryLayer
from sandlockd.store.making import Making

_ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def _disk(place: Place) -> Disk:
    os.chmod(place.state, 0o700)
    return Disk(os.fsencode(place.work), os.fsencode(place.state), create=True)


def _copied(disk: Disk, name: bytes) -> None:
    disk.disk.carry_out(plans.change_metadata(disk.find(name, Goal.NOFOLLOW)), Making())


def _same(place: Place, name: str) -> None:
    lower, upper = os.fsencode(place.work / name), os.fsencode(place.state / "upper" / name)
    assert described(upper, b"/nowhere") == described(lower, b"/nowhere")
    assert os.lstat(upper).st_mtime_ns == os.lstat(lower).st_mtime_ns


def _run(place: Place, action: Callable[[], None]) -> None:
    assert in_child(action, place.user) == 0


def test_a_sparse_file_stays_sparse(place: Place) -> None:
    def check() -> None:
        with open(place.work / "f", "wb") as file:
            file.seek(32 << 20)
            file.write(b"in the middle")
            file.truncate(64 << 20)
        disk = _disk(place)
        _copied(disk, b"f")
        _same(place, "f")
        assert (place.state / "upper/f").stat().st_blocks <= (place.work / "f").stat().st_blocks + 8

    _run(place, check)


@pytest.mark.parametrize("size", [0, 1, 64 << 20])
def test_a_file_is_copied_whole(place: Place, size: int) -> None:
    def check() -> None:
        (place.work / "f").write_bytes(b"0123456789abcdef" * (size // 16) + b"x" * (size % 16))
        os.utime(place.work / "f", ns=(5, 123456789))
        disk = _disk(place)
        _copied(disk, b"f")
        _same(place, "f")

    _run(place, check)


@pytest.mark.parametrize("mode", [0o4755, 0o2755, 0o6711, 0o1644, 0o444, 0o400])
def test_the_mode_survives_with_attributes(place: Place, mode: int) -> None:
    def check() -> None:
        (place.work / "f").write_bytes(b"x")
        os.setxattr(place.work / "f", "user.color", b"red")
        os.chmod(place.work / "f", mode)
        disk = _disk(place)
        _copied(disk, b"f")
        _same(place, "f")

    _run(place, check)


# user::rw-, user:4242:r--, group::r--, mask::r--, other::---: struct posix_acl_xattr_header and _entry.
_ACL = bytes.fromhex(
    "02000000 01000600ffffffff 0200040092100000 04000400ffffffff 10000400ffffffff 20000000ffffffff"
)


def test_access_control_lists_are_copied(place: Place) -> None:
    def check() -> None:
        (place.work / "f").write_bytes(b"x")
        os.setxattr(place.work / "f", "system.posix_acl_access", _ACL)
        disk = _disk(place)
        _copied(disk, b"f")
        _same(place, "f")
        assert os.getxattr(place.state / "upper/f", "system.posix_acl_access") == _ACL

    _run(place, check)


@_ROOT_ONLY
def test_root_copies_what_others_own_and_nobody_may_read(place: Place) -> None:
    if not place.user.is_root:
        pytest.skip("root only")
    (place.work / "f").write_bytes(b"x")
    os.chown(place.work / "f", 4242, 4343)
    os.chmod(place.work / "f", 0o4000)
    disk = _disk(place)
    _copied(disk, b"f")
    _same(place, "f")
    assert disk.disk.lost == 0
    disk.close()


def test_what_we_may_not_read_cannot_be_copied_up(place: Place) -> None:
    if place.user.is_root:
        pytest.skip("root may")

    def check() -> None:
        (place.work / "f").write_bytes(b"x")
        os.chmod(place.work / "f", 0)
        disk = _disk(place)
        assert disk.call(Operation("chmod", b"f", number=0o600)) == errno.EACCES
        assert os.listdir(place.state / "upper") == []

    _run(place, check)


@pytest.mark.parametrize("is_whiteout", [False, True])
@pytest.mark.parametrize("above", ["plain", "setgid", "acl"])
@pytest.mark.parametrize("call", ["open", "mkdir"])
def test_new_objects_are_as_the_kernel_makes_them(
    place: Place, call: str, above: str, is_whiteout: bool
) -> None:
    def make(top: Path) -> None:
        top.mkdir(exist_ok=True)
        (top / "d").mkdir()
        (top / "d/n").write_bytes(b"old")
        if os.geteuid() == 0:
            os.chown(top / "d", 4242, 4343)
        os.chmod(top / "d", 0o2777 if above == "setgid" else 0o777)
        if above == "acl":
            os.setxattr(top / "d", "system.posix_acl_default", _ACL)
        if not is_whiteout:
            os.unlink(top / "d/n")

    def check() -> None:
        plain = place.root / "home/plain"
        make(plain)
        make(place.work)
        disk = _disk(place)
        caller = None if os.geteuid() else Identity(4444, 4545, (), 0)
        if is_whiteout:
            os.unlink(plain / "d/n")
            disk.disk.carry_out(plans.unlink(disk.find(b"d/n", Goal.NAME)), Making())
        steps = plans.create(disk.find(b"d/n", Goal.NAME), Kind.FILE if call == "open" else Kind.DIRECTORY)
        opened = disk.disk.carry_out(steps, Making(mode=0o777, umask=0o027, identity=caller))
        assert (opened is not None) == (call == "open")

        def bare() -> None:
            os.umask(0o027)
            if caller is not None:
                os.setgroups([])
                os.setgid(caller.fsgid)
                os.setuid(caller.fsuid)
            os.chdir(plain / "d")
            if call == "open":
                os.close(os.open("n", os.O_CREAT | os.O_WRONLY, 0o777))
            else:
                os.mkdir("n", 0o777)

        pid = os.fork()
        if pid == 0:
            bare()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        ours, bares = (described(os.fsencode(p / "d/n"), b"/") for p in (place.state / "upper", plain))
        assert ours == bares

    _run(place, check)


def test_a_directory_keeps_its_times_until_something_in_it_changes(place: Place) -> None:
    def check() -> None:
        (place.work / "d").mkdir()
        (place.work / "d/f").write_bytes(b"x")
        os.utime(place.work / "d", ns=(5, 123456789))
        disk = _disk(place)
        _copied(disk, b"d/f")
        assert (place.state / "upper/d").stat().st_mtime_ns == 123456789
        disk.call(Operation("unlink", b"d/f"))
        assert old_time((place.state / "upper/d").stat().st_mtime_ns) == 0

    _run(place, check)


def test_a_layer_on_disk_is_not_left(place: Place) -> None:
    def check() -> None:
        os.symlink("/etc", place.work / "out")
        disk = _disk(place)
        lower = DirectoryLayer(disk.storage.workdir)
        for path, error in ((b"out/passwd", errno.ELOOP), (b"../state", errno.EXDEV), (b"/etc", errno.EXDEV)):
            with pytest.raises(FsError) as raised:
                lower.entry(path)
            assert raised.value.errno == error

    _run(place, check)


@_ROOT_ONLY
def test_a_full_disk_is_enospc_and_nothing_is_torn(place: Place) -> None:
    if not place.user.is_root:
        pytest.skip("mounting needs root")
    (place.work / "big").write_bytes(os.urandom(3 << 20))
    (place.work / "small").write_bytes(b"x")

    def check() -> None:
        import ctypes

        if ctypes.CDLL(None).unshare(0x20000):
            os._exit(77)
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        mount = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", str(place.state)]
        if subprocess.run(mount, check=False, capture_output=True).returncode:
            os._exit(77)
        from sandlockd.store.storage import StorageError

        try:
            disk = _disk(place)
        except StorageError as error:  # before Linux 6.6 a tmpfs has no user attributes
            assert "user.*" in str(error)
            os._exit(77)
        assert disk.storage.lost
        before = disk.shown(b"/nowhere")
        assert disk.call(Operation("truncate", b"big", number=2 << 20)) == errno.ENOSPC
        assert disk.shown(b"/nowhere") == before
        assert sorted(os.listdir(place.state / "work")) == ["stage", "whiteout"]
        assert disk.call(Operation("chmod", b"small", number=0o600)) == 0

    status = in_child(check)
    if status == 77:
        pytest.skip("no tmpfs with user attributes")
    assert status == 0


@pytest.mark.alone
def test_calls_are_measured(place: Place, measured: Callable[[str, object], None]) -> None:
    """Microseconds through lookup, plan and executor, beside the bare call."""
    read, write = os.pipe()

    def check() -> None:
        plain = place.root / "home"
        disk = _disk(place)
        rows = []
        for name, ours, bare in (
            ("create", lambda n: Operation("open", b"n%d" % n, flags=frozenset({"create"})), _bare_create),
            (
                "rename",
                lambda n: Operation("rename", b"n%d" % n, b"m%d" % n),
                lambda n: os.rename(f"n{n}", f"m{n}"),
            ),
            ("unlink", lambda n: Operation("unlink", b"m%d" % n), lambda n: os.unlink(f"m{n}")),
            ("mkdir", lambda n: Operation("mkdir", b"d%d" % n), lambda n: os.mkdir(f"d{n}")),
        ):
            os.chdir(plain)
            rows.append((name, _microseconds(lambda n, do=ours: disk.call(do(n))), _microseconds(bare)))
        os.write(write, repr(rows).encode())

    _run(place, check)
    os.close(write)
    with open(read) as pipe:
        measured("microseconds (call, ours, bare)", pipe.read())


def _bare_create(number: int) -> None:
    os.close(os.open(f"n{number}", os.O_CREAT | os.O_EXCL | os.O_WRONLY))


def _microseconds(act: Callable[[int], object]) -> float:
    start = time.perf_counter_ns()
    for number in range(200):
        act(number)
    return round((time.perf_counter_ns() - start) / 200_000, 1)
