"""The log's own JSON writer says what json.loads reads, and nothing that a terminal acts on."""

from __future__ import annotations

import json
from base64 import b64decode

from hypothesis import given
from hypothesis import strategies as st

from sandlockd.audit.jsonline import field, quote, quote_bytes

# Code points that do things: C0, DEL, C1, bidirectional marks and overrides, separators, byte order mark.
ACTIVE = [chr(code) for code in (*range(0x20), *range(0x7F, 0xA0), 0x61C, *range(0x200B, 0x2010))]
ACTIVE += [chr(code) for code in (*range(0x2028, 0x202F), *range(0x2060, 0x2070), 0xFEFF, 0xE0001)]

hostile_text = st.text(st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from(ACTIVE)))


@given(hostile_text)
def test_a_quoted_text_is_read_back_as_it_was(text: str) -> None:
    assert json.loads(quote(text)) == text


@given(hostile_text)
def test_a_quoted_text_is_one_line_of_printable_characters(text: str) -> None:
    assert quote(text).isprintable()


def test_every_active_code_point_is_escaped() -> None:
    for letter in ACTIVE:
        assert letter not in quote(f"a{letter}b")
        assert json.loads(quote(letter)) == letter


@given(st.text())
def test_lone_surrogates_never_reach_the_file(text: str) -> None:
    quoted = quote(text)
    assert quoted.encode("utf-8").isascii() or quoted.isprintable()
    json.loads(quoted).encode("utf-8")


@given(st.binary())
def test_any_bytes_are_quoted_and_kept_exactly(raw: bytes) -> None:
    record = json.loads("{" + field("path", raw) + "}")
    encoded = record.get("path_b64")
    kept = b64decode(encoded) if encoded is not None else record["path"].encode("utf-8")
    assert kept == raw


def test_bytes_that_are_not_utf8_are_shown_as_hexadecimal() -> None:
    assert json.loads(quote_bytes(b"caf\xe9")) == "caf\\xe9"


def test_a_text_with_escaped_bytes_is_kept_exactly_too() -> None:
    record = json.loads("{" + field("target", b"\xff/x".decode("utf-8", "surrogateescape")) + "}")
    assert b64decode(record["target_b64"]) == b"\xff/x"


def test_utf8_that_prints_stays_readable() -> None:
    assert field("path", "/home/zoë/日本".encode()) == '"path":"/home/zoë/日本"'
