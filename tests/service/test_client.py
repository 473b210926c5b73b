"""sandlockd.client, as a program uses it: what it gives is what the service has, and what breaks is made again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import Any

import pytest
from harness.interpreter import SANDLOCKD
from harness.running import Runner
from harness.service import Served, service
from harness.waiting import until

from sandlockd.client import (
    ApiError,
    AsyncClient,
    AsyncSandbox,
    Client,
    Exit,
    Lost,
    NoService,
    Output,
    Sandbox,
)
from sandlockd.client.places import SYSTEM, socket_path
from sandlockd.client.steps import Tries
from sandlockd.control.objects import Dropped, EventObject, LogRecord

_CAT = ["sh", "-c", "echo begun; cat; echo ended >&2; exit 3"]


def _options(served: Served, **more: Any) -> dict[str, Any]:
    return {"cwd": str(served.runner.work), "environment": served.runner.environment(), **more}


def _run(served: Served, command: list[str], **more: Any) -> Sandbox:
    return Client(str(served.socket)).run(command, **_options(served, **more))


def _text(happened: list[Output | Lost | Exit], stream: str) -> bytes:
    return b"".join(one.data for one in happened if isinstance(one, Output) and one.stream == stream)


def test_a_sandbox_is_run_attached_to_and_known(served: Served) -> None:
    sandbox = _run(served, _CAT, stdin=True, name="first", labels={"k": "v"})
    assert (sandbox.state, sandbox.name, sandbox.labels) == ("running", "first", {"k": "v"})
    with sandbox.attach() as attachment:
        attachment.send(b"in\n")
        attachment.end_input()
        happened = list(attachment)
    assert _text(happened, "stdout") == b"begun\nin\n" and _text(happened, "stderr") == b"ended\n"
    end = happened[-1]
    assert isinstance(end, Exit) and (end.exit_status, end.reason) == (3, "exited")
    assert sandbox.wait().exit_status == 3 and sandbox.state == "exited"
    records = [one for one in sandbox.logs() if isinstance(one, LogRecord)]
    assert "".join(one.data or "" for one in records if one.stream == "stdout") == "begun\nin\n"
    events = [one for one in sandbox.events() if isinstance(one, EventObject)]
    assert [one.event for one in events] == ["created", "starting", "running", "exited"]
    assert sandbox.stats()["usage"]["wall"] > 0
    assert any(record["kind"] == "end" for record in sandbox.denials())
    assert "nothing was refused" in sandbox.explain()
    with pytest.raises(AttributeError):
        sandbox.no_such_field  # noqa: B018


@pytest.mark.one_user
def test_it_is_listed_found_and_removed(served: Served) -> None:
    client = Client(str(served.socket))
    made = [_run(served, ["true"], name=name, labels={"n": name}) for name in ("one", "two")]
    assert [one.name for one in client.list()] == ["two", "one"]
    assert [one.name for one in client.list(label=["n=one"])] == ["one"]
    assert client.get("two").id == client.get(made[1].id[-6:]).id == made[1].id
    made[0].wait()
    made[0].remove()
    with pytest.raises(ApiError) as raised:
        client.get("one")
    assert (raised.value.status, raised.value.kind) == (404, "not-found")
    assert client.version().api == "1"


@pytest.mark.one_user
def test_it_is_signalled_stopped_and_killed(served: Served) -> None:
    sandbox = _run(served, ["sleep", "100"])
    until(lambda: [one["name"] for one in sandbox.processes()] == ["sleep"], "it is what it was started as")
    assert sandbox.stats()["processes"] == 1
    assert sandbox.wait(timeout_s=0.01).ended is None
    assert sandbox.signal("USR1").wait().exit_status == 128 + signal.SIGUSR1
    assert _run(served, ["sleep", "100"]).stop().exit_status == 128 + signal.SIGTERM
    assert _run(served, ["sleep", "100"]).kill().exit_status == 128 + signal.SIGKILL


@pytest.mark.one_user
def test_further_commands_run_in_it(served: Served) -> None:
    sandbox = _run(served, ["sleep", "100"])
    execution = sandbox.exec(["sh", "-c", "cat; exit 3"], stdin=True)
    with execution.attach() as attachment:
        attachment.send(b"in\n")
        attachment.end_input()
        assert _text(list(attachment), "stdout") == b"in\n"
    assert execution.wait().exit_status == 3
    assert [one.data for one in execution.logs() if isinstance(one, LogRecord)] == ["in\n"]
    other = sandbox.exec(["sleep", "100"]).signal("TERM").wait()
    assert other.exit_status == 128 + signal.SIGTERM
    assert [one.number for one in sandbox.executions()] == [execution.number, other.number]


def test_changes_are_reviewed_and_decided(served: Served) -> None:
    work = served.runner.place.empty_work()
    sandbox = _run(served, ["sh", "-c", "echo a > a; echo b > b"], workdir=str(work)).wait()
    first, *changes = sandbox.changes(diff=True)
    assert [one["path"] for one in changes] == ["a", "b"] and "+a" in changes[0]["diff"]
    assert [one["path"] for one in sandbox.changes(paths=["b"])[1:]] == ["b"]
    assert "+a" in sandbox.diff() and "+a" not in sandbox.diff(only_list=True)
    assert sandbox.commit(paths=["a"], digest=first["digest"])["left"] == 1
    assert sandbox.discard()["left"] == 0
    assert [path.name for path in work.iterdir()] == ["a"]
    assert sandbox.refresh().state == "discarded"


@pytest.mark.one_user
def test_what_is_wrong_is_said_before_anything_is_asked_or_by_the_service(served: Served) -> None:
    with pytest.raises(TypeError, match="no option 'nmae'"):
        _run(served, ["true"], nmae="x")
    with pytest.raises(ValueError, match="name"):
        _run(served, ["true"], name="../x")
    with pytest.raises(ValueError, match="UTF-8"):
        _run(served, ["echo", "\udcff"])
    with pytest.raises(ApiError, match="no such file") as raised:
        _run(served, ["/nowhere"])
    assert raised.value.kind == "not-started" and raised.value.document["exit_status"] == 127
    assert raised.value.lines == ["/nowhere: no such file"]


@pytest.mark.one_user
def test_a_log_and_an_attachment_survive_any_bytes(served: Served) -> None:
    sandbox = _run(served, ["sh", "-c", r"printf '\377\n\0'; head -c 300000 /dev/zero | tr '\0' x"])
    happened = list(sandbox.attach())
    content = b"\xff\n\0" + b"x" * 300000
    # What is over the log's cap is gone, and that is told: nothing is missing without a word.
    lost = sum(one.bytes for one in happened if isinstance(one, Lost))
    got = _text(happened, "stdout")
    assert got == content if not lost else content.endswith(got)
    sandbox.wait()
    kept = [one for one in sandbox.logs() if isinstance(one, (LogRecord, Dropped))]
    assert kept


@pytest.mark.one_user
@pytest.mark.trio
async def test_the_same_under_trio(served: Served) -> None:
    client = AsyncClient(str(served.socket))
    sandbox: AsyncSandbox = await client.run(_CAT, **_options(served, stdin=True, name="later"))
    async with await sandbox.attach() as attachment:
        await attachment.send(b"in\n")
        await attachment.end_input()
        happened = [one async for one in attachment]
    assert _text(happened, "stdout") == b"begun\nin\n"
    assert (await sandbox.wait()).exit_status == 3
    assert {one.stream async for one in sandbox.logs(follow=True)} == {"stdout", "stderr"}
    assert [one.event async for one in sandbox.events()][-1] == "exited"
    assert [one.name for one in await client.list()] == ["later"]
    assert next(iter(await sandbox.denials()))["kind"] == "run"
    await (await client.get("later")).remove()
    with pytest.raises(ApiError):
        await sandbox.refresh()


# ---- without a service, and one that comes back


@pytest.mark.parametrize("as_user", ["root"], indirect=True)
def test_without_a_service_it_says_what_to_do(runner: Runner) -> None:
    with pytest.raises(NoService, match="sandlockd serve"):
        Client(str(runner.place.root / "nobody")).list()


@pytest.mark.one_user
def test_what_is_followed_goes_on_behind_where_it_was_when_the_service_comes_back(runner: Runner) -> None:
    with service(runner) as served:
        client = Client(str(served.socket))
        events = client.events(follow=True, after=0)
        sandbox = _run(served, ["sh", "-c", "echo before; exec sleep 100"])
        attachment = sandbox.attach()
        logs = sandbox.logs(follow=True)
        seen = [next(iter(attachment)), next(logs), *(next(events) for _ in range(3))]
        served.process.kill()
        served.process.wait()
        line = [SANDLOCKD, "serve", "--socket", served.socket, "--state-dir", served.state]
        with open(served.log, "wb") as log, runner.started(line, stderr=log) as again:
            rest = list(attachment)
            assert isinstance(seen[0], Output) and seen[0].data == b"before\n"
            assert len(rest) == 1 and isinstance(rest[0], Exit) and rest[0].exit_status == 125
            assert list(logs) == []
            assert sandbox.wait().state == "failed"
            numbers = [one.cursor for one in seen[2:] if isinstance(one, EventObject)]
            other = _run(served, ["true"]).wait()
            until_mine = next(
                one for one in events if isinstance(one, EventObject) and one.sandbox == other.id
            )
            assert until_mine.event == "created" and until_mine.cursor > max(numbers)
            again.send_signal(signal.SIGTERM)
            assert again.wait(20) == 0


@pytest.mark.parametrize("as_user", ["root"], indirect=True)
def test_who_waits_for_a_service_that_does_not_come_back_gives_up(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tries, "MOST", 3)
    sandbox = _run(served, ["true"]).wait()
    sandbox._client.socket = str(served.runner.place.root / "nobody")
    for ask in (sandbox.wait, lambda: list(sandbox.logs(follow=True)), sandbox.attach):
        with pytest.raises(NoService):
            ask()


# ---- finding it, and what it costs


def test_the_socket_is_the_one_named_or_ones_own_or_the_systems(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.delenv("SANDLOCKD_SOCKET", raising=False)
    own = tmp_path / "sandlockd" / "control.sock"
    exists = os.path.exists
    monkeypatch.setattr(os.path, "exists", lambda path: path == SYSTEM or exists(path))
    assert socket_path() == SYSTEM
    own.parent.mkdir()
    own.touch()
    assert socket_path() == str(own)
    monkeypatch.setenv("SANDLOCKD_SOCKET", "/elsewhere")
    assert socket_path() == "/elsewhere" and socket_path("/named") == "/named"


def test_the_plain_client_imports_neither_trio_nor_the_server() -> None:
    script = "import sys, sandlockd.client.sync; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "h11" in loaded
    assert not {"trio", "hypercorn", "starlette", "wsproto", "sandlockd.kernel", "rich", "ssl"} & loaded


@pytest.mark.one_user
def test_nothing_is_left_open(served: Served) -> None:
    before = len(os.listdir("/proc/self/fd"))
    sandbox = _run(served, ["true"]).wait()
    list(sandbox.logs(follow=True))
    next(iter(sandbox.events()))
    with sandbox.attach() as attachment:
        list(attachment)
    until(lambda: len(os.listdir("/proc/self/fd")) <= before, "everything is closed")
