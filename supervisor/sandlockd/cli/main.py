"""The `sandlockd` command: parse, call, print. Nothing else."""

from __future__ import annotations

import gc
import os
import sys
from types import SimpleNamespace

from sandlockd.cli.ending import end, say
from sandlockd.cli.run_options import add_to, read_plain, split

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from typing import NoReturn

SUBCOMMANDS = ("run", "serve", "check", "explain", "doctor", "presets", "completion")
# Never taken for a command of that name: what somebody means by it must not change with a later version.
_LATER = ("learn",)
_CTYPE = b"LC_CTYPE="
# What Python coerces the C locale to, whichever there is.
_COERCED = (b"C.UTF-8", b"C.utf8", b"UTF-8")

_EXAMPLES = """\
examples:
  sandlockd -- make -j4                         the base policy: the system's files, nothing of yours
  sandlockd --write . -- make                   this directory may be changed
  sandlockd --policy agent.toml -- bash         a policy file
  sandlockd check agent.toml                    what is wrong with it, or what it comes to
  sandlockd explain --last                      what was refused, and the line that would allow it
  sandlockd doctor                              what this machine can enforce
"""

_VERB_EXAMPLES = {
    "serve": """\
examples:
  sandlockd serve                               for yourself; as root, for all users of the machine
  sandlockd serve --socket /tmp/me/s --state-dir /tmp/me/state

exit status: 0 it was told to end; 1 it could not start
""",
    "check": """\
examples:
  sandlockd check agent.toml                    what is wrong with it, with its lines; or what it comes to
  sandlockd check build ./mine.toml             several together, as --policy build --policy ./mine.toml
  sandlockd check agent.toml --json | jq .      the same for programs

exit status: 0 valid; 125 not
""",
    "explain": """\
examples:
  sandlockd explain                             of the newest run
  sandlockd explain 4f2a1c                      of another; the beginning or end of its id is enough
  sandlockd explain --json | jq 'select(.kind == "refusal") | .path'
""",
    "doctor": """\
examples:
  sandlockd doctor                              one line for each thing that is needed, and how to get it
  sandlockd doctor --json | jq '.checks[] | select(.state != "ok")'

exit status: 0 a run works here; 1 it does not
""",
    "presets": """\
examples:
  sandlockd presets                             their names, and what each is for
  sandlockd presets build > mine.toml           a start for a policy of your own
""",
    "completion": """\
examples:
  sandlockd completion bash > ~/.local/share/bash-completion/completions/sandlockd
  sandlockd completion zsh > ~/.zfunc/_sandlockd
  sandlockd completion fish > ~/.config/fish/completions/sandlockd.fish
""",
}


def command() -> NoReturn:
    end("sandlockd", main)


def main(argv: Sequence[str] | None = None) -> int:
    forget_coerced_locale()
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in _LATER:
        verb = arguments[0]
        say("sandlockd", f"not supported yet: {verb}; a command of that name: sandlockd -- {verb}")
        return 125
    if arguments and arguments[0] in SUBCOMMANDS:
        verb, rest = arguments[0], arguments[1:]
    else:
        verb, rest = "run", arguments
    return _VERBS[verb](rest)


def forget_coerced_locale() -> None:
    """In the C locale Python sets LC_CTYPE for itself and for whom it starts (PEP 538): the program gets its caller's.

    Found out by proc_pid_environ(5), which shows what execve was given.
    """
    if os.environb.get(b"LC_CTYPE") not in _COERCED:
        return
    try:
        with open("/proc/self/environ", "rb") as file:
            given = file.read().split(b"\0")
    except OSError:
        return  # no /proc: the run is refused, and says so
    own = [variable.removeprefix(_CTYPE) for variable in given if variable.startswith(_CTYPE)]
    if own:
        os.environb[b"LC_CTYPE"] = own[0]
    else:
        del os.environb[b"LC_CTYPE"]


def _new_parser(prog: str, description: str, **more: object) -> argparse.ArgumentParser:
    import argparse

    return argparse.ArgumentParser(
        prog=prog,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        **more,  # type: ignore[arg-type]
    )


def _verb_parser(verb: str, description: str) -> argparse.ArgumentParser:
    return _new_parser(f"sandlockd {verb}", description, epilog=_VERB_EXAMPLES[verb])


def run_parser() -> argparse.ArgumentParser:
    from sandlockd import __version__

    parser = _new_parser(
        "sandlockd",
        "Run a command that you do not trust. Verbs: " + ", ".join(SUBCOMMANDS) + ".",
        epilog=_EXAMPLES,
        usage="sandlockd [run] [--policy FILE|NAME]... [overrides] -- COMMAND [ARG...]",
    )
    parser.add_argument("--version", action="version", version=f"sandlockd {__version__}")
    add_to(parser)
    return parser


def _run(arguments: list[str]) -> int:
    from sandlockd.cli.run import Options, run
    from sandlockd.policy.inputs import Overrides

    gc.disable()  # until the program has been started (cli/run.py): what a start makes stays
    before, command = split(arguments)
    found = _read(before, has_command=bool(command))
    encode = os.fsencode
    overrides = Overrides(
        read=tuple(map(encode, found.read)),
        write=tuple(map(encode, found.write)),
        deny=tuple(map(encode, found.deny)),
        env=tuple(map(encode, found.env)),
        clean_env=found.clean_env,
        cwd=None if found.cwd is None else encode(found.cwd),
        workdir=None if found.workdir is None else encode(found.workdir),
        on_exit=found.on_exit,
        dry_run=found.dry_run,
        allow_net=tuple(found.allow_net),
        disk=found.disk,
        memory=found.memory,
        processes=found.processes,
        timeout=found.timeout,
    )
    return run(
        Options(
            policies=found.policy,
            overrides=overrides,
            command=[encode(word) for word in command or found.command],
            name=found.name,
            status_file=found.status_file,
            quiet=found.quiet,
            verbose=found.verbose,
        )
    )


