"""The audit log counts exactly, stays bounded, and never lets a broken disk reach the program."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from sandlockd.audit import log as log_module
from sandlockd.audit.log import AuditLog
from sandlockd.audit.records import Allowed, Failure, Level, Note, Refusal, RunEnd, RunHeader
from sandlockd.policy.verdict import Want

END = RunEnd(reason="exited", exit_code=2, wall_s=0.25)


def refusal(path: bytes = b"/secret", **changes: Any) -> Refusal:
    facts: dict[str, Any] = {
        "call": "openat",
        "rule": "filesystem.deny[0]",
        "path": path,
        "wanted": Want.READ,
        "pid": 100,
        "birth": 7,
        "tid": 101,
        "command": b"cat",
    }
    return Refusal(**facts | changes)


def header(run_id: str, command: tuple[bytes, ...] = (b"make",)) -> RunHeader:
    return RunHeader(
        run_id=run_id,
        command=command,
        cwd=b"/src",
        policy_sources=("preset base",),
        policy_digest="0" * 64,
        version="0.1.0",
        uid=1000,
        pid=99,
        level=Level.DENIALS,
    )


def log_path(directory: Path, log: AuditLog) -> Path:
    return directory / "runs" / log.run_id / "audit.jsonl"


def records(directory: Path, log: AuditLog) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log_path(directory, log).read_bytes().splitlines()]


def counted(lines: list[dict[str, Any]], kinds: tuple[str, ...] = ("refusal", "error")) -> int:
    """What a reader adds up: the newest count of each number."""
    newest = {line["number"]: line for line in lines if "number" in line}
    return sum(line["count"] for line in newest.values() if line.get("of", line["kind"]) in kinds)


def test_a_refusal_is_on_disk_when_refuse_returns(tmp_path: Path) -> None:
    log = AuditLog(tmp_path, clock_ns=lambda: 1_700_000_000_123_000_000)
    log.refuse(refusal(remedy='[filesystem] read = ["/secret"]', wanted=Want.READ | Want.METADATA))
    (line,) = records(tmp_path, log)
    assert line == {
        "kind": "refusal",
        "number": 1,
        "time": "2023-11-14T22:13:20.123Z",
        "last": "2023-11-14T22:13:20.123Z",
        "count": 1,
        "pid": 100,
        "birth": 7,
        "tid": 101,
        "command": "cat",
        "call": "openat",
        "path": "/secret",
        "target": None,
        "wanted": "read+metadata",
        "rule": "filesystem.deny[0]",
        "errno": "EACCES",
        "remedy": '[filesystem] read = ["/secret"]',
    }
    log.close(END)


def test_repeats_are_written_at_powers_of_ten_and_at_the_end(tmp_path: Path) -> None:
    log = AuditLog(tmp_path)
    for _ in range(250):
        log.refuse(refusal())
    assert [line["count"] for line in records(tmp_path, log)] == [1, 10, 100]
    log.close(END)
    assert [line.get("count") for line in records(tmp_path, log)] == [1, 10, 100, 250, None]
    assert {line.get("number") for line in records(tmp_path, log)} == {1, None}


def test_other_processes_of_the_same_command_share_a_record_and_other_facts_do_not(tmp_path: Path) -> None:
    log = AuditLog(tmp_path)
    log.refuse(refusal(pid=1))
    log.refuse(refusal(pid=2))
    others = ({"path": b"/b"}, {"call": "stat"}, {"rule": "base"}, {"errno": errno.EPERM}, {"command": b"sh"})
    for change in others:
        log.refuse(refusal(**change))
    log.close(END)
    assert counted(records(tmp_path, log)) == 7
    assert len({line.get("number") for line in records(tmp_path, log)} - {None}) == 6


def test_the_run_begins_and_ends_with_its_own_records(tmp_path: Path) -> None:
    log = AuditLog(tmp_path)
    log.begin(header(log.run_id, (b"make", b"-C", b"caf\xe9")))
    log.note(Note(subject="stacked-filter", text="the program added a filter", pid=5, command=b"sh"))
    log.refuse(Failure(refusal(), "Traceback ...\nKeyError: 3"))
    log.close(END)
    first, note, error, end = records(tmp_path, log)
    assert (first["kind"], first["schema"], first["command"]) == ("run", 1, ["make", "-C", "caf\\xe9"])
    assert first["command_b64"][2] == "Y2Fm6Q=="
    assert (note["kind"], note["subject"], note["pid"]) == ("note", "stacked-filter", 5)
    assert (error["kind"], error["traceback"]) == ("error", "Traceback ...\nKeyError: 3")
    assert (end["kind"], end["exit_code"], end["denials"], end["unrecorded"]) == ("end", 2, 1, 0)


def test_a_huge_command_line_is_cut_and_says_so(tmp_path: Path) -> None:
    log = AuditLog(tmp_path)
    log.begin(header(log.run_id, (b"x",) * 1_000_000))
    (first,) = records(tmp_path, log)
    assert first["command_cut"] is True
    assert log_path(tmp_path, log).stat().st_size < 100_000
    log.close(END)


@pytest.mark.parametrize(
    "name",
    [
        b'quote"back\\slash',
        b"\x1b]0;owned\x07\x1b[2J",
        b"two\nlines\r",
        "\u202egnp.exe".encode(),
        "\u2028\u2029\x85\x9b31m".encode(),
        b"\xff\xfe\x00"[:2],
        b"x" * 4095,
        b'","rule":"base","path":"',
    ],
)
def test_a_hostile_file_name_is_one_harmless_line(tmp_path: Path, name: bytes) -> None:
    log = AuditLog(tmp_path)
    log.refuse(refusal(b"/" + name, command=name[:15], target=name))
    log.close(END)
    raw = log_path(tmp_path, log).read_bytes()
    assert raw.count(b"\n") == 2
    assert all(line.isprintable() for line in raw.decode("utf-8").split("\n"))
    line = records(tmp_path, log)[0]
    assert line["rule"] == "filesystem.deny[0]"
    shown = ("/" + name.decode("utf-8", "backslashreplace"), name.decode("utf-8", "backslashreplace"))
    assert (line["path"], line["target"]) == shown


def test_allowed_calls_are_written_at_level_all_only(tmp_path: Path) -> None:
    allowed = Allowed(call="openat", rule="base", path=b"/usr/bin/cc", wanted=Want.READ)
    quiet, full = AuditLog(tmp_path), AuditLog(tmp_path, level=Level.ALL)
    for log in (quiet, full):
        log.allow(allowed)
        log.close(END)
    assert [line["kind"] for line in records(tmp_path, quiet)] == ["end"]
    assert [line["kind"] for line in records(tmp_path, full)] == ["allowed", "end"]
    assert full.denials == 0


def test_allowed_calls_are_counted_like_refusals_and_apart_from_them(tmp_path: Path) -> None:
    log = AuditLog(tmp_path, level=Level.ALL)
    for _ in range(25):
        log.allow(Allowed(call="openat", rule="base", path=b"/usr/bin/cc", answer="continued"))
        log.allow(Allowed(call="openat", rule="base", path=b"/usr/bin/cc", answer="ENOENT"))
    log.refuse(refusal())
    log.close(END)
    lines = records(tmp_path, log)
    allowed = [(line["answer"], line["count"]) for line in lines if line["kind"] == "allowed"]
    assert sorted(allowed) == sorted((a, n) for a in ("continued", "ENOENT") for n in (1, 10, 25))
    assert (lines[-1]["denials"], lines[-1]["allowed"], lines[-1]["unrecorded"]) == (1, 50, 0)


def test_a_flood_of_allowed_calls_leaves_room_for_refusals(tmp_path: Path) -> None:
    """Of the keys, and of the file."""
    for max_bytes in (log_module.LOG_BYTES_MAX, 400_000):
        log = AuditLog(tmp_path, level=Level.ALL, max_bytes=max_bytes)
        for index in range(20_000):
            log.allow(Allowed(call="openat", rule="base", path=b"/usr/%d" % index))
        for index in range(300):
            log.refuse(refusal(b"/secret/%d" % index))
        log.close(END)
        lines = records(tmp_path, log)
        assert sum(line["kind"] == "refusal" for line in lines) == 300
        assert counted(lines, ("allowed",)) == lines[-1]["allowed"] == 20_000
        assert log_path(tmp_path, log).stat().st_size < max_bytes + 1_000_000


@pytest.mark.parametrize("level", list(Level))
def test_who_listens_is_told_when_a_refusal_is_written_or_would_be(tmp_path: Path, level: Level) -> None:
    told = []
    log = AuditLog(tmp_path, level=level)
    log.on_refusal = lambda event, count: told.append((event, count))
    for _ in range(123):
        log.refuse(refusal())
        log.allow(Allowed(call="openat", rule="base", path=b"/usr/bin/cc"))
    log.note(Note(subject="pump", text="text"))
    log.close(END)
    assert told == [(refusal(), 1), (refusal(), 10), (refusal(), 100)]
    assert log.closing_lines(failed=False) == []


def test_level_off_touches_no_disk_and_still_counts(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "state", level=Level.OFF)
    log.begin(header(log.run_id))
    log.refuse(refusal())
    log.close(END)
    assert not (tmp_path / "state").exists()
    assert log.denials == 1
    assert log.closing_lines(failed=True) == [
        'sandlockd: 1 refusal; to see them, set level = "denials" under [audit]'
    ]


def test_a_failed_run_ends_with_the_number_of_refusals_and_the_command(tmp_path: Path) -> None:
    log = AuditLog(tmp_path)
    for path in (b"/a", b"/a", b"/b"):
        log.refuse(refusal(path))
    log.close(END)
    expected = f"sandlockd: 3 refusals; to see why: sandlockd explain {log.run_id}"
    assert log.closing_lines(failed=True) == [expected]
    assert log.closing_lines(failed=False) == []


def test_a_hundred_thousand_different_refusals_stay_bounded_and_counted(tmp_path: Path) -> None:
    log = AuditLog(tmp_path)
    tracemalloc.start()
    for index in range(100_000):
        log.refuse(refusal(b"/some/rather/long/path/%d" % index, call=("openat", "stat")[index % 2]))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    log.close(END)
    lines = records(tmp_path, log)
    assert peak_bytes < 30_000_000
    assert (log.denials, log.unrecorded, counted(lines)) == (100_000, 0, 100_000)
    assert {line["call"] for line in lines if line["kind"] == "more"} == {"openat", "stat"}
    assert len(lines) < log_module.KEYS_MAX + 50


def test_long_hostile_paths_do_not_fill_the_memory_either(tmp_path: Path) -> None:
    log = AuditLog(tmp_path)
    tracemalloc.start()
    for index in range(6000):
        log.refuse(refusal(b"%06d" % index + b"\x01" * 4080, target=b"\x02" * 4090))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    log.close(END)
    assert peak_bytes < 40_000_000
    assert (log.unrecorded, counted(records(tmp_path, log))) == (0, 6000)


def test_a_full_log_goes_on_counting_per_call_and_rule(tmp_path: Path) -> None:
    log = AuditLog(tmp_path, max_bytes=5_000)
    for index in range(3000):
        log.refuse(refusal(b"/p/%d" % index))
        log.refuse(refusal(b"/p/0"))
    log.close(END)
    assert log_path(tmp_path, log).stat().st_size < 8_000
    assert (log.denials, log.unrecorded, counted(records(tmp_path, log))) == (6000, 0, 6000)
    (told,) = log.closing_lines(failed=False)
    assert "incomplete: it is full; " in told


def test_closing_twice_and_refusing_afterwards_harm_nobody(tmp_path: Path) -> None:
    log = AuditLog(tmp_path)
    log.close(END)
    log.close(END)
    log.refuse(refusal())
    assert [line["kind"] for line in records(tmp_path, log)] == ["end"]
    assert (log.denials, log.unrecorded) == (1, 1)


def test_no_place_for_a_log_is_remembered_and_told_not_raised(tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    log = AuditLog(in_the_way / "state")
    log.refuse(refusal())
    log.close(END)
    assert log.failure is not None and log.failure.errno == errno.ENOTDIR
    (told,) = log.closing_lines(failed=False)
    assert told.endswith("incomplete: Not a directory; 1 of 1 refusals have no record of their own")


def test_the_log_is_not_inherited_by_a_program(tmp_path: Path) -> None:
    log = AuditLog(tmp_path)
    inherited = subprocess.run(
        ["ls", "-l", "/proc/self/fd"], capture_output=True, text=True, check=True, close_fds=False
    )
    assert "audit.jsonl" not in inherited.stdout
    log.close(END)


def test_importing_the_log_costs_no_json_typing_or_dataclasses() -> None:
    script = "import sandlockd.audit.log; print(*{'json', 'typing', 'dataclasses'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-IS", "-c", _PATH + script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""


@pytest.mark.alone
def test_refusing_is_cheap(tmp_path: Path) -> None:
    log = AuditLog(tmp_path)
    best_us = min(_us_per_refusal(log) for _ in range(5))
    log.close(END)
    assert best_us < 20  # 3 us where it was written; this only catches a change of its order


def _us_per_refusal(log: AuditLog) -> float:
    repeats = 2000
    begun = time.perf_counter()
    for _ in range(repeats):
        log.refuse(refusal())
    return (time.perf_counter() - begun) / repeats * 1e6


# Real full disks: the log lives in a process of its own, which prints what it ended with.

_PATH = f"import sys; sys.path[:0] = {sys.path!r}; "

_FILL = (
    _PATH
    + """
