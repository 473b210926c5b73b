"""`sandlockctl` on runs whose changes are kept: what it shows, what it refuses, what is left afterwards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from harness import killing
from harness.forked import in_child
from harness.fresh_disk import on_a_fresh_disk
from harness.kept_runs import KeptRun, call, new_file
from harness.places import Place, tree_of
from harness.running import SYSTEM_PATH

from sandlockd.audit import state
from sandlockd.review import kept, reviewing
from sandlockd.review.changelist import shown
from sandlockd.review.reviewing import NotCommitted, Review, open_review
from sandlockd.store import storage

_CONTROL = [sys.executable, "-m", "sandlockd.cli.control"]


def _control(place: Place, *words: str | bytes, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {
        "PATH": SYSTEM_PATH,
        "HOME": str(place.home),
        "LANG": "C.UTF-8",
        "SANDLOCKD_STATE_DIR": str(place.state),
        **more,
    }
    return subprocess.run(
        [*_CONTROL, *words],
        env=environment,
        cwd="/",
        capture_output=True,
        text=True,
        errors="surrogateescape",
        stdin=subprocess.DEVNULL,
        timeout=60,
        check=False,
        **place.user.popen_arguments(),
    )


def _lines(ended: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert ended.returncode == 0, ended.stderr
    return [json.loads(line) for line in ended.stdout.splitlines()]


def _made(place: Place, make: Callable[[], KeptRun]) -> str:
    """A run made as the place's user; its id."""
    told = place.root / "home/run"

    def tell() -> None:
        told.write_text(make().ended().run_id)

    assert in_child(tell, place.user) == 0
    return told.read_text()


def _tree(place: Place) -> None:
    for directory in ("src", "old", ".git/hooks"):
        (place.work / directory).mkdir(parents=True, exist_ok=True)
    place.file("work/src/main.c", "int main(void)\n{\n\treturn 0;\n}\n")
    place.file("work/src/data", b"\0\1\2")
    place.file("work/old/a", "a\n")
    place.file("work/run.sh", "echo\n")
    place.file("work/before", "the same content\n")
    place.give(place.work)


_CHANGES = [
    call("unlink", b"old/a"),
    call("rmdir", b"old"),
    new_file(b"new"),
    new_file(b".git/hooks/post-commit"),
    call("open", b"src/main.c", b"", "write", number=2),
    call("open", b"src/data", b"", "write", number=1),
    call("chmod", b"run.sh", number=0o755),
    call("rename", b"before", b"src/after"),
]


@pytest.fixture
def run(place: Place) -> str:
    _tree(place)
    return _made(place, lambda: KeptRun(place, _CHANGES))


def test_the_list_says_what_happened_to_each_path_deletions_first(place: Place, run: str) -> None:
    ended = _control(place, "diff", run, "--list")
    assert ended.returncode == 0
    rows = ended.stdout.splitlines()[2:]
    assert [row.split()[0] + " " + row.split()[3] for row in rows] == [
        "D old/",
        "D old/a",
        "A .git/hooks/post-commit",
        "A new",
        "m run.sh",
        "R src/after",
        "M src/data",
        "M src/main.c",
    ]
    assert "! git hook" in rows[2]
    assert "(mode 0644 -> 0755)" in rows[4]
    assert "(from before)" in rows[5]
    assert "\x1b" not in ended.stdout


def test_the_diff_is_unified_for_text_and_sizes_and_hashes_for_the_rest(place: Place, run: str) -> None:
    text = _control(place, "diff", run).stdout
    assert "--- a/src/main.c\n+++ b/src/main.c\n@@ -1,4 +1,4 @@\n-int main(void)\n+22t main(void)\n {" in text
    assert "--- a/src/data: 3 bytes, sha256 " in text
    assert "rename from before\nrename to src/after\n" in text
    only = _control(place, "diff", run, "src/data").stdout
    assert "main.c" not in only
    assert _control(place, "diff", run, "nothing").returncode == 1


def test_json_lines_have_every_change_with_names_exact(place: Place, run: str) -> None:
    head, *changes = _lines(_control(place, "diff", run, "--json"))
    assert head["kind"] == "run" and len(head["digest"]) == 64 and head["counts"]["deleted"] == 2
    by_path = {change["path"]: change for change in changes}
    assert by_path[".git/hooks/post-commit"]["marks"] == ["git hook"]
    assert by_path["src/after"]["source"] == "before"
    assert by_path["src/main.c"]["diff"].startswith("diff a/src/main.c")
    assert by_path["run.sh"]["mode"] == "0755" and by_path["run.sh"]["was"]["mode"] == "0644"


