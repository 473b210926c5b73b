"""What is asked for wrongly, and what it gets: a problem document that says what is wrong."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from harness.service import Answer, Served, problem_of
from harness.waiting import PATIENCE_S

pytestmark = pytest.mark.one_user

_OF_ONE = [
    ("GET", ""),
    ("DELETE", ""),
    *(("POST", f"/{verb}") for verb in ("stop", "kill", "pause", "resume", "wait", "commit", "discard")),
    ("POST", "/signal"),
    *(
        ("GET", f"/{what}")
        for what in ("logs", "processes", "stats", "policy", "denials", "events", "changes", "attach")
    ),
]
_GOOD = {"command": ["true"]}


@pytest.mark.parametrize(
    "identifier", ["none", "x" * 300, "..%2Fx", "%00", "%ff%fe", "-", "20260101T000000.000-abc"]
)
def test_what_is_not_there_is_404_for_every_request(served: Served, identifier: str) -> None:
    for method, verb in _OF_ONE:
        body = {"signal": "TERM"} if verb == "/signal" else None
        document = served.problem(404, method, f"/v1/sandboxes/{identifier}{verb}", body)
        assert len(document["detail"]) < 500


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v2/sandboxes", "/v1/sandboxes/", "/v1//sandboxes", "/v1/sandboxes/a/b/c"]
)
def test_an_unknown_path_is_404(served: Served, path: str) -> None:
    served.problem(404, "GET", path)
    served.problem(404, "POST", path, _GOOD)


@pytest.mark.parametrize("digits", [10, 4000, 5000, 60_000])
def test_a_number_of_more_digits_than_anybody_counts_is_404(served: Served, digits: int) -> None:
    made = served.run(["sleep", "100"])["id"]
    number = "0" * (digits - 1) + "1"
    for method, verb in (
        ("GET", ""),
        ("GET", "/logs"),
        ("GET", "/attach"),
        ("POST", "/wait"),
        ("POST", "/signal"),
    ):
        body = {"signal": "TERM"} if verb == "/signal" else None
        document = served.problem(404, method, f"/v1/sandboxes/{made}/exec/{number}{verb}", body)
        assert len(document["detail"]) < 500


def test_a_head_that_is_too_long_is_in_the_document(served: Served) -> None:
    served.problem(431, "GET", "/v1/sandboxes/" + "x" * 70_000)
    paths = served.get("/v1/openapi.json")["paths"]
    assert all("431" in one["responses"] for path in paths.values() for one in path.values())


def test_a_method_that_is_not_there_is_405_and_told_which_are(served: Served) -> None:
    for method, path, allowed in (
        ("PUT", "/v1/sandboxes", {"GET", "POST", "HEAD"}),
        ("POST", "/v1/version", {"GET", "HEAD"}),
        ("GET", "/v1/sandboxes/x/stop", {"POST"}),
        ("PATCH", "/v1/sandboxes/x", {"GET", "DELETE", "HEAD"}),
        ("TRACE", "/healthz", {"GET", "HEAD"}),
    ):
        answer = served.ask(method, path)
        problem_of(answer, 405)
        assert set(re.split(", *", answer.headers["allow"])) == allowed


def test_head_is_get_without_the_body(served: Served) -> None:
    for path in ("/v1/sandboxes", "/v1/version", "/healthz", "/v1/openapi.json"):
        got, head = served.ask("GET", path), served.ask("HEAD", path)
        assert (head.status, head.content) == (got.status, b"") == (200, b"")
        assert head.headers["content-type"] == got.headers["content-type"]
    assert served.ask("HEAD", "/v1/sandboxes/none").status == 404


_WRONG_BODIES: dict[str, Any] = {
    "not-json": b"{",
    "two": b"{} {}",
    "a-list": b"[]",
    "null": b"null",
    "a-number": b"7",
    "bad-utf8": b'{"command": ["\xff"]}',
    "bad-utf8-in-a-name": b'{"\xff": 1}',
    "lone-surrogate": b'{"command": ["\\ud800"]}',
    "deep-lists": b'{"command": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep-objects": b'{"labels": ' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"}",
    "deep-unclosed": b"[" * 1_000_000,
    "unknown-field": {"command": ["true"], "privileged": True},
    "command-a-string": {"command": "true"},
    "command-with-a-number": {"command": ["true", 1]},
    "command-with-null": {"command": ["true", None]},
    "nul-in-command": {"command": ["tr\0ue"]},
    "nul-in-cwd": {"command": ["true"], "cwd": "/\0"},
    "nul-in-an-environment": {"command": ["true"], "environment": {"A": "x\0y"}},
    "nul-in-a-variable": {"command": ["true"], "env": {"A\0": "x"}},
    "equals-in-a-variable": {"command": ["true"], "env": {"A=B": "x"}},
    "empty-variable": {"command": ["true"], "env": {"": "x"}},
    "nul-in-a-path": {"command": ["true"], "read": ["/etc\0"]},
    "nul-in-a-label": {"command": ["true"], "labels": {"a": "\0"}},
    "nul-in-allow-net": {"command": ["true"], "allow_net": ["a\0b"]},
    "cwd-relative": {"command": ["true"], "cwd": "tmp"},
    "name-traversal": {"command": ["true"], "name": "../x"},
    "name-long": {"command": ["true"], "name": "x" * 300},
    "name-empty": {"command": ["true"], "name": ""},
    "name-newline": {"command": ["true"], "name": "a\n"},
    "name-dot": {"command": ["true"], "name": "."},
    "label-key": {"command": ["true"], "labels": {"a b": "x"}},
    "label-newline": {"command": ["true"], "labels": {"a\n": "x"}},
    "label-long": {"command": ["true"], "labels": {"a": "x" * 300}},
    "labels-many": {"command": ["true"], "labels": {f"a{n}": "x" for n in range(65)}},
    "rows-zero": {"command": ["true"], "rows": 0},
    "rows-huge": {"command": ["true"], "columns": 1 << 40},
    "tty-a-string": {"command": ["true"], "tty": "yes"},
    "on-exit-ask": {"command": ["true"], "on_exit": "ask"},
    "policy-path": {"command": ["true"], "policy": "../../etc/passwd"},
    "policy-absolute": {"command": ["true"], "policies": ["/etc/passwd"]},
    "policy-empty": {"command": ["true"], "policy": ""},
    "policies-many": {"command": ["true"], "policies": ["base"] * 65},
    "a-number-too-large": b'{"rows": 1e999}',
    "infinity": b'{"rows": Infinity}',
}


@pytest.mark.parametrize("kind", _WRONG_BODIES)
def test_a_body_that_is_wrong_is_400_and_says_where(served: Served, kind: str) -> None:
    document = served.problem(400, "POST", "/v1/sandboxes", _WRONG_BODIES[kind])
    assert len(document["detail"]) < 500
    assert served.get("/v1/sandboxes")["sandboxes"] == []


def test_a_body_that_is_nested_deep_is_400_wherever_one_is_taken(served: Served) -> None:
    made = served.run(["sleep", "100"])["id"]
    deep = b"[" * 500_000 + b"]" * 500_000
    objects = b'{"a":' * 150_000 + b"1" + b"}" * 150_000
    for verb, field in (
        ("stop", b"grace_s"),
        ("wait", b"timeout_s"),
        ("signal", b"signal"),
        ("exec", b"command"),
        ("commit", b"paths"),
        ("discard", b"paths"),
        ("kill", b"x"),
    ):
        for body in (
            deep,
            objects,
            b'{"' + field + b'": ' + deep + b"}",
            b'{"' + field + b'": ' + objects + b"}",
        ):
            document = served.problem(400, "POST", f"/v1/sandboxes/{made}/{verb}", body)
            assert len(document["detail"]) < 500
    assert served.get(f"/v1/sandboxes/{made}")["state"] == "running"


def test_the_word_that_is_wrong_is_named(served: Served) -> None:
    for body, word in (
        ({"command": ["true"], "privileged": True}, "privileged"),
        ({"command": ["true", 1]}, "$.command[1]"),
        ({"command": ["true"], "labels": {"a": 1}}, "$.labels"),
    ):
        assert word in served.problem(400, "POST", "/v1/sandboxes", body)["detail"]


@pytest.mark.parametrize(
    "query",
    [
        *(
            "unknown=1",
            "limit=0",
            "limit=1001",
            "limit=x",
            "limit=1&limit=2",
            "state=asleep",
            "label=",
            "label==x",
        ),
        "&".join(f"label=a{n}" for n in range(70)),
    ],
)
def test_a_query_that_is_wrong_is_400(served: Served, query: str) -> None:
    served.problem(400, "GET", f"/v1/sandboxes?{query}")


def test_queries_of_others_are_400_too(served: Served) -> None:
    made = served.run(["true"])
    one = f"/v1/sandboxes/{made['id']}"
    for path in (
        *(f"{one}?x=1", f"{one}/logs?after=-1", f"{one}/logs?after=x", f"{one}/logs?stream=stdin"),
        *(
            f"{one}/logs?tail=-1",
            f"{one}/logs?follow=perhaps",
            f"{one}/changes?diff=xml",
            f"{one}/changes?path=%00",
        ),
        *(
            f"{one}/logs?after={1 << 63}",
            "/v1/events?after=x",
            "/v1/version?x",
            "/healthz?x=1",
            f"{one}/denials?format=x",
        ),
    ):
        served.problem(400, "GET", path)
    served.problem(400, "DELETE", f"{one}?force=perhaps")


def test_wrong_bodies_of_other_requests(served: Served) -> None:
    made = served.run(["sleep", "100"])
    one = f"/v1/sandboxes/{made['id']}"
    for verb, body in (
        ("stop", {"grace_s": -1}),
        ("stop", {"grace_s": "soon"}),
        ("stop", {"grace": 1}),
        ("stop", b'{"grace_s": 1e999}'),
        ("wait", {"timeout_s": -1}),
        ("wait", b'{"timeout_s": NaN}'),
        ("signal", {}),
        ("signal", {"signal": 0}),
        ("signal", {"signal": 65}),
        ("signal", {"signal": -9}),
        ("signal", {"signal": "NOPE"}),
        ("signal", {"signal": "0"}),
        ("signal", {"signal": "SIG_IGN"}),
        ("signal", {"signal": ["TERM"]}),
        ("kill", {"x": 1}),
        ("pause", b"x"),
        ("commit", {"digest": "x"}),
        ("commit", {"paths": "x"}),
        ("discard", {"paths": [""]}),
    ):
        served.problem(400, "POST", f"{one}/{verb}", body)
    assert served.get(one)["state"] == "running"


def test_a_body_is_json_and_nothing_else(served: Served) -> None:
    for kind in ("text/plain", "multipart/form-data; boundary=x", "x"):
        told = served.problem(415, "POST", "/v1/sandboxes", _GOOD, **{"content-type": kind})
        assert told["detail"].endswith("say so with the header `content-type: application/json`")
    for kind in ("Application/JSON; charset=utf-8", "application/x-www-form-urlencoded"):
        assert served.ask("POST", "/v1/sandboxes", _GOOD, **{"content-type": kind}).status == 201
    # What is said of it changes nothing of what it has to be.
    form = {"content-type": "application/x-www-form-urlencoded"}
    served.problem(400, "POST", "/v1/sandboxes", b"command=true", **form)


def test_curl_needs_to_be_told_nothing_but_the_socket(served: Served) -> None:
    body = '{"command": ["echo", "by curl"], "name": "curled"}'
    curl = ["curl", "-sS", "--unix-socket", served.socket, "-w", "%{http_code}"]
    made = served.runner.bare([*curl, "-d", body, "http://localhost/v1/sandboxes"])
    assert made.stdout.endswith(b"201") and made.stderr == b"", made
    assert served.wait("curled")["exit_status"] == 0 and served.output("curled") == b"by curl\n"
    stopped = served.runner.bare([*curl, "-X", "POST", "http://localhost/v1/sandboxes/curled/stop"])
    assert stopped.stdout.endswith(b"200"), stopped


_PAGES = {
    "another-site": {"origin": "https://evil.example"},
    "no-site": {"origin": "null"},
    "another-port": {"origin": "http://localhost:8080"},
    "another-scheme-only": {"origin": "file://"},
    "told-by-the-browser": {"sec-fetch-site": "cross-site"},
    "beside": {"sec-fetch-site": "same-site"},
}


@pytest.mark.parametrize("kind", _PAGES)
def test_a_web_page_of_elsewhere_asks_for_nothing_through_a_relay(served: Served, kind: str) -> None:
    headers = _PAGES[kind]
    made = served.run(["sleep", "100"])["id"]
    for content_type in ("text/plain", "application/x-www-form-urlencoded", "application/json"):
        served.problem(403, "POST", "/v1/sandboxes", _GOOD, **headers, **{"content-type": content_type})
    served.problem(403, "POST", f"/v1/sandboxes/{made}/kill", **headers)
    served.problem(403, "GET", "/v1/sandboxes", **headers)
    with served.connected() as line:
        told = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        line.sendall(
            f"GET /v1/sandboxes/{made}/attach HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\n{told}"
            "upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
            "\r\n".encode()
        )
        assert line.recv(4096).startswith(b"HTTP/1.1 403 ")
    assert [one["id"] for one in served.get("/v1/sandboxes")["sandboxes"]] == [made]
    assert served.get(f"/v1/sandboxes/{made}", origin="http://localhost")["state"] == "running"


def test_a_body_of_100_mb_is_refused_before_it_is_read(served: Served) -> None:
    line = served.connected()
    line.sendall(b"POST /v1/sandboxes HTTP/1.1\r\nhost: x\r\ncontent-length: 104857600\r\n\r\n")
    assert b" 413 " in line.recv(4096).split(b"\r\n")[0]
    line.close()


@pytest.mark.parametrize("chunked", [False, True], ids=["whole", "chunked"])
def test_who_sends_100_mb_all_the_same_is_told_and_takes_no_memory(served: Served, chunked: bool) -> None:
    before = _peak_kib(served)
    connection = served.connection()
    megabyte = b" " * (1 << 20)
    headers = {"content-type": "application/json"}
    if not chunked:
        headers["content-length"] = str(100 << 20)
    connection.request(
        "POST", "/v1/sandboxes", (megabyte for _ in range(100)), headers, encode_chunked=chunked
    ) if not chunked else connection.request(
        "POST",
        "/v1/sandboxes",
        iter([megabyte] * 100),
        {**headers, "transfer-encoding": "chunked"},
        encode_chunked=True,
    )
    response = connection.getresponse()
    answer = Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    problem_of(answer, 413)
    connection.close()
    assert _peak_kib(served) - before < 30 << 10
    served.get("/healthz")


def _peak_kib(served: Served) -> int:
    with open(f"/proc/{served.process.pid}/status") as file:
        return int(re.search(r"VmHWM:\s*(\d+)", file.read())[1])  # type: ignore[index]


def test_a_body_where_none_is_wanted(served: Served) -> None:
    served.problem(400, "GET", "/v1/version", b'{"x": 1}')
    served.problem(400, "DELETE", "/v1/sandboxes/none", b'{"x": 1}')
    assert served.ask("GET", "/v1/version", b"{}").status == 200


_GARBAGE = {
    "nothing-of-http": b"\x00\xff\x16\x03\x01" * 50 + b"\r\n\r\n",
    "http2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    "bad-target": b"GET /\xff HTTP/1.1\r\nhost: x\r\n\r\n",
    "no-host": b"GET /healthz HTTP/1.1\r\n\r\n",
    "two-lengths": b"POST /v1/sandboxes HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n{}",
    "length-and-chunks": b"POST /v1/sandboxes HTTP/1.1\r\nhost: x\r\ncontent-length: x\r\n\r\n",
    "huge-head": b"GET /healthz HTTP/1.1\r\nhost: x\r\nx: " + b"a" * 1_000_000,
    "many-headers": b"GET /healthz HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * 100_000,
    "huge-target": b"GET /" + b"a" * 1_000_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
    "bad-chunk": b"POST /v1/sandboxes HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
}


@pytest.mark.parametrize("kind", _GARBAGE)
def test_what_is_no_http_ends_its_own_connection(served: Served, kind: str) -> None:
    with served.connected() as line:
        try:
            line.sendall(_GARBAGE[kind])
        except (BrokenPipeError, ConnectionResetError):
            pass
        answer = b""
        try:
            while block := line.recv(65536):
                answer += block
        except ConnectionResetError:
            pass
    if answer:
        head, _, body = answer.partition(b"\r\n\r\n")
        status = int(head.split()[1])
        assert 400 <= status < 500, head
        assert json.JSONDecoder().raw_decode(body.decode())[0]["status"] == status
    served.get("/healthz")


def test_http2_is_not_spoken_by_upgrade_either(served: Served) -> None:
    with served.connected() as line:
        upgrade = (
            b"connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n"
        )
        line.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n" + upgrade + b"\r\n")
        assert line.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_requests_go_on_over_one_connection(served: Served) -> None:
    connection = served.connection()
    for number in range(30):
        wrong = number % 3 == 2
        connection.request("POST" if wrong else "GET", "/v1/version", b'{"x":1}' if wrong else None)
        response = connection.getresponse()
        assert response.status == (405 if wrong else 200)
        response.read()
    connection.close()


def test_pipelined_requests_are_answered_in_turn(served: Served) -> None:
    with served.connected() as line:
        line.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n" * 20)
        got = b""
        while got.count(b"HTTP/1.1 200") < 20 or not got.endswith(b"}"):
            got += line.recv(65536)


def test_a_client_that_closes_its_half_gets_its_answer(served: Served) -> None:
    with served.connected() as line:
        line.sendall(b"GET /v1/version HTTP/1.1\r\nhost: x\r\n\r\n")
        line.shutdown(1)
        got = b""
        while block := line.recv(65536):
            got += block
    assert got.startswith(b"HTTP/1.1 200 ") and b'"api"' in got


def test_what_is_on_stdin_of_a_dead_client_harms_nobody(served: Served) -> None:
    for sent in (b"", b"GET", b"POST /v1/sandboxes HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n{"):
        line = served.connected()
        line.sendall(sent)
        line.close()
    served.get("/healthz")
    assert PATIENCE_S > 0
