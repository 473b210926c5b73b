"""A policy that is wrong: one clear line per error with file and line, exit status 125, nothing started."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from harness.running import Ended, Runner


def _refused(runner: Runner, *options: str | Path, policy: str | None = None) -> list[str]:
    """The error lines. The command, if it ran, would leave a file."""
    (runner.place.root / "here").mkdir(exist_ok=True)
    ended: Ended = runner.sandboxed(
        ["sh", "-c", "touch started"], options=["--write", runner.work, *options], policy=policy
    )
    assert ended.returncode == 125
    assert ended.stdout == b""
    assert not (runner.work / "started").exists()
    assert os.listdir(runner.place.temporary) == []
    assert ended.reason == "sandbox_error"
    lines = ended.stderr.decode().splitlines()
    assert lines, "it must be said what is wrong"
    for line in lines:
        assert line.startswith("sandlockd: ")
    assert "Traceback" not in ended.stderr.decode()
    return lines


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("[filesystem]\nbase = maybe\n", 2, ["TOML"]),
        ("[filesystem\nbase = true\n", 1, ["TOML"]),
        ("[filesystem]\nbase = true\nbase = false\n", 3, ["TOML"]),
        ('[filesystem]\nraed = ["/usr"]\n', 2, ["filesystem.raed", "unknown key", '"read"']),
        ("[filesytem]\nbase = true\n", 1, ["filesytem", "unknown key", '"filesystem"']),
        ('read = ["/usr"]\n', 1, ["read", "unknown key", "filesystem.read"]),
        ("[filesystem]\nbase = 1\n", 2, ["filesystem.base", "true or false"]),
        ('[filesystem]\n\nread = "/usr"\n', 3, ["filesystem.read", "array"]),
        ("[filesystem]\nread = [1]\n", 2, ["filesystem.read[0]"]),
        (
            '[filesystem]\nread = [\n  "/usr",\n  "/no/such/path",\n]\n',
            4,
            ["filesystem.read[1]", "/no/such/path"],
        ),
        ('[limits]\nmemory = "16E"\n', 2, ["limits.memory", "16E"]),
        ('[limits]\nmemory = "-1"\n', 2, ["limits.memory", "-1"]),
        ('[limits]\nmemory = "lots"\n', 2, ["limits.memory", "lots"]),
        ("[limits]\nprocesses = -1\n", 2, ["limits.processes"]),
        ("[limits]\nprocesses = 0\n", 2, ["limits.processes"]),
        ('[limits]\ntimeout = "soon"\n', 2, ["limits.timeout", "soon"]),
        ('[filesystem]\nworkdir = "/etc/passwd"\n', 2, ["filesystem.workdir", "/etc/passwd"]),
        ('[program]\ncwd = "/etc/passwd"\n', 2, ["program.cwd", "/etc/passwd"]),
        ('[program]\numask = "999"\n', 2, ["program.umask"]),
        ('[program]\nenv = { "A=B" = "x" }\n', 2, ["program.env"]),
        ('extends = ["no-such-preset"]\n', 1, ["extends", "no-such-preset"]),
        ('[syscalls]\ndeny = ["opne"]\n', 2, ["syscalls.deny[0]", "opne"]),
        ('[audit]\nlevel = "loud"\n', 2, ["audit.level", "loud"]),
        ('[network]\nallow = ["example.org:99999"]\n', 2, ["network.allow[0]"]),
    ],
)
def test_one_error_is_one_line_with_its_place(runner: Runner, text: str, line: int, words: list[str]) -> None:
    (said,) = _refused(runner, policy=text)
    assert said.startswith(f"sandlockd: {runner.place.root}/policy.toml:{line}: ")
    for word in words:
        assert word in said


def test_every_error_is_told_in_the_order_of_its_line(runner: Runner) -> None:
    text = '[filesystem]\nraed = []\nread = ["/no/such"]\n[limits]\nmemory = "16E"\n[nonsense]\n'
    said = _refused(runner, policy=text)
    assert [int(line.split(":")[2]) for line in said] == [2, 3, 5, 6]


def test_a_policy_that_extends_itself(runner: Runner) -> None:
    (said,) = _refused(runner, policy='extends = ["policy.toml"]\n')
    assert "extends itself" in said


@pytest.mark.parametrize("name", ["./missing.toml", "/no/such/policy.toml", "bsae"])
def test_a_policy_that_is_not_there(runner: Runner, name: str) -> None:
    (said,) = _refused(runner, "--policy", name)
    assert name in said
    if name == "bsae":
        assert '"base"' in said


def test_a_policy_that_cannot_be_read(runner: Runner) -> None:
    path = runner.place.file("secret.toml", "[filesystem]\nbase = true\n", 0o000)
    if runner.place.user.is_root:
        pytest.skip("root reads it")
    (said,) = _refused(runner, "--policy", path)
    assert str(path) in said
    assert "Permission denied" in said


def test_a_policy_that_is_a_directory(runner: Runner) -> None:
    (said,) = _refused(runner, "--policy", runner.place.home)
    assert str(runner.place.home) in said
    assert "directory" in said


def test_a_policy_that_is_a_device(runner: Runner) -> None:
    (said,) = _refused(runner, "--policy", "/dev/zero")
    assert "/dev/zero" in said


def test_a_policy_that_is_not_utf8(runner: Runner) -> None:
    path = runner.place.file("latin.toml", b'[program]\nenv = { A = "\xff\xfe" }\n')
    (said,) = _refused(runner, "--policy", path)
    assert str(path) in said
    assert "UTF-8" in said


def test_a_policy_of_a_hundred_megabytes(runner: Runner) -> None:
    path = runner.place.file("large.toml")
    os.truncate(path, 100_000_000)
    (said,) = _refused(runner, "--policy", path)
    assert str(path) in said
    assert "100000000" in said or "large" in said.replace(str(path), "")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--read", "/no/such/path"], ["--read", "/no/such/path"]),
        (["--memory", "16E"], ["--memory", "16E"]),
        (["--processes", "many"], ["--processes", "many"]),
        (["--env", "novalue"], ["--env", "novalue"]),
        (["--workdir", "/etc/passwd"], ["--workdir", "/etc/passwd"]),
    ],
)
def test_an_option_that_is_wrong(runner: Runner, options: list[str], words: list[str]) -> None:
    (said,) = _refused(runner, *options)
    for word in words:
        assert word in said


def test_check_says_the_same_as_a_run(runner: Runner) -> None:
    text = '[filesystem]\nraed = []\nread = ["/no/such"]\n'
    said = _refused(runner, policy=text)
    checked = runner.sandlockd("check", runner.place.root / "policy.toml")
    assert checked.returncode != 0
    assert [line.removeprefix("sandlockd: ") for line in said] == [
        line.removeprefix("sandlockd: ") for line in checked.stderr.decode().splitlines()
    ]
