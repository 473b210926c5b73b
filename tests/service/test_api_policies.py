"""Policies by name: of the policy directory and the presets, and never a path."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness.running import Runner
from harness.service import Served, service
from harness.users import User

_EXTENDS = """extends = ["./site.toml"]
[program]
env = { FROM = "named" }
"""


@pytest.fixture(scope="module")
def of_user(runner_of: Callable[[User], Runner]) -> Iterator[Callable[[User], Served]]:
    made: dict[str, Served] = {}
    with contextlib.ExitStack() as stack:

        def of(user: User) -> Served:
            if user.name not in made:
                runner = runner_of(user)
                place = runner.place
                place.file("policies/named.toml", _EXTENDS)
                place.file(
                    "policies/site.toml", 'extends = ["offline"]\n[program]\nenv = { SITE = "here" }\n'
                )
                place.file(
                    "policies/base.toml", 'extends = ["offline"]\n[program]\nenv = { FROM = "our base" }\n'
                )
                place.file("policies/by_name.toml", 'extends = ["named"]\n[program]\nenv = { BY = "name" }\n')
                place.file("policies/build.toml", 'extends = ["build"]\n[program]\nenv = { OUR = "build" }\n')
                place.file("policies/round.toml", 'extends = ["about"]\n')
                place.file("policies/about.toml", 'extends = ["round"]\n')
                place.file("policies/lost.toml", 'extends = ["nowhere"]\n')
                place.file("policies/broken.toml", "[filesystem]\nraed = []\n")
                place.file("policies/closed.toml", "", 0)
                place.file("outside.toml", "")
                (place.root / "policies" / "link.toml").symlink_to("../outside.toml")
                os.mkfifo(place.root / "policies" / "fifo.toml")
                (place.root / "policies" / "dir.toml").mkdir()
                place.give(place.root / "policies")
                options = ["--policy-dir", place.root / "policies"]
                made[user.name] = stack.enter_context(service(runner, options=options))
            return made[user.name]

        yield of


@pytest.fixture
def served(as_user: User, of_user: Callable[[User], Served]) -> Iterator[Served]:
    one = of_user(as_user)
    yield one
    one.remove_all()


def _printed(served: Served, **policy: object) -> bytes:
    one = served.run(["sh", "-c", "echo $FROM $SITE"], **policy)["id"]
    assert served.wait(one)["exit_status"] == 0
    return served.output(one)


def test_a_policy_by_its_name_with_what_it_extends(served: Served) -> None:
    assert _printed(served, policy="named") == b"named here\n"
    assert _printed(served, policies=["site", "named"]) == b"named here\n"


def test_a_preset_by_its_name_unless_the_directory_has_one_of_that_name(served: Served) -> None:
    assert _printed(served, policy="offline") == b"\n"
    assert _printed(served, policy="base") == b"our base\n"


def test_text_is_a_policy_too(served: Served) -> None:
    assert (
        _printed(served, policy="site", policy_text='[program]\nenv = { FROM = "text" }\n') == b"text here\n"
    )
    given = {"text": '[program]\nenv = { FROM = "given" }\n', "name": "mine"}
    assert _printed(served, policies=["site", given]) == b"given here\n"


def test_who_names_no_policy_gets_the_one_that_is_called_base(served: Served) -> None:
    assert _printed(served) == b"our base\n"


def _words(served: Served, **policy: object) -> bytes:
    one = served.run(["sh", "-c", "echo $FROM $SITE $BY $OUR"], **policy)["id"]
    assert served.wait(one)["exit_status"] == 0
    return served.output(one)


def test_what_a_policy_extends_by_name_is_a_preset_or_one_of_the_directory(served: Served) -> None:
    assert _words(served, policy="by_name") == b"named here name\n"
    assert _words(served, policy_text='extends = ["by_name"]') == b"named here name\n"
    given = {"text": 'extends = ["site"]\n[program]\nenv = { FROM = "given" }\n', "directory": "/"}
    assert _words(served, policies=[given]) == b"given here\n"
    # Of a preset's name the preset is meant there, so that one may be made larger under its name.
    assert _words(served, policy="build") == b"build\n"
    assert _words(served, policy_text='extends = ["build"]') == b"\n"
    # It is applied once, however it is reached.
    assert _words(served, policies=["site", {"text": 'program.env.SITE = "mine"'}, "by_name"]) == (
        b"named mine name\n"
    )


def test_a_file_where_the_program_works_takes_no_names_place(served: Served) -> None:
    work = served.runner.work
    (work / "site").write_text('extends = ["base"]\n[program]\nenv = { SITE = "untrusted" }\n')
    assert _words(served, policy_text='extends = ["site"]') == b"here\n"
    assert _words(served, policy_text='extends = ["./site"]') == b"untrusted\n"


@pytest.mark.parametrize(
    "name", ["../outside", "..", "/no/such", "dir/../site", "x\\u0000", "site.toml", "site/"]
)
def test_no_path_is_a_name_of_what_is_extended(served: Served, name: str) -> None:
    """It is a file of the user's, from where the policy is on."""
    body = {"command": ["true"], "cwd": str(served.runner.work), "policy_text": f'extends = ["{name}"]'}
    told = served.problem(422, "POST", "/v1/sandboxes", body)
    assert any("policy_text:1" in line for line in told["lines"]), told


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ("round", "extends itself, by way of what it extends"),
        ("lost", 'there is no policy and no file "nowhere"; one of about, agent,'),
        ("broken", "raed"),
    ],
)
def test_what_is_wrong_in_what_is_extended_is_told(served: Served, policy: str, said: str) -> None:
    for asked in ({"policy": policy}, {"policy_text": f'extends = ["{policy}"]'}):
        told = served.problem(422, "POST", "/v1/sandboxes", {"command": ["true"], **asked})
        assert any(said in line for line in told["lines"]), told


