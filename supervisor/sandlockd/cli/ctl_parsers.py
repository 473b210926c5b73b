"""The command lines of sandlockctl. They are read here, and mean something elsewhere."""

from __future__ import annotations

import argparse

from sandlockd.cli import ctl_examples
from sandlockd.cli.ending import say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

BROKEN = 125
_ONE_ID = "its id, the beginning or end of that, or its name"


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        say("sandlockctl", f"{message}; see {self.prog} --help")
        raise SystemExit(BROKEN)


def _new_parser(prog: str, description: str, epilog: str | None = None, **more: str) -> Parser:
    return Parser(
        prog=prog,
        description=description,
        epilog=epilog or ctl_examples.VERBS[prog.rpartition(" ")[2]],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        **more,  # type: ignore[arg-type]
    )


def _verb(verb: str, description: str, **more: str) -> Parser:
    parser = _new_parser(f"sandlockctl {verb}", description, **more)
    parser.add_argument(
        "--socket",
        metavar="PATH",
        help="where the service is (default: SANDLOCKD_SOCKET, yours, or the system's)",
    )
    return parser


def _json(parser: Parser, text: str = "JSON Lines (default: text for people)") -> Parser:
    parser.add_argument("--json", action="store_true", help=text)
    return parser


def _of_ids(verb: str, description: str, *, many: bool = True, optional: bool = False) -> Parser:
    parser = _verb(verb, description)
    nargs = ("*" if optional else "+") if many else "?" if optional else None
    more = {} if nargs is None else {"nargs": nargs}
    parser.add_argument("ids" if many else "id", metavar="ID", help=_ONE_ID, **more)  # type: ignore[arg-type]
    return _json(parser)


def _number(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number of a further command; exec --list ID has them"
        )
    return int(text)


def _with_exec(parser: Parser) -> Parser:
    """Where it is for what runs beside the program, too."""
    parser.add_argument(
        "-e",
        "--exec",
        type=_number,
        metavar="N",
        help="of the further command with this number in it (default: of its program)",
    )
    return parser


# ---- starting, and being there


def _with_streams(parser: Parser) -> None:
    parser.add_argument(
        "-d", "--detach", action="store_true", help="print its id and leave it to itself (default: follow it)"
    )
    parser.add_argument(
        "-i",
        "--interactive",
        action="store_true",
        help="our standard input is its input (default: it has none)",
    )
    parser.add_argument(
        "-t", "--tty", action="store_true", help="it has a terminal, and its input with it (default: pipes)"
    )


def _run_parser() -> Parser:
    from sandlockd.cli.run_options import add_to

    parser = _new_parser(
        "sandlockctl run",
        "Run a command in the service, with the environment and the directory you are in.",
        usage="sandlockctl run [-d] [-i] [-t] [--policy FILE|NAME]... [overrides] -- COMMAND [ARG...]",
    )
    add_to(parser)
    parser.add_argument(
        "--socket",
        metavar="PATH",
        help="where the service is (default: SANDLOCKD_SOCKET, yours, or the system's)",
    )
    _with_streams(parser)
    parser.add_argument(
        "--label",
        action="append",
        default=[],
        metavar="K=V",
        help="to find it by; repeatable (default: none)",
    )
    parser.add_argument(
        "--rm",
        action="store_true",
        help="remove it when it is over, unless it has changes that are kept (default: no)",
    )
    return _json(parser, "with -d: the sandbox as a JSON object (default: its id)")


def _exec_parser() -> Parser:
    parser = _verb(
        "exec",
        "Run a further command in a sandbox, behind the same walls.",
        usage="sandlockctl exec [-d] [-i] [-t] [--env K=V]... [--cwd DIR] ID -- COMMAND [ARG...]\n"
        "       sandlockctl exec --list ID",
    )
    _with_streams(parser)
    parser.add_argument(
        "--list",
        action="store_true",
        help="those that were started in it, with their numbers (default: start one)",
    )
    parser.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="K=V",
        help="set a variable; repeatable (default: its own)",
    )
    parser.add_argument("--cwd", metavar="DIR", help="where it starts (default: where the sandbox did)")
    parser.add_argument("id", metavar="ID", help=_ONE_ID)
    parser.add_argument("command", nargs="*", metavar="COMMAND", help="after --")
    return _json(parser, "with -d or --list: the command as a JSON object (default: its number, a table)")


def _attach_parser() -> Parser:
    parser = _verb(
        "attach", "Be at the streams of a sandbox. ^] three times, or SIGHUP, leaves it to itself."
    )
    parser.add_argument("id", metavar="ID", help=_ONE_ID)
    parser.add_argument(
        "--tail", type=int, metavar="N", help="begin with the last N records (default: all that it wrote)"
    )
    parser.add_argument(
        "--no-stdin",
        action="store_true",
        help="nothing goes in (default: our standard input, if it takes any)",
    )
    return _with_exec(parser)


# ---- looking


def _ps_parser() -> Parser:
    parser = _verb("ps", "List sandboxes that live, and the runs whose changes are kept.")
    parser.add_argument("-a", "--all", action="store_true", help="those that are over, too (default: no)")
    parser.add_argument(
        "--label",
        action="append",
        default=[],
        metavar="K[=V]",
        help="only those that have it; several: all of them (default: any)",
    )
    return _json(parser)


def _inspect_parser() -> Parser:
    return _with_exec(_of_ids("inspect", "Tell all that is known of a sandbox."))


def _stats_parser() -> Parser:
    return _of_ids("stats", "Tell what sandboxes use: those named, or all that live.", optional=True)


def _top_parser() -> Parser:
    return _json(
        _verb("top", "Show what each sandbox uses, each second anew on a terminal."),
        "one sample, as JSON Lines (default: a table)",
    )


