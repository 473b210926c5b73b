"""A sandbox of the service, from its request to its removal."""

from __future__ import annotations

from harness.running import Runner
from harness.service import service


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