def test_hostile_names_are_shown_and_not_obeyed(place: Place) -> None:
    _tree(place)
    names = [b"\x1b[2Jcleared", b"two\nlines", b"\xff\xfe", "\u202egpj.exe".encode()]
    run = _made(place, lambda: KeptRun(place, [new_file(name) for name in names]))
    for options in (["--list"], []):
        ended = _control(place, "diff", run, *options)
        assert ended.returncode == 0
        for hostile in ("\x1b", "\u202e", "two\nlines"):
            assert hostile not in ended.stdout
        assert "\\x1b[2Jcleared" in ended.stdout and "\\xff\\xfe" in ended.stdout
    records = _lines(_control(place, "diff", run, "--json"))[1:]
    assert {record.get("path_b64") for record in records} == {None, "//4="}
    assert _control(place, "commit", run).returncode == 0
    assert {os.fsencode(path.name) for path in place.work.iterdir()} >= set(names)


def test_what_runs_later_by_itself_is_refused_unless_it_is_named(place: Place, run: str) -> None:
    before = tree_of(place.work)
    for words in ([], ["."], [".git"], [".git/hooks"]):
        ended = _control(place, "commit", run, *words)
        assert ended.returncode == 1
        assert ".git/hooks/post-commit is refused unless it is named: git hook" in ended.stderr
        assert tree_of(place.work) == before
    ended = _control(place, "commit", run, "--skip-marked")
    assert ended.returncode == 0, ended.stderr
    assert (place.work / "new").exists() and not (place.work / ".git/hooks/post-commit").exists()
    assert [record["path"] for record in _lines(_control(place, "diff", run, "--json"))[1:]] == [
        ".git/hooks/post-commit"
    ]
    assert _control(place, "commit", run, ".git/hooks/post-commit").returncode == 0
    assert (place.work / ".git/hooks/post-commit").exists()
    assert _control(place, "ps", "--json").stdout == ""


