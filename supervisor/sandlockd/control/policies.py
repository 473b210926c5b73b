"""The policies that the service has by name: those of its policy directory, and the shipped presets.

A name is a name, never a path. Who asks gets the text as the service reads it; what that text extends is read by the
user's supervisor, from the same directory.
"""

from __future__ import annotations

import os

from sandlockd.control.messages import PolicyText
from sandlockd.control.problems import Broken, Invalid, NotFound
from sandlockd.policy.inputs import MAX_POLICY_BYTES
from sandlockd.policy.shipped import PRESETS
from sandlockd.policy.spelling import POLICY_ENDING, is_policy_name
from sandlockd.sandbox.policies import DEFAULT_POLICY, policy_names


class PolicyDirectory:
    """path: need not be there; then only presets are."""

    def __init__(self, path: str) -> None:
        self.path = path

    def named(self, name: str = DEFAULT_POLICY) -> str | PolicyText:
        """A text, or the name of a preset. Raises Invalid, NotFound, Broken."""
        bare = name.removesuffix(POLICY_ENDING)
        if not is_policy_name(bare):
            raise Invalid(f"{name!r} is no name of a policy: letters, digits, _ . -")
        path = f"{self.path}/{bare}{POLICY_ENDING}"
        try:
            with open(path, "rb", opener=_at_once) as file:
                status = os.fstat(file.fileno())
                content = file.read(MAX_POLICY_BYTES + 1)
            identity = b"%d:%d" % (status.st_dev, status.st_ino)
            return PolicyText(path, os.fsencode(os.path.realpath(self.path)), content, identity)
        except FileNotFoundError:
            if name in PRESETS:
                return name
        except OSError as error:
            raise Broken(f"the policy {name!r} cannot be read: {error.strerror}") from None
        there_are = ", ".join(policy_names(os.fsencode(self.path)))
        raise NotFound(f"there is no policy {name!r}: one of {there_are}")


def _at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK)
