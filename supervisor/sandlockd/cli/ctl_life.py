"""sandlockctl wait, signal, stop, kill, pause, resume, rm: what becomes of sandboxes."""

from __future__ import annotations

from sandlockd.cli.ctl_service import DONE, each, program_of, put, put_json, seconds_of
from sandlockd.client.errors import ApiError
from sandlockd.control.objects import ExecObject

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from sandlockd.client.sync import Execution, Sandbox

_TIME_IS_UP = 124
_UNKNOWN = 125


def _each(options: argparse.Namespace, act: Callable[[Sandbox], object]) -> int:
    """Afterwards its id is printed, or with --json what it is."""

    def acted(sandbox: Sandbox) -> None:
        act(sandbox)
        _put(sandbox, options)

    return each(options, acted)


def _put(program: Sandbox | Execution, options: argparse.Namespace) -> None:
    known = program.known
    if options.json:
        put_json(known)
    else:
        put(str(known.number) if isinstance(known, ExecObject) else known.id)


def wait(options: argparse.Namespace) -> int:
    timeout_s = None if options.timeout is None else seconds_of(options.timeout, "--timeout")
    last = DONE

    def act(sandbox: Sandbox) -> None:
        nonlocal last
        known = program_of(sandbox, options).wait(timeout_s).known
        has_ended = known.ended is not None
        last = _TIME_IS_UP if not has_ended else _UNKNOWN if known.exit_status is None else known.exit_status
        if options.json:
            put_json(known)
        elif has_ended:
            put(str(last))

    return each(options, act) or last


def signal(options: argparse.Namespace) -> int:
    asked = int(options.signal) if options.signal.isdecimal() else options.signal

    def act(sandbox: Sandbox) -> None:
        _put(program_of(sandbox, options).signal(asked, group=options.group), options)

    return each(options, act)


def stop(options: argparse.Namespace) -> int:
    grace_s = None if options.grace is None else seconds_of(options.grace, "--grace")
    return _each(options, lambda sandbox: sandbox.stop(grace_s))


def kill(options: argparse.Namespace) -> int:
    return _each(options, lambda sandbox: sandbox.kill())


def pause(options: argparse.Namespace) -> int:
    return _each(options, lambda sandbox: sandbox.pause())


def resume(options: argparse.Namespace) -> int:
    return _each(options, lambda sandbox: sandbox.resume())


def rm(options: argparse.Namespace) -> int:
    def act(sandbox: Sandbox) -> None:
        try:
            sandbox.remove(force=options.force)
        except ApiError as error:
            hint = _BEFORE_RM.get(str(error.document.get("state")))
            if error.status != 409 or hint is None:
                raise
            raise ApiError(409, {"detail": f"{error.detail}: {hint} first, or sandlockctl rm -f"}) from None

    return _each(options, act)


_BEFORE_RM = {
    "starting": "sandlockctl stop it",
    "running": "sandlockctl stop it",
    "paused": "sandlockctl stop it",
    "stopping": "sandlockctl wait for it",
    "kept": "sandlockctl commit or discard its changes",
    "committing": "let the commit end",
}
