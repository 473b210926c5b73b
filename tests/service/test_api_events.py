"""What happens to sandboxes, as it is told."""

from __future__ import annotations

import json

import pytest
from harness.service import Served
from harness.waiting import until

pytestmark = pytest.mark.one_user


def test_a_follower_of_all_is_told_what_happens(served: Served) -> None:
    connection = served.connection()
    connection.request("GET", "/v1/events?follow=true")
    response = connection.getresponse()
    first = served.run(["sh", "-c", "exit 3"], name="first")["id"]
    served.wait(first)
    served.remove(first)
    seen = [json.loads(response.readline()) for _ in range(5)]
    assert [one["event"] for one in seen] == ["created", "starting", "running", "exited", "removed"]
    assert {one["sandbox"] for one in seen} == {first}
    assert seen[0]["data"]["name"] == "first"
    assert (seen[3]["data"]["exit_status"], seen[3]["data"]["reason"]) == (3, "exited")
    numbers = [one["cursor"] for one in seen]
    assert numbers == list(range(numbers[0], numbers[0] + 5))
    connection.close()
    again = served.ask("GET", f"/v1/events?after={numbers[1]}").lines
    assert again[:3] == seen[2:]


def test_events_of_one_end_with_its_removal(served: Served) -> None:
    one = served.run(["sleep", "100"])["id"]
    connection = served.connection()
    connection.request(
        "GET", f"/v1/sandboxes/{one}/events?follow=true", headers={"accept": "text/event-stream"}
    )
    response = connection.getresponse()
    served.remove(one)
    events = [json.loads(part.split("data: ")[1]) for part in response.read().decode().strip().split("\n\n")]
    kinds = [event["event"] for event in events]
    assert kinds[:3] == ["created", "starting", "running"] and kinds[-1] == "removed"
    assert "stopping" in kinds
    connection.close()


def test_events_of_one_that_could_not_be_started_end_too(served: Served) -> None:
    connection = served.connection()
    connection.request("GET", "/v1/events?follow=true")
    response = connection.getresponse()
    served.problem(422, "POST", "/v1/sandboxes", {"command": ["/no/such/program"]})
    kinds = []
    while not kinds or kinds[-1] != "removed":
        kinds.append(json.loads(response.readline())["event"])
    assert kinds == ["created", "starting", "failed", "removed"]
    connection.close()


def test_refusals_are_told_and_a_flood_of_them_is_not(served: Served) -> None:
    script = "n=0; while [ $n -lt 300 ]; do n=$((n+1)); read x 2>&- < /etc/shadow; done; true"
    one = served.run(["sh", "-c", script])["id"]
    assert served.wait(one)["denials"] == 300
    events = served.ask("GET", f"/v1/sandboxes/{one}/events").lines
    denied = [event["data"] for event in events if event["event"] == "denied"]
    assert 0 < len(denied) < 100
    assert (denied[0]["target"], denied[0]["rule"], denied[0]["count"]) == ("/etc/shadow", "base.secrets", 1)


def test_an_unread_follower_keeps_nobody_waiting(served: Served) -> None:
    lines = []
    for _ in range(5):
        connection = served.connection()
        connection.request("GET", "/v1/events?follow=true&after=1")
        lines.append(connection)
    for _ in range(10):
        one = served.run(["true"])["id"]
        served.wait(one)
        served.remove(one)
    for connection in lines:
        connection.close()
    until(lambda: served.get("/healthz")["status"] == "ok", "it answers")
