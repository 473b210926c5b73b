"""The control socket: made safely, taken from nobody who lives."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.running import Runner
from harness.service import service

from sandlockd.control.listening import CannotListen, ControlSocket


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "run"
    path.mkdir(mode=0o755)
    return path


@contextlib.contextmanager
def _listening(path: Path, mode: int = 0o600) -> Iterator[ControlSocket]:
    made = ControlSocket(str(path), mode=mode, group=None)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_it_has_its_mode_and_goes_with_its_service(directory: Path, mode: int) -> None:
    path = directory / "s"
    with _listening(path, mode):
        assert stat.S_IMODE(path.lstat().st_mode) == mode and stat.S_ISSOCK(path.lstat().st_mode)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
    assert list(directory.iterdir()) == []


def test_nobody_connects_before_it_has_its_mode(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When it is there under its name first, nobody may write to it."""
    path = directory / "s"
    seen: list[int] = []
    real = os.chmod

    def looked(target: object, mode: int, **more: object) -> None:
        seen.append(stat.S_IMODE(path.lstat().st_mode))
        real(target, mode, **more)  # type: ignore[arg-type]

    monkeypatch.setattr("sandlockd.control.listening.os.chmod", looked)
    with _listening(path, 0o666):
        pass
    assert seen == [0]


def test_one_that_lives_is_not_taken_over(directory: Path) -> None:
    path = directory / "s"
    with _listening(path) as first:
        with pytest.raises(CannotListen, match="another service listens there"):
            ControlSocket(str(path), mode=0o600, group=None)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
        assert first.socket.fileno() >= 0


def test_nor_is_one_of_somebody_without_our_lock(directory: Path) -> None:
    path = directory / "s"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(CannotListen, match="another service listens there"):
            ControlSocket(str(path), mode=0o600, group=None)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))


def test_a_leftover_is_replaced(directory: Path) -> None:
    path = directory / "s"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
    (directory / "s.lock").write_bytes(b"")
    with _listening(path):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))


def test_what_is_no_socket_is_left_alone(directory: Path) -> None:
    for make in (Path.touch, Path.mkdir):
        path = directory / make.__name__
        make(path)
        with pytest.raises(CannotListen, match="no socket"):
            ControlSocket(str(path), mode=0o600, group=None)
        assert path.exists()


def test_a_link_in_its_place_is_not_followed(directory: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    for name in ("s", "s.lock"):
        (directory / name).symlink_to(victim)
        with pytest.raises(CannotListen):
            ControlSocket(str(directory / "s"), mode=0o600, group=None)
        assert not victim.exists() and (directory / name).is_symlink()
        (directory / name).unlink()
        for left in directory.iterdir():
            left.unlink()


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o757])
def test_a_directory_that_others_may_write_is_refused(directory: Path, mode: int) -> None:
    directory.chmod(mode)
    with pytest.raises(CannotListen, match="somebody else"):
        ControlSocket(str(directory / "s"), mode=0o600, group=None)
    assert list(directory.iterdir()) == []
    directory.chmod(mode | stat.S_ISVTX)
    with _listening(directory / "s"):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_directory_of_another_user_is_refused(directory: Path) -> None:
    os.chown(directory, 65534, -1)
    with pytest.raises(CannotListen, match="somebody else"):
        ControlSocket(str(directory / "s"), mode=0o600, group=None)


def test_a_name_that_is_too_long_is_told(directory: Path) -> None:
    with pytest.raises(CannotListen, match="longer than"):
        ControlSocket(str(directory / ("x" * 120)), mode=0o600, group=None)


def test_of_many_that_begin_at_once_one_listens(directory: Path) -> None:
    path = directory / "s"
    made: list[ControlSocket] = []
    refused: list[CannotListen] = []

    def begin() -> None:
        try:
            made.append(ControlSocket(str(path), mode=0o600, group=None))
        except CannotListen as error:
            refused.append(error)

    threads = [threading.Thread(target=begin) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(made), len(refused)) == (1, 15)
    made[0].close()


@pytest.mark.one_user
def test_a_second_service_says_that_there_is_one(runner: Runner) -> None:
    with service(runner) as served:
        other = runner.sandlockd(
            "serve", "--socket", served.socket, "--state-dir", runner.place.root / "other"
        )
        assert other.returncode == 1 and b"another service listens there" in other.stderr
        served.get("/healthz")
