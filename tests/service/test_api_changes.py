"""What a sandbox has changed, and is kept: listed, compared, committed, discarded."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from harness.service import Served
from harness.waiting import until

pytestmark = pytest.mark.one_user

_SCRIPT = "echo 2 > old; echo new > new; mkdir dir; echo x > dir/file; rm gone"


@pytest.fixture
def tree(served: Served) -> Path:
    path = served.runner.place.empty_work()
    for name in ("old", "gone", "same"):
        served.runner.place.file(f"work/{name}", "1\n")
    return path


def _kept(served: Served, tree: Path, script: str = _SCRIPT, **more: Any) -> str:
    more = {"cwd": str(tree), **more}
    one: str = served.run(["sh", "-c", script], workdir=str(tree), on_exit="keep", **more)["id"]
    ended = served.wait(one)
    assert (ended["state"], ended["changes"]["state"]) == ("kept", "kept"), ended
    return one


def _names(tree: Path) -> set[str]:
    return {str(path.relative_to(tree)) for path in tree.rglob("*")}


def test_changes_are_listed_and_committed_with_their_digest(served: Served, tree: Path) -> None:
    one = _kept(served, tree)
    assert _names(tree) == {"old", "gone", "same"}
    head, *rows = served.ask("GET", f"/v1/sandboxes/{one}/changes").lines
    assert sum(head["counts"].values()) == len(rows) == 5
    assert {row["path"].rstrip("/") for row in rows} == {"old", "new", "dir", "dir/file", "gone"}
    assert head["digest"] == served.get(f"/v1/sandboxes/{one}")["changes"]["digest"]
    text = served.ask("GET", f"/v1/sandboxes/{one}/changes?diff=text")
    assert b"+2" in text.content and text.headers["content-type"].startswith("text/plain")
    some = served.ask("GET", f"/v1/sandboxes/{one}/changes?path=dir").lines[1:]
    assert {row["path"].rstrip("/") for row in some} == {"dir", "dir/file"}
    served.problem(409, "POST", f"/v1/sandboxes/{one}/commit", {"digest": "0" * 64})
    assert _names(tree) == {"old", "gone", "same"} and served.get(f"/v1/sandboxes/{one}")["state"] == "kept"
    done = served.post(f"/v1/sandboxes/{one}/commit", {"digest": head["digest"]})
    assert done["left"] == 0 and _names(tree) == {"old", "new", "dir", "dir/file", "same"}
    assert (tree / "old").read_text() == "2\n"
    shown = served.get(f"/v1/sandboxes/{one}")
    assert (shown["state"], shown["changes"]["state"]) == ("committed", "committed")
    assert served.problem(409, "POST", f"/v1/sandboxes/{one}/commit")["state"] == "committed"


def test_a_part_is_committed_and_the_rest_stays(served: Served, tree: Path) -> None:
    one = _kept(served, tree)
    done = served.post(f"/v1/sandboxes/{one}/commit", {"paths": ["dir"]})
    assert done["left"] == 3 and _names(tree) == {"old", "gone", "same", "dir", "dir/file"}
    assert served.get(f"/v1/sandboxes/{one}")["state"] == "kept"
    served.post(f"/v1/sandboxes/{one}/discard", {"paths": ["gone"]})
    assert served.get(f"/v1/sandboxes/{one}")["state"] == "kept" and (tree / "gone").exists()
    served.post(f"/v1/sandboxes/{one}/discard")
    assert served.get(f"/v1/sandboxes/{one}")["state"] == "discarded"
    assert _names(tree) == {"old", "gone", "same", "dir", "dir/file"} and (tree / "old").read_text() == "1\n"


def test_a_path_that_is_not_among_them_is_told(served: Served, tree: Path) -> None:
    one = _kept(served, tree)
    for path in ("none", "../x", "/etc/passwd", "same"):
        told = served.ask("POST", f"/v1/sandboxes/{one}/commit", {"paths": [path]})
        assert told.status in (404, 409), told
    assert served.get(f"/v1/sandboxes/{one}")["state"] == "kept" and _names(tree) == {"old", "gone", "same"}


def test_what_changed_underneath_is_named_and_nothing_is_done(served: Served, tree: Path) -> None:
    one = _kept(served, tree)
    (tree / "old").write_text("mine\n")
    told = served.problem(409, "POST", f"/v1/sandboxes/{one}/commit")
    assert any("old" in line for line in told["lines"])
    assert (tree / "old").read_text() == "mine\n" and not (tree / "new").exists()
    assert served.get(f"/v1/sandboxes/{one}")["state"] == "kept"
    done = served.post(f"/v1/sandboxes/{one}/commit", {"force": ["old"]})
    assert done["left"] == 0 and (tree / "old").read_text() == "2\n"


def test_two_commits_at_once_commit_once(served: Served, tree: Path) -> None:
    script = "n=0; while [ $n -lt 200 ]; do n=$((n+1)); echo $n > f$n; done"
    one = _kept(served, tree, script)
    statuses: list[int] = []

    def commit() -> None:
        statuses.append(served.ask("POST", f"/v1/sandboxes/{one}/commit").status)

    threads = [threading.Thread(target=commit) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200, 409, 409, 409]
    assert len(_names(tree)) == 203 and served.get(f"/v1/sandboxes/{one}")["state"] == "committed"


def test_a_commit_whose_client_goes_away_is_done_all_the_same(served: Served, tree: Path) -> None:
    script = "n=0; while [ $n -lt 300 ]; do n=$((n+1)); echo $n > f$n; done"
    one = _kept(served, tree, script)
    with served.connected() as line:
        line.sendall(
            f"POST /v1/sandboxes/{one}/commit HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n".encode()
        )
        until(lambda: served.get(f"/v1/sandboxes/{one}")["state"] != "kept", "it has begun")
    served.until_state(one, "committed")
    assert len(_names(tree)) == 303


def test_what_is_kept_is_not_removed_without_force(served: Served, tree: Path) -> None:
    one = _kept(served, tree)
    assert served.problem(409, "DELETE", f"/v1/sandboxes/{one}")["state"] == "kept"
    assert served.ask("DELETE", f"/v1/sandboxes/{one}?force=true").status == 204
    assert _names(tree) == {"old", "gone", "same"}


def test_on_exit_commit_and_discard(served: Served, tree: Path) -> None:
    for on_exit, state, names in (
        ("discard", "discarded", {"old", "gone", "same"}),
        ("commit", "committed", {"old", "new", "dir", "dir/file", "same"}),
    ):
        one = served.run(["sh", "-c", _SCRIPT], workdir=str(tree), on_exit=on_exit)["id"]
        assert served.wait(one)["state"] == state
        assert _names(tree) == names
        served.problem(409, "POST", f"/v1/sandboxes/{one}/commit")
        assert served.get(f"/v1/sandboxes/{one}/changes")["state"] == state


def test_a_run_that_changed_nothing_has_nothing_to_commit(served: Served, tree: Path) -> None:
    one = served.run(["cat", "old"], workdir=str(tree))["id"]
    assert served.wait(one)["state"] == "exited"


def test_refusals_of_a_run_are_explained(served: Served, tree: Path) -> None:
    one = served.run(["sh", "-c", "cat /etc/shadow; true"])["id"]
    served.wait(one)
    rows = served.ask("GET", f"/v1/sandboxes/{one}/denials").lines
    assert any(row.get("path") == "/etc/shadow" for row in rows)
    text = served.ask("GET", f"/v1/sandboxes/{one}/denials?format=text")
    assert b"/etc/shadow" in text.content and text.headers["content-type"].startswith("text/plain")
    assert served.get(f"/v1/sandboxes/{one}/policy")["policies"] == ["base"]


def test_a_client_that_does_not_read_a_diff_keeps_no_other_sandbox_waiting(
    served: Served, tree: Path
) -> None:
    """And its own changes only as long as it is there."""
    one = _kept(served, tree, "n=0; while [ $n -lt 40 ]; do n=$((n+1)); yes | head -c 20000 > f$n; done")
    place = served.runner.place.give(_made(served.runner.place.root / "other"))
    other = _kept(served, place, "echo x > y")
    with served.connected() as line:
        line.sendall(f"GET /v1/sandboxes/{one}/changes?diff=text HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        line.recv(100)
        assert served.post(f"/v1/sandboxes/{other}/commit")["left"] == 0
    until(lambda: served.ask("POST", f"/v1/sandboxes/{one}/commit").status == 200, "it can be committed")


def _made(path: Path) -> Path:
    path.mkdir(exist_ok=True)
    return path
