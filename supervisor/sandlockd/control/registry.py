"""What the service knows of its sandboxes, on disk (SQLite, WAL), so that the next one knows it too.

Everything is in memory as well; this is asked once, at the start. What changes is noted (`put`, `remove`), and a task
writes all that was noted meanwhile in one transaction, in a thread: a slow disk keeps nobody waiting but those who ask
for it (`saved`). What cannot be written stays noted, and is tried again.

Each sandbox's record lies beside its logs too (meta.json): a registry that is damaged is moved away and made anew from
those.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from typing import Any, Final

import msgspec
import trio

from sandlockd.control.records import Event, Record

_NAME: Final = "registry.sqlite3"
META_NAME: Final = "meta.json"
_RETRY_S = 5.0
# Each brings the schema from its number to the next. Those that were released never change.
_MIGRATIONS: Final = (
    """
    CREATE TABLE sandboxes (id TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE events (number INTEGER PRIMARY KEY, sandbox TEXT NOT NULL, event BLOB NOT NULL);
    CREATE INDEX events_of ON events (sandbox);
    """,
)
SCHEMA_VERSION: Final = len(_MIGRATIONS)

_encoder = msgspec.json.Encoder()
_records = msgspec.json.Decoder(Record)
_events = msgspec.json.Decoder(Event)


class RegistryError(Exception):
    """It cannot be opened, or written. One line, with the fix in it."""


class Registry:
    """Of one state directory. Used by one thread, but for what its task does in another."""

    def __init__(self, state_dir: str) -> None:
        """Raises RegistryError."""
        self._state_dir = state_dir
        self._path = f"{state_dir}/{_NAME}"
        self.note: str | None = None  # what was done to open it, for the log
        self._changed: dict[str, Record | None] = {}
        self._new_events: list[Event] = []
        self._events_before = 0  # older ones are to go
        self._wake = trio.Event()
        self._flushed = trio.Event()
        self._writing: trio.Event | None = None  # set when what is being written now is
        self.failure: str | None = None
        try:
            self._database = self._opened()
        except sqlite3.DatabaseError as error:
            if not _is_damage(error):
                raise RegistryError(f"{self._path}: {error}") from None
            self._database = self._made_anew(error)

    # ---- opening

    def _opened(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        try:
            os.chmod(self._path, 0o600)
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = NORMAL")
            (version,) = database.execute("PRAGMA user_version").fetchone()
            if version > SCHEMA_VERSION:
                raise RegistryError(
                    f"{self._path} was written by a newer sandlockd (schema {version}; this one knows"
                    f" {SCHEMA_VERSION}): start that one, or another --state-dir"
                )
            for number in range(version, SCHEMA_VERSION):
                database.executescript(
                    f"BEGIN IMMEDIATE; {_MIGRATIONS[number]} PRAGMA user_version = {number + 1}; COMMIT;"
                )
            (found,) = database.execute("PRAGMA quick_check").fetchone()
            if found != "ok":
                raise sqlite3.DatabaseError("database disk image is malformed")
            # A read-only file is told now, not by the first request.
            database.executescript("BEGIN IMMEDIATE; UPDATE sandboxes SET id = id WHERE 0; COMMIT;")
        except BaseException:
            database.close()
            raise
        return database

    def _made_anew(self, damage: sqlite3.DatabaseError) -> sqlite3.Connection:
        aside = f"{self._path}.damaged-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}"
        try:
            os.rename(self._path, aside)
            for ending in ("-wal", "-shm"):
                if os.path.exists(self._path + ending):
                    os.rename(self._path + ending, aside + ending)
            database = self._opened()
        except (OSError, sqlite3.DatabaseError) as error:
            raise RegistryError(
                f"{self._path} is damaged ({damage}) and cannot be made anew: {error}"
            ) from None
        found = self._records_beside_logs()
        database.executemany(
            "INSERT OR REPLACE INTO sandboxes VALUES (?, ?)",
            [(record.id, _encoder.encode(record)) for record in found],
        )
        self.note = (
            f"the registry was damaged ({damage}): it is kept as {aside}; {len(found)} sandboxes are known from their"
            " own records"
        )
        return database

    def _records_beside_logs(self) -> list[Record]:
        found = []
        root = f"{self._state_dir}/sandboxes"
        for name in os.listdir(root) if os.path.isdir(root) else ():
            try:
                with open(f"{root}/{name}/{META_NAME}", "rb") as file:
                    record = _records.decode(file.read())
            except (OSError, msgspec.MsgspecError):
                continue  # half made: nobody was told that it is there
            if record.id == name:
                found.append(record)
        return found

    def remove_orphans(self) -> None:
        """Directories of which nothing is known: who made or removed them was killed. Raises RegistryError."""
        known = {identifier for (identifier,) in self._all("SELECT id FROM sandboxes")}
        root = f"{self._state_dir}/sandboxes"
        for name in os.listdir(root) if os.path.isdir(root) else ():
            if name not in known:
                shutil.rmtree(f"{root}/{name}", ignore_errors=True)  # the next start tries again

    def records(self) -> list[Record]:
        """All. One that cannot be read is told in `note` and left alone. Raises RegistryError."""
        found = []
        for identifier, data in self._all("SELECT id, record FROM sandboxes ORDER BY id"):
            try:
                found.append(_records.decode(data))
            except msgspec.MsgspecError as error:
                self.note = f"the record of {identifier} cannot be read: {error}"
        return found

    def events(self, count: int) -> list[Event]:
        """The last so many. Raises RegistryError."""
        rows = self._all(f"SELECT event FROM events ORDER BY number DESC LIMIT {count}")
        return [_events.decode(data) for (data,) in reversed(rows)]

    def _all(self, query: str) -> list[Any]:
        try:
            return self._database.execute(query).fetchall()
        except sqlite3.DatabaseError as error:
            raise RegistryError(f"{self._path}: {error}") from None

    # ---- writing

    def put(self, record: Record) -> None:
        """As it is when it is written."""
        self._changed[record.id] = record
        self._wake.set()

    def remove(self, identifier: str) -> None:
        self._changed[identifier] = None
        self._wake.set()

    def add_event(self, event: Event, oldest_kept: int) -> None:
        self._new_events.append(event)
        self._events_before = oldest_kept
        self._wake.set()

    async def saved(self) -> None:
        """All that was noted until now is on disk. Raises RegistryError."""
        if self._changed or self._new_events:
            await self._flushed.wait()
        elif self._writing is not None:
            await self._writing.wait()
        else:
            return
        if self.failure is not None:
            raise RegistryError(self.failure)

    async def run(self) -> None:
        """Write what is noted, until it is cancelled: then the rest of it."""
        try:
            while True:
                await self._wake.wait()
                self._wake = trio.Event()
                await self._flush()
                if self.failure is not None:
                    with trio.move_on_after(_RETRY_S):
                        await self._wake.wait()
                    self._wake.set()
        finally:
            with trio.CancelScope(shield=True):
                await self._flush()

    async def _flush(self) -> None:
        changed, self._changed = self._changed, {}
        events, self._new_events = self._new_events, []
        flushed, self._flushed = self._flushed, trio.Event()
        if not changed and not events:
            return
        # Encoded here: a record may change while the thread writes.
        rows = [
            (name, None if record is None else _encoder.encode(record)) for name, record in changed.items()
        ]
        event_rows = [(event.number, event.sandbox, _encoder.encode(event)) for event in events]
        self._writing = flushed
        try:
            with trio.CancelScope(shield=True):  # what was taken is written, or stays noted
                await trio.to_thread.run_sync(self._write, rows, event_rows, self._events_before)
            self.failure = None
        except (sqlite3.Error, OSError) as error:
            self.failure = f"the registry cannot be written: {error}"
            self._changed = {**changed, **self._changed}
            self._new_events = events + self._new_events
        finally:
            self._writing = None
            flushed.set()

    def _write(
        self, rows: list[tuple[str, bytes | None]], events: list[tuple[int, str, bytes]], oldest: int
    ) -> None:
        database = self._database
        database.execute("BEGIN IMMEDIATE")
        try:
            for name, data in rows:
                if data is None:
                    database.execute("DELETE FROM sandboxes WHERE id = ?", (name,))
                    database.execute("DELETE FROM events WHERE sandbox = ?", (name,))
                else:
                    database.execute("INSERT OR REPLACE INTO sandboxes VALUES (?, ?)", (name, data))
            database.executemany("INSERT OR REPLACE INTO events VALUES (?, ?, ?)", events)
            if events:
                database.execute("DELETE FROM events WHERE number < ?", (oldest,))
            database.execute("COMMIT")
        except BaseException:
            database.execute("ROLLBACK")
            raise
        for name, data in rows:
            if data is not None:
                self._write_meta(name, data)

    def _write_meta(self, name: str, data: bytes) -> None:
        directory = f"{self._state_dir}/sandboxes/{name}"
        temporary = f"{directory}/{META_NAME}.new"
        try:
            with open(temporary, "wb", opener=_private) as file:
                file.write(data)
            os.replace(temporary, f"{directory}/{META_NAME}")
        except FileNotFoundError:
            pass  # it has been removed

    def close(self) -> None:
        self._database.close()


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    """Not: no room, no right, no such place."""
    text = str(error)
    return "malformed" in text or "not a database" in text or "corrupt" in text
