"""The digest of a file depends on its bytes alone, and costs what is in it, not what it looks like."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import committing, ledger
from harness.forked import in_child
from harness.kept_runs import KeptRun
from harness.places import Place

from sandlockd.kernel.fds import OwnedFd
from sandlockd.overlay.changes import What
from sandlockd.review import diffs
from sandlockd.store import content, storage

_UNIT = content.UNIT_BYTES
_TERABYTE = 1 << 40


@pytest.fixture
def directory() -> Iterator[Path]:
    with ledger.directory("content") as made:
        yield made


def _opened(path: Path) -> OwnedFd:
    return OwnedFd(os.open(path, os.O_RDONLY))


def _digest(path: Path) -> str:
    with _opened(path) as file:
        return content.content_digest(file)


def _pieces(chance: random.Random) -> list[tuple[bytes, int]]:
    """What is written, and how often; zeros may become a hole."""
    kinds = [(b"\0", _UNIT), (b"\0", 4096), (b"\0", 1), (b"x", _UNIT), (b"y", 4096), (b"z", 1)]
    return [(kind, size * chance.randrange(1, 4)) for kind, size in chance.choices(kinds, k=12)]


def _written(path: Path, pieces: list[tuple[bytes, int]], *, with_holes: bool) -> None:
    with open(path, "wb", buffering=0) as file:
        for byte, count in pieces:
            if with_holes and byte == b"\0":
                file.seek(count, os.SEEK_CUR)
            else:
                file.write(byte * count)
        file.truncate(file.tell())


@pytest.mark.parametrize("seed", range(20))
def test_the_same_bytes_have_the_same_digest_with_holes_or_without(directory: Path, seed: int) -> None:
    pieces = _pieces(random.Random(seed))
    for name in ("holes", "whole"):
        _written(directory / name, pieces, with_holes=name == "holes")
    data = (directory / "whole").read_bytes()
    digest = _digest(directory / "whole")
    assert _digest(directory / "holes") == digest
    with _opened(directory / "whole") as one, _opened(directory / "holes") as other:
        assert content.same_content(one, other)
        assert content.is_content(other, digest) and content.is_content(
            other, hashlib.sha256(data).hexdigest()
        )
    has_stretch = any(data[at : at + _UNIT] == bytes(_UNIT) for at in range(0, len(data), _UNIT))
    if not has_stretch:
        assert digest == hashlib.sha256(data).hexdigest()
    assert digest.startswith("sparse-") == has_stretch


@pytest.mark.parametrize("seed", range(20))
def test_one_other_byte_or_one_more_is_another_digest(directory: Path, seed: int) -> None:
    chance = random.Random(seed)
    path = directory / "file"
    _written(path, _pieces(chance), with_holes=True)
    size = path.stat().st_size
    seen = {_digest(path)}
    for at in (0, size - 1, chance.randrange(size), size + _UNIT):
        copy = directory / "copy"
        subprocess.run(["cp", "--sparse=always", path, copy], check=True)
        assert _digest(copy) in seen
        with open(copy, "r+b") as file:
            file.seek(at)
            file.write(b"\x80")
        seen.add(_digest(copy))
        with _opened(path) as one, _opened(copy) as other:
            assert not content.same_content(one, other)
        os.truncate(copy, size + 2 * _UNIT)
        seen.add(_digest(copy))
    assert len(seen) == 9


def test_where_a_stretch_lies_counts(directory: Path) -> None:
    seen = set()
    for place in range(5):
        path = directory / str(place)
        with open(path, "wb") as file:
            file.seek(place * _UNIT)
            file.write(b"x" * _UNIT)
            file.truncate(5 * _UNIT)
        seen.add(_digest(path))
    assert len(seen) == 5


def test_a_file_of_holes_costs_nothing_in_the_list_the_diff_and_the_commit(place: Place) -> None:
    def check() -> None:
        with open(place.work / "old", "wb") as file:
            file.truncate(_TERABYTE)
        run = KeptRun(place).ended()
        begun = time.monotonic()
        for name in ("old", "new"):
            with open(run.upper / name, "wb") as file:
                file.write(b"data")
                file.truncate(_TERABYTE)
        rows = committing.listed(run.storage)
        assert [(row.what, row.path) for row in rows] == [(What.ADDED, b"new"), (What.MODIFIED, b"old")]
        with storage.open_existing(run.storage) as opened:
            lower, upper = diffs._lower(opened, b"old"), diffs._upper(opened, b"old")
        assert lower.digest != upper.digest == rows[0].content == rows[1].content
        committing.commit(run.storage)
        assert (place.work / "new").stat().st_size == _TERABYTE
        assert _digest(place.work / "new") == rows[0].content
        assert committing.listed(run.storage) == []
        # Reading it takes minutes.
        assert time.monotonic() - begun < 10

    assert in_child(check, place.user) == 0