import json, os
from sandlockd.audit.log import AuditLog
from sandlockd.audit.records import Refusal, RunEnd

directory, frees = sys.argv[1], sys.argv[2:]
log = AuditLog(directory)
for index in range(5000):
    log.refuse(Refusal(call="openat", rule="base", path=b"/p/%d" % index, command=b"x"))
for name in frees:
    os.unlink(name)
log.close(RunEnd(reason="exited", exit_code=1))
lines = open(f"{directory}/runs/{log.run_id}/audit.jsonl", "rb").read()
whole = [json.loads(line) for line in lines.splitlines()]
print(json.dumps({
    "errno": log.failure.errno if log.failure else None,
    "denials": log.denials,
    "unrecorded": log.unrecorded,
    "written": sum(r["count"] for r in {r["number"]: r for r in whole if "number" in r}.values()),
    "ends_whole": lines.endswith(b"\\n"),
    "closing": log.closing_lines(failed=False),
}))
"""
)


def _result(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_a_file_size_limit_is_survived_counted_and_told(tmp_path: Path) -> None:
    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    command = [sys.executable, "-c", _FILL, str(tmp_path)]
    result = _result(subprocess.run(command, capture_output=True, text=True, preexec_fn=limit))
    assert result["errno"] == errno.EFBIG
    assert result["denials"] == 5000
    assert result["written"] + result["unrecorded"] == 5000
    assert 0 < result["written"] < 5000
    assert result["ends_whole"]
    assert "File too large; " in result["closing"][0]


def _in_small_tmpfs(directory: Path, *frees: str) -> dict[str, Any]:
    """Run _FILL with its state on a file system of 3 MiB, most of which a file fills."""
    mount = 'mount -t tmpfs -o size=3m,mode=700 none "$1" && head -c 2900000 /dev/zero > "$1/filler" && shift'
    unshare = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]
    if subprocess.run([*unshare, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True).returncode:
        pytest.skip("may not mount here, not even in a namespace of its own")
    command = [*unshare, "sh", "-c", f'{mount} && exec "$@"', "sh", str(directory)]
    command += [sys.executable, "-c", _FILL, str(directory), *frees]
    return _result(subprocess.run(command, capture_output=True, text=True))


def test_a_full_disk_is_survived_counted_and_told(tmp_path: Path) -> None:
    result = _in_small_tmpfs(tmp_path)
    assert result["errno"] == errno.ENOSPC
    assert result["written"] + result["unrecorded"] == result["denials"] == 5000
    assert result["ends_whole"]
    assert "incomplete: No space left on device; " in result["closing"][0]


def test_what_a_full_disk_refused_is_written_at_the_end_if_there_is_room_again(tmp_path: Path) -> None:
    result = _in_small_tmpfs(tmp_path, str(tmp_path / "filler"))
    assert result["errno"] == errno.ENOSPC
    assert (result["written"], result["unrecorded"]) == (5000, 0)
    assert result["closing"] == []