def _read(words: list[str], *, has_command: bool) -> argparse.Namespace | SimpleNamespace:
    plain = read_plain(words)
    if plain is not None:
        return SimpleNamespace(**plain)
    parser = run_parser()
    found = _parse(parser, words)
    if found.command and has_command:
        parser.error(f"{found.command[0]!r} stands before --; options go there, the command after it")
    return found


def _parse(parser: argparse.ArgumentParser, arguments: list[str]) -> argparse.Namespace:
    """Usage errors are errors of the sandbox: 125, not argparse's 2, which a program could return as well."""
    parser.error = _usage_error(parser)  # type: ignore[method-assign]
    return parser.parse_args(arguments)


def _usage_error(parser: argparse.ArgumentParser):  # type: ignore[no-untyped-def]
    def error(message: str) -> None:
        say("sandlockd", f"{message}; see {parser.prog} --help")
        raise SystemExit(125)

    return error


def _serve_parser() -> argparse.ArgumentParser:
    parser = _verb_parser("serve", "Serve the control API on a Unix socket: see docs/operating.md.")
    parser.add_argument(
        "--socket",
        metavar="PATH",
        help="where (default: /run/sandlockd/control.sock, or your runtime directory's)",
    )
    parser.add_argument(
        "--state-dir",
        metavar="DIR",
        help="what is kept (default: /var/lib/sandlockd, or your state directory's)",
    )
    parser.add_argument(
        "--policy-dir",
        metavar="DIR",
        help="policies by name (default: /etc/sandlockd/policies, or your configuration's)",
    )
    parser.add_argument(
        "--config", metavar="FILE", help="(default: /etc/sandlockd/service.toml, or your configuration's)"
    )
    return parser


def _serve(arguments: list[str]) -> int:
    from sandlockd.cli.serve import serve_with

    found = _parse(_serve_parser(), arguments)
    return serve_with(found.socket, found.state_dir, found.policy_dir, found.config)


def _check_parser() -> argparse.ArgumentParser:
    parser = _verb_parser("check", "Validate policies and show what they come to.")
    parser.add_argument("files", nargs="+", metavar="FILE|NAME", help="policy files or presets; they add up")
    parser.add_argument(
        "--policy-dir",
        metavar="DIR",
        help="names are for the policies there, too, as in a service (default: presets)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object (default: text for people)")
    return parser


def _check(arguments: list[str]) -> int:
    from sandlockd.cli.check import check

    found = _parse(_check_parser(), arguments)
    return check(found.files, json=found.json, policy_dir=found.policy_dir)


def _explain_parser() -> argparse.ArgumentParser:
    parser = _verb_parser("explain", "Tell each refusal of a run, and the line that would allow it.")
    parser.add_argument("run", nargs="?", metavar="RUN", help="its id, or the beginning or end of it")
    parser.add_argument("--last", action="store_true", help="the newest run (default, where no RUN is named)")
    parser.add_argument(
        "--json", action="store_true", help="the records, as JSON Lines (default: text for people)"
    )
    return parser


def _explain(arguments: list[str]) -> int:
    from sandlockd.audit.state import StateError, own_state_directory
    from sandlockd.cli.explain import explain

    found = _parse(_explain_parser(), arguments)
    try:
        directory = own_state_directory()
    except StateError as error:
        say("sandlockd", str(error))
        return 125
    return explain(found.run, last=found.last or found.run is None, json=found.json, state_dir=directory)


def _doctor_parser() -> argparse.ArgumentParser:
    parser = _verb_parser("doctor", "Test what this machine can enforce, by doing it.")
    parser.add_argument("--json", action="store_true", help="one JSON object (default: text for people)")
    return parser


def _doctor(arguments: list[str]) -> int:
    from sandlockd.cli.doctor import doctor

    return doctor(json=_parse(_doctor_parser(), arguments).json)


def _presets_parser() -> argparse.ArgumentParser:
    parser = _verb_parser("presets", "List the shipped policies, or print one.")
    parser.add_argument("name", nargs="?", metavar="NAME", help="print this one (default: list them)")
    parser.add_argument("--json", action="store_true", help="one JSON object (default: text for people)")
    return parser


def _presets(arguments: list[str]) -> int:
    from sandlockd.cli.presets import presets

    found = _parse(_presets_parser(), arguments)
    return presets(found.name, json=found.json)


def _completion_parser() -> argparse.ArgumentParser:
    parser = _verb_parser("completion", "Print a completion script for a shell.")
    parser.add_argument("shell", choices=("bash", "zsh", "fish"))
    return parser


def _completion(arguments: list[str]) -> int:
    from sandlockd.cli.completion import completion

    shell = _parse(_completion_parser(), arguments).shell
    sys.stdout.write(completion(run_parser(), {name: make() for name, make in _PARSERS.items()}, shell))
    return 0


_PARSERS = {
    "run": run_parser,
    "serve": _serve_parser,
    "check": _check_parser,
    "explain": _explain_parser,
    "doctor": _doctor_parser,
    "presets": _presets_parser,
    "completion": _completion_parser,
}
_VERBS = {
    "run": _run,
    "serve": _serve,
    "check": _check,
    "explain": _explain,
    "doctor": _doctor,
    "presets": _presets,
    "completion": _completion,
}


if __name__ == "__main__":
    command()
