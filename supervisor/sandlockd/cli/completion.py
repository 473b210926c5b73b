"""Shell completion as static text for bash, zsh and fish, read off the argument parser that is passed in.

Starts nothing and reads nothing. Not shtab: it is one more dependency, knows no fish, and does not know that
what follows `--` is another command, which is completed as that command here.
"""

from __future__ import annotations

import argparse
import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Final

SHELLS: Final = ("bash", "zsh", "fish")

# Options whose value is a path, by their name: argparse does not know.
_PATH_OPTIONS: Final = frozenset(
    {
        "--policy",
        "--read",
        "--write",
        "--deny",
        "--cwd",
        "--workdir",
        "--status-file",
        "--socket",
        "--state-dir",
        "--policy-dir",
        "--config",
    }
)


class _Command:
    """What may follow one (sub)command."""

    def __init__(
        self,
        name: str,
        parser: argparse.ArgumentParser,
        subcommands: Mapping[str, argparse.ArgumentParser] | None = None,
    ) -> None:
        self.name = name  # empty: the command itself
        self.options = [action for action in parser._actions if _is_shown(action) and action.option_strings]
        self.subcommands = dict(subcommands or {})
        self.choices = [
            str(choice)
            for action in parser._actions
            if not action.option_strings and not isinstance(action, argparse._SubParsersAction)
            for choice in action.choices or ()
        ]

    def words(self) -> list[str]:
        """Everything that may stand here, as the shell would type it."""
        options = [flag for action in self.options for flag in action.option_strings]
        return [*self.subcommands, *self.choices, *options]


def completion(
    parser: argparse.ArgumentParser, subcommands: Mapping[str, argparse.ArgumentParser], shell: str
) -> str:
    """The completion of `parser.prog` for one shell, to be sourced or put where that shell looks.

    Raises:
        ValueError: a shell that is not one of SHELLS.
    """
    commands = [_Command("", parser, subcommands)]
    commands += [_Command(name, sub) for name, sub in subcommands.items()]
    if shell == "bash":
        return _bash(parser.prog, commands)
    if shell == "zsh":
        # zsh runs bash's functions, and one text less can be wrong.
        setup = "autoload -U +X bashcompinit && bashcompinit"
        return f"#compdef {parser.prog}\n{setup}\n{_bash(parser.prog, commands)}"
    if shell == "fish":
        return _fish(parser.prog, commands)
    raise ValueError(f"no completion for {shell!r}; there is {', '.join(SHELLS)}")


def _is_shown(action: argparse.Action) -> bool:
    return action.help != argparse.SUPPRESS


def _takes_value(action: argparse.Action) -> bool:
    return action.nargs != 0


def _bash(prog: str, commands: list[_Command]) -> str:
    function = "_" + re.sub(r"\W", "_", prog)
    names = "|".join(command.name for command in commands if command.name) or "-"
    after_option = "\n".join(_bash_values(commands))
    words = "\n".join(
        f"    {_quote(command.name)}) words={_quote(' '.join(command.words()))} ;;" for command in commands
    )
    return f"""{function}() {{
  local current=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD-1]}} command= words= index
  for ((index = 1; index < COMP_CWORD; index++)); do
    case ${{COMP_WORDS[index]}} in
    --)
      # What follows is another command: complete it as itself.
      if declare -F _command_offset >/dev/null; then
        _command_offset $((index + 1))
      elif ((index + 1 == COMP_CWORD)); then
        COMPREPLY=($(compgen -c -- "$current"))
      fi
      return
      ;;
    {names}) [[ -n $command ]] || command=${{COMP_WORDS[index]}} ;;
    esac
  done
  case $previous in
{after_option}
  esac
  case $command in
{words}
  esac
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -o default -F {function} {prog}
"""


def _bash_values(commands: list[_Command]) -> Iterator[str]:
    """One case per option that takes a value: its choices, or the names of files."""
    seen: set[str] = set()
    for action in (action for command in commands for action in command.options):
        flags = [flag for flag in action.option_strings if flag not in seen]
        seen.update(flags)
        if not flags or not _takes_value(action):
            continue
        if action.choices:
            choices = _quote(" ".join(map(str, action.choices)))
            reply = f'COMPREPLY=($(compgen -W {choices} -- "$current"))'
        elif _PATH_OPTIONS.intersection(action.option_strings):
            reply = 'compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -f -- "$current"))'
        else:
            reply = "COMPREPLY=()"
        yield f"  {'|'.join(flags)}) {reply}; return ;;"


def _fish(prog: str, commands: list[_Command]) -> str:
    after_dashes = "contains -- -- (commandline -opc)"
    lines = [f"complete -c {prog} -n {_quote(after_dashes)} -a '(__fish_complete_command)'"]
    lines += [line for command in commands for line in _fish_command(prog, command)]
    return "".join(f"{line}\n" for line in lines)


def _fish_command(prog: str, command: _Command) -> Iterator[str]:
    condition = f"__fish_seen_subcommand_from {command.name}" if command.name else "__fish_use_subcommand"
    start = f"complete -c {prog} -n {_quote(condition)}"
    for name, parser in command.subcommands.items():
        yield f"{start} -fa {name} -d {_quote(_first_line(parser.description))}"
    if command.choices:
        yield f"{start} -fa {_quote(' '.join(command.choices))}"
    for action in command.options:
        flags = "".join(
            f" -l {flag[2:]}" if flag.startswith("--") else f" -s {flag[1:]}"
            for flag in action.option_strings
        )
        value = ""
        if action.choices and _takes_value(action):
            value = f" -xa {_quote(' '.join(map(str, action.choices)))}"
        elif _PATH_OPTIONS.intersection(action.option_strings):
            value = " -rF"
        elif _takes_value(action):
            value = " -x"
        yield f"{start}{flags}{value} -d {_quote(_first_line(action.help))}"


def _first_line(text: str | None) -> str:
    return (text or "").strip().partition("\n")[0].replace("%%", "%")


def _quote(text: str) -> str:
    """One word for any of the three shells: single quotes, with the quote itself put in double ones."""
    return "'" + text.replace("'", "'\"'\"'") + "'"
