"""The options of `sandlockd run`: one table, read by a few lines where the command line is plain, else by argparse.

argparse, with what it imports, is an eighth of a start. So plain words are read without it: long options that exist,
each with its value. Help, errors and whatever else there is are argparse's, which is made from the same table.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

FLAG, ONE, MANY = "flag", "one", "many"
# Flags, how many values, what a value is called in the help, and the help.
OPTIONS = (
    (("--policy",), MANY, "FILE|NAME", "a policy file or a preset; several add up (default: base)"),
    (
        ("--read",),
        MANY,
        "PATH",
        "may be read and executed, with all below it; repeatable (default: as the policy says)",
    ),
    (("--write",), MANY, "PATH", "may be changed, too; repeatable (default: nothing)"),
    (("--deny",), MANY, "PATH", "no grant reaches it; repeatable (default: what the policy says)"),
    (("--workdir",), ONE, "DIR", "copy-on-write: changed freely, the real one stays (default: none)"),
    (
        ("--on-exit",),
        ONE,
        "HOW",
        "what becomes of the changes after status 0: commit|discard|keep|ask (default: keep; after another: discard)",
    ),
    (("--allow-net",), MANY, "SPEC", "(not supported yet; default: no network)"),
    (("--disk",), ONE, "SIZE", "how much the trees may hold: bytes, or with K, M, G (default: no limit)"),
    (
        ("--memory",),
        ONE,
        "SIZE",
        "how much memory all processes may use together: bytes, or with K, M, G (default: no limit)",
    ),
    (
        ("--processes",),
        ONE,
        "N",
        "how many processes may live at once; 16 times as many threads (default: no limit)",
    ),
    (("--timeout",), ONE, "TIME", "end it after so long: seconds, or with ms, s, m, h (default: never)"),
    (("--env",), MANY, "K=V", "set a variable; repeatable (default: the environment as it is)"),
    (("--clean-env",), FLAG, None, "begin with an empty environment (default: yours)"),
    (("--cwd",), ONE, "DIR", "where the command starts (default: here)"),
    (("--name",), ONE, "NAME", "what this run is called in its audit log (default: nothing)"),
    (("--dry-run",), FLAG, None, "keep nothing, and list the changes (default: as --on-exit says)"),
    (("--status-file",), ONE, "FILE", "write there how it ended, as JSON (default: nowhere)"),
    (("--quiet",), FLAG, None, "no closing line about refusals (default: one, if there were any)"),
    (
        ("-v", "--verbose"),
        FLAG,
        None,
        "say what is granted, each refusal as it happens, and what was used (default: refusals are counted)",
    ),
)
_EXCLUSIVE = ("quiet", "verbose")
_BY_FLAG = {flag: (flags[-1], values) for flags, values, _, _ in OPTIONS for flag in flags}


def add_to(parser: argparse.ArgumentParser) -> None:
    volume = parser.add_mutually_exclusive_group()
    for flags, values, metavar, text in OPTIONS:
        target = volume if destination(flags[-1]) in _EXCLUSIVE else parser
        if values == FLAG:
            target.add_argument(*flags, action="store_true", help=text)
        elif values == ONE:
            target.add_argument(*flags, metavar=metavar, help=text)
        else:
            target.add_argument(*flags, action="append", default=[], metavar=metavar, help=text)
    parser.add_argument("command", nargs="*", metavar="COMMAND", help="after --")


def destination(flag: str) -> str:
    return flag.removeprefix("--").replace("-", "_")


def read_plain(words: Sequence[str]) -> dict[str, object] | None:
    """What argparse would find, by destination; None: it is to be asked."""
    found: dict[str, object] = {"command": []}
    for flags, values, _, _ in OPTIONS:
        found[destination(flags[-1])] = {FLAG: False, ONE: None, MANY: []}[values]
    rest = iter(words)
    for word in rest:
        name, equals, value = word.partition("=")
        if name not in _BY_FLAG:
            return None
        flag, values = _BY_FLAG[name]
        if values == FLAG and equals:
            return None
        if values == FLAG:
            found[destination(flag)] = True
            continue
        given = value if equals else _value(rest)
        if given is None:
            return None
        _put(found, destination(flag), given, many=values == MANY)
    return None if all(found[name] for name in _EXCLUSIVE) else found


def _value(rest: Iterator[str]) -> str | None:
    word = next(rest, None)
    return None if word is None or word.startswith("-") else word


def _put(found: dict[str, object], name: str, given: str, *, many: bool) -> None:
    before = found[name]
    found[name] = [*before, given] if many and isinstance(before, list) else given


def split(words: list[str]) -> tuple[list[str], list[str]]:
    """Everything behind the first -- is the command, whatever it looks like."""
    if "--" not in words:
        return words, []
    at = words.index("--")
    return words[:at], words[at + 1 :]
