"""Runs that ended and whose changes are kept, made without a program."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from harness.disk_pair import Disk
from harness.file_operations import Operation
from harness.places import Place
from sandlockd.audit.log import AuditLog
from sandlockd.audit.records import Level, RunEnd, RunHeader
from sandlockd.review import kept


def call(name: str, path: bytes, other: bytes = b"", *flags: str, number: int = 0) -> Operation:
    return Operation(name, path, other, frozenset(flags), number)


def new_file(path: bytes, number: int = 3) -> Operation:
    return call("open", path, b"", "create", "write", number=number)


class KeptRun:
    """run_id: of a run on the place's work directory. upper: where to write what operations do not."""

    def __init__(
        self,
        place: Place,
        operations: Iterable[Operation] = (),
        *,
        storage: Path | None = None,
        command: Sequence[bytes] = (b"make",),
    ) -> None:
        self.state_dir = os.fsencode(place.state)
        log = AuditLog(place.state)
        log.begin(
            RunHeader(
                run_id=log.run_id,
                command=tuple(command),
                cwd=os.fsencode(place.work),
                policy_sources=("base",),
                policy_digest="",
                version="0",
                uid=os.geteuid(),
                pid=os.getpid(),
                level=Level.DENIALS,
            )
        )
        self.run_id = log.run_id
        chosen = None if storage is None else os.fsencode(storage)
        self.storage = kept.make_storage_directory(self.state_dir, self.run_id, chosen)
        self.disk = Disk(os.fsencode(place.work), self.storage, create=True)
        self.upper = Path(os.fsdecode(self.storage)) / "upper"
        for operation in operations:
            assert self.disk.call(operation) == 0, operation
        self._log = log

    def ended(self) -> KeptRun:
        self.disk.close()
        self._log.close(RunEnd(reason="exited", exit_code=0))
        return self
