"""`sandlockd serve`: where a service of the system, or of one user, has its things."""

from __future__ import annotations

import os

from sandlockd.cli.ending import say

_FAILED = 1


class _NoPlace(Exception):
    """One line."""


def serve_with(socket: str | None, state_dir: str | None, policy_dir: str | None, config: str | None) -> int:
    """The exit status."""
    from sandlockd.audit.state import StateError, own_state_directory

    try:
        state = os.fsdecode(own_state_directory()) if state_dir is None else state_dir
        where = os.path.abspath(socket) if socket is not None else own_socket()
    except (StateError, _NoPlace) as error:
        say("sandlockd", str(error))
        return _FAILED
    from sandlockd.control.serving import Places, serve

    return serve(
        Places(
            socket=where,
            state_dir=os.path.realpath(state),  # runs are recorded in no place that a link leads to
            policy_dir=os.path.abspath(policy_dir or f"{_configuration()}/policies"),
            config=os.path.abspath(config or f"{_configuration()}/service.toml"),
            config_was_named=config is not None,
        )
    )


def own_socket() -> str:
    """Where this user's service listens. Raises _NoPlace."""
    if os.geteuid() == 0:
        return "/run/sandlockd/control.sock"
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if not runtime.startswith("/"):
        raise _NoPlace("XDG_RUNTIME_DIR is not set, as it is in a session: name a --socket")
    return f"{runtime}/sandlockd/control.sock"


def _configuration() -> str:
    if os.geteuid() == 0:
        return "/etc/sandlockd"
    base = os.environ.get("XDG_CONFIG_HOME", "")
    if not base.startswith("/"):
        base = os.path.expanduser("~/.config")
    return f"{base}/sandlockd"
