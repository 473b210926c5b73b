"""The README's tour does what it shows, word for word; `...` stands for what differs from machine to machine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.interpreter import SANDLOCKD
from harness.waiting import until

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def console_blocks(text: str) -> list[list[tuple[str, list[str]]]]:
    """Each ```console block as (command, expected lines) pairs."""
    blocks = []
    for block in re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        steps: list[tuple[str, list[str]]] = []
        for line in block.splitlines():
            if line.startswith("$ "):
                steps.append((line[2:], []))
            else:
                steps[-1][1].append(line)
        blocks.append(steps)
    return blocks


def matches(expected: list[str], shown: str) -> bool:
    """`...` alone on a line stands for any lines, within a line for any text."""
    pattern = ""
    for line in expected:
        if line == "...":
            pattern += r"(?:.*\n)*?"
        else:
            pattern += ".*".join(re.escape(part) for part in line.split("...")) + r"\n"
    return re.fullmatch(pattern, shown) is not None


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What a user has after `git clone`: the shipped examples, in a place that may be written."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("hello/hello"))
    return tmp_path


@pytest.fixture
def service_socket(clone: Path) -> Iterator[Path]:
    """What `sandlockd serve &` starts, where no other is in its way."""
    socket, log = clone / "s", clone / "log"
    line = [SANDLOCKD, "serve", "--socket", socket, "--state-dir", clone / "service"]
    with open(log, "wb") as output, subprocess.Popen(line, stderr=output) as process:
        try:
            until(lambda: b"listens" in log.read_bytes(), "the service listens")
            yield socket
        finally:
            process.terminate()


def test_the_tour_shows_what_a_user_sees(clone: Path, service_socket: Path) -> None:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "SANDLOCKD_STATE_DIR": str(clone / "state"),
        "SANDLOCKD_SOCKET": str(service_socket),
        "LC_ALL": "C",
    }
    blocks = console_blocks(README)
    assert len(blocks) >= 5
    for steps in blocks:
        for command, expected in steps:
            done = subprocess.run(
                ["bash", "-c", command],
                cwd=clone,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                text=True,
                timeout=60,
            )
            assert matches(expected, done.stdout), (
                f"$ {command}\nshown:\n{done.stdout}\nexpected:\n{expected}"
            )


def test_a_line_that_is_not_shown_is_noticed() -> None:
    assert matches(["a", "...", "b ..."], "a\nx\ny\nb 12\n")
    assert not matches(["a", "c"], "a\nb\n")
    assert not matches(["a"], "a\nb\n")
