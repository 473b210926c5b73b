"""The `sandlockctl` command: parse, call, print. Nothing else.

It talks to the service, and to the kept runs of the foreground, which need none. What a verb does is in a module of its
subject (ctl_*.py), imported when it is asked for.
"""

from __future__ import annotations

import importlib
import os
import sys

from sandlockd.cli.ctl_parsers import PARSERS, main_parser
from sandlockd.cli.ending import end
from sandlockd.client.errors import ServiceError
from sandlockd.client.places import is_named, socket_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence
    from typing import NoReturn

_PARSERS = PARSERS  # for the tests of what `--help` tells
# The module, and the function in it.
_VERBS = {
    "run": ("ctl_run", "run"),
    "exec": ("ctl_run", "execute"),
    "attach": ("ctl_run", "attach"),
    "ps": ("ctl_look", "ps"),
    "inspect": ("ctl_look", "inspect"),
    "stats": ("ctl_look", "stats"),
    "explain": ("ctl_look", "explain"),
    "logs": ("ctl_streams", "logs"),
    "events": ("ctl_streams", "events"),
    "top": ("ctl_top", "top"),
    "wait": ("ctl_life", "wait"),
    "signal": ("ctl_life", "signal"),
    "stop": ("ctl_life", "stop"),
    "kill": ("ctl_life", "kill"),
    "pause": ("ctl_life", "pause"),
    "resume": ("ctl_life", "resume"),
    "rm": ("ctl_life", "rm"),
    "diff": ("ctl_changes", "diff"),
    "commit": ("ctl_changes", "commit"),
    "discard": ("ctl_changes", "discard"),
}


# By functions of the same names there, where there is no socket: then nothing is imported for a service.
_WITHOUT_SERVICE = ("ps", "diff", "commit", "discard")


def command() -> NoReturn:
    end("sandlockctl", main)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in PARSERS:
        verb, rest = arguments[0], arguments[1:]
    else:
        found = main_parser().parse_args(arguments)
        verb, rest = found.verb, found.rest
    options = _parsed(verb, rest)
    if verb == "completion":
        return _completion(options)
    options.umask = os.umask(0)  # modes are given in full
    try:
        return _act_of(verb, options)(options)
    except ServiceError as error:
        from sandlockd.cli.ctl_service import told

        return told(error)


def _parsed(verb: str, words: list[str]) -> argparse.Namespace:
    """Everything behind the first -- is the command, whatever it looks like."""
    parser = PARSERS[verb]()
    if verb not in ("run", "exec"):
        return parser.parse_intermixed_args(words)
    from sandlockd.cli.run_options import split

    before, command = split(words)
    options = parser.parse_args(before)
    if options.command and command:
        parser.error(f"{options.command[0]!r} stands before --; options go there, the command after it")
    options.command = command or options.command
    return options


def _act_of(verb: str, options: argparse.Namespace) -> Callable[[argparse.Namespace], int]:
    module, name = _VERBS[verb]
    if verb in _WITHOUT_SERVICE and not _is_served(options):
        module = "ctl_kept"
    act: Callable[[argparse.Namespace], int] = getattr(
        importlib.import_module(f"sandlockd.cli.{module}"), name
    )
    return act


def _is_served(options: argparse.Namespace) -> bool:
    """Somebody said so, or it looks like it."""
    is_about_services = getattr(options, "all", False) or getattr(options, "label", None)
    return bool(is_about_services) or is_named(options.socket) or os.path.exists(socket_path())


def _completion(options: argparse.Namespace) -> int:
    from sandlockd.cli.completion import completion

    parsers: dict[str, argparse.ArgumentParser] = {name: make() for name, make in PARSERS.items()}
    sys.stdout.write(completion(main_parser(), parsers, options.shell))
    return 0


if __name__ == "__main__":
    command()
