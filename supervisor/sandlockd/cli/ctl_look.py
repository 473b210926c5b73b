"""sandlockctl ps, inspect, stats, explain: what is known of sandboxes."""

from __future__ import annotations

import sys
from typing import Any

import msgspec

from sandlockd.cli.ctl_service import (
    BROKEN,
    DONE,
    client_of,
    command_line,
    each,
    found_or_none,
    program_of,
    put,
    put_json,
    say,
)
from sandlockd.cli.ctl_tables import print_table, size
from sandlockd.client.errors import ApiError, NoService
from sandlockd.client.places import is_named
from sandlockd.control.objects import ExecObject

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Collection

    from sandlockd.client.sync import Execution, Sandbox
    from sandlockd.review.kept import KeptRun

ALIVE = ("created", "starting", "running", "paused", "stopping")
_LISTED = (*ALIVE, "kept", "committing")
_HEADINGS = ("ID", "NAME", "STATE", "STARTED", "DIRECTORY", "COMMAND")


# ---- ps


def ps(options: argparse.Namespace) -> int:
    from sandlockd.cli import ctl_kept

    try:
        sandboxes = client_of(options).list(label=options.label)
    except NoService:
        if is_named(options.socket) or options.label or options.all:
            raise
        return ctl_kept.ps(options)
    shown = [one for one in sandboxes if options.all or one.known.state in _LISTED]
    known = {one.known.id for one in sandboxes}
    state_dir, runs = _kept_beside(known) if not options.label else (b"", [])
    if options.json:
        for one in shown:
            put_json(_as_json(one))
        if runs:
            from sandlockd.review.listing import ps_json

            for line in ps_json(state_dir, runs):
                put(line)
        return DONE
    rows = [_row(one) for one in shown]
    if runs:
        from sandlockd.review.listing import ps_columns

        rows += [(run_id, "-", *rest) for run_id, *rest in (ps_columns(state_dir, run) for run in runs)]
        rows.sort(reverse=True)
    print_table(_HEADINGS, rows)
    return DONE


def _kept_beside(known: Collection[str]) -> tuple[bytes, list[KeptRun]]:
    """Of the foreground: the service knows nothing of them."""
    from sandlockd.audit.state import StateError, own_state_directory
    from sandlockd.review.kept import kept_runs

    try:
        state_dir = own_state_directory()
        return state_dir, [run for run in kept_runs(state_dir) if run.run_id not in known]
    except (StateError, OSError) as error:
        say(f"the runs of the foreground cannot be listed: {error}")
        return b"", []


def _as_json(program: Sandbox | Execution) -> dict[str, Any]:
    kind = "exec" if isinstance(program.known, ExecObject) else "sandbox"
    return {"kind": kind, **msgspec.to_builtins(program.known)}


def _row(sandbox: Sandbox) -> tuple[str, ...]:
    known = sandbox.known
    started = (known.started or known.created)[:19]
    where = command_line([known.cwd])
    return known.id, known.name or "-", known.state, started, where, command_line(known.command) or "-"


# ---- one


def inspect(options: argparse.Namespace) -> int:
    def act(sandbox: Sandbox) -> None:
        program = program_of(sandbox, options)
        if options.json:
            put_json(_as_json(program))
            return
        for name, value in _flat("", msgspec.to_builtins(program.known)):
            put(f"{name:<16} {value}")

    return each(options, act)


def _flat(prefix: str, what: dict[str, Any]) -> list[tuple[str, str]]:
    """`usage.cpu 0.3`; what is not known is left out."""
    found = []
    for name, value in what.items():
        if isinstance(value, dict):
            found += _flat(f"{prefix}{name}.", value)
        elif isinstance(value, list) and all(isinstance(word, str) for word in value):
            found.append((prefix + name, command_line(value)))
        elif isinstance(value, bool):
            found.append((prefix + name, "yes" if value else "no"))
        elif value is not None and not isinstance(value, list):
            found.append((prefix + name, command_line([str(value)])))
    return [(name, value) for name, value in found if value]


def stats(options: argparse.Namespace) -> int:
    if not options.ids:
        options.ids = [one.known.id for one in client_of(options).list() if one.known.state in ALIVE]
    found: list[dict[str, Any]] = []

    def act(sandbox: Sandbox) -> None:
        known = sandbox.known
        found.append({"id": known.id, "name": known.name, "denials": known.denials, **sandbox.stats()})

    status = each(options, act)
    if options.json:
        for one in found:
            put_json(one)
        return status
    headings = ("ID", "NAME", "STATE", "CPU", "MEMORY", "PROCS", "CALLS", "DENIALS")
    print_table(headings, [_stats_row(one) for one in found])
    return status


def _stats_row(one: dict[str, Any]) -> tuple[str, ...]:
    usage = one.get("usage") or {}
    memory = one.get("memory", usage.get("peak_memory"))
    cpu, processes = one.get("cpu", usage.get("cpu")), one.get("processes", usage.get("processes"))
    return (
        one["id"],
        one["name"] or "-",
        one["state"],
        "-" if cpu is None else f"{cpu:.2f}s",
        "-" if memory is None else size(memory),
        "-" if processes is None else str(processes),
        str((one.get("calls") or usage.get("calls") or {}).get("received", "-")),
        str(one["denials"]),
    )


def explain(options: argparse.Namespace) -> int:
    sandbox = found_or_none(options, options.id)
    if sandbox is None:
        return _explain_kept(options)
    try:
        if options.json:
            for record in sandbox.denials():
                put_json(record)
        else:
            sys.stdout.write(sandbox.explain())
    except ApiError as error:
        if error.status != 404:
            raise
        say(f"{sandbox.known.id} has no log: its policy keeps none ([audit] level), or it is gone")
        return BROKEN
    return DONE


def _explain_kept(options: argparse.Namespace) -> int:
    """Of the foreground."""
    from sandlockd.audit.state import StateError, own_state_directory
    from sandlockd.cli.explain import explain as explain_run

    try:
        directory = own_state_directory()
    except StateError as error:
        say(str(error))
        return BROKEN
    status = explain_run(options.id, last=False, json=options.json, state_dir=directory, name="sandlockctl")
    return BROKEN if status else DONE
