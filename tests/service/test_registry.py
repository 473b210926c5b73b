"""The registry on disk: what is wrong with it is told, or mended without losing a sandbox; a full disk is told, too."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from harness.running import Runner
from harness.service import service
from harness.waiting import until

from sandlockd.control import registry as module
from sandlockd.control.records import Event, Record
from sandlockd.control.registry import Registry, RegistryError
from sandlockd.control.states import State


def _record(number: int, **more: object) -> Record:
    return Record(f"id{number}", 0, "root", ["true"], "/", 1, **more)  # type: ignore[arg-type]


def _write(state: Path, *records: Record) -> None:
    """As a service does."""

    async def run() -> None:
        registry = Registry(str(state))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(registry.run)
            for record in records:
                (state / "sandboxes" / record.id).mkdir(parents=True, exist_ok=True)
                registry.put(record)
                registry.add_event(Event(int(record.id[2:]) + 1, 1, record.id, 0, "created"), 1)
            await registry.saved()
            nursery.cancel_scope.cancel()
        registry.close()

    trio.run(run)


@contextlib.contextmanager
def _opened(state: Path) -> Iterator[Registry]:
    registry = Registry(str(state))
    try:
        yield registry
    finally:
        registry.close()


def test_what_was_written_is_there_for_the_next_one(tmp_path: Path) -> None:
    _write(tmp_path, _record(1, name="a", state=State.KEPT, labels={"x": "y"}), _record(2))
    with _opened(tmp_path) as registry:
        assert registry.records() == [_record(1, name="a", state=State.KEPT, labels={"x": "y"}), _record(2)]
        assert [event.sandbox for event in registry.events(10)] == ["id1", "id2"]
        assert registry.note is None
    assert (tmp_path / "registry.sqlite3").stat().st_mode & 0o777 == 0o600
    assert json.loads((tmp_path / "sandboxes/id1/meta.json").read_text())["name"] == "a"


def test_what_is_put_while_another_is_written_is_not_lost(tmp_path: Path) -> None:
    async def run() -> None:
        registry = Registry(str(tmp_path))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(registry.run)
            for number in range(50):
                registry.put(_record(number))
                await trio.sleep(0)
            await registry.saved()
            registry.remove("id7")
            await registry.saved()
            assert {record.id for record in registry.records()} == {f"id{n}" for n in range(50) if n != 7}
            registry.put(_record(99))
            nursery.cancel_scope.cancel()  # the rest is written at the end
        registry.close()

    trio.run(run)
    with _opened(tmp_path) as registry:
        assert "id99" in {record.id for record in registry.records()}


def test_an_older_schema_is_brought_up_to_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(tmp_path, _record(1))
    added = (*module._MIGRATIONS, "ALTER TABLE sandboxes ADD COLUMN extra TEXT;")
    monkeypatch.setattr(module, "_MIGRATIONS", added)
    monkeypatch.setattr(module, "SCHEMA_VERSION", len(added))
    with _opened(tmp_path) as registry:
        assert registry.records() == [_record(1)]
    with contextlib.closing(sqlite3.connect(tmp_path / "registry.sqlite3")) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (len(added),)
        assert database.execute("SELECT extra FROM sandboxes").fetchall() == [(None,)]


def test_a_newer_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    _write(tmp_path, _record(1))
    with contextlib.closing(sqlite3.connect(tmp_path / "registry.sqlite3")) as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(RegistryError, match=r"newer sandlockd \(schema 99"):
        Registry(str(tmp_path))
    with contextlib.closing(sqlite3.connect(tmp_path / "registry.sqlite3")) as database:
        assert database.execute("SELECT id FROM sandboxes").fetchall() == [("id1",)]


@pytest.mark.parametrize("damage", ["no-database", "torn", "empty-head"])
def test_a_damaged_one_is_moved_aside_and_made_anew(tmp_path: Path, damage: str) -> None:
    _write(tmp_path, *(_record(number) for number in range(200)))
    path = tmp_path / "registry.sqlite3"
    content = path.read_bytes()
    path.write_bytes(
        {
            "no-database": b"this is no database" * 1000,
            "torn": content[:4096] + os.urandom(len(content) - 4096),
            "empty-head": bytes(4096) + content[4096:],
        }[damage]
    )
    for ending in ("-wal", "-shm"):
        Path(f"{path}{ending}").unlink(missing_ok=True)
    (tmp_path / "sandboxes" / "half").mkdir()
    (tmp_path / "sandboxes" / "other").mkdir()
    (tmp_path / "sandboxes" / "other" / "meta.json").write_text(
        (tmp_path / "sandboxes/id1/meta.json").read_text()
    )
    with _opened(tmp_path) as registry:
        assert {record.id for record in registry.records()} == {f"id{number}" for number in range(200)}
        assert registry.note is not None and "damaged" in registry.note and "200 sandboxes" in registry.note
    assert len(list(tmp_path.glob("registry.sqlite3.damaged-*"))) >= 1
    with _opened(tmp_path) as registry:
        assert registry.note is None and len(registry.records()) == 200


def test_a_record_that_cannot_be_read_is_told_and_left_alone(tmp_path: Path) -> None:
    _write(tmp_path, _record(1), _record(2))
    with contextlib.closing(sqlite3.connect(tmp_path / "registry.sqlite3", isolation_level=None)) as database:
        database.execute("UPDATE sandboxes SET record = '{' WHERE id = 'id1'")
    with _opened(tmp_path) as registry:
        assert [record.id for record in registry.records()] == ["id2"]
        assert registry.note is not None and "id1" in registry.note
        registry.remove_orphans()
    assert (tmp_path / "sandboxes/id1").exists()


def test_directories_of_nobody_go_at_the_start(tmp_path: Path) -> None:
    _write(tmp_path, _record(1))
    (tmp_path / "sandboxes/left/logs").mkdir(parents=True)
    with _opened(tmp_path) as registry:
        registry.remove_orphans()
    assert [path.name for path in (tmp_path / "sandboxes").iterdir()] == ["id1"]


@pytest.mark.one_user
@pytest.mark.parametrize("as_user", ["ordinary"], indirect=True)
def test_one_that_is_read_only_is_told_at_the_start(runner: Runner) -> None:
    with service(runner) as served:
        served.wait(served.run(["true"])["id"])
    (served.state / "registry.sqlite3").chmod(0o400)
    served.state.chmod(0o500)
    ended = runner.sandlockd("serve", "--socket", served.socket, "--state-dir", served.state)
    served.state.chmod(0o700)
    assert ended.returncode == 1
    assert b"cannot start" in ended.stderr and b"registry.sqlite3" in ended.stderr


@pytest.mark.one_user
@pytest.mark.parametrize("as_user", ["root"], indirect=True)
def test_a_full_disk_is_507_nobody_else_is_affected_and_it_recovers(runner: Runner) -> None:
    small = runner.place.root / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m,mode=700", "none", small], check=True)
    try:
        (runner.place.root / "service").mkdir()
        (runner.place.root / "service" / "state").symlink_to(small)
        with service(runner, config="[starting]\nwarm = 1\n") as served:
            before = served.run(
                ["sh", "-c", "read x < fifo; echo on; exit 3"], read=[str(runner.work)], stdin=False
            )["id"]
            served.wait(before)
            script = "trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.01; done"
            living = served.run(["sh", "-c", script])["id"]
            until(lambda: served.output(living), "it is ready")
            filler = small / "filler"
            with contextlib.suppress(OSError), open(filler, "wb") as file:
                while True:
                    file.write(bytes(1024))
                    file.flush()
            told = served.problem(507, "POST", "/v1/sandboxes", {"command": ["true"]})
            assert "cannot be put on record" in told["detail"]
            assert served.ask("GET", "/readyz").status in (200, 503)
            assert {one["id"] for one in served.get("/v1/sandboxes")["sandboxes"]} == {before, living}
            assert served.get(f"/v1/sandboxes/{living}")["state"] == "running"
            filler.unlink()
            ended = served.post(f"/v1/sandboxes/{living}/stop")
            assert ended["exit_status"] == 5
            one = served.run(["true"])["id"]
            assert served.wait(one)["exit_status"] == 0
            assert served.ask("GET", "/readyz").status == 200
            served.remove_all()
            assert not list((small / "sandboxes").iterdir())
    finally:
        subprocess.run(["umount", small], check=True)
