"""The policies that the service has by name: those of its policy directory, and the shipped presets.

A name is a name, never a path. Who asks gets the text as the service reads it; what that text extends is read by the
user's supervisor, from the same directory.
"""

from __future__ import annotations

import os
import re

from sandlockd.control.messages import PolicyText
from sandlockd.control.objects import NAME_PATTERN
from sandlockd.control.problems import Broken, Invalid, NotFound
from sandlockd.policy.inputs import MAX_POLICY_BYTES
from sandlockd.policy.shipped import PRESETS

_NAME = re.compile(NAME_PATTERN)
_ENDING = ".toml"


class PolicyDirectory:
    """path: need not be there; then only presets are."""

    def __init__(self, path: str) -> None:
        self._path = path

    def names(self) -> list[str]:
        try:
            found = [name.removesuffix(_ENDING) for name in os.listdir(self._path) if name.endswith(_ENDING)]
        except OSError:
            found = []
        return sorted({*filter(_NAME.fullmatch, found), *PRESETS})

    def named(self, name: str) -> str | PolicyText:
        """A text, or the name of a preset. Raises Invalid, NotFound, Broken."""
        if not _NAME.fullmatch(name):
            raise Invalid(f"{name!r} is no name of a policy: letters, digits, _ . -")
        path = f"{self._path}/{name.removesuffix(_ENDING)}{_ENDING}"
        try:
            with open(path, "rb", opener=_at_once) as file:
                content = file.read(MAX_POLICY_BYTES + 1)
            return PolicyText(path, os.fsencode(os.path.realpath(self._path)), content)
        except FileNotFoundError:
            if name in PRESETS:
                return name
        except OSError as error:
            raise Broken(f"the policy {name!r} cannot be read: {error.strerror}") from None
        raise NotFound(f"there is no policy {name!r}: one of {', '.join(self.names())}")


def _at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK)
