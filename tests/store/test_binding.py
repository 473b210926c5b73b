"""Where directories are laid out for a text, the kernel's own lookup of it leads to the place that is meant."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from harness import ledger
from hypothesis import given
from hypothesis import strategies as st

from sandlockd.store.binding import lay_out

_PARTS = st.lists(st.sampled_from(["a", "b", "..", ".", "", "up"]), max_size=12)


@given(parts=_PARTS, is_absolute=st.booleans())
def test_a_text_leads_to_its_last_directory_and_nowhere_above(parts: list[str], is_absolute: bool) -> None:
    text = "/" * is_absolute + "/".join([*(part for part in parts if part or is_absolute), "name"])
    layout = lay_out(os.fsencode(text))
    if layout is None:
        return
    with ledger.directory("binding") as made:
        base = Path(made, "base")
        base.mkdir()
        for directory in layout.directories:
            (base / os.fsdecode(directory)).mkdir()
        last = base / os.fsdecode(layout.last)
        if is_absolute:  # its root is the root: `..` there is the root again
            assert layout.start == b""
            assert last.is_dir()
            return
        (last / "name").touch()
        start = base / os.fsdecode(layout.start)
        assert os.path.samefile(os.fsencode(start) + b"/" + os.fsencode(text), last / "name")


@pytest.mark.parametrize("text", [b"a/../a", b"/x/y/../y", b"up/b/../../up"])
def test_a_name_that_a_directory_has_on_the_way_cannot_be_laid_out(text: bytes) -> None:
    assert lay_out(text) is None