def test_without_the_refusal_the_mark_goes_through(
    place: Place, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same commit on a build that looks at no marks."""

    def commit() -> None:
        with open_review(os.fsencode(place.state), run) as review:
            review.commit()

    def refused() -> None:
        with pytest.raises(NotCommitted, match="post-commit"):
            commit()

    assert in_child(refused, place.user) == 0
    monkeypatch.setattr(Review, "refused_marks", lambda *_: [])
    assert in_child(commit, place.user) == 0
    assert (place.work / ".git/hooks/post-commit").exists()


def test_a_commit_is_bound_to_the_digest_of_what_was_shown(place: Place, run: str) -> None:
    digest = _lines(_control(place, "diff", run, "--json", "--list"))[0]["digest"]
    before = tree_of(place.work)
    upper = place.state / "runs" / run / "tree/upper/new"
    upper.write_text("something else")
    ended = _control(place, "commit", run, "--skip-marked", "--digest", digest)
    assert ended.returncode == 1 and "not those that were approved" in ended.stderr
    assert tree_of(place.work) == before
    digest = _lines(_control(place, "diff", run, "--json", "--list"))[0]["digest"]
    assert _control(place, "commit", run, "--skip-marked", "--digest", digest).returncode == 0
    assert (place.work / "new").read_text() == "something else"


def test_a_conflict_is_named_and_refused_unless_forced(place: Place, run: str) -> None:
    (place.work / "src/main.c").write_text("somebody was here\n")
    ended = _control(place, "commit", run, "--skip-marked")
    assert ended.returncode == 1
    assert "conflict: src/main.c changed: " in ended.stderr and "--force" in ended.stderr
    assert (place.work / "src/main.c").read_text() == "somebody was here\n"
    assert _control(place, "commit", run, "--skip-marked", "--force", "src/main.c").returncode == 0
    assert (place.work / "src/main.c").read_text().startswith("22t main")


def test_the_second_of_two_runs_on_one_tree_learns_of_the_first(place: Place) -> None:
    _tree(place)
    both = [call("open", b"src/main.c", b"", "write", number=2), call("unlink", b"run.sh"), new_file(b"new")]
    first = _made(place, lambda: KeptRun(place, both))
    second = _made(place, lambda: KeptRun(place, [*both, new_file(b"also-new")]))
    told = kept.kept_lines(os.fsencode(place.state), os.fsencode(place.work)) if place.user.is_root else None
    assert told is None or (len(told) == 2 and first in told[1])
    assert _control(place, "commit", first).returncode == 0
    before = tree_of(place.work)
    ended = _control(place, "commit", second)
    assert ended.returncode == 1
    for path in ("src/main.c", "new"):
        (line,) = [line for line in ended.stderr.splitlines() if f"conflict: {path} " in line]
        assert f", by run {first}, committed 20" in line
    assert tree_of(place.work) == before


def test_commits_to_one_tree_at_once_are_made_one_after_the_other(place: Place) -> None:
    _tree(place)
    names = [f"new-{number}" for number in range(6)]
    runs = [_made(place, lambda name=name: KeptRun(place, [new_file(name.encode())])) for name in names]
    with ThreadPoolExecutor(len(runs)) as threads:
        ended = list(threads.map(lambda run: _control(place, "commit", run), runs))
    assert [(done.returncode, done.stderr) for done in ended] == [(0, "")] * len(runs)
    assert all((place.work / name).exists() for name in names)


def test_a_commit_that_goes_on_for_long_is_told(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    _tree(place)
    run = _made(place, lambda: KeptRun(place, [new_file(b"new")]))
    monkeypatch.setattr(reviewing, "LOCK_PATIENCE_S", 0.1)

    def check() -> None:
        state_dir = os.fsencode(place.state)
        with (
            open_review(state_dir, run) as review,
            kept.lock_workdir(state_dir, storage.read_meta(kept.storage_of(state_dir, run))),
            pytest.raises(NotCommitted, match=r"another commit to .* goes on"),
        ):
            review.commit()
        assert not (place.work / "new").exists()

    assert in_child(check, place.user) == 0


def test_a_commit_that_was_killed_is_shown_and_ended_or_taken_back(place: Place) -> None:
    _tree(place)
    before = tree_of(place.work)
    for verb in ("commit", "discard"):
        run = _made(place, lambda: KeptRun(place, [*_CHANGES[:3], *_CHANGES[4:]]))

        def kill(run: str = run) -> None:
            with open_review(os.fsencode(place.state), run) as review:
                killing.killed_before(45)
                review.commit()

        assert in_child(kill, place.user) == -9
        (listed,) = _lines(_control(place, "ps", "--json"))
        assert (listed["id"], listed["state"]) == (run, "committing")
        assert "did not end" in _control(place, "diff", run).stderr
        other = _made(place, lambda: KeptRun(place, [new_file(b"other")]))
        refused = _control(place, "commit", other)
        assert refused.returncode == 1 and run in refused.stderr
        assert _control(place, "discard", other).returncode == 0
        ended = _control(place, verb, run)
        assert ended.returncode == 0, ended.stderr
        assert not list(place.work.rglob(".sandlockd-commit-*"))
        assert _control(place, "ps", "--json").stdout == ""
        if verb == "commit":
            assert (place.work / "new").exists() and not (place.work / "old").exists()
            for below in (place.work / "new", place.work / "src/after"):
                below.unlink()
            _tree(place)
            (place.work / "run.sh").chmod(0o644)
        else:
            assert tree_of(place.work) == before


def test_what_is_discarded_is_gone_and_the_log_stays(place: Place, run: str) -> None:
    before = tree_of(place.work)
    ended = _control(place, "discard", run, "src", "old")
    assert ended.returncode == 0, ended.stderr
    left = {record["path"] for record in _lines(_control(place, "diff", run, "--json"))[1:]}
    assert left == {"new", ".git/hooks/post-commit", "run.sh"}
    assert _control(place, "discard", run).returncode == 0
    assert tree_of(place.work) == before
    assert [path.name for path in (place.state / "runs" / run).iterdir()] == ["audit.jsonl"]
    again = _control(place, "discard", run)
    assert again.returncode == 1 and "nothing is kept of it" in again.stderr


def test_a_storage_elsewhere_is_found_and_removed(place: Place) -> None:
    _tree(place)
    elsewhere = place.home / "kept/here"
    run = _made(place, lambda: KeptRun(place, [new_file(b"new")], storage=elsewhere))
    assert (elsewhere / f"sandlockd-{run}").is_dir()
    assert _control(place, "commit", run).returncode == 0
    assert (place.work / "new").exists()
    assert list(elsewhere.iterdir()) == []


def test_a_run_that_goes_on_is_left_alone(place: Place) -> None:
    _tree(place)

    def check() -> None:
        going_on = KeptRun(place, [new_file(b"new")])
        for verb in ("diff", "commit", "discard"):
            ended = _control(place, verb, going_on.run_id)
            assert ended.returncode == 1 and "goes on" in ended.stderr
        assert "running" in _control(place, "ps").stdout
        going_on.ended()
        assert _control(place, "commit", going_on.run_id).returncode == 0

    assert in_child(check, place.user) == 0


_TAMPERING: dict[str, tuple[Callable[[Path, Place], object], str]] = {
    "opened to others": (lambda tree, _: tree.chmod(0o777), "has mode 0777"),
    "upper is a link": (
        lambda tree, _: ((tree / "upper").rename(tree / "away"), (tree / "upper").symlink_to("/etc")),
        "is a link",
    ),
    "meta names another directory": (
        lambda tree, place: (tree / "meta").write_text(
            (tree / "meta").read_text().replace(str(place.work), str(place.home))
        ),
        "the workdir was replaced, or is another",
    ),
    "a journal made up": (
        lambda tree, place: (
            (tree / "journal").write_text("00000000 {}\n00000000 {}\n"),
            place.give(tree / "journal"),
        ),
        "wrong checksum",
    ),
    "the workdir is gone": (lambda _, place: place.work.rename(place.root / "away"), "No such file"),
    "the workdir was replaced": (
        lambda _, place: (place.work.rename(place.root / "away"), place.work.mkdir()),
        "the workdir was replaced",
    ),
}


@pytest.mark.parametrize("how", _TAMPERING)
def test_a_storage_somebody_changed_is_refused_with_the_reason(place: Place, run: str, how: str) -> None:
    tamper, reason = _TAMPERING[how]
    tamper(place.state / "runs" / run / "tree", place)
    if (place.root / "away").exists() and place.work.exists():
        place.give(place.work)
    for verb in ("diff", "commit"):
        ended = _control(place, verb, run)
        assert ended.returncode == 125
        assert reason in ended.stderr and ended.stderr.count("\n") == 1, ended.stderr


def test_wrong_use_is_125_with_one_line(place: Place, run: str) -> None:
    for words in (["commit"], ["nonsense"], ["diff", "none"], ["diff", run, "--what"], ["commit", "2"]):
        ended = _control(place, *words)
        if words == ["commit", "2"]:
            continue  # the beginning of the only run's id
        assert ended.returncode == 125 and ended.stderr.count("\n") == 1, words
    assert _control(place, "--version").stdout.startswith("sandlockctl ")
    assert "examples:" in _control(place, "--help").stdout
    for shell in ("bash", "zsh", "fish"):
        assert "sandlockctl" in _control(place, "completion", shell).stdout


def test_a_run_without_a_log_is_found_too(place: Place) -> None:
    _tree(place)

    def check() -> None:
        made = KeptRun(place, [new_file(b"new")]).ended()
        (place.state / "runs" / made.run_id / "audit.jsonl").unlink()
        assert made.run_id in _control(place, "ps").stdout
        assert _control(place, "commit", made.run_id[-6:]).returncode == 0

    assert in_child(check, place.user) == 0


def test_what_a_start_left_that_failed_is_damaged_and_can_be_discarded(place: Place) -> None:
    def check() -> None:
        run_id = state.new_run_id(1)
        path = kept.make_storage_directory(os.fsencode(place.state), run_id)
        assert "damaged" in _control(place, "ps").stdout
        assert _control(place, "commit", run_id).returncode == 125
        assert _control(place, "discard", run_id).returncode == 0
        assert not os.path.lexists(path) and _control(place, "ps").stdout == ""

    assert in_child(check, place.user) == 0


def test_shown_paths_are_one_line() -> None:
    assert shown(b"a\nb\x00") == "a\\nb\\x00"


@pytest.mark.one_user
def test_directories_deeper_than_python_recurses_are_listed_and_discarded(place: Place) -> None:
    def check() -> None:
        run = KeptRun(place)
        here = os.open(run.upper, os.O_RDONLY | os.O_DIRECTORY)
        for _ in range(1500):
            os.mkdir("d", dir_fd=here)
            below = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
            os.close(here)
            here = below
        os.close(here)
        run.ended()
        listed = _control(place, "diff", run.run_id, "--list")
        assert (listed.returncode, listed.stderr) == (0, "") and "1500 added" in listed.stdout
        discarded = _control(place, "discard", run.run_id)
        assert (discarded.returncode, discarded.stderr) == (0, ""), discarded
        assert _control(place, "ps").stdout == ""

    assert on_a_fresh_disk(place, lambda: in_child(check, place.user)) == 0
