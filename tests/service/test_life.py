"""A sandbox of the service, from its request to its removal."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from harness.running import Runner
from harness.service import Served, service
from harness.waiting import until


def test_it_runs_and_is_known_and_leaves_nothing(runner: Runner) -> None:
    with service(runner) as served:
        script = "echo out; echo err >&2; cat /etc/shadow; exit 7"
        made = served.run(["sh", "-c", script], name="first", labels={"a": "b"})
        assert (
            made["name"] == "first"
            and made["labels"] == {"a": "b"}
            and made["owner"] == runner.place.user.name
        )
        ended = served.wait("first")
        assert (ended["state"], ended["exit_status"], ended["reason"], ended["denials"]) == (
            "exited",
            7,
            "exited",
            1,
        )
        assert served.output("first") == b"out\n"
        assert served.output("first", "stderr").startswith(b"err\n")
        kinds = [one["event"] for one in served.ask("GET", "/v1/sandboxes/first/events").lines]
        assert kinds == ["created", "starting", "running", "denied", "exited"]
        refused = [
            one for one in served.ask("GET", "/v1/sandboxes/first/denials").lines if one["kind"] == "refusal"
        ]
        assert [one["path"] for one in refused] == ["/etc/shadow"]
        assert served.ask("DELETE", "/v1/sandboxes/first").status == 204
        assert served.ask("GET", "/v1/sandboxes/first").status == 404
        assert not list((served.state / "runs").iterdir()) and not list(
            (served.state / "sandboxes").iterdir()
        )


def test_it_stands_still_while_it_is_paused(runner: Runner) -> None:
    with service(runner) as served:
        made = served.run(["sh", "-c", "i=0; while :; do i=$((i+1)); echo $i > count; done"], write=["."])
        count = runner.work / "count"

        def value() -> str:
            return count.read_text() if count.exists() else ""

        path = f"/v1/sandboxes/{made['id']}"
        until(lambda: value() > "", "it counts")
        for _ in range(2):
            assert served.post(f"{path}/pause")["state"] == "paused"
        before = value()
        assert served.ask("POST", f"{path}/exec", {"command": ["true"]}).json["state"] == "paused"
        for _ in range(2):
            assert served.post(f"{path}/resume")["state"] == "running"
        until(lambda: value() not in ("", before), "it goes on")
        served.post(f"{path}/pause")
        assert served.post(f"{path}/kill")["reason"] == "killed"


def test_a_further_command_runs_behind_the_same_walls(runner: Runner) -> None:
    with service(runner) as served:
        script = "echo 1 > made; while :; do sleep 0.01; done"
        made = served.run(["sh", "-c", script], workdir=str(runner.work), name="a")
        until(lambda: b"1" in _exec(served, "cat", "made"), "it sees what the first one made")
        assert b"denied" in _exec(served, "sh", "-c", "cat /etc/shadow 2>&1").lower()
        assert _exec(served, "sh", "-c", "cat; echo $X", env={"X": "y"}, stdin=False) == b"y\n"
        ended = served.post("/v1/sandboxes/a/exec", {"command": ["sh", "-c", "kill -9 $$"]})
        ended = served.post(f"/v1/sandboxes/a/exec/{ended['number']}/wait")
        assert (ended["state"], ended["exit_status"], ended["signal"]) == ("exited", 137, 9)
        refused = served.ask("POST", "/v1/sandboxes/a/exec", {"command": ["no-such-command"]})
        if refused.status == 201:
            refused_object = served.post(f"/v1/sandboxes/a/exec/{refused.json['number']}/wait")
            assert (refused_object["exit_status"], "not found" in refused_object["error"]) == (127, True)
        else:
            assert (refused.status, refused.json["exit_status"]) == (422, 127)
        left = served.post("/v1/sandboxes/a/exec", {"command": ["sleep", "100"]})
        assert served.post("/v1/sandboxes/a/kill")["reason"] == "killed"
        assert served.get(f"/v1/sandboxes/a/exec/{left['number']}")["state"] == "exited"
        assert served.ask("POST", "/v1/sandboxes/a/exec", {"command": ["true"]}).status == 409
        assert made["state"] == "running"


def _exec(served: Served, *command: str, **more: object) -> bytes:
    made = served.post("/v1/sandboxes/a/exec", {"command": list(command), **more})
    path = f"/v1/sandboxes/a/exec/{made['number']}"
    served.post(f"{path}/wait")
    return served.ask("GET", f"{path}/logs?raw=true").content


def test_what_sandboxes_did_is_in_the_metrics(runner: Runner) -> None:
    (runner.work / "old").write_bytes(b"x" * 5000)
    runner.place.give(runner.work / "old")
    with service(runner) as served:
        made = served.run(["sh", "-c", "echo 1 >> old; cat /etc/shadow"], workdir=str(runner.work))
        assert served.wait(made["id"])["usage"]["copied_up"] == 5000
        text = served.ask("GET", "/metrics").content.decode()
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(values['sandlockd_sandboxes{state="discarded"}']) == 1
    assert float(values['sandlockd_exits_total{reason="exited"}']) == 1
    assert float(values["sandlockd_copied_up_bytes_total"]) == 5000
    assert float(values["sandlockd_denials_total"]) == 1
    assert float(values['sandlockd_denials_reported_total{rule="base.secrets"}']) == 1
    counted = float(values['sandlockd_notification_seconds_bucket{by="c",le="+Inf"}'])
    by_c = [
        float(value)
        for name, value in values.items()
        if name.startswith('sandlockd_notifications_total{by="c"')
    ]
    assert counted == sum(by_c) > 10


def test_the_policy_that_it_runs_under_is_told(runner: Runner) -> None:
    with service(runner) as served:
        made = served.run(["true"], memory="64M", policies=["build"], write=["."])
        served.wait(made["id"])
        told = served.get(f"/v1/sandboxes/{made['id']}/policy")
        assert told["policies"] == ["build"] and told["digest"] == made["policy_digest"]
        assert (
            told["effective"]["limits"]["memory"]
            and str(runner.work) in told["effective"]["filesystem"]["write"]
        )


@pytest.mark.one_user
def test_what_ended_goes_when_there_is_more_than_is_kept(runner: Runner) -> None:
    with service(runner, config="[per_user]\nended = 2\n") as served:
        kept = served.run(["touch", "x"], workdir=str(runner.work), on_exit="keep")["id"]
        assert served.wait(kept)["state"] == "kept"
        ended = [served.run(["true"])["id"] for _ in range(4)]
        for identifier in ended:
            served.ask("POST", f"/v1/sandboxes/{identifier}/wait")

        def known() -> list[str]:
            return [one["id"] for one in served.get("/v1/sandboxes")["sandboxes"]]

        until(lambda: known() == [*ended[:1:-1], kept], "the two newest are left, and what waits for a word")

        def names(of: str) -> list[str]:
            return sorted(os.listdir(served.state / of))

        until(lambda: names("runs") == names("sandboxes") == sorted(known()), "nothing is left of the others")


@pytest.mark.one_user
def test_memory_is_shared_out_among_a_users_sandboxes(runner: Runner) -> None:
    with service(runner, config='[per_user]\nmemory = "100M"\n') as served:
        refused = served.ask("POST", "/v1/sandboxes", {"command": ["true"]})
        assert refused.status == 422 and "limits.memory must be set" in refused.json["detail"]
        first = served.run(["sleep", "100"], memory="60M")
        refused = served.ask("POST", "/v1/sandboxes", {"command": ["true"], "memory": "60M"})
        assert refused.status == 422 and "you may have 40M more" in refused.json["detail"]
        assert served.run(["true"], memory="40M")
        served.post(f"/v1/sandboxes/{first['id']}/kill")
        assert served.run(["true"], memory="60M")


@pytest.mark.one_user
def test_of_several_at_once_with_one_name_one_is_made(runner: Runner) -> None:
    """Also where a policy has to be read before."""
    with service(runner) as served, ThreadPoolExecutor(8) as at_once:
        request = {"command": ["sleep", "100"], "name": "one", "policy": "build"}
        answers = list(at_once.map(lambda _: served.ask("POST", "/v1/sandboxes", request).status, range(8)))
        assert sorted(answers) == [201, *[409] * 7]


@pytest.mark.one_user
def test_changes_that_nobody_told_of_are_not_removed_without_a_word(runner: Runner) -> None:
    """A run that fails keeps them, and what retention or rm does not know of must not go with the sandbox."""
    with service(runner) as served:
        script = "echo 1 > made; while :; do sleep 0.01; done"
        made = served.run(["sh", "-c", script], workdir=str(runner.work))
        until(lambda: list(served.state.glob("runs/*/tree/upper/made")), "it has written")
        path = f"/v1/sandboxes/{made['id']}"
        served.kill_supervisor(made["id"], keeper_too=True)
        runner.may_leave_temporary = True
        assert served.post(f"{path}/wait")["state"] == "kept"
        assert served.ask("DELETE", path).status == 409
        assert [at.status for at in [served.ask("DELETE", f"{path}?force=true")]] == [204]
        assert not list((served.state / "runs").iterdir())


@pytest.mark.soak
@pytest.mark.one_user
def test_what_old_further_commands_wrote_goes(runner: Runner) -> None:
    """A look at its health now and then, for weeks, must not fill the disk."""
    with service(runner) as served:
        served.run(["sleep", "1000"], name="a")
        for _ in range(300):
            _exec(served, "true")
        assert len(list(served.state.glob("sandboxes/*/exec-*"))) <= 256
