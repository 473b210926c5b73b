"""What the control plane and supervisors may say to one another, and that nothing else is taken for it."""

from __future__ import annotations

from typing import get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandlockd.control import messages
from sandlockd.control.messages import (
    Ask,
    Began,
    Continued,
    Denied,
    Effective,
    Ended,
    Execute,
    Executed,
    FurtherEnded,
    Kill,
    Message,
    NotExecuted,
    NotPaused,
    Pause,
    Paused,
    Ready,
    Resume,
    Resumed,
    Said,
    Settings,
    Signal,
    SignalFurther,
    Stage,
    Start,
    Started,
    Stop,
    Stopped,
    Told,
    Unfit,
    Work,
    Worked,
)
from sandlockd.policy.inputs import Overrides

_REPORTS: tuple[Message, ...] = (
    Ready(1),
    Said("a line"),
    Began("20260101T000000.000-abc", "00"),
    Started(7),
    messages.Kept(),
    messages.Replaced(),
    Effective(b"{}"),
    Stopped(20),
    Continued(),
    Paused(),
    NotPaused("why"),
    Resumed(),
    Executed(1, 7),
    NotExecuted(1, 127, ("a line",)),
    FurtherEnded(1, 256),
    Denied("openat", "/etc/shadow", "base.secrets", 1, 2, unsaid=3),
    Told(4, {"processes": []}),
    Worked("done", ("a line",)),
    Ended({"reason": "exited"}, 0),
)
_START = Start(1000, (b"true", b"\xff"), b"/", {b"A": b"\xfe"}, ("base", messages.PolicyText("p", b"/", b"")))
_WORK = Work(
    1000, "commit", "20260101T000000.000-abc", b"/state", (b"\xff",), (b"a",), "00", skip_marked=True
)
_ORDERS: tuple[Message, ...] = (
    *(_START, _WORK, Signal(15), Stop(1.5)),
    *(Kill(), Pause(), Resume(), Ask(1, "stats")),
    *(Execute(1, (b"true",), b"/", {b"A": b"\xfe"}, (b"B=",)), SignalFurther(1, 15)),
)


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
    """One sandbox's program, or work: none reports what is the other's."""
    allowed = {
        (stage, type(report).__name__): after
        for stage in Stage
        for report in _REPORTS
        if (after := _next(stage, report)) is not None
    }
    running = {
        **dict.fromkeys(("Said", "Paused", "NotPaused", "Resumed", "Denied", "Told")),
        **dict.fromkeys(("Effective", "Executed", "NotExecuted", "FurtherEnded", "Kept", "Replaced")),
        "Stopped": Stage.STOPPED,
        "Continued": Stage.RUNNING,
        "Ended": Stage.OVER,
    }
    assert allowed == {
        (Stage.FORKED, "Ready"): Stage.WARM,
        **{(Stage.STARTING, name): Stage.STARTING for name in ("Said", "Began", "Denied")},
        (Stage.STARTING, "Started"): Stage.RUNNING,
        (Stage.STARTING, "Ended"): Stage.OVER,
        **{
            (stage, name): after or stage
            for stage in (Stage.RUNNING, Stage.STOPPED)
            for name, after in running.items()
        },
        (Stage.WORKING, "Worked"): Stage.OVER,
    }


def test_what_may_be_ordered_when() -> None:
    allowed = {
        stage: {type(order).__name__ for order in _ORDERS if messages.may_order(stage, type(order))}
        for stage in Stage
    }
    while_it_runs = {"Signal", "Stop", "Kill", "Pause", "Resume", "Ask", "Execute", "SignalFurther"}
    assert allowed == {
        Stage.FORKED: set(),
        Stage.WARM: {"Start", "Work"},
        Stage.STARTING: {"Signal", "Stop", "Kill"},
        Stage.RUNNING: while_it_runs,
        Stage.STOPPED: while_it_runs,
        Stage.WORKING: set(),
        Stage.OVER: set(),
    }


def _next(stage: Stage, report: Message) -> Stage | None:
    try:
        return messages.after(stage, report)
    except Unfit:
        return None


def test_every_message_is_tried_here() -> None:
    assert {type(one) for one in _REPORTS} == set(get_args(messages.Report))
    assert {type(one) for one in _ORDERS} == set(get_args(messages.Order))


def test_nothing_comes_after_the_last_word() -> None:
    assert all(_next(Stage.OVER, report) is None for report in _REPORTS)


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
        {"type": "began", "run_id": "x" * 300, "policy_digest": "0"},
        {"type": "began", "run_id": "x", "policy_digest": "0", "command": ["x"] * 65},
        {"type": "said", "text": "x" * 5000},
        {"type": "denied", "call": "x", "target": "x" * 5000, "rule": "x", "count": 1, "total": 1},
        {"type": "denied", "call": "x", "target": "x", "rule": "x" * 300, "count": 1, "total": 1},
        {"type": "ended", "status": {"error": "x" * 70_000}, "exit_status": 0},
        {"type": "worked", "outcome": "done", "lines": ["x"] * 1001},
    ],
    ids=lambda wrong: str(wrong)[:60],
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


@given(st.lists(st.text(max_size=6000), max_size=80))
@settings(max_examples=30)
def test_a_command_is_shown_as_far_as_there_is_room(words: list[str]) -> None:
    shown = messages.shown(words)
    began = Began("x", "0", shown)
    assert messages.report_from(messages.encoded(began)) == began
    assert len(shown) <= 64 and sum(map(len, shown)) <= messages.MAX_TEXT + 1
    if sum(map(len, words)) <= messages.MAX_TEXT and len(words) < 64:
        assert list(shown) == words


def test_settings_are_those_of_the_command_line() -> None:
    """`cwd` is a start's own."""
    assert {*Settings.__struct_fields__, "cwd"} == {*Overrides.__annotations__}
    assert all(getattr(Settings(), name) == getattr(Overrides(), name) for name in Settings.__struct_fields__)
