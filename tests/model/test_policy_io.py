"""Policies from real files, and `sandlockd check` and `presets` as a person sees them."""

from __future__ import annotations

import json
import os
import socket
import threading
import tomllib
from pathlib import Path

import pytest

from sandlockd.cli.check import check
from sandlockd.cli.presets import presets
from sandlockd.policy.errors import PolicyErrors, Unavailable
from sandlockd.policy.inputs import MAX_POLICY_BYTES, Overrides, PathKind
from sandlockd.policy.shipped import PRESETS
from sandlockd.policy.show import effective_toml, path_rules
from sandlockd.policy.verdict import Want
from sandlockd.sandbox.policies import (
    compile_file_rules,
    find_policy,
    kind_of,
    load_policy,
    look,
    procfs_mounts,
)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def write(place: Path, text: str, name: str = "my.toml") -> str:
    (place / name).write_text(text, encoding="utf-8")
    return name


def error_of(*names: str) -> str:
    with pytest.raises(PolicyErrors) as caught:
        load_policy(names)
    return str(caught.value)


# --- reading ---


def test_without_a_name_base_applies() -> None:
    assert load_policy([]).sources == ("preset base",)


def test_a_missing_policy_is_one_clear_line(place: Path) -> None:
    assert error_of("my.toml") == "my.toml: there is no such file"
    assert error_of("bse") == 'bse: there is no preset and no file "bse"; did you mean "base"?'


def test_every_bad_policy_of_the_command_line_is_told(place: Path) -> None:
    write(place, "[x]\n")
    assert error_of("nope.toml", "my.toml", "/").count("\n") == 2


def test_an_unreadable_policy_is_one_clear_line(place: Path) -> None:
    if os.getuid() == 0:
        pytest.skip("root reads everything")
    write(place, "")
    (place / "my.toml").chmod(0)
    assert error_of("my.toml") == "my.toml: cannot be read: Permission denied"


def test_a_file_of_100_mb_is_refused_without_being_read(place: Path) -> None:
    with (place / "my.toml").open("wb") as file:
        file.truncate(100 << 20)
    assert error_of("my.toml") == f"my.toml: is {100 << 20} bytes; a policy has at most {MAX_POLICY_BYTES}"


def test_a_file_without_a_size_is_read_only_as_far_as_a_policy_goes() -> None:
    # Files of procfs say that they are empty.
    assert error_of("/proc/kallsyms").startswith("/proc/kallsyms: is ")


@pytest.mark.parametrize("path", ["/dev/null", "/dev/zero", "/dev/tty", "/"])
def test_a_device_or_directory_is_refused(path: str) -> None:
    assert error_of(path).startswith(f"{path}: cannot be read: it is ")


