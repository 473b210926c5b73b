"""Everything at once on one sandbox: nothing breaks, nothing is left, and nothing is half done."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from harness.service import Answer, Served
from harness.survivors import marked
from harness.waiting import until

_FINE = {200, 201, 204, 404, 409, 422, 429}
_REQUESTS: list[tuple[str, str, Any]] = [
    ("POST", "/stop", {"grace_s": 0.05}),
    ("POST", "/stop", {"grace_s": 0}),
    ("POST", "/kill", None),
    ("POST", "/pause", None),
    ("POST", "/resume", None),
    ("POST", "/signal", {"signal": "USR1"}),
    ("POST", "/signal", {"signal": "TERM", "group": True}),
    ("POST", "/wait", {"timeout_s": 0.02}),
    ("POST", "/exec", {"command": ["sh", "-c", "echo further; sleep 0.05"]}),
    ("POST", "/exec", {"command": ["/nowhere"]}),
    ("POST", "/exec/1/signal", {"signal": "KILL"}),
    ("POST", "/exec/1/wait", {"timeout_s": 0.02}),
    ("POST", "/commit", {}),
    ("POST", "/commit", {"paths": ["first"]}),
    ("POST", "/discard", {"paths": ["second"]}),
    ("POST", "/discard", {}),
    ("DELETE", "", None),
    ("DELETE", "?force=true", None),
    ("GET", "/logs", None),
    ("GET", "/exec/1/logs", None),
    ("GET", "/changes?diff=json", None),
    ("GET", "/denials", None),
    ("GET", "/policy", None),
    ("GET", "/processes", None),
    ("GET", "/stats", None),
    ("GET", "", None),
]
_SCRIPT = (
    "trap 'exit 0' TERM; for name in first second third; do echo new > $name; done; cat /etc/shadow 2>&-; "
    "for turn in 1 2 3 4 5 6; do sleep 0.02; done; echo done"
)


def _at_once(calls: list[Callable[[], Answer]]) -> list[Answer | BaseException]:
    found: list[Answer | BaseException] = []
    barrier = threading.Barrier(len(calls))

    def one(call: Callable[[], Answer]) -> None:
        barrier.wait()
        try:
            found.append(call())
        except BaseException as error:
            found.append(error)

    threads = [threading.Thread(target=one, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@pytest.mark.parametrize("seed", range(8))
def test_whatever_is_asked_at_once_nothing_breaks_and_nothing_is_left(
    served: Served, seed: int, soak: bool
) -> None:
    chance = random.Random(seed)
    for turn in range(12 if soak else 2):
        work = served.runner.place.empty_work()
        for name in ("first", "second"):
            (work / name).write_text("old\n")
            served.runner.place.give(work / name)
        on_exit = chance.choice(["keep", "keep", "commit", "discard"])
        path = f"/v1/sandboxes/race-{turn}"
        body = {
            "command": ["sh", "-c", _SCRIPT],
            "name": f"race-{turn}",
            "cwd": str(work),
            "workdir": str(work),
            "on_exit": on_exit,
            "environment": served.runner.environment(),
        }

        def create(body: dict[str, Any] = body) -> Answer:
            return served.ask("POST", "/v1/sandboxes", body)

        def ask(chosen: tuple[str, str, Any], path: str = path) -> Answer:
            method, verb, given = chosen
            return served.ask(method, path + verb, given)

        first = _at_once([create, create, *(_chosen(ask, chance, 3))])
        assert all(isinstance(one, Answer) and one.status in _FINE for one in first), first
        for _ in range(3):
            answers = _at_once(_chosen(ask, chance, 6))
            for one in answers:
                assert isinstance(one, Answer) and one.status in _FINE, one
        told = served.ask("DELETE", f"{path}?force=true")
        assert told.status in (204, 404), told
        assert served.ask("GET", path).status == 404
        until(
            lambda: not [one for one in marked(served.runner.marker) if one.command == "sleep"],
            "all have ended",
        )
        # Each file is old or new, and none of what is there is of the layer.
        for name in ("first", "second"):
            assert (work / name).read_text() in ("old\n", "new\n")
        assert {one.name for one in work.iterdir()} <= {"first", "second", "third"}


def _chosen(ask: Callable[[tuple[str, str, Any]], Answer], chance: random.Random, count: int) -> list[Any]:
    return [partial(ask, chance.choice(_REQUESTS)) for _ in range(count)]
