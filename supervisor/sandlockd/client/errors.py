"""What can go wrong between a program and the service."""

from __future__ import annotations

from typing import Any


class ServiceError(Exception):
    """Any of those below. One line for people."""


class NoService(ServiceError):
    """Nobody answers at the socket, or not to us. path: where."""

    def __init__(self, path: str, error: OSError) -> None:
        why = error.strerror or str(error)
        if isinstance(error, PermissionError):
            fix = "its socket is its group's, as a rule `sandlockd`: become a member, or start one of your own with"
            super().__init__(f"the service at {path} is not for you ({why}): {fix} `sandlockd serve`")
        else:
            fix = "start one with `sandlockd serve`, or say where one is by --socket or SANDLOCKD_SOCKET"
            super().__init__(f"no service answers at {path} ({why}): {fix}")
        self.path = path


class ConnectionBroke(ServiceError):
    """It ended before the answer was whole: whether what was asked for was done is not known."""


class ApiError(ServiceError):
    """The service said no: a problem document (RFC 9457).

    status: of HTTP. kind: the last part of the document's type, as `not-found`. title, detail: lines for people.
    document: all of it; `lines` of it are more for people, `state` and `allowed_states` say why not now.
    """

    def __init__(self, status: int, document: dict[str, Any]) -> None:
        self.status = status
        self.document = document
        self.kind = str(document.get("type", "")).rpartition(":")[2]
        self.title = str(document.get("title", ""))
        self.detail = str(document.get("detail", f"status {status}"))
        super().__init__(self.detail)

    @property
    def lines(self) -> list[str]:
        """What there is to say, a line each."""
        given = self.document.get("lines")
        return [str(line) for line in given] if isinstance(given, list) and given else [self.detail]