def _explain_parser() -> Parser:
    return _of_ids("explain", "Tell each refusal, and the line that would allow it.", many=False)


def _logs_parser() -> Parser:
    parser = _of_ids("logs", "Print what a sandbox wrote.", many=False)
    parser.add_argument(
        "-f", "--follow", action="store_true", help="go on until it has ended (default: what is there)"
    )
    parser.add_argument("--tail", type=int, metavar="N", help="only the last N records (default: all)")
    parser.add_argument(
        "--stream", choices=("stdout", "stderr", "tty"), help="only what was written there (default: all)"
    )
    return _with_exec(parser)


def _events_parser() -> Parser:
    parser = _of_ids("events", "Tell what happened to your sandboxes, or to one.", many=False, optional=True)
    parser.add_argument(
        "-f", "--follow", action="store_true", help="what happens from now on (default: what has happened)"
    )
    return parser


# ---- ending


def _wait_parser() -> Parser:
    parser = _of_ids("wait", "Wait until sandboxes have ended. The exit status is that of the last one.")
    parser.add_argument(
        "--timeout",
        metavar="TIME",
        help="no longer than this: seconds, or with ms, s, m, h (default: as it takes)",
    )
    return _with_exec(parser)


def _signal_parser() -> Parser:
    parser = _verb("signal", "Send a signal to the program of a sandbox.")
    parser.add_argument(
        "-g",
        "--group",
        action="store_true",
        help="to the program's process group, as ^C on a terminal is (default: to the program alone)",
    )
    parser.add_argument("signal", metavar="SIGNAL", help="its name, with or without SIG, or its number")
    parser.add_argument("ids", nargs="+", metavar="ID", help=_ONE_ID)
    return _json(_with_exec(parser))


def _stop_parser() -> Parser:
    parser = _of_ids("stop", "Ask the program to end, and end what is left after a grace.")
    parser.add_argument(
        "--grace", metavar="TIME", help="seconds, or with ms, s, m, h (default: as the service is configured)"
    )
    return parser


def _kill_parser() -> Parser:
    return _of_ids("kill", "End all processes of a sandbox now.")


def _pause_parser() -> Parser:
    return _of_ids("pause", "Hold all processes of a sandbox.")


def _resume_parser() -> Parser:
    return _of_ids("resume", "Let a paused sandbox go on.")


def _rm_parser() -> Parser:
    parser = _of_ids("rm", "Remove a sandbox that is over, with its logs and records.")
    parser.add_argument(
        "-f", "--force", action="store_true", help="end it first, and drop its changes (default: refuse)"
    )
    return parser


# ---- changes


def _with_run(parser: Parser, paths: str) -> Parser:
    parser.add_argument("run", metavar="ID", help="the run's id, or the beginning or end of it")
    parser.add_argument("paths", nargs="*", metavar="PATH", help=f"{paths}, as the list shows it; . is all")
    return parser


def _diff_parser() -> Parser:
    parser = _verb("diff", "Show what a run changed: the list, and what changed in files.")
    _with_run(parser, "only what is at and below it")
    parser.add_argument(
        "--list", action="store_true", help="the list only (default: with what changed in text files)"
    )
    return _json(parser)


def _commit_parser() -> Parser:
    parser = _verb(
        "commit", "Put a run's changes into its directory. A commit that did not end is ended first."
    )
    _with_run(parser, "only what is at and below it; what runs later by itself must be named exactly")
    parser.add_argument(
        "--digest",
        metavar="D",
        help="refuse if the changes are not those that had this digest (default: whatever they are)",
    )
    parser.add_argument(
        "--force",
        action="append",
        default=[],
        metavar="PATH",
        help="overwrite or delete it although it has changed underneath; repeatable (default: nothing)",
    )
    parser.add_argument(
        "--skip-marked",
        action="store_true",
        help="leave out, and keep, what runs later by itself (default: refuse)",
    )
    return _json(parser)


def _discard_parser() -> Parser:
    parser = _verb("discard", "Drop a run's changes. A commit that did not end is taken back first.")
    return _json(_with_run(parser, "only what is at and below it"))


def _completion_parser() -> Parser:
    parser = _new_parser("sandlockctl completion", "Print a completion script for a shell.")
    parser.add_argument("shell", choices=("bash", "zsh", "fish"))
    return parser


PARSERS: dict[str, Callable[[], Parser]] = {
    "run": _run_parser,
    "exec": _exec_parser,
    "ps": _ps_parser,
    "inspect": _inspect_parser,
    "logs": _logs_parser,
    "attach": _attach_parser,
    "wait": _wait_parser,
    "signal": _signal_parser,
    "stop": _stop_parser,
    "kill": _kill_parser,
    "pause": _pause_parser,
    "resume": _resume_parser,
    "rm": _rm_parser,
    "stats": _stats_parser,
    "events": _events_parser,
    "top": _top_parser,
    "explain": _explain_parser,
    "diff": _diff_parser,
    "commit": _commit_parser,
    "discard": _discard_parser,
    "completion": _completion_parser,
}


def main_parser() -> Parser:
    from sandlockd import __version__

    parser = _new_parser(
        "sandlockctl",
        "Run commands in the service of sandlockd, look at them, and decide about what they changed. Verbs: "
        + ", ".join(PARSERS)
        + ".",
        epilog=ctl_examples.MAIN,
    )
    parser.add_argument("--version", action="version", version=f"sandlockctl {__version__}")
    parser.add_argument("verb", choices=tuple(PARSERS), metavar="VERB", help="what to do")
    parser.add_argument("rest", nargs=argparse.REMAINDER, metavar="...", help="see sandlockctl VERB --help")
    return parser
