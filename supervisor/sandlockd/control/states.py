"""The life of a sandbox of the service, as users see it, and what may be asked for in which state of it.

Pure: tables, and functions that read them.
"""

from __future__ import annotations

import enum
from typing import Final


class State(enum.Enum):
    """The value is what users see."""

    CREATED = "created"  # on record; no supervisor has it yet
    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPING = "stopping"  # it was asked to end
    EXITED = "exited"  # nothing of it is left, and there is nothing to commit
    KEPT = "kept"  # its changes wait for a word
    COMMITTING = "committing"
    COMMITTED = "committed"
    DISCARDED = "discarded"
    FAILED = "failed"  # it could not be started, or its supervisor was lost


class Happening(enum.Enum):
    TAKEN = "taken"  # by a supervisor
    STARTED = "started"
    PAUSED = "paused"
    RESUMED = "resumed"
    STOP_ASKED = "stop asked"
    ENDED_WITHOUT_CHANGES = "ended without changes"
    ENDED_KEEPING = "ended, its changes kept"
    ENDED_COMMITTED = "ended, its changes committed"
    ENDED_DISCARDED = "ended, its changes discarded"
    BROKE = "broke"
    FOUND_KEPT = "its changes were found"  # of one that had no end of its own
    COMMIT_BEGAN = "commit began"
    COMMIT_DONE = "commit done"  # nothing is left to commit
    COMMIT_LEFT_SOME = "commit left some"  # or was refused
    DISCARDED = "discarded"


_ENDS: Final = {
    Happening.ENDED_WITHOUT_CHANGES: State.EXITED,
    Happening.ENDED_KEEPING: State.KEPT,
    Happening.ENDED_COMMITTED: State.COMMITTED,
    Happening.ENDED_DISCARDED: State.DISCARDED,
    Happening.BROKE: State.FAILED,
}
_NEXT: Final[dict[tuple[State, Happening], State]] = {
    (State.CREATED, Happening.TAKEN): State.STARTING,
    (State.CREATED, Happening.BROKE): State.FAILED,
    (State.STARTING, Happening.STARTED): State.RUNNING,
    (State.STARTING, Happening.STOP_ASKED): State.STOPPING,
    (State.RUNNING, Happening.PAUSED): State.PAUSED,
    (State.RUNNING, Happening.STOP_ASKED): State.STOPPING,
    (State.PAUSED, Happening.RESUMED): State.RUNNING,
    (State.PAUSED, Happening.STOP_ASKED): State.STOPPING,
    # What was under way when it was asked to end.
    (State.STOPPING, Happening.STARTED): State.STOPPING,
    **{
        (state, happening): end
        for state in (State.STARTING, State.RUNNING, State.PAUSED, State.STOPPING)
        for happening, end in _ENDS.items()
    },
    (State.FAILED, Happening.FOUND_KEPT): State.KEPT,
    (State.KEPT, Happening.COMMIT_BEGAN): State.COMMITTING,
    (State.KEPT, Happening.DISCARDED): State.DISCARDED,
    (State.COMMITTING, Happening.COMMIT_DONE): State.COMMITTED,
    (State.COMMITTING, Happening.COMMIT_LEFT_SOME): State.KEPT,
}

ALIVE: Final = frozenset({State.CREATED, State.STARTING, State.RUNNING, State.PAUSED, State.STOPPING})
OVER: Final = frozenset(State) - ALIVE - {State.COMMITTING}


class BadTransition(Exception):
    """What happened cannot in this state."""


def after(state: State, happening: Happening) -> State:
    """Raises BadTransition."""
    try:
        return _NEXT[state, happening]
    except KeyError:
        raise BadTransition(f"{happening.value} while {state.value}") from None


class Request(enum.Enum):
    """The value is the last part of its path, where it has one."""

    STOP = "stop"
    KILL = "kill"
    PAUSE = "pause"
    RESUME = "resume"
    SIGNAL = "signal"
    EXEC = "exec"
    ATTACH = "attach"
    PROCESSES = "processes"
    STATS = "stats"
    CHANGES = "changes"
    COMMIT = "commit"
    DISCARD = "discard"
    DELETE = "delete"
    DELETE_FORCED = "delete?force=true"


_GOING: Final = frozenset({State.STARTING, State.RUNNING, State.PAUSED, State.STOPPING})
_STARTED: Final = frozenset({State.RUNNING, State.PAUSED, State.STOPPING})
# Who asks twice for what is done already gets the same answer: stop, kill and pause of one that has ended or is paused.
_ALLOWED: Final[dict[Request, frozenset[State]]] = {
    Request.STOP: frozenset(State) - {State.CREATED},
    Request.KILL: frozenset(State) - {State.CREATED},
    Request.PAUSE: frozenset({State.RUNNING, State.PAUSED}),
    Request.RESUME: frozenset({State.RUNNING, State.PAUSED}),
    Request.SIGNAL: _STARTED,
    Request.EXEC: frozenset({State.RUNNING}),
    Request.ATTACH: frozenset(State) - {State.CREATED},
    Request.PROCESSES: _STARTED,
    Request.STATS: frozenset(State),
    Request.CHANGES: OVER,
    Request.COMMIT: frozenset({State.KEPT}),
    Request.DISCARD: frozenset({State.KEPT}),
    Request.DELETE: OVER - {State.KEPT},
    Request.DELETE_FORCED: frozenset(State) - {State.CREATED, State.COMMITTING},
}


def may(request: Request, state: State) -> bool:
    return state in _ALLOWED[request]


def states_for(request: Request) -> list[str]:
    """Sorted as in the life of a sandbox."""
    return [state.value for state in State if state in _ALLOWED[request]]
