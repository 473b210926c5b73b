"""What is known of a sandbox, or of a further command in one, for both kinds of handles."""

from __future__ import annotations

from typing import Any, Generic

from sandlockd.client.requests import Program, where_is
from sandlockd.control.objects import ExecObject, SandboxObject


class Known(Generic[Program]):
    """known: as of the last answer; its fields (`state`, `exit_status` and all others) are attributes of the handle."""

    known: Program

    def __getattr__(self, name: str) -> Any:
        # Not `self.known`: of a handle that is half made that would ask for itself.
        known = self.__dict__.get("known")
        if known is not None and name in known.__struct_fields__:
            return getattr(known, name)
        raise AttributeError(f"{type(self).__name__} has no {name!r}")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._where.rpartition('sandboxes/')[2]} {self.known.state}>"

    @property
    def _where(self) -> str:
        known: SandboxObject | ExecObject = self.known
        if isinstance(known, ExecObject):
            return where_is(known.sandbox, known.number)
        return where_is(known.id)
