"""`-v`: on standard error what is granted and by what it is enforced, each refusal as it happens, and what was used."""

from __future__ import annotations

import fcntl
import os
import subprocess

import pytest
from harness.running import Runner, system_python
from harness.waiting import line_of

_F_SETPIPE_SZ = 1031


def _told(stderr: bytes) -> list[str]:
    """What sandlockd said; the program's own lines left out."""
    lines = stderr.decode().splitlines()
    return [line.removeprefix("sandlockd: ") for line in lines if line.startswith("sandlockd: ")]


def test_the_start_says_what_is_granted_and_by_what_it_is_enforced(runner: Runner) -> None:
    options = ["-v", "--write", runner.work, "--deny", runner.work / "no"]
    ended = runner.sandboxed(["echo", "two words"], options=options)
    assert ended.stdout == b"two words\n"
    told = _told(ended.stderr)
    assert ended.status is not None
    assert told[0] == f"run {ended.status['run']}: echo 'two words'"
    assert f"executes {os.path.realpath('/usr/bin')}/echo in {runner.work}" in told
    assert any(line.startswith("grants read+execute: /usr") and line.endswith("(base)") for line in told)
    everything = "read+execute+write+create+delete+metadata"
    assert f"grants {everything}: {runner.work} (filesystem.write[0])" in told
    assert f"denies {runner.work}/no (filesystem.deny[0])" in told
    assert any(line.startswith("enforced by Landlock (ABI ") for line in told)
    assert any(line.startswith("enforced by seccomp: a filter of ") for line in told)


def test_the_start_says_what_is_limited(runner: Runner) -> None:
    policy = '[filesystem]\nbase = true\n[limits]\ncpu_time = "1m"\nopen_files = 50\n'
    ended = runner.sandboxed(["true"], options=["-v", "--timeout", "1h"], policy=policy)
    said = "limited: 3600 s of time, then SIGTERM; 60 s of processors, all together; 50 open files each"
    assert said in _told(ended.stderr)


def test_each_refusal_is_told_when_it_happens(runner: Runner) -> None:
    secret = runner.place.file("secret.txt", "classified")
    script = f"cat {secret} 2>/dev/null; echo met; read -r go; exit 4"  # no words of its own in between ours
    with runner.started(runner.command_line(["sh", "-c", script], options=["-v"])) as process:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        assert line_of(process.stdout.fileno()) == b"met\n"  # and the program waits for us
        said = b""
        while b"refused" not in said:
            said = line_of(process.stderr.fileno())
        assert said.startswith(
            f"sandlockd: refused openat {secret}, to read: EACCES by default; cat (pid ".encode()
        )
        output, rest = process.communicate(b"\n", timeout=20)
        assert process.returncode == 4 and output == b""
    told = _told(rest)
    assert told[-3].startswith("exited with 4 after ") and "peak memory" in told[-3]
    assert "at least " in told[-3] and told[-3].endswith(" processes")
    assert "calls asked for" in told[-2] and told[-2].endswith("1 refused")
    assert told[-1].startswith("1 refusal; to see why: ")


def test_repeats_are_told_at_ten_a_hundred_and_so_on(runner: Runner) -> None:
    program = (
        "import os\nfor i in range(1500):\n"
        "    try: os.open('/etc/shadow', os.O_RDONLY)\n    except OSError: pass\n"
    )
    ended = runner.sandboxed([system_python(), "-S", "-c", program], options=["-v"])
    refused = [line for line in _told(ended.stderr) if line.startswith("refused openat /etc/shadow")]
    assert [("times" in line, line.split("; ")[0].rpartition(", ")[2]) for line in refused][1:] == [
        (True, "10 times"),
        (True, "100 times"),
        (True, "1000 times"),
    ]
    assert len(refused) == 4


@pytest.mark.parametrize("level", ["off", "all"])
def test_whatever_is_recorded(runner: Runner, level: str) -> None:
    policy = f'[filesystem]\nbase = true\n[audit]\nlevel = "{level}"\n'
    # Without words of its own, which it writes in pieces, into which ours might fall.
    ended = runner.sandboxed(["sh", "-c", "cat /etc/shadow 2>/dev/null"], policy=policy, options=["-v"])
    told = _told(ended.stderr)
    assert len([line for line in told if line.startswith("refused")]) == 1
    assert f"policy: {runner.place.root}/policy.toml; audit level {level}" in told
    assert any(line.endswith("on record as allowed") for line in told) == (level == "all")


def test_names_that_the_program_chose_cannot_write_to_the_terminal(runner: Runner) -> None:
    script = "cat \"$(printf '/root/\\033]0;owned\\007\\n\\\\377')\""
    ended = runner.sandboxed(["sh", "-c", script], options=["-v"])
    own = b"".join(line for line in ended.stderr.splitlines(True) if line.startswith(b"sandlockd: "))
    assert own and not any(byte in own for byte in (b"\x1b", b"\x07", b"\xff"))


def test_a_reader_that_stands_still_does_not_hold_the_program_up(runner: Runner) -> None:
    """Standard error is a full pipe: the program goes on, and the run ends."""
    program = (
        "import os\nfor i in range(3000):\n"
        "    try: os.open(f'/root/none-{i}/x' if i % 2 else f'/var/log/none-{i}', os.O_WRONLY | os.O_CREAT)\n"
        "    except OSError: pass\n"
        "print('over', flush=True)\n"
    )
    line = runner.command_line([system_python(), "-S", "-c", program], options=["-v"])
    reader, writer = os.pipe()
    fcntl.fcntl(writer, _F_SETPIPE_SZ, 16384)
    with os.fdopen(reader, "rb") as unread:
        with subprocess.Popen(
            line, **runner.popen_arguments(stdout=subprocess.PIPE, stderr=writer)
        ) as process:
            os.close(writer)
            assert process.stdout is not None
            assert line_of(process.stdout.fileno(), 20) == b"over\n"
            assert process.wait(timeout=20) == 0
        told = _told(unread.read())
    assert told[0].startswith("run ")


def test_without_it_nothing_is_said(runner: Runner) -> None:
    assert runner.sandboxed(["true"]).stderr == b""
