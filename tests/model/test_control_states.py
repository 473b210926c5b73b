"""What happens to a sandbox of the service, and what may be asked for in which state: every pair of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sandlockd.control import states
from sandlockd.control.states import ALIVE, OVER, BadTransition, Happening, Request, State

_BROAD = {State.STARTING, State.RUNNING, State.PAUSED, State.STOPPING}
# As INTERFACE has the states; by request, where it may be asked for.
_MAY = {
    Request.STOP: set(State) - {State.CREATED},
    Request.KILL: set(State) - {State.CREATED},
    Request.PAUSE: {State.RUNNING, State.PAUSED},
    Request.RESUME: {State.RUNNING, State.PAUSED},
    Request.SIGNAL: {State.RUNNING, State.PAUSED, State.STOPPING},
    Request.EXEC: {State.RUNNING},
    Request.ATTACH: set(State) - {State.CREATED},
    Request.PROCESSES: {State.RUNNING, State.PAUSED, State.STOPPING},
    Request.STATS: set(State),
    Request.CHANGES: {State.EXITED, State.KEPT, State.COMMITTED, State.DISCARDED, State.FAILED},
    Request.COMMIT: {State.KEPT},
    Request.DISCARD: {State.KEPT},
    Request.DELETE: {State.EXITED, State.COMMITTED, State.DISCARDED, State.FAILED},
    Request.DELETE_FORCED: set(State) - {State.CREATED, State.COMMITTING},
}


def _after(state: State, happening: Happening) -> State | None:
    try:
        return states.after(state, happening)
    except BadTransition:
        return None


@pytest.mark.parametrize("request_", Request, ids=lambda one: one.name)
def test_what_may_be_asked_for_when(request_: Request) -> None:
    assert {state for state in State if states.may(request_, state)} == _MAY[request_]
    assert states.states_for(request_) == [state.value for state in State if state in _MAY[request_]]


def test_every_sandbox_comes_to_an_end_whatever_happens() -> None:
    """From each state that lives one that is over can be reached, and none that lives from one that is over."""
    for state in ALIVE - {State.CREATED}:
        assert {_after(state, happening) for happening in Happening} >= {State.EXITED, State.FAILED}
        assert _after(state, Happening.BROKE) is State.FAILED
    assert _after(State.CREATED, Happening.BROKE) is State.FAILED
    for state in OVER | {State.COMMITTING}:
        assert not {_after(state, happening) for happening in Happening} & ALIVE


def test_no_end_is_told_twice() -> None:
    ends = [happening for happening in Happening if happening.name.startswith("ENDED")] + [Happening.BROKE]
    for state in OVER | {State.COMMITTING}:
        assert [_after(state, happening) for happening in ends] == [None] * len(ends)


def test_what_waits_for_a_commit_is_neither_removed_nor_committed_twice() -> None:
    assert not states.may(Request.DELETE, State.KEPT)
    for request in (Request.COMMIT, Request.DISCARD, Request.DELETE, Request.DELETE_FORCED):
        assert not states.may(request, State.COMMITTING)
    assert _after(State.COMMITTING, Happening.COMMIT_BEGAN) is None
    assert [state for state in State if _after(state, Happening.FOUND_KEPT)] == [State.FAILED]


def test_the_states_are_those_that_users_know() -> None:
    names = "created starting running paused stopping exited kept committing committed discarded failed"
    assert [state.value for state in State] == names.split()
    assert ALIVE | OVER | {State.COMMITTING} == set(State) and not ALIVE & OVER
    assert ALIVE == _BROAD | {State.CREATED}
    source = Path(states.__file__).read_text()
    assert not re.search(r"^(import|from) (trio|os|sandlockd)", source, re.MULTILINE)
