"""What is known of one sandbox, for both kinds of handles."""

from __future__ import annotations

from typing import Any

from sandlockd.control.objects import SandboxObject


class Known:
    """known: as of the last answer; its fields (`state`, `exit_status` and all others) are attributes of the handle."""

    known: SandboxObject

    def __getattr__(self, name: str) -> Any:
        if name in SandboxObject.__struct_fields__:
            return getattr(self.known, name)
        raise AttributeError(f"a sandbox has no {name!r}")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.known.id} {self.known.state}>"
