"""What is answered to a request that cannot be served: RFC 9457, problem details.

Pure.
"""

from __future__ import annotations

from typing import Any, ClassVar


class Problem(Exception):
    """type: the last part of the URI that names this kind. detail: one line for people, with the fix in it."""

    status: ClassVar[int] = 500
    kind: ClassVar[str] = "internal"
    title: ClassVar[str] = "Internal error"

    def __init__(self, detail: str, **more: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.more = more

    def document(self) -> dict[str, Any]:
        return {
            "type": f"urn:sandlockd:problem:{self.kind}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            **self.more,
        }


class Invalid(Problem):
    status, kind, title = 400, "invalid", "The request is not valid"


class Forbidden(Problem):
    status, kind, title = 403, "forbidden", "You may not"


class NotFound(Problem):
    """Of others', too: who may not touch it is not to learn that it is there."""

    status, kind, title = 404, "not-found", "There is none"


class NotAllowed(Problem):
    status, kind, title = 405, "method", "Not with this method"


class TooSlow(Problem):
    status, kind, title = 408, "too-slow", "The request did not come in time"


class Conflict(Problem):
    status, kind, title = 409, "conflict", "Not now"


class TooLarge(Problem):
    status, kind, title = 413, "too-large", "The request is too large"


class Unsupported(Problem):
    status, kind, title = 415, "media-type", "Not in this form"


class NotStarted(Problem):
    """The sandbox could not be built: the policy, the command, the directory."""

    status, kind, title = 422, "not-started", "The sandbox could not be started"


class UpgradeNeeded(Problem):
    status, kind, title = 426, "upgrade", "Not by plain HTTP"


class TooMany(Problem):
    status, kind, title = 429, "too-many", "More than you may have"


class Broken(Problem):
    status, kind, title = 500, "internal", "Internal error"


class Unavailable(Problem):
    status, kind, title = 503, "unavailable", "Not at the moment"


class OutOfRoom(Problem):
    status, kind, title = 507, "no-room", "The disk is full"


class _Malformed(Problem):
    """What is no HTTP, or more of it than anybody needs."""

    def __init__(self, status: int) -> None:
        super().__init__("that is no request of HTTP/1.1, or its head is too long")
        self.status = status  # type: ignore[misc]

    kind, title = "malformed", "The request cannot be read"


def problem_of_protocol(status: int) -> Problem:
    return _Malformed(status)
