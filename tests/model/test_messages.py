"""What the control plane and supervisors may say to one another, and that nothing else is taken for it."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandlockd.control import messages
from sandlockd.control.messages import (
    Began,
    Continued,
    Ended,
    Kill,
    Message,
    Ready,
    Said,
    Settings,
    Signal,
    Stage,
    Start,
    Started,
    Stop,
    Stopped,
    Unfit,
)
from sandlockd.policy.inputs import Overrides

_REPORTS: tuple[Message, ...] = (
    Ready(1),
    Said("a line"),
    Began("20260101T000000.000-abc", "00"),
    Started(7),
    Stopped(20),
    Continued(),
    Ended({"reason": "exited"}, 0),
)
_START = Start(1000, (b"true", b"\xff"), b"/", {b"A": b"\xfe"}, ("base", messages.PolicyText("p", b"/", b"")))
_ORDERS: tuple[Message, ...] = (_START, Signal(15), Stop(1.5), Kill())
# A life as it goes, and what may come in between.
_LIFE = (Stage.FORKED, Stage.WARM, Stage.STARTING, Stage.RUNNING, Stage.PAUSED, Stage.OVER)


@pytest.mark.parametrize("report", _REPORTS, ids=lambda report: type(report).__name__)
def test_a_report_comes_as_it_went(report: Message) -> None:
    assert messages.report_from(messages.encoded(report)) == report
    with pytest.raises(Unfit):
        messages.order_from(messages.encoded(report))


@pytest.mark.parametrize("order", _ORDERS, ids=lambda order: type(order).__name__)
def test_an_order_comes_as_it_went(order: Message) -> None:
    assert messages.order_from(messages.encoded(order)) == order
    with pytest.raises(Unfit):
        messages.report_from(messages.encoded(order))


def test_what_may_be_reported_when() -> None:
    allowed = {
        (stage, type(report).__name__)
        for stage in Stage
        for report in _REPORTS
        if _next(stage, report) is not None
    }
    running = {"Said", "Stopped", "Continued", "Ended"}
    assert allowed == {
        (Stage.FORKED, "Ready"),
        *((Stage.STARTING, name) for name in ("Said", "Began", "Started", "Ended")),
        *((Stage.RUNNING, name) for name in running),
        *((Stage.PAUSED, name) for name in running),
    }


def _next(stage: Stage, report: Message) -> Stage | None:
    try:
        return messages.after(stage, report)
    except Unfit:
        return None


def test_nothing_comes_after_the_last_word() -> None:
    assert all(_next(Stage.OVER, report) is None for report in _REPORTS)
    assert not any(messages.may_order(Stage.OVER, type(order)) for order in _ORDERS)
    assert [messages.may_order(Stage.WARM, type(order)) for order in _ORDERS] == [True, False, False, False]
    assert set(_LIFE) == set(Stage)


@given(st.binary(max_size=200))
def test_bytes_are_a_message_or_unfit(data: bytes) -> None:
    for read in (
        messages.report_from,
        messages.order_from,
        messages.for_zygote_from,
        messages.of_zygote_from,
    ):
        try:
            message = read(data)
        except Unfit:
            continue
        assert isinstance(message, Message)


@pytest.mark.parametrize(
    "wrong",
    [
        {"type": "said", "text": 7},
        {"type": "said", "text": "x", "more": 1},
        {"type": "said"},
        {"type": "unheard-of"},
        {"text": "x"},
        ["said", "x"],
        {"type": "ended", "status": [], "exit_status": 0},
        {"type": "began", "run_id": b"\xff", "policy_digest": "0"},
    ],
    ids=str,
)
def test_wrong_types_unknown_fields_and_missing_ones_are_unfit(wrong: object) -> None:
    with pytest.raises(Unfit):
        messages.report_from(msgspec.msgpack.encode(wrong))


def test_what_is_nested_a_hundred_thousand_deep_is_unfit() -> None:
    deep = b"\x91" * 100_000 + b"\xc0"
    head = b"\x83" + b"".join(map(msgspec.msgpack.encode, ("type", "ended", "exit_status", 0, "status")))
    for data in (deep, head + b"\x81" + msgspec.msgpack.encode("a") + deep):
        with pytest.raises(Unfit):
            messages.report_from(data)


def test_settings_are_those_of_the_command_line() -> None:
    """`cwd` is a start's own."""
    assert {*Settings.__struct_fields__, "cwd"} == {*Overrides.__annotations__}
    assert all(getattr(Settings(), name) == getattr(Overrides(), name) for name in Settings.__struct_fields__)
