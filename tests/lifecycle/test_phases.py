"""The life of a sandbox is a table: every pair of phase and event is decided here, too."""

from __future__ import annotations

import itertools

import pytest

from sandlockd.sandbox.phase import BadTransition, Event, Phase, after

_ALLOWED: dict[Phase, dict[Event, Phase]] = {
    Phase.PREPARED: {Event.FORKED: Phase.STARTING, Event.BROKEN: Phase.FAILED},
    Phase.STARTING: {
        Event.LISTENING: Phase.RUNNING,
        Event.STOPPED: Phase.STARTING,
        Event.CONTINUED: Phase.STARTING,
        Event.EXITED: Phase.FAILED,
        Event.BROKEN: Phase.FAILED,
    },
    Phase.RUNNING: {
        Event.STOPPED: Phase.PAUSED,
        Event.CONTINUED: Phase.RUNNING,
        Event.EXITED: Phase.ENDING,
        Event.DONE: Phase.ENDED,
        Event.BROKEN: Phase.FAILED,
    },
    Phase.PAUSED: {
        Event.STOPPED: Phase.PAUSED,
        Event.CONTINUED: Phase.RUNNING,
        Event.EXITED: Phase.ENDING,
        Event.DONE: Phase.ENDED,
        Event.BROKEN: Phase.FAILED,
    },
    Phase.ENDING: {Event.DONE: Phase.ENDED, Event.BROKEN: Phase.FAILED},
    Phase.ENDED: {Event.BROKEN: Phase.ENDED},
    Phase.FAILED: {
        Event.STOPPED: Phase.FAILED,
        Event.CONTINUED: Phase.FAILED,
        Event.EXITED: Phase.FAILED,
        Event.DONE: Phase.FAILED,
        Event.BROKEN: Phase.FAILED,
    },
}


@pytest.mark.parametrize(
    ("phase", "event"), list(itertools.product(Phase, Event)), ids=lambda value: value.value
)
def test_every_event_in_every_phase_leads_where_it_should_or_is_refused(phase: Phase, event: Event) -> None:
    expected = _ALLOWED[phase].get(event)
    if expected is None:
        with pytest.raises(BadTransition, match=f"{event.value} while {phase.value}"):
            after(phase, event)
    else:
        assert after(phase, event) is expected


def test_a_sandbox_that_is_over_stays_so() -> None:
    for over in (Phase.ENDED, Phase.FAILED):
        assert set(_ALLOWED[over].values()) == {over}


def test_from_every_phase_the_death_of_init_is_the_end() -> None:
    for phase in Phase:
        assert after(phase, Event.BROKEN) in (Phase.FAILED, Phase.ENDED)
