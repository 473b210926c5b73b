"""sandlockctl run, attach: a sandbox of the service as if it were here."""

from __future__ import annotations

import os
from typing import Any

from sandlockd.cli.ctl_request import BadRequest, request_of, variables
from sandlockd.cli.ctl_service import (
    BROKEN,
    DONE,
    client_of,
    command_line,
    program_of,
    put,
    put_json,
    say,
    told,
)
from sandlockd.client.errors import ApiError
from sandlockd.control.objects import ExecObject

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from sandlockd.cli.ctl_attach import Ended
    from sandlockd.client.sync import Client, Execution, Sandbox

_HUNG_UP = 129


def run(options: argparse.Namespace) -> int:
    try:
        _require_possible(options)
        asked = request_of(options)
    except BadRequest as error:
        say(str(error))
        return BROKEN
    if options.tty:
        asked.update(tty=True, stdin=True, **_size())
    try:
        sandbox = client_of(options).run(options.command, **_without_defaults(asked))
    except ApiError as error:
        status = told(_told_of_files(error, options.policy))
        given = error.document.get("exit_status")
        return given if isinstance(given, int) else max(status, BROKEN)
    except ValueError as error:
        say(str(error))
        return BROKEN
    if options.detach:
        if options.json:
            put_json(sandbox.known)
        else:
            put(sandbox.known.id)
        return DONE
    return _followed(sandbox, options)


def _told_of_files(error: ApiError, policies: Sequence[str]) -> ApiError:
    """A name is the service's. Who meant a file beside us is told how to say that."""
    for name in policies if error.status == 404 else ():
        if repr(name) in error.detail and "/" not in name and os.path.isfile(name):
            return ApiError(404, {"detail": f"{error.detail}; the file is --policy ./{name}"})
    return error


def _require_possible(options: argparse.Namespace) -> None:
    """Raises BadRequest."""
    if options.verbose:
        raise BadRequest(
            "--verbose is for the foreground: `sandlockctl events -f` tells each refusal as it happens"
        )
    if options.json and not options.detach:
        raise BadRequest("--json goes with -d: else standard output is the program's; see --status-file")
    if options.status_file is not None:
        _require_replaceable(options.status_file)
    if not options.detach:
        return
    for given, option in ((options.rm, "--rm"), (options.status_file, "--status-file")):
        if given:
            raise BadRequest(f"{option} is for who waits for the end: leave out -d, or that")
    if options.on_exit == "ask":
        raise BadRequest(
            "--on-exit ask is for who waits for the end: leave out -d, or keep them and decide later"
        )


def _require_replaceable(path: str) -> None:
    """Raises BadRequest."""
    from sandlockd.sandbox.result import require_replaceable

    try:
        require_replaceable(path)
    except OSError as error:
        raise BadRequest(f"--status-file {path}: {error.strerror}") from None


def _without_defaults(asked: dict[str, Any]) -> dict[str, Any]:
    """A service that is older than we are need not know what nobody asks for."""
    return {name: value for name, value in asked.items() if value not in (None, False, [], {})}


def _size() -> dict[str, int]:
    for fd in (1, 0, 2):
        try:
            size = os.get_terminal_size(fd)
        except OSError:
            continue
        if size.lines and size.columns:
            return {"rows": size.lines, "columns": size.columns}
    return {}


# ---- to the end


def _followed(sandbox: Sandbox, options: argparse.Namespace) -> int:
    from sandlockd.cli.ctl_attach import attached

    ended = attached(sandbox, passes_input=options.interactive or options.tty)
    status = _told(ended, _goes_on(sandbox))
    if ended.exit is None:
        return status
    if options.on_exit == "ask" and ended.exit.state == "kept":
        from sandlockd.cli.ctl_ask import ask

        ask(sandbox)
    if options.status_file is not None:
        status = _write_status(sandbox.refresh(), options.status_file) or status
    if options.rm:
        _remove(sandbox)
    return status


def _goes_on(program: Sandbox | Execution) -> str:
    known = program.known
    if isinstance(known, ExecObject):
        return f"it goes on: sandlockctl attach --exec {known.number} {known.sandbox}"
    return f"{known.id} goes on: sandlockctl attach {known.id}"


def _told(ended: Ended, goes_on: str) -> int:
    """The exit status, and what there is to say. goes_on: if it does."""
    if ended.exit is None:
        say(goes_on)
        return _HUNG_UP
    for line in ended.exit.lines:
        say(line)
    if ended.exit.error is not None and not any(ended.exit.error in line for line in ended.exit.lines):
        say(ended.exit.error)
    return BROKEN if ended.exit.exit_status is None else ended.exit.exit_status


def _write_status(sandbox: Sandbox, path: str) -> int:
    from sandlockd.sandbox.result import write_status

    known = sandbox.known
    status: dict[str, object] = {
        "run": known.id,
        "exit_code": known.exit_code,
        "signal": known.signal,
        "reason": known.reason,
        "rule": known.rule,
        "error": known.error,
        "usage": known.usage,
        "changes": known.changes,
        "denials": known.denials,
    }
    try:
        write_status(path, status)
    except OSError as error:
        say(f"--status-file {path}: {error.strerror}")
        return BROKEN
    return DONE


def _remove(sandbox: Sandbox) -> None:
    """What is kept is not thrown away by that."""
    try:
        sandbox.remove()
    except ApiError as error:
        if error.status != 409:
            raise
        say(f"it stays, for its changes are kept: sandlockctl diff {sandbox.known.id}")


def execute(options: argparse.Namespace) -> int:
    """sandlockctl exec."""
    from sandlockd.cli.ctl_attach import attached

    if options.list:
        return _listed(options)
    if not options.command:
        say("a command must be named; see sandlockctl exec --help")
        return BROKEN
    try:
        asked = {
            "env": dict(variables(options.env)),
            "cwd": options.cwd,
            "stdin": options.interactive or options.tty,
            "tty": options.tty,
            **(_size() if options.tty else {}),
        }
        sandbox = client_of(options).get(options.id)
        execution = sandbox.exec(options.command, **_without_defaults(asked))
    except (BadRequest, ValueError) as error:
        say(str(error))
        return BROKEN
    except ApiError as error:
        status = told(error)
        given = error.document.get("exit_status")
        return given if isinstance(given, int) else max(status, BROKEN)
    if options.detach:
        if options.json:
            put_json(execution.known)
        else:
            put(str(execution.known.number))
        return DONE
    ended = attached(execution, passes_input=options.interactive or options.tty)
    return _told(ended, _goes_on(execution))


def _listed(options: argparse.Namespace) -> int:
    from sandlockd.cli.ctl_tables import print_table

    if options.command:
        say("--list starts nothing: leave out the command, or that")
        return BROKEN
    found = client_of(options).get(options.id).executions()
    if options.json:
        for one in found:
            put_json(one.known)
        return DONE
    print_table(
        ("NUMBER", "STATE", "STATUS", "STARTED", "COMMAND"), [_listed_row(one.known) for one in found]
    )
    return DONE


def _listed_row(known: ExecObject) -> tuple[str, ...]:
    status = "-" if known.exit_status is None else str(known.exit_status)
    return str(known.number), known.state, status, (known.started or "-")[:19], command_line(known.command)


def attach(options: argparse.Namespace) -> int:
    from sandlockd.cli.ctl_attach import attached

    client: Client = client_of(options)
    program = program_of(client.get(options.id), options)
    takes_input = program.known.stdin and not options.no_stdin
    ended = attached(program, passes_input=takes_input, tail=options.tail)
    return _told(ended, _goes_on(program))
