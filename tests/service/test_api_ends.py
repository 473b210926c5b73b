"""Stop, kill, rm, wait and the rest: in which state, how often, and that nothing is left."""

from __future__ import annotations

import http.client
import itertools
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest
from harness import group
from harness.service import Served
from harness.survivors import marked
from harness.waiting import until

pytestmark = pytest.mark.one_user

_ESCAPING = "(setsid sh -c 'setsid sleep 1000 & sleep 1000' &) ; (sleep 1000 &) ; sleep 1000"


def _tree(served: Served) -> list[int]:
    """All that carries the marker, but the service itself and what it has forked to wait."""
    return [one.pid for one in marked(served.runner.marker) if one.command == "sleep"]


@pytest.mark.parametrize("verb", ["stop", "kill"])
def test_all_of_it_ends_and_asking_again_is_nothing(served: Served, verb: str) -> None:
    one = served.run(["sh", "-c", _ESCAPING])["id"]
    until(lambda: len(_tree(served)) >= 4, "they run")
    ended = served.post(f"/v1/sandboxes/{one}/{verb}", {"grace_s": 0.1} if verb == "stop" else None)
    assert ended["state"] == "exited" and ended["reason"] == "killed"
    assert not _tree(served)
    for again in ("stop", "kill"):
        assert served.post(f"/v1/sandboxes/{one}/{again}") == ended
    assert served.wait(one) == ended


def test_stop_lets_it_end_by_itself(served: Served) -> None:
    one = served.run(["sh", "-c", "trap 'echo bye; exit 4' TERM; echo; while :; do sleep 0.01; done"])["id"]
    until(lambda: served.output(one), "it is ready")
    ended = served.post(f"/v1/sandboxes/{one}/stop")
    assert (ended["exit_status"], ended["exit_code"]) == (4, 4)
    assert served.output(one).endswith(b"bye\n")


def test_stop_ends_who_does_not_want_to(served: Served) -> None:
    one = served.run(["sh", "-c", "trap '' TERM; echo; while :; do sleep 0.01; done"])["id"]
    until(lambda: served.output(one), "it is ready")
    ended = served.post(f"/v1/sandboxes/{one}/stop", {"grace_s": 0.2})
    assert (ended["signal"], ended["exit_status"], ended["rule"]) == (signal.SIGKILL, 137, "stop")


