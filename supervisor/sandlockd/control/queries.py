"""What may stand behind the ? of a request: the types that validate, and that the OpenAPI document is made from.

Pure.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from sandlockd.control.objects import Asked, Path
from sandlockd.control.states import State

_PAGE_MAX = 1000
Cursor = Annotated[int, Meta(ge=0, le=1 << 62)]


class ListQuery(Asked):
    """label: key or key=value, several: all of them. state: one of the states. limit, after: a page (`next`)."""

    label: Annotated[list[str], Meta(max_length=64)] = msgspec.field(default_factory=list)
    state: State | None = None
    limit: Annotated[int, Meta(ge=1, le=_PAGE_MAX)] = 100
    after: str | None = None


class DeleteQuery(Asked):
    """force: end it first, if it lives, and drop its changes."""

    force: bool = False


class LogsQuery(Asked):
    """after: a cursor. tail: so many records before the end. stream: stdout, stderr or tty. raw: bytes, as written."""

    follow: bool = False
    stream: Annotated[str, Meta(pattern="^(stdout|stderr|tty)$")] | None = None
    after: Cursor | None = None
    tail: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    raw: bool = False


class AttachQuery(Asked):
    """after: a cursor (default: from the beginning). tail: so many records before the end."""

    after: Cursor | None = None
    tail: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None


class EventsQuery(Asked):
    """after: a cursor: 0, from the oldest on; default: what comes from now on, or of one sandbox all."""

    follow: bool = False
    after: Cursor | None = None


class ChangesQuery(Asked):
    """diff: `json` or `text`: with what changed in files; `list`: as text, without it.

    path: only what is at and below it; several: all of these.
    """

    diff: Annotated[str, Meta(pattern="^(json|text|list)$")] | None = None
    path: Annotated[list[Path], Meta(max_length=1024)] = msgspec.field(default_factory=list)


class DenialsQuery(Asked):
    """as: `text`, as explain prints it."""

    format: Annotated[str, Meta(pattern="^(json|text)$")] = "json"