def test_a_socket_is_refused(place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("s.toml")
        assert error_of("s.toml") == "s.toml: cannot be read: it is neither a file nor a pipe"


def test_a_fifo_that_nobody_writes_to_does_not_block(place: Path) -> None:
    os.mkfifo("my.toml")
    assert "pipe" in error_of("my.toml")


def test_a_pipe_is_read_to_its_end(place: Path) -> None:
    reader, writer = os.pipe()
    thread = threading.Thread(
        target=_write_and_close, args=(writer, b"[filesystem]\nbase = true\nread = ['.']\n")
    )
    thread.start()
    try:
        policy = load_policy([f"/dev/fd/{reader}"])
    finally:
        thread.join()
        os.close(reader)
    assert policy.filesystem.base
    assert policy.filesystem.read[0].path == os.fsencode(place)


def test_an_endless_pipe_is_cut_off(place: Path) -> None:
    reader, writer = os.pipe()
    thread = threading.Thread(target=_write_and_close, args=(writer, b"#" * (3 << 20)))
    thread.start()
    try:
        told = error_of(f"/dev/fd/{reader}")
    finally:
        os.close(reader)  # the writer gets EPIPE
        thread.join()
    assert "a policy has at most" in told


def _write_and_close(fd: int, content: bytes) -> None:
    with os.fdopen(fd, "wb", buffering=0) as pipe:
        try:
            while content:
                content = content[pipe.write(content) :]
        except BrokenPipeError:
            pass


def test_paths_are_relative_to_the_policy_and_extends_too(place: Path) -> None:
    (place / "sub").mkdir()
    (place / "sub" / "data").mkdir()
    write(place, "extends = ['sub/inner.toml']\n[filesystem]\nread = ['sub']\n")
    write(place, "[filesystem]\nread = ['data']\n", "sub/inner.toml")
    policy = load_policy(["my.toml"])
    assert [rule.path for rule in policy.filesystem.read] == [
        os.fsencode(place / "sub" / "data"),
        os.fsencode(place / "sub"),
    ]
    assert policy.filesystem.read[0].source == "sub/inner.toml:2"


def test_a_file_that_extends_itself_by_another_name_is_found_out(place: Path) -> None:
    write(place, "extends = ['./link.toml']\n")
    os.symlink("my.toml", "link.toml")
    assert error_of("my.toml") == "my.toml:1: extends[0]: ./link.toml extends itself"


def test_a_preset_wins_over_a_file_of_its_name_and_the_file_can_be_meant(place: Path) -> None:
    write(place, "[filesystem]\nread = ['.']\n", "base")
    assert load_policy(["base"]).filesystem.base
    assert not load_policy(["./base"]).filesystem.base


def test_every_preset_loads_here_and_in_an_empty_home(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PRESETS:
        compile_file_rules(load_policy([name]), None)
    monkeypatch.setenv("HOME", "/nonexistent")
    for name in PRESETS:
        compile_file_rules(load_policy([name]), None)


def test_a_name_with_a_nul_is_an_error_and_no_crash() -> None:
    with pytest.raises(Unavailable):
        find_policy("a\0.toml", b"/")


# --- the machine ---


def test_kinds_are_those_of_the_files(place: Path) -> None:
    os.symlink("loop", "loop")
    write(place, "")
    here = os.fsencode(place)
    assert kind_of(here) is PathKind.DIRECTORY
    assert kind_of(here + b"/my.toml") is PathKind.FILE
    assert kind_of(b"/dev/null") is PathKind.OTHER
    assert kind_of(here + b"/my.toml/x") is PathKind.MISSING
    assert kind_of(here + b"/loop") is PathKind.UNREADABLE


def test_looking_resolves_links_and_what_is_missing_as_far_as_it_goes(place: Path) -> None:
    (place / "real").mkdir()
    os.symlink("real", "link")
    os.symlink("real/nothing", "dangling")
    here = os.fsencode(place)
    assert look(here + b"/link").path == here + b"/real"
    assert look(here + b"/link/new").path == here + b"/real/new"
    assert look(here + b"/link/new/deep").path == here + b"/real/new/deep"
    assert look(here + b"/dangling").path == here + b"/real/nothing"
    assert look(here + b"/dangling/x").path == here + b"/real/nothing/x"
    status = os.stat(here + b"/real")
    identity = look(here + b"/link").identity
    assert identity is not None
    assert (identity.device, identity.inode) == (status.st_dev, status.st_ino)


def test_a_name_that_ends_like_a_deleted_one_is_itself(place: Path) -> None:
    name = os.fsencode(place) + b"/x (deleted)"
    os.mkdir(name)
    assert look(name).path == name


def test_proc_is_among_the_procfs_mounts() -> None:
    assert b"/proc" in procfs_mounts()


def test_the_rules_of_this_machine_let_a_shell_run_and_keep_its_secrets(place: Path) -> None:
    state = os.fsencode(place) + b"/state"
    rules = compile_file_rules(load_policy(["base"], Overrides(write=(b".",))), state, private=[b"/tmp"])
    shell = os.path.realpath(b"/bin/sh")
    assert rules.judge(shell, Want.READ | Want.EXECUTE).rule == "base"
    assert not rules.judge(b"/etc/shadow", Want.READ).allowed
    assert rules.judge(os.fsencode(place) + b"/x", Want.CREATE).allowed
    assert rules.judge(state + b"/x", Want.READ).rule == "law.state"


# --- check ---


def test_check_tells_every_error_in_a_line_and_exits_with_125(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write(
        place,
        "[filesystem]\nraed = []\nworkdir = 'my.toml'\n[limits]\nmemory = '-1'\n[network]\nbind = ['127.0.0.1:80']\n",
    )
    assert check(["my.toml"], False) == 125
    out, err = capfd.readouterr()
    assert out == ""
    assert err.splitlines() == [
        'sandlockd: my.toml:2: filesystem.raed: unknown key; did you mean "read"?',
        f"sandlockd: my.toml:3: filesystem.workdir: {place}/my.toml is not a directory",
        'sandlockd: my.toml:5: limits.memory: must be a size such as "512M" or "2G" (K, M, G, T), not "-1"',
        "sandlockd: my.toml:7: not supported yet: network.bind",
    ]


def test_check_tells_where_a_path_leads(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    os.symlink("/proc", "p")
    write(place, "[filesystem]\nread = ['p/self']\n")
    assert check(["my.toml"], False) == 125
    assert "which no policy can grant (law.proc)" in capfd.readouterr().err


def test_check_as_json_has_the_errors(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write(place, "\nx = 1\n")
    assert check(["my.toml"], True) == 125
    (error,) = json.loads(capfd.readouterr().out)["errors"]
    assert (error["file"], error["line"], error["key"]) == ("my.toml", 2, "x")


FULL = """
extends = ["agent"]
[program]
exec = "make"
args = ["-j4", 'a"b']
env = { CC = "gcc", "odd name" = "x\\ny" }
umask = "007"
cwd = "."
[filesystem]
read = [".", "${ODD}"]
deny = ["a$$b"]
execute = ["/usr/bin"]
[syscalls]
deny = ["mount"]
allow = ["ptrace"]
[audit]
level = "all"
[degrade]
allow = ["landlock.tcp"]
"""


def test_the_effective_policy_loads_to_itself(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = os.fsencode(place) + b'/odd \xff"\\\x1b'
    os.mkdir(odd)
    monkeypatch.setitem(os.environb, b"ODD", odd)
    write(place, FULL)
    policy = load_policy(["my.toml"])
    text = effective_toml(policy)
    assert all(line.isprintable() for line in text.splitlines())
    write(place, text, "again.toml")
    again = load_policy(["again.toml"])
    assert _paths(again) == _paths(policy)
    assert odd in [rule.path for rule in again.filesystem.read]
    for section in ("program", "syscalls", "audit", "degrade", "limits", "network"):
        assert getattr(again, section) == getattr(policy, section)


def _paths(policy: object) -> list[tuple[bytes, str]]:
    return [(rule.path, rule.rule) for rule in path_rules(policy)]  # type: ignore[arg-type]


def test_check_shows_the_effective_policy_with_the_source_of_each_path(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write(place, FULL.replace(', "${ODD}"', ""))
    assert check(["my.toml"], False) == 0
    text = capfd.readouterr().out
    assert f'    "{place}",  # my.toml:10\n' in text
    assert tomllib.loads(text)["program"]["umask"] == "007"
    assert check(["my.toml"], True) == 0
    described = json.loads(capfd.readouterr().out)
    assert described["policy"] == tomllib.loads(text)
    assert {"rule": "filesystem.read[0]", "path": str(place), "source": "my.toml:10"} in described["rules"]


# --- presets ---


def test_presets_are_listed_and_printed(capfd: pytest.CaptureFixture[str]) -> None:
    assert presets(None, False) == 0
    assert [line.split()[0] for line in capfd.readouterr().out.splitlines()] == list(PRESETS)
    assert presets("agent", False) == 0
    assert tomllib.loads(capfd.readouterr().out)["program"]["clean_env"]
    assert presets(None, True) == 0
    assert [row["name"] for row in json.loads(capfd.readouterr().out)] == list(PRESETS)
    assert presets("agnet", False) == 125
    assert 'did you mean "agent"' in capfd.readouterr().err
