"""The life of a sandbox as an enum and a table; one method changes the phase."""

from __future__ import annotations

import enum


class Phase(enum.Enum):
    PREPARED = "prepared"  # everything is decided, nothing runs
    STARTING = "starting"  # forked; the listener has not come yet
    RUNNING = "running"
    PAUSED = "paused"  # the program is stopped by job control
    ENDING = "ending"  # the program has ended; what it left is being killed
    ENDED = "ended"  # nothing of it is left
    FAILED = "failed"  # it could not be started, or its init died


class Event(enum.Enum):
    FORKED = "forked"
    LISTENING = "listening"
    STOPPED = "stopped"
    CONTINUED = "continued"
    EXITED = "exited"
    DONE = "done"
    BROKEN = "broken"  # a step failed, or init hung up without being done


_NEXT: dict[tuple[Phase, Event], Phase] = {
    (Phase.PREPARED, Event.FORKED): Phase.STARTING,
    (Phase.STARTING, Event.LISTENING): Phase.RUNNING,
    (Phase.STARTING, Event.EXITED): Phase.FAILED,
    # Stopped before it is the program yet: the start waits.
    (Phase.STARTING, Event.STOPPED): Phase.STARTING,
    (Phase.STARTING, Event.CONTINUED): Phase.STARTING,
    (Phase.RUNNING, Event.STOPPED): Phase.PAUSED,
    (Phase.RUNNING, Event.CONTINUED): Phase.RUNNING,
    (Phase.RUNNING, Event.EXITED): Phase.ENDING,
    (Phase.RUNNING, Event.DONE): Phase.ENDED,  # killed as a whole
    (Phase.PAUSED, Event.STOPPED): Phase.PAUSED,
    (Phase.PAUSED, Event.CONTINUED): Phase.RUNNING,
    (Phase.PAUSED, Event.EXITED): Phase.ENDING,
    (Phase.PAUSED, Event.DONE): Phase.ENDED,
    (Phase.ENDING, Event.DONE): Phase.ENDED,
    (Phase.FAILED, Event.STOPPED): Phase.FAILED,
    (Phase.FAILED, Event.CONTINUED): Phase.FAILED,
    (Phase.FAILED, Event.EXITED): Phase.FAILED,
    (Phase.FAILED, Event.DONE): Phase.FAILED,
    (Phase.FAILED, Event.BROKEN): Phase.FAILED,
    (Phase.ENDED, Event.BROKEN): Phase.ENDED,  # init closes its end when it is done
    **{
        (phase, Event.BROKEN): Phase.FAILED
        for phase in (Phase.PREPARED, Phase.STARTING, Phase.RUNNING, Phase.PAUSED, Phase.ENDING)
    },
}


class BadTransition(Exception):
    """What came is not allowed in this phase."""


def after(phase: Phase, event: Event) -> Phase:
    """Raises BadTransition."""
    try:
        return _NEXT[phase, event]
    except KeyError:
        raise BadTransition(f"{event.value} while {phase.value}") from None
