"""Single values: what they mean, and that nothing impossible passes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from model.test_policy_fakes import context

from sandlockd.policy import values
from sandlockd.policy.errors import BadValue
from sandlockd.policy.inputs import Scope
from sandlockd.policy.spelling import absolute, expanded, spelled, toml_string

SCOPE = Scope(context(), b"/work/proj")


@pytest.mark.parametrize(
    ("value", "size_bytes"),
    [
        ("1", 1),
        ("512M", 512 << 20),
        ("2G", 2 << 30),
        ("1.5K", 1536),
        (4096, 4096),
        ("7E", 7 << 60),
        ("1T", 1 << 40),
    ],
)
def test_a_size_is_a_number_with_a_unit_of_1024(value: object, size_bytes: int) -> None:
    assert values.size(value, SCOPE) == size_bytes


@pytest.mark.parametrize(
    "value",
    ["16E", "8E", "-1", -1, 0, "0", "0M", "", "M", "1e3", "1_000", " 1", "0x10", "512MB", "512m", "1.M", ".5M", "inf",
     "9" * 40, 1 << 63, True, 1.5, None, "\N{ARABIC-INDIC DIGIT ONE}M"],
)  # fmt: skip
def test_an_impossible_size_is_refused_and_never_wraps(value: object) -> None:
    with pytest.raises(BadValue):
        values.size(value, SCOPE)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("30s", 30),
        ("5m", 300),
        ("1h30m", 5400),
        ("500ms", 0.5),
        ("1.5s", 1.5),
        (2, 2),
        (0.25, 0.25),
        ("1d", 86400),
    ],
)
def test_a_duration_is_numbers_with_units(value: object, seconds: float) -> None:
    assert values.duration(value, SCOPE) == seconds


@pytest.mark.parametrize(
    "value",
    ["", "5", "m", "-1s", "0s", 0, -1, "1x", "1m1h", "1s1s", "1 s", float("inf"), float("nan"), 1e300, 10**400,
     "9999999d", True, "1s ", "..5s"],
)  # fmt: skip
def test_an_impossible_duration_is_refused(value: object) -> None:
    with pytest.raises(BadValue):
        values.duration(value, SCOPE)


@pytest.mark.parametrize("value", ["0%", "150", "-5%", "1.5%", "%", 0, -1, True, 10**9, "1e2%", None])
def test_an_impossible_share_of_the_processor_is_refused(value: object) -> None:
    with pytest.raises(BadValue):
        values.percent(value, SCOPE)


def test_a_share_of_the_processor_is_percent_of_one() -> None:
    assert values.percent("150%", SCOPE) == values.percent(150, SCOPE) == 150


@pytest.mark.parametrize("value", [22, 0o22, "", "8", "1000", "-1", "0o22", " 22", "00022", True])
def test_an_impossible_umask_is_refused(value: object) -> None:
    with pytest.raises(BadValue):
        values.umask(value, SCOPE)


def test_a_umask_is_octal() -> None:
    assert values.umask("022", SCOPE) == values.umask("0022", SCOPE) == 0o22


def test_a_misspelt_choice_gets_a_suggestion() -> None:
    with pytest.raises(BadValue, match='did you mean "discard"'):
        values.one_of("commit", "discard")("discrad", SCOPE)


def test_a_member_of_a_group_is_sent_to_its_group() -> None:
    with pytest.raises(BadValue, match='write "sysv_ipc"'):
        values.give_back("shmget", SCOPE)
    with pytest.raises(BadValue, match="it may be"):
        values.give_back("mount", SCOPE)
    assert values.give_back("ptrace", SCOPE) == "ptrace"


def test_a_system_call_that_no_program_runs_without_cannot_be_denied() -> None:
    with pytest.raises(BadValue, match="no program runs without it"):
        values.syscall("read", SCOPE)
    with pytest.raises(BadValue, match='did you mean "openat"'):
        values.syscall("opneat", SCOPE)


@pytest.mark.parametrize(
    ("value", "parts"),
    [
        ("10.0.0.0/8:443", (None, "10.0.0.0/8", (443, 443))),
        ("tcp://localhost:5432", ("tcp", "localhost", (5432, 5432))),
        ("example.org:443", (None, "example.org", (443, 443))),
        (":53", (None, None, (53, 53))),
        ("udp://:53", ("udp", None, (53, 53))),
        ("169.254.169.254", (None, "169.254.169.254", None)),
        ("[2001:db8::1]:443", (None, "2001:db8::1", (443, 443))),
        ("2001:db8::/32", (None, "2001:db8::/32", None)),
        ("Example.ORG.:8000-8010", (None, "example.org", (8000, 8010))),
    ],
)
def test_a_network_target_is_protocol_host_and_ports(value: str, parts: tuple[object, ...]) -> None:
    rule = values.network_target(value, SCOPE)
    assert (rule.protocol, rule.host, rule.ports) == parts


@pytest.mark.parametrize(
    "value",
    ["", "tcp://", "http://x", "x:0", "x:65536", "x:9-8", "x:", "x:1-", "x:+1", "10.0.0.1/8", "256.1.1.1", "a b:1",
     "-a.org", "a..b", "[::1", "[::1]443", "[1.2.3.4]:1", "1.2.3", "é.org",
     "x:\N{ARABIC-INDIC DIGIT ONE}", 7, "2001:db8::zz"],
)  # fmt: skip
def test_an_impossible_network_target_is_refused(value: object) -> None:
    with pytest.raises(BadValue):
        values.network_target(value, SCOPE)


@pytest.mark.parametrize("value", ["127.0.0.1", "example.org:80", "10.0.0.0/8:80", ""])
def test_what_cannot_be_listened_on_is_refused(value: str) -> None:
    with pytest.raises(BadValue):
        values.network_address(value, SCOPE)


def test_a_listening_address_has_a_port() -> None:
    assert values.network_address("127.0.0.1:8000-8010", SCOPE).ports == (8000, 8010)


@given(st.binary(min_size=1, max_size=30))
def test_every_path_can_be_spelled_and_read_back(name: bytes) -> None:
    path = absolute(b"/" + name.replace(b"\0", b"x"), b"/", SCOPE.context)
    assert expanded(spelled(path), SCOPE.context) == path


@given(st.text())
def test_every_text_can_be_written_as_toml(text: str) -> None:
    import tomllib

    safe = text.encode("utf-8", "replace").decode()
    quoted = toml_string(safe)
    assert tomllib.loads(f"a = {quoted}") == {"a": safe}
    assert quoted.isprintable()
