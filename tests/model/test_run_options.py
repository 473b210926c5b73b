"""What is read without argparse is read as argparse would, or left to it."""

from __future__ import annotations

import contextlib
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandlockd.cli.main import run_parser
from sandlockd.cli.run_options import OPTIONS, read_plain

_FLAGS = [flag for flags, _, _, _ in OPTIONS for flag in flags]
_WORDS = st.one_of(
    st.sampled_from(_FLAGS),
    st.sampled_from(_FLAGS).map(lambda flag: f"{flag}=x"),
    st.sampled_from(
        ["a", "", "-", "--", "-1", "-x", "--no", "--work", "-vv", "K=V", "--help", "a b", "-a b", "\udcff"]
    ),
)


def _argparse(words: list[str]) -> dict[str, object] | None:
    """None: it refuses, or prints help."""
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        try:
            return vars(run_parser().parse_args(words))
        except SystemExit:
            return None


@given(st.lists(_WORDS, max_size=6).filter(lambda words: "--" not in words))
def test_a_plain_command_line_is_read_as_argparse_reads_it(words: list[str]) -> None:
    found = read_plain(words)
    if found is not None:
        assert found == _argparse(words)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--policy", "base", "--quiet"],
        ["--workdir=.", "--on-exit", "discard", "--read", "/a", "--read", "/b", "--env", "A=B=C", "-v"],
    ],
)
def test_a_usual_command_line_needs_no_argparse(words: list[str]) -> None:
    assert read_plain(words) == _argparse(words) is not None
