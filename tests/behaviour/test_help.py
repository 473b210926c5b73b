"""What is told of the command line agrees: `--help`, the manual pages, and what pip installs."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from harness.interpreter import SANDLOCKCTL, SANDLOCKD
from harness.running import Runner

from sandlockd.cli import control, main

_MANUALS = Path(__file__).parents[2] / "docs" / "man"
_PARSERS = {"sandlockd": main._PARSERS, "sandlockctl": control._PARSERS}
_VERBS = [(name, verb) for name, parsers in _PARSERS.items() for verb in parsers]


def _actions(name: str) -> list[argparse.Action]:
    parsers = [make() for make in _PARSERS[name].values()]
    if name == "sandlockctl":
        parsers.append(control.main_parser())
    return [action for parser in parsers for action in parser._actions]


@pytest.mark.parametrize(("name", "verb"), _VERBS)
def test_help_has_examples_that_are_commands_of_that_verb(runner: Runner, name: str, verb: str) -> None:
    program = SANDLOCKD if name == "sandlockd" else SANDLOCKCTL
    ended = runner.run([program, verb, "--help"])
    assert (ended.returncode, ended.stderr) == (0, b"")
    _, _, examples = ended.stdout.decode().partition("examples:\n")
    lines = [line for line in examples.partition("\n\n")[0].splitlines() if line]
    assert lines and all(line.startswith(f"  {name}") for line in lines)
    assert all(line.split()[1] == verb for line in lines) or verb == "run"


@pytest.mark.parametrize("name", list(_PARSERS))
def test_every_option_tells_its_default(name: str) -> None:
    untold = [
        action.option_strings
        for action in _actions(name)
        if action.option_strings
        and "default" not in str(action.help)
        and not {"--help", "--version"} & set(action.option_strings)
    ]
    assert untold == []


@pytest.mark.parametrize("name", list(_PARSERS))
def test_the_manual_page_has_the_options_of_help_and_no_others(name: str) -> None:
    text = (_MANUALS / f"{name}.1").read_text().replace("\\-", "-")
    told = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text))
    options = {flag for action in _actions(name) for flag in action.option_strings if flag.startswith("--")}
    # The page of one program names options of the other in what it says about it.
    others = {flag for other in _PARSERS for action in _actions(other) for flag in action.option_strings}
    assert options <= told
    assert told - options <= others


@pytest.mark.parametrize("name", list(_PARSERS))
def test_the_manual_page_has_every_verb(name: str) -> None:
    text = (_MANUALS / f"{name}.1").read_text()
    heads = re.findall(r"^\.TP\n\.BR? (.*)$", text, re.MULTILINE)
    assert {verb for verb in _PARSERS[name] if verb != "run"} <= {
        head.split()[0].strip('"') for head in heads
    }


@pytest.mark.parametrize("name", list(_PARSERS))
def test_the_manual_page_is_read_without_a_warning(name: str) -> None:
    if shutil.which("groff") is None:
        pytest.skip("no groff here")
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww", "-z", str(_MANUALS / f"{name}.1")],
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("name", list(_PARSERS))
def test_pip_puts_the_manual_page_where_man_finds_it(name: str) -> None:
    if "editable" in (metadata.distribution("sandlockd").read_text("direct_url.json") or ""):
        pytest.skip("an editable installation has none")
    listed = {Path(str(file)).parts[-4:] for file in metadata.files("sandlockd") or ()}
    assert ("share", "man", "man1", f"{name}.1") in listed
    installed = Path(sys.prefix) / "share" / "man" / "man1" / f"{name}.1"
    assert installed.read_text() == (_MANUALS / f"{name}.1").read_text()
