"""Who decides the calls of one sandbox: its handlers, what each of them needs, and the table that they are found by."""

from __future__ import annotations

from functools import partial

from sandlockd.handlers import record, resumed, table
from sandlockd.handlers.context import Context
from sandlockd.notify.dispatch import Dispatcher

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from sandlockd.audit.log import AuditLog
    from sandlockd.handlers.allowed import AllowedCalls
    from sandlockd.handlers.limited.view import View
    from sandlockd.handlers.merged.acquaintance import Acquaintance
    from sandlockd.kernel.engine import Engine, Request
    from sandlockd.kernel.files import Patient, Prompt
    from sandlockd.launch.prepare import Prepared
    from sandlockd.process.index import ProcessIndex
    from sandlockd.sandbox.limits import Limits
    from sandlockd.store.tree import Tree


def make_dispatcher(
    prepared: Prepared,
    engine: Engine,
    audit: AuditLog,
    index: ProcessIndex,
    limits: Limits | None,
    trees: tuple[Tree, ...],
    *,
    files: Prompt,
    patient: Patient,
    init_pid: int,
    terminal_device: int | None,
    further_terminals: Collection[int],
    may_trace: bool,
    trace: Callable[[int], None],
    interrupt: Callable[[Request], bool],
    mounts_changed: Callable[[], None],
    kill: Callable[[str], None],
) -> Dispatcher:
    """All but `may_trace` (init may be the program's tracer) as a Context and a Dispatcher have it."""
    context = Context(
        engine=engine,
        files=files,
        patient=patient,
        zones=prepared.wall.zones,
        index=index,
        rules=prepared.rules,
        rule_for=prepared.rule_for,
        errno_for=prepared.errno_for,
        given_back=prepared.given_back,
        rows=prepared.rows,
        audit=audit,
        init_pid=init_pid,
        terminal_device=terminal_device,
        further_terminals=further_terminals,
        trace=trace,
        trees=trees,
        trees_lock=trees[0].lock if trees else None,
        acquaintance=_acquaintance(init_pid) if trees else None,
        hidden=prepared.hidden if prepared.filter_plan.own_pids else None,
        memory=None if limits is None else limits.memory,
        makes_shared_memory=may_trace,
        view=_view(prepared, limits),
    )
    return Dispatcher(
        engine,
        table.build(context),
        in_a_worker=partial(table.build, context.in_a_worker()),
        mounts_changed=mounts_changed,
        put_on_record=partial(record.refused, context),
        refused=partial(table.refused_by_table, context),
        unreadable=partial(table.unreadable, context),
        unserved=partial(table.unserved, context),
        failed=partial(table.failed, context),
        unsent=partial(table.unsent, context),
        allowed=_allowed_calls(context) if audit.records_allowed else None,
        interrupt=interrupt,
        poke=patient.poke,
        kill=kill,
        as_done=partial(resumed.as_done, prepared.rows),
    )


def _view(prepared: Prepared, limits: Limits | None) -> View | None:
    memory = None if limits is None else limits.memory
    processors, counts = prepared.processors, prepared.filter_plan.counts_processes
    if memory is None and not processors and not counts:
        return None
    from sandlockd.handlers.limited.view import View  # only where it is wanted

    return View(memory=memory, processors=processors, counts_processes=counts)


def _allowed_calls(context: Context) -> AllowedCalls:
    from sandlockd.handlers.allowed import AllowedCalls  # only where it is asked for

    return AllowedCalls(context)


def _acquaintance(init_pid: int) -> Acquaintance:
    from sandlockd.handlers.merged.acquaintance import Acquaintance  # only where there are trees

    return Acquaintance(init_pid)
