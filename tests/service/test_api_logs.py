"""What a sandbox wrote, by the API: in order, from anywhere on, followed, and with what has gone told."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
from collections.abc import Iterator
from typing import Any

import pytest
from harness.service import Served
from harness.waiting import until

pytestmark = pytest.mark.one_user


@contextlib.contextmanager
def _following(served: Served, path: str, **headers: str) -> Iterator[http.client.HTTPResponse]:
    connection = served.connection()
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        assert response.status == 200
        yield response
    finally:
        connection.close()


def _ended(served: Served, *command: str, **more: Any) -> str:
    identifier: str = served.run(command, **more)["id"]
    served.wait(identifier)
    return identifier


def test_each_stream_in_the_order_in_which_it_came(served: Served) -> None:
    script = "for n in 1 2 3; do echo out $n; sleep 0.02; echo err $n >&2; sleep 0.02; done"  # a record each
    one = _ended(served, "sh", "-c", script)
    answer = served.ask("GET", f"/v1/sandboxes/{one}/logs")
    assert answer.headers["content-type"] == "application/x-ndjson"
    lines = answer.lines
    for stream in ("out", "err"):
        written = "".join(line["data"] for line in lines if line["stream"] == f"std{stream}")
        assert written == f"{stream} 1\n{stream} 2\n{stream} 3\n"
    cursors = [line["cursor"] for line in lines]
    assert cursors == sorted(set(cursors)) and lines[0]["time"].endswith("Z")
    for stream in ("stdout", "stderr"):
        found = served.ask("GET", f"/v1/sandboxes/{one}/logs?stream={stream}").lines
        assert found == [line for line in lines if line["stream"] == stream]
    after = served.ask("GET", f"/v1/sandboxes/{one}/logs?after={cursors[2]}").lines
    assert after == lines[3:]
    for tail in (0, 1, 2, len(lines), 1000):
        assert served.ask("GET", f"/v1/sandboxes/{one}/logs?tail={tail}").lines == (
            lines[-tail:] if tail else []
        )
    assert served.ask("GET", f"/v1/sandboxes/{one}/logs?after={1 << 60}").lines == []


def test_what_is_no_text_comes_as_base64_and_raw_as_it_is(served: Served) -> None:
    one = _ended(served, "sh", "-c", r"printf 'a\377\0b'; sleep 0.05; printf text >&2")
    lines = served.ask("GET", f"/v1/sandboxes/{one}/logs").lines
    assert [base64.b64decode(lines[0]["data_base64"]), lines[1]["data"]] == [b"a\xff\0b", "text"]
    answer = served.ask("GET", f"/v1/sandboxes/{one}/logs?raw=true")
    assert answer.content == b"a\xff\0btext" and answer.headers["content-type"] == "application/octet-stream"


def test_a_follower_gets_what_comes_when_it_comes_and_the_end(served: Served) -> None:
    one = served.run(["sh", "-c", "echo one; read x < fifo; echo two"], read=[str(served.runner.work)])["id"]
    served.remove(one)
    fifo = served.runner.place.root / "work" / "fifo"
    one = served.run(
        ["sh", "-c", "echo one; while ! cat go 2>&-; do sleep 0.01; done; echo two"], read=[str(fifo.parent)]
    )["id"]
    with _following(served, f"/v1/sandboxes/{one}/logs?follow=true") as response:
        assert json.loads(response.readline())["data"] == "one\n"
        go = served.runner.place.file("work/go", "")
        assert json.loads(response.readline())["data"] == "two\n"
        assert response.read() == b""
    go.unlink()


def test_server_sent_events_by_accept(served: Served) -> None:
    one = _ended(served, "sh", "-c", "echo one; echo two >&2")
    answer = served.ask("GET", f"/v1/sandboxes/{one}/logs", accept="text/event-stream")
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = answer.content.decode().strip("\n").split("\n\n")
    for event in events:
        number, data = event.split("\n")
        assert number == f"id: {json.loads(data.removeprefix('data: '))['cursor']}"
    assert {json.loads(event.split("data: ")[1])["data"] for event in events} == {"one\n", "two\n"}


def test_a_program_that_floods_keeps_its_newest_and_is_told_what_went(served: Served) -> None:
    """The log is at most 256 KiB here."""
    one = _ended(served, "sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' x; echo end")
    size = sum(path.stat().st_size for path in (served.state / "sandboxes" / one / "logs").iterdir())
    assert size < 600 << 10
    lines = served.ask("GET", f"/v1/sandboxes/{one}/logs").lines
    dropped, records = lines[0]["dropped"], lines[1:]
    assert dropped > 2 << 20 and "".join(one["data"] for one in records).endswith("xend\n")
    kept = sum(len(record["data"]) for record in records)
    assert abs(dropped + kept - 3_000_004) < 13 * 3_000_000 / 100  # the heads of records count, too
    raw = served.ask("GET", f"/v1/sandboxes/{one}/logs?raw=true").content
    assert len(raw) == kept and raw.endswith(b"xend\n")


def test_what_further_commands_wrote_is_bounded_together(served: Served) -> None:
    """The log is at most 256 KiB here; and 256 of them may be known."""
    box = served.run(["sleep", "1000"])["id"]
    script = "head -c 200000 /dev/zero | tr '\\0' x; echo end"
    directory = served.state / "sandboxes" / box
    for number in range(1, 13):
        made = served.post(f"/v1/sandboxes/{box}/exec", {"command": ["sh", "-c", script]})
        assert made["number"] == number
        ended = served.post(f"/v1/sandboxes/{box}/exec/{number}/wait")
        assert ended["exit_status"] == 0
    served.post(f"/v1/sandboxes/{box}/exec", {"command": ["true"]})
    size = sum(path.stat().st_size for path in directory.glob("exec-*/*"))
    assert size < 2 * (256 << 10), size
    (dropped,) = served.ask("GET", f"/v1/sandboxes/{box}/exec/1/logs").lines
    assert dropped["dropped"] > 200_000
    assert served.ask("GET", f"/v1/sandboxes/{box}/exec/1/logs?tail=3").content == b""
    assert served.get(f"/v1/sandboxes/{box}/exec/1")["exit_status"] == 0
    newest = served.ask("GET", f"/v1/sandboxes/{box}/exec/12/logs?raw=true").content
    assert newest.endswith(b"xend\n") and len(newest) == 200_004


def test_a_reader_that_is_too_slow_is_told_what_it_has_missed(served: Served) -> None:
    go = served.runner.place.root / "work" / "go"
    script = "echo begin; while ! cat go 2>&-; do sleep 0.01; done; head -c 4000000 /dev/zero | tr '\\0' x; echo end"
    one = served.run(["sh", "-c", script], read=[str(go.parent)])["id"]
    with _following(served, f"/v1/sandboxes/{one}/logs?follow=true") as response:
        assert json.loads(response.readline())["data"] == "begin\n"
        served.runner.place.file("work/go", "")
        assert served.wait(one)["exit_status"] == 0  # and the program was not kept waiting
        lines = [json.loads(line) for line in response.read().splitlines()]
    assert sum(line.get("dropped", 0) for line in lines) > 1 << 20
    assert lines[-1]["data"].endswith("end\n")
    go.unlink()


def test_a_follower_that_goes_away_leaves_nothing(served: Served) -> None:
    one = served.run(["sleep", "100"])["id"]
    before = served.connections()
    for _ in range(20):
        with _following(served, f"/v1/sandboxes/{one}/logs?follow=true"):
            pass
    until(lambda: served.connections() <= before, "their connections are closed")


def test_one_that_has_not_written_has_an_empty_log(served: Served) -> None:
    one = _ended(served, "true")
    answer = served.ask("GET", f"/v1/sandboxes/{one}/logs")
    assert (answer.status, answer.content) == (200, b"")


def test_what_is_written_by_who_is_left_behind_is_in_the_log(served: Served) -> None:
    """The program has ended; its child writes until it is ended as well."""
    one = _ended(served, "sh", "-c", "(while :; do echo child; sleep 0.001; done) & sleep 0.1; exit 3")
    assert served.get(f"/v1/sandboxes/{one}")["exit_status"] == 3
    assert served.output(one).startswith(b"child\n")
