"""`explain` says what was refused, to whom, by which rule, and the line that would allow it."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

import sandlockd
from sandlockd.audit import laws
from sandlockd.audit.explain import COLOURED, explanation, json_lines, printable
from sandlockd.audit.log import AuditLog
from sandlockd.audit.read import RunLog, exact_bytes, read_run
from sandlockd.audit.records import Failure, Level, Note, Refusal, RunEnd, RunHeader
from sandlockd.cli.explain import explain
from sandlockd.policy.verdict import Want

END = RunEnd(reason="exited", exit_code=2, wall_s=0.75)


def started(directory: Path, time_ns: int = 1_700_000_000_000_000_000) -> AuditLog:
    log = AuditLog(directory, clock_ns=lambda: time_ns)
    log.begin(
        RunHeader(
            run_id=log.run_id,
            command=(b"make", b"-C", b"my dir"),
            cwd=b"/src",
            policy_sources=("preset base", "make.toml"),
            policy_digest="0" * 64,
            version="0.1.0",
            uid=1000,
            pid=99,
            level=Level.DENIALS,
        )
    )
    return log


def denied(path: bytes | None = b"/home/u/.ssh/id", **changes: Any) -> Refusal:
    facts: dict[str, Any] = {
        "call": "openat",
        "rule": "filesystem.deny[0]",
        "path": path,
        "wanted": Want.READ,
        "pid": 12,
        "command": b"cat",
        "remedy": '[filesystem] read = ["/home/u/.ssh"]',
    }
    return Refusal(**facts | changes)


def read(directory: Path, log: AuditLog) -> RunLog:
    return read_run(os.fsencode(directory), log.run_id)


def test_each_refusal_is_told_with_caller_rule_and_remedy(tmp_path: Path) -> None:
    log = started(tmp_path)
    log.refuse(denied())
    log.refuse(denied(command=b"make", pid=11))
    log.refuse(denied(call="io_uring_setup", path=None, rule="law.io_uring", wanted="", remedy=None))
    log.close(END)
    assert explanation(read(tmp_path, log)) == (
        f"run {log.run_id}: make -C 'my dir'\n"
        "  started 2023-11-14T22:13:20.000Z in /src, policy: preset base, make.toml\n"
        "  exited with 2 after 0.8 s; 3 refusals\n"
        "\n"
        "openat /home/u/.ssh/id, to read: EACCES, 2 times\n"
        "    by     cat (pid 12), make (pid 11)\n"
        "    rule   filesystem.deny[0]\n"
        '    allow  [filesystem] read = ["/home/u/.ssh"]\n'
        "\n"
        "io_uring_setup: EACCES\n"
        "    by     cat (pid 12)\n"
        "    rule   law.io_uring\n"
        "    allow  nothing may allow this: io_uring carries out file and network calls that no filter sees\n"
    )


def test_counts_are_the_newest_and_a_run_may_still_go_on(tmp_path: Path) -> None:
    log = started(tmp_path)
    for _ in range(25):
        log.refuse(denied())
    text = explanation(read(tmp_path, log))
    assert "still running; 10 refusals" in text
    log.close(END)
    assert "to read: EACCES, 25 times" in explanation(read(tmp_path, log))


def test_a_killed_supervisor_leaves_a_log_that_is_shown_with_what_it_lacks(tmp_path: Path) -> None:
    log = started(tmp_path)
    log.refuse(denied())
    log.close(END)
    path = tmp_path / "runs" / log.run_id / "audit.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.rindex(b'"kind":"end"') + 20])
    text = explanation(read(tmp_path, log))
    assert "its end is not recorded: the supervisor was killed; 1 refusal\n" in text
    assert "the last line of the log is cut short" in text
    assert '[filesystem] read = ["/home/u/.ssh"]' in text


@pytest.mark.parametrize("junk", [b"{", b"[1]", b'{"kind":3}', b"\xff\xfe", b"[" * 100_000, b"null"])
def test_a_damaged_line_is_told_and_the_rest_is_shown(tmp_path: Path, junk: bytes) -> None:
    log = started(tmp_path)
    log.refuse(denied())
    log.close(END)
    path = tmp_path / "runs" / log.run_id / "audit.jsonl"
    path.write_bytes(junk + b"\n" + path.read_bytes())
    text = explanation(read(tmp_path, log))
    assert "1 damaged line of the log left out\n" in text
    assert "filesystem.deny[0]" in text


def test_nothing_of_what_a_program_chose_reaches_the_terminal_raw(tmp_path: Path) -> None:
    log = started(tmp_path)
    evil = "/\x1b[2J\u202e\u2028\x9b\n".encode() + b"\xff"
    log.refuse(denied(evil, command=b"\x1b[31m", target=evil, remedy="read = ['\x1b[2J']"))
    log.note(Note(subject="x\x1b", text="\x1b]0;t\x07"))
    log.close(END)
    found = read(tmp_path, log)
    assert all(line.isprintable() for line in explanation(found).split("\n"))
    assert all(line.isprintable() and line.isascii() for line in json_lines(found))
    assert exact_bytes(found.events[0], "path") == evil


def test_colour_only_frames_the_words(tmp_path: Path) -> None:
    log = started(tmp_path)
    log.refuse(denied())
    log.close(END)
    found = read(tmp_path, log)
    coloured = explanation(found, COLOURED)
    assert coloured != explanation(found)
    for code in (COLOURED.strong, COLOURED.refused, COLOURED.allowed, COLOURED.end):
        coloured = coloured.replace(code, "")
    assert coloured == explanation(found)


def test_an_error_of_ours_is_told_as_ours(tmp_path: Path) -> None:
    log = started(tmp_path)
    log.refuse(Failure(denied(remedy=None), "Traceback (most recent call last):\nKeyError: 3"))
    log.close(END)
    text = explanation(read(tmp_path, log))
    assert "not a matter of policy: sandlockd failed to judge or answer it, and so refused" in text
    assert "           KeyError: 3\n" in text


def test_refusals_that_are_only_counted_are_told(tmp_path: Path) -> None:
    log = AuditLog(tmp_path, max_bytes=1)
    for index in range(7):
        log.refuse(denied(b"/%d" % index))
    log.close(END)
    text = explanation(read(tmp_path, log))
    assert "; 7 refusals\n" in text
    assert "openat: 7 more refusals\n    rule   filesystem.deny[0]\n" in text


def test_json_gives_each_event_once_with_its_newest_count(tmp_path: Path) -> None:
    log = started(tmp_path)
    for _ in range(12):
        log.refuse(denied(b"/\x7f"))
    log.close(END)
    lines = list(json_lines(read(tmp_path, log)))
    parsed = [json.loads(line) for line in lines]
    assert [record["kind"] for record in parsed] == ["run", "refusal", "end", "log"]
    assert (parsed[1]["count"], parsed[1]["path"]) == (12, "/\x7f")
    assert parsed[3] == {
        "kind": "log",
        "run": log.run_id,
        "running": False,
        "damaged_lines": 0,
        "cut_short": False,
    }


@pytest.mark.parametrize("run", [None, "whole", "end"])
def test_the_command_shows_the_run_that_is_meant(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], run: str | None
) -> None:
    for second in (1, 2):
        log = started(tmp_path, second * 1_000_000_000)
        log.close(END)
    meant = {None: None, "whole": log.run_id, "end": log.run_id[-6:]}[run]
    assert explain(meant, run is None, False, os.fsencode(tmp_path)) == 0
    assert capfd.readouterr().out.startswith(f"run {log.run_id}: make")


def test_an_unknown_run_is_told_with_the_newest_ones(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    state_dir = os.fsencode(tmp_path)
    assert explain(None, True, False, state_dir) == 1
    assert capfd.readouterr().err == f"sandlockd: no run has left a log in {tmp_path} yet\n"
    log = started(tmp_path)
    log.close(END)
    assert explain("nonsense\x1b", False, False, state_dir) == 1
    assert capfd.readouterr().err == f"sandlockd: no run nonsense\\x1b; the newest are: {log.run_id}\n"
    assert explain(log.run_id, True, False, state_dir) == 2
    assert capfd.readouterr().err == "sandlockd: give a run or --last, not both\n"


def test_a_state_directory_not_to_be_trusted_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    started(tmp_path).close(END)
    tmp_path.chmod(0o777)
    assert explain(None, True, False, os.fsencode(tmp_path)) == 1
    assert "may be written by others" in capfd.readouterr().err


def test_letters_that_the_terminal_lacks_are_escaped() -> None:
    assert printable("a\x00\x9b\u202e\U000e0001é") == "a\\x00\\x9b\\u202e\\U000e0001é"


def test_every_law_in_the_source_has_words() -> None:
    source = Path(sandlockd.__file__).parent
    texts = [path.read_text() for path in source.rglob("*.py") if path.parent.name != "audit"]
    # In prose a full stop may follow. law.x stands for any law, law.rule is an attribute.
    named = set(re.findall(r"\blaw\.[a-z_]*[a-z]\b", "\n".join(texts))) - {"law.x", "law.rule"}
    assert "law.io_uring" in named
    assert {law for law in named if "is a law of sandlockd" in laws.reason(law)} == set()
