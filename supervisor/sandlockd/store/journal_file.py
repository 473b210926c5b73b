"""The journal of a commit on disk: a file in the storage, only ever appended to.

What it says is `overlay.journal`. It lies there as `journal` from before the first change of the workdir until the
commit has ended or was taken back, and then, if it has ended, as `committed-N`: what the tree became, for those who
find it changed.
"""

from __future__ import annotations

import os

from sandlockd.kernel import beneath, flushing
from sandlockd.kernel.beneath import CONFINED
from sandlockd.kernel.fds import OwnedFd
from sandlockd.kernel.paths import AT_FDCWD, openat2
from sandlockd.overlay import journal
from sandlockd.overlay.commit import Action, CommitPlan
from sandlockd.overlay.journal import Former, Journal
from sandlockd.store.storage import COMMITTED_PREFIX, JOURNAL_NAME

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_READ_BYTES = 1 << 20
_MANY = 100_000


class JournalFile:
    """Open for appending; ours to close."""

    def __init__(self, directory: OwnedFd, file: OwnedFd) -> None:
        self._directory = directory
        self._file = file

    @classmethod
    def write(
        cls, directory: OwnedFd, plan: CommitPlan, former: Mapping[int, Former], lent: Mapping[bytes, int]
    ) -> JournalFile:
        """A new one with the whole plan, on disk.

        Raises:
            OSError: ENOSPC ...: nothing is left of it.
        """
        made = cls(directory, beneath.create_file(directory, JOURNAL_NAME, os.O_WRONLY | os.O_APPEND, 0o600))
        try:
            made._append(journal.encode_plan(plan, former, lent))
            made.flush()
            flushing.flush_directory(directory)
        except BaseException:
            made.remove()
            raise
        return made

    @classmethod
    def reopen(cls, directory: OwnedFd) -> tuple[JournalFile, Journal] | None:
        """The one of a commit that did not end. One that was never sealed is removed.

        Raises:
            journal.BadJournal: somebody changed it.
        """
        try:
            file = openat2(directory.fd, JOURNAL_NAME, os.O_RDWR | os.O_APPEND, resolve=CONFINED)
        except FileNotFoundError:
            return None
        found = cls(directory, file)
        try:
            text = _content(file)
            read = journal.read_journal(text)
            if read is None:
                found.remove()
                return None
            # A record that was being written at the kill must not become the beginning of the next.
            os.ftruncate(file.fd, text.rfind(b"\n") + 1)
        except BaseException:
            found.close()
            raise
        return found, read

    def begin(self, action: Action) -> None:
        self._append(journal.begin(action))

    def staged(self, action: Action, device: int, inode: int) -> None:
        self._append(journal.staged(action, device, inode))

    def done(self, action: Action) -> None:
        self._append(journal.done(action))

    def undoing(self, plan: CommitPlan) -> None:
        self._append(journal.undoing(plan))
        self.flush()

    def landed(self, plan: CommitPlan) -> None:
        self._append(journal.landed(plan))
        self.flush()

    def ended(self, plan: CommitPlan) -> None:
        """The file has another name then, and is closed."""
        self._append(journal.ended(plan))
        self.flush()
        self.put_away()

    def put_away(self) -> None:
        for number in range(1, _MANY):
            name = b"%b%d" % (COMMITTED_PREFIX, number)
            try:
                beneath.rename(self._directory, JOURNAL_NAME, self._directory, name, beneath.RENAME_NOREPLACE)
            except FileExistsError:
                continue
            break
        flushing.flush_directory(self._directory)
        self.close()

    def remove(self) -> None:
        self.close()
        beneath.unlink(self._directory, JOURNAL_NAME)
        flushing.flush_directory(self._directory)

    def flush(self) -> None:
        flushing.flush(self._file)

    def close(self) -> None:
        self._file.close()

    def _append(self, text: bytes) -> None:
        size = os.fstat(self._file.fd).st_size
        try:
            while text:
                text = text[os.write(self._file.fd, text) :]
        except OSError:
            # Half a record, with others behind it, would be no journal any more.
            os.ftruncate(self._file.fd, size)
            raise


def ended_journals(directory: OwnedFd) -> Iterator[tuple[bytes, Journal, int]]:
    """(name, what it says, when it ended in ns) of each commit that ended. What cannot be read is left out."""
    names = sorted(name for name, _, _ in beneath.rows(directory) if name.startswith(COMMITTED_PREFIX))
    for name in names:
        try:
            with openat2(directory.fd, name, os.O_RDONLY | os.O_NONBLOCK, resolve=CONFINED) as file:
                read = journal.read_journal(_content(file))
                written_ns = os.fstat(file.fd).st_mtime_ns
        except (OSError, journal.BadJournal):
            continue
        if read is not None and read.has_ended:
            yield name, read, written_ns


def peek(storage_path: bytes) -> Journal | None:
    """What the journal of a storage says that somebody else may be using.

    Raises: journal.BadJournal.
    """
    try:
        with openat2(
            AT_FDCWD, storage_path + b"/" + JOURNAL_NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        ) as file:
            return journal.read_journal(_content(file))
    except OSError:
        return None


def _content(file: OwnedFd) -> bytes:
    parts, offset = [], 0
    while block := os.pread(file.fd, _READ_BYTES, offset):
        parts.append(block)
        offset += len(block)
    return b"".join(parts)
