"""What is wrong with a policy: where, which key, what, and what would be right. One line each, all of them.

Pure. Nothing here prints.
"""

from __future__ import annotations

from sandlockd.policy.frozen import Value
from sandlockd.policy.spelling import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

NOT_SUPPORTED_YET = "not supported yet: "


class PolicyError(Value):
    """One thing that is wrong.

    file: the policy file as it was named, `preset NAME`, or the option (`--read`).
    line: 1-based, or None where there is none (an option, a preset, a file that could not be read).
    key: `filesystem.read[2]`, or "" where the whole file is meant.
    """

    file: str
    line: int | None
    key: str
    message: str

    def __str__(self) -> str:
        """One line, whatever the policy contains: `my.toml:7: filesystem.raed: unknown key`."""
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        named_already = not self.key or self.message == NOT_SUPPORTED_YET + self.key
        key = "" if named_already else f"{self.key}: "
        return printable(f"{place}: {key}{self.message}")


class PolicyErrors(Exception):
    """Every error of a policy, in the order of the files and their lines."""

    def __init__(self, errors: Iterable[PolicyError]) -> None:
        self.errors = tuple(errors)
        super().__init__(self.errors)

    def __str__(self) -> str:
        return "\n".join(str(error) for error in self.errors)


class BadValue(Exception):
    """A value that cannot be what its key needs; the argument says why. The loader adds where."""


class Unavailable(Exception):
    """A policy that `Context.find` could not give: unknown name, missing or unreadable file."""


def suggestion(word: str, candidates: Iterable[str]) -> str:
    """`; did you mean "read"?`, or "" when nothing is near."""
    import difflib  # only a broken policy pays for it

    near = difflib.get_close_matches(word, list(candidates), n=1, cutoff=0.6)
    return f'; did you mean "{near[0]}"?' if near else ""