def _together(*calls: Callable[[], Any]) -> list[Any]:
    found: list[Any] = [None] * len(calls)

    def one(number: int, call: Callable[[], Any]) -> None:
        found[number] = call()

    threads = [threading.Thread(target=one, args=pair) for pair in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_many_may_end_it_at_once(served: Served) -> None:
    one = served.run(["sh", "-c", _ESCAPING])["id"]
    path = f"/v1/sandboxes/{one}"

    def ask(method: str, verb: str) -> Callable[[], int]:
        return lambda: served.ask(method, path + verb).status

    answers = _together(
        *(ask("POST", "/kill") for _ in range(3)),
        *(ask("POST", "/stop") for _ in range(3)),
        ask("POST", "/wait"),
    )
    assert answers == [200] * 7
    removed = _together(*(ask("DELETE", "?force=true") for _ in range(5)))
    assert set(removed) <= {204, 404} and 204 in removed
    assert not _tree(served)


def test_one_may_be_ended_while_it_starts(served: Served) -> None:
    """Again and again, at whichever step it is."""
    for number in range(8):
        name = f"n{number}"

        def start(name: str = name) -> int:
            return served.ask("POST", "/v1/sandboxes", {"command": ["sleep", "100"], "name": name}).status

        def end(name: str = name, number: int = number) -> int:
            until(lambda: served.ask("GET", f"/v1/sandboxes/{name}").status == 200, "it is there", 5)
            path = f"/v1/sandboxes/{name}"
            return (
                served.ask("DELETE", f"{path}?force=true").status
                if number % 2
                else served.ask("POST", f"{path}/kill").status
            )

        started, ended = _together(start, end)
        assert started in (201, 422), started
        assert ended in (200, 204, 404, 409), ended
    served.remove_all()
    assert not _tree(served)


def test_rm_of_one_that_runs_needs_force_and_leaves_nothing(served: Served) -> None:
    one = served.run(["sh", "-c", "echo x > new; " + _ESCAPING], workdir=str(served.runner.work))["id"]
    refused = served.problem(409, "DELETE", f"/v1/sandboxes/{one}")
    assert refused["state"] == "running" and "exited" in refused["allowed_states"]
    assert served.ask("DELETE", f"/v1/sandboxes/{one}?force=true").status == 204
    served.problem(404, "DELETE", f"/v1/sandboxes/{one}?force=true")
    assert not _tree(served)
    for path in served.state.rglob("*"):
        assert one not in path.name
    assert not (served.runner.work / "new").exists()


def test_a_request_in_the_wrong_state_is_409_and_says_which(served: Served) -> None:
    one = served.run(["true"])["id"]
    served.wait(one)
    for method, verb, body in (
        ("POST", "signal", {"signal": "TERM"}),
        ("POST", "pause", None),
        ("POST", "resume", None),
        ("GET", "processes", None),
        ("POST", "commit", {}),
        ("POST", "discard", {}),
    ):
        refused = served.problem(409, method, f"/v1/sandboxes/{one}/{verb}", body)
        assert refused["state"] == "exited" and "exited" not in refused["allowed_states"]
    assert served.get(f"/v1/sandboxes/{one}/stats")["usage"]["wall"] >= 0
    one = served.run(["sleep", "100"])["id"]
    for method, verb in (("GET", "changes"), ("POST", "commit"), ("POST", "discard")):
        assert served.problem(409, method, f"/v1/sandboxes/{one}/{verb}")["state"] == "running"


def test_a_signal_is_for_the_program_and_for_its_group_where_that_is_asked_for(served: Served) -> None:
    box = served.run(["sleep", "1000"])["id"]
    one = served.run(group.COMMAND)["id"]
    number = served.post(f"/v1/sandboxes/{box}/exec", {"command": group.COMMAND})["number"]
    for where in (f"/v1/sandboxes/{one}", f"/v1/sandboxes/{box}/exec/{number}"):
        raw = f"{where}/logs?raw=true"
        until(lambda raw=raw: served.ask("GET", raw).content == b"ready\n", "it is ready")
        served.post(f"{where}/signal", {"signal": "USR1"})
        assert served.post(f"{where}/wait", {"timeout_s": 0.1})["ended"] is None
        assert served.ask("GET", raw).content == b"ready\nheard\n"
        served.post(f"{where}/signal", {"signal": "USR1", "group": True})
        assert served.post(f"{where}/wait", {"timeout_s": 10})["exit_status"] == 5
        assert group.told(served.ask("GET", raw).content) == [b"inner", b"outer"]
    served.problem(400, "POST", f"/v1/sandboxes/{box}/signal", {"signal": "USR1", "group": "all"})


def test_a_groups_signal_waits_with_it_while_it_is_paused(served: Served) -> None:
    one = served.run(group.COMMAND)["id"]
    until(lambda: served.output(one) == b"ready\n", "it is ready")
    served.post(f"/v1/sandboxes/{one}/pause")
    served.post(f"/v1/sandboxes/{one}/signal", {"signal": "USR1", "group": True})
    assert served.post(f"/v1/sandboxes/{one}/wait", {"timeout_s": 0.2})["state"] == "paused"
    assert served.output(one) == b"ready\n"
    served.post(f"/v1/sandboxes/{one}/resume")
    assert served.wait(one)["exit_status"] == 5
    assert group.told(served.output(one)) == [b"inner", b"outer"]


def test_commands_of_processes_are_told_as_far_as_there_is_room(served: Served) -> None:
    """Whatever a program has in its arguments, it does not end its supervisor."""
    script = "for n in $(seq 30); do sh -c 'sleep 1000; :' \"$0\" & done; wait"
    one = served.run(["sh", "-c", script, "\U0001f512" * 30_000])["id"]
    until(lambda: len(served.get(f"/v1/sandboxes/{one}/processes")["processes"]) > 20, "they run")
    (first, *_) = served.get(f"/v1/sandboxes/{one}/processes")["processes"]
    assert first["command"][:2] == ["sh", "-c"] and sum(map(len, first["command"])) <= 4096
    assert served.get(f"/v1/sandboxes/{one}")["state"] == "running"


def test_signals_by_number_and_name(served: Served) -> None:
    for asked in ("USR1", "SIGUSR1", "usr1", "10", 10):
        one = served.run(["sh", "-c", "trap 'exit 6' USR1; echo; while :; do sleep 0.01; done"])["id"]
        until(lambda one=one: served.output(one), "it is ready")  # type: ignore[misc]
        served.post(f"/v1/sandboxes/{one}/signal", {"signal": asked})
        assert served.wait(one)["exit_status"] == 6


def test_wait_is_answered_when_its_time_is_up_or_it_has_ended(served: Served) -> None:
    one = served.run(["sleep", "100"])["id"]
    assert served.post(f"/v1/sandboxes/{one}/wait", {"timeout_s": 0})["ended"] is None
    assert served.post(f"/v1/sandboxes/{one}/wait", {"timeout_s": 0.05})["ended"] is None
    waited, _ = _together(lambda: served.wait(one), lambda: served.post(f"/v1/sandboxes/{one}/kill"))
    assert waited["state"] == "exited"


def test_a_client_that_waits_and_goes_away_is_forgotten(served: Served) -> None:
    one = served.run(["sleep", "100"])["id"]
    before = served.connections()
    lines: list[http.client.HTTPConnection] = []
    for _ in range(10):
        connection = served.connection()
        connection.request("POST", f"/v1/sandboxes/{one}/wait", b"{}")
        lines.append(connection)
    until(lambda: served.connections() >= before + 10, "they wait")
    for connection in lines:
        connection.close()
    until(lambda: served.connections() <= before, "their connections are closed")


def test_what_runs_is_shown(served: Served) -> None:
    one = served.run(["sh", "-c", "sleep 1000 & exec sleep 1001"])["id"]
    until(lambda: len(_tree(served)) == 2, "they run")
    found = served.get(f"/v1/sandboxes/{one}/processes")["processes"]
    assert sorted(process["command"] for process in found) == [["sleep", "1000"], ["sleep", "1001"]]
    assert {process["name"] for process in found} == {"sleep"}
    stats = served.get(f"/v1/sandboxes/{one}/stats")
    assert stats["state"] == "running" and stats["processes"] == 2 and stats["memory"] > 0
    shown = served.get(f"/v1/sandboxes/{one}")
    assert shown["pid"] and shown["supervisor_pid"] and shown["started"] >= shown["created"]


_NOT_STARTED = {
    "no-such-command": ({"command": ["no-such-command"]}, "no-such-command"),
    "a-directory": ({"command": ["/"]}, "/"),
    "no-such-directory": ({"command": ["true"], "cwd": "/no/such"}, "/no/such"),
    "no-such-path": ({"command": ["true"], "read": ["/no/such/place"]}, "/no/such/place"),
    "no-command": ({"command": []}, "command"),
    "bad-memory": ({"command": ["true"], "memory": "much"}, "much"),
    "bad-timeout": ({"command": ["true"], "timeout": "-1s"}, "-1s"),
    "bad-net": ({"command": ["true"], "allow_net": ["a b c"]}, "a b c"),
    "policy-text": ({"command": ["true"], "policy_text": "[filesystem]\nraed = []"}, "raed"),
    "policy-text-no-toml": ({"command": ["true"], "policy_text": "["}, "policy_text:1"),
    "workdir-relative": ({"command": ["true"], "workdir": "no/such"}, "no/such"),
}


@pytest.mark.parametrize("kind", _NOT_STARTED)
def test_what_cannot_be_started_is_422_and_leaves_nothing(served: Served, kind: str) -> None:
    request, word = _NOT_STARTED[kind]
    document = served.problem(422, "POST", "/v1/sandboxes", {"cwd": "/", **request})
    assert any(word in line for line in document["lines"]), document
    assert served.get("/v1/sandboxes")["sandboxes"] == []


def test_status_is_the_programs_own(served: Served) -> None:
    for script, status, reason, number in (
        ("exit 0", 0, "exited", None),
        ("exit 255", 255, "exited", None),
        ("kill -9 $$", 137, "signaled", 9),
        ("kill -TERM $$", 143, "signaled", 15),
    ):
        one = served.run(["sh", "-c", script])["id"]
        ended = served.wait(one)
        assert (ended["exit_status"], ended["reason"], ended["signal"]) == (status, reason, number)
    ended = served.wait(served.run(["sleep", "100"], timeout="1s")["id"])
    assert (ended["exit_status"], ended["reason"], ended["rule"]) == (124, "timeout", "limits.timeout")


def test_names_are_ones_own_and_free_after_rm(served: Served) -> None:
    one = served.run(["true"], name="job")["id"]
    served.wait(one)
    taken = served.problem(409, "POST", "/v1/sandboxes", {"command": ["true"], "name": "job"})
    assert taken["id"] == one
    served.remove("job")
    again = served.run(["true"], name="job")["id"]
    assert served.get("/v1/sandboxes/job")["id"] == again != one
    assert served.get(f"/v1/sandboxes/{again[:-1]}")["id"] == again
    assert served.get(f"/v1/sandboxes/{again[-6:]}")["id"] == again


def test_an_ambiguous_beginning_is_told_with_its_candidates(served: Served) -> None:
    ids = [served.run(["true"])["id"] for _ in range(2)]
    beginning = ids[0][:8]
    told = served.problem(409, "GET", f"/v1/sandboxes/{beginning}")
    assert sorted(told["candidates"]) == sorted(ids)


def test_more_than_a_user_may_have_is_429(served: Served) -> None:
    """12 here. What has ended does not count."""
    for _ in range(12):
        served.run(["sleep", "100"])
    told = served.problem(429, "POST", "/v1/sandboxes", {"command": ["true"]})
    assert "12" in told["detail"] and "per_user.sandboxes" in told["detail"]
    served.post(f"/v1/sandboxes/{served.get('/v1/sandboxes?limit=1')['sandboxes'][0]['id']}/kill")
    served.run(["true"])


def test_more_at_once_than_a_user_may_have(served: Served) -> None:
    def start() -> int:
        return served.ask("POST", "/v1/sandboxes", {"command": ["sleep", "100"]}).status

    statuses = _together(*[start] * 20)
    assert sorted(statuses) == [201] * 12 + [429] * 8


def test_lists_have_pages_and_are_chosen_by_label_and_state(served: Served) -> None:
    made = []
    for number in range(7):
        labels = {"n": str(number), **({"odd": ""} if number % 2 else {}), "app/x": "y"}
        made.append(served.run(["true"], labels=labels)["id"])
    running = served.run(["sleep", "100"])["id"]
    for one in made:
        served.wait(one)
    pages, after = [], ""
    while True:
        page = served.get(f"/v1/sandboxes?limit=3{after}")
        pages.append([one["id"] for one in page["sandboxes"]])
        if page["next"] is None:
            break
        after = f"&after={page['next']}"
    assert [len(page) for page in pages] == [3, 3, 2]
    assert [*itertools.chain(*pages)] == sorted([*made, running], reverse=True)

    def chosen(query: str) -> list[str]:
        return sorted(one["id"] for one in served.get(f"/v1/sandboxes?{query}")["sandboxes"])

    assert chosen("label=odd") == sorted(made[1::2]) == chosen("label=odd=")
    assert chosen("label=n=3&label=odd") == [made[3]] and chosen("label=n=2&label=odd") == []
    assert chosen("label=app/x=y&state=exited") == sorted(made)
    assert chosen("state=running") == [running] and chosen("state=kept") == []
    assert chosen("limit=3&after=0") == []


def test_what_is_large_is_shown_short(served: Served) -> None:
    """A request may have much more than anybody wants to see in each list."""
    one = served.run(["true", *["x" * 100_000] * 10])["id"]
    assert len(served.ask("GET", "/v1/sandboxes").content) < 64 << 10
    assert served.get(f"/v1/sandboxes/{one}")["command"][0] == "true"