def test_what_is_no_file_is_not_waited_for_where_it_is_extended(served: Served) -> None:
    for name in ("dir", "fifo"):
        body = {"command": ["true"], "policy_text": f'extends = ["{name}"]'}
        assert "cannot be read" in served.problem(422, "POST", "/v1/sandboxes", body)["detail"]


def test_a_policy_that_its_user_may_not_read_is_extended_by_nobody(served: Served) -> None:
    if served.runner.place.user.is_root:
        return  # reads it
    told = served.problem(
        422, "POST", "/v1/sandboxes", {"command": ["true"], "policy_text": 'extends = ["closed"]'}
    )
    assert "cannot be read: Permission denied" in told["detail"]


def test_a_check_finds_the_names_of_a_policy_directory(served: Served) -> None:
    runner = served.runner
    directory = runner.place.root / "policies"
    found = runner.sandlockd("check", "--policy-dir", directory, "by_name")
    assert (found.returncode, found.stderr) == (0, b"") and b'"BY" = "name"' in found.stdout
    found = runner.sandlockd("check", "--policy-dir", directory, directory / "by_name.toml", "round")
    assert found.returncode == 125 and b"extends itself" in found.stderr
    assert runner.sandlockd("check", "by_name").returncode == 125


@pytest.mark.parametrize(
    "name",
    [
        "../outside",
        "..",
        ".",
        "/etc/passwd",
        "a/b",
        "link/../named",
        "named.toml/",
        "x" * 64,
        "nämed",
        "a\nb",
        ".hidden",
    ],
)
def test_what_is_no_name_is_400(served: Served, name: str) -> None:
    for given in ({"policy": name}, {"policies": ["base", name]}):
        served.problem(400, "POST", "/v1/sandboxes", {"command": ["true"], **given})


def test_a_name_that_is_not_there_is_404_and_told_which_are(served: Served) -> None:
    told = served.problem(404, "POST", "/v1/sandboxes", {"command": ["true"], "policy": "none"})
    assert "named" in told["detail"] and "agent" in told["detail"] and "outside" not in told["detail"]


def test_a_text_names_no_path_that_is_not_its_users(served: Served) -> None:
    """It is read by a supervisor that is that user, from where the text says; not by the service."""
    told = served.problem(
        422, "POST", "/v1/sandboxes", {"command": ["true"], "policy_text": 'extends = ["../../x.toml"]'}
    )
    assert told["lines"]


def test_what_is_wrong_in_a_policy_is_told_with_its_line(served: Served) -> None:
    told = served.problem(422, "POST", "/v1/sandboxes", {"command": ["true"], "policy": "broken"})
    assert any("broken.toml:2" in line and "raed" in line for line in told["lines"]), told


@pytest.mark.parametrize("name", ["fifo", "dir", "closed"])
def test_what_is_no_file_keeps_nobody_waiting(served: Served, name: str) -> None:
    if name == "closed" and served.runner.place.user.is_root:
        name = "dir"
    answer = served.ask("POST", "/v1/sandboxes", {"command": ["true"], "policy": name})
    assert answer.status in (422, 500), answer
    assert served.get("/healthz")


def test_the_policy_directory_of_a_service_need_not_be_there(runner: Runner) -> None:
    with service(runner, options=["--policy-dir", Path("/no/such/place")]) as served:
        assert _printed(served, policy="offline") == b"\n"
        told = served.problem(404, "POST", "/v1/sandboxes", {"command": ["true"], "policy": "site"})
        assert "offline" in told["detail"]
