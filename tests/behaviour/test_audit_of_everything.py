"""`[audit] level = "all"`: what was let through or answered is on record, too, and the program sees no difference."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from harness.running import Runner, system_python

ALL = '[filesystem]\nbase = true\n[audit]\nlevel = "all"\n'


def _allowed(audit: list[dict[str, Any]]) -> dict[tuple[str, str | None], dict[str, Any]]:
    """The newest record of each, by call and path."""
    return {(r["call"], r["path"]): r for r in audit if r["kind"] == "allowed"}


def test_what_the_kernel_went_on_with_is_on_record(runner: Runner) -> None:
    ended = runner.sandboxed(["cat", "/etc/hostname"], policy=ALL)
    found = _allowed(ended.audit)
    cat = os.path.realpath("/usr/bin/cat")
    execute, read = found["execve", cat], found["openat", os.path.realpath("/etc/hostname")]
    assert (execute["wanted"], execute["rule"], execute["answer"]) == ("execute", "base", "continued")
    assert (read["wanted"], read["rule"], read["answer"], read["command"]) == (
        "read",
        "base",
        "continued",
        "cat",
    )
    assert read["pid"] == read["tid"] > 1 and read["birth"] > 0
    assert not ended.refusals


def test_relative_paths_and_links_are_told_by_where_they_lead(runner: Runner) -> None:
    runner.place.file("work/file", "text")
    (runner.work / "link").symlink_to("file")
    options = ["--read", runner.work]
    ended = runner.sandboxed(["sh", "-c", "cat link 3<. && cat ./../work/file"], policy=ALL, options=options)
    assert ended.stdout == b"texttext"
    read = _allowed(ended.audit)["openat", str(runner.work / "file")]
    assert read["rule"] == "filesystem.read[0]"
    assert max(r["count"] for r in ended.audit if r["kind"] == "allowed" and r["path"] == read["path"]) == 2


def test_both_ends_of_a_rename_are_told(runner: Runner) -> None:
    """Where the kernel grants it, and on the spine of a hole, where sandlockd renames."""
    script = "mkdir a; mv a b; touch spine/x; mv spine/x spine/y"
    spine = runner.work / "spine"
    spine.mkdir()
    runner.place.give(spine)
    options = ["--write", runner.work, "--deny", spine / "denied"]
    ended = runner.sandboxed(["sh", "-c", script], policy=ALL, options=options, cwd=runner.work)
    assert ended.returncode == 0, ended.stderr
    renames = {
        (r["path"], r["target"]): r
        for r in ended.audit
        if r["kind"] == "allowed" and r["call"].startswith("rename")
    }
    granted = renames[str(runner.work / "a"), str(runner.work / "b")]
    served = renames[str(spine / "x"), str(spine / "y")]
    assert {granted["wanted"], served["wanted"]} <= {"create+delete", "delete+create"}
    assert (granted["rule"], served["rule"]) == ("filesystem.write[0]", "filesystem.write[0]")
    # work itself is on the way to the hole, so both are done by sandlockd
    assert served["answer"] == "value"


def test_what_was_answered_is_told_with_the_answer(runner: Runner) -> None:
    runner.place.file("work/file", "text")
    script = "cat /proc/self/stat >/dev/null; chmod 600 file; cat none; mkdir file"
    ended = runner.sandboxed(
        ["sh", "-c", script], policy=ALL, options=["--write", runner.work], cwd=runner.work
    )
    told = [r for r in ended.audit if r["kind"] == "allowed"]
    (own,) = [r for r in told if r["path"] and r["path"].endswith("/stat")]
    assert (own["rule"], own["answer"]) == ("law.proc", "descriptor")
    (mode,) = [r for r in told if r["call"] in ("chmod", "fchmodat", "fchmodat2")]
    assert (mode["path"], mode["wanted"], mode["answer"]) == (str(runner.work / "file"), "metadata", "value")
    (missing,) = [r for r in told if r["path"] == str(runner.work / "none")]
    assert missing["answer"] == "continued"


def test_repeats_are_counted_as_refusals_are(runner: Runner) -> None:
    """The first at once, then at 10, 100, ..., and at the end: one record, whose count is exact."""
    program = (
        "import os\nfor i in range(1234):\n    os.close(os.open('/etc/hostname', os.O_RDONLY))\n"
        "    try: os.open('/etc/shadow', os.O_RDONLY)\n    except OSError: pass\n"
    )
    ended = runner.sandboxed([system_python(), "-S", "-c", program], policy=ALL)
    assert ended.returncode == 0
    path = os.path.realpath("/etc/hostname")
    for kind, where in (("allowed", path), ("refusal", "/etc/shadow")):
        counts = [r["count"] for r in ended.audit if r["kind"] == kind and r["path"] == where]
        assert counts == [1, 10, 100, 1000, 1234]
    assert len({r["number"] for r in ended.audit if r["kind"] == "allowed" and r["path"] == path}) == 1
    end = ended.audit[-1]
    newest = {r["number"]: r for r in ended.audit if r["kind"] == "allowed"}
    assert end["allowed"] == sum(record["count"] for record in newest.values())
    assert end["denials"] == 1234


def test_a_refusal_is_not_allowed_as_well(runner: Runner) -> None:
    secret = runner.place.file("secret.txt", "classified")
    ended = runner.sandboxed(["sh", "-c", f"cat {secret}; chmod 777 {secret}; ln {secret} x"], policy=ALL)
    assert {r["call"] for r in ended.refusals} >= {"openat"}
    refused = {(r["call"], r["path"]) for r in ended.refusals}
    assert not refused & set(_allowed(ended.audit))


def test_explain_and_the_closing_line_count_refusals_only(runner: Runner) -> None:
    ended = runner.sandboxed(["cat", "/etc/shadow"], policy=ALL)
    last = ended.stderr.decode().splitlines()[-1]
    assert last.startswith("sandlockd: 1 refusal; ")
    assert ended.status is not None and ended.status["denials"] == 1
    text = runner.sandlockd("explain", "--last").stdout.decode()
    assert "; 1 refusal\n" in text
    allowed = ended.audit[-1]["allowed"]
    assert allowed > 3 and f"  {allowed} calls let through or answered" in text
    assert "ld.so.cache" not in text
    lines = runner.sandlockd("explain", "--json", "--last").stdout.splitlines()
    assert {"allowed", "refusal"} <= {json.loads(line)["kind"] for line in lines}


def test_programs_get_the_same_as_bare(runner: Runner) -> None:
    program = (
        "import os, subprocess, threading\n"
        "def work(n):\n"
        "    for i in range(50):\n"
        "        with open(f'f{n}', 'w') as file: file.write(str(i))\n"
        "        os.rename(f'f{n}', f'g{n}')\n"
        "threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]\n"
        "[t.start() for t in threads]; [t.join() for t in threads]\n"
        "print(subprocess.run(['ls'], capture_output=True).stdout, flush=True)\n"
        "try: os.open('none', os.O_RDONLY)\n"
        "except OSError as error: print(error)\n"
    )
    ended = runner.both([system_python(), "-S", "-c", program], policy=ALL)
    assert ended.refusals == []


@pytest.mark.parametrize("level", ["denials", "off"])
def test_other_levels_record_nothing_of_it(runner: Runner, level: str) -> None:
    ended = runner.sandboxed(["cat", "/etc/hostname"], policy=ALL.replace('"all"', f'"{level}"'))
    assert [r["kind"] for r in ended.audit] == ([] if level == "off" else ["run", "end"])
    if level == "denials":
        assert ended.audit[-1]["allowed"] is None


_INTERRUPTED = """
import os, signal
signal.signal(signal.SIGALRM, lambda *_: 1 / 0)
os.mkfifo("spine/fifo")  # made during the run, so that sandlockd opens it
signal.alarm(1)
try:
    os.open("spine/fifo", os.O_RDONLY)
except ZeroDivisionError:
    print("interrupted")
"""


def test_a_wait_that_a_signal_ended_is_on_record(runner: Runner) -> None:
    spine = runner.work / "spine"
    spine.mkdir()
    runner.place.give(spine)
    options = ["--write", runner.work, "--deny", spine / "denied"]
    command = [system_python(), "-c", _INTERRUPTED]
    ended = runner.sandboxed(command, policy=ALL, options=options, cwd=runner.work)
    assert ended.stdout == b"interrupted\n", ended.stderr
    opened = _allowed(ended.audit)["openat", str(spine / "fifo")]
    assert (opened["rule"], opened["answer"]) == ("filesystem.write[0]", "EINTR")
