"""One sandbox: starts it, serves it, ends it.

It is served in two parts. `serve_early` needs no trio: the engine's pump and the handlers alone, enough for all that
a program asks and for the reports of init. A program that ends within the first moments never makes us import trio
(which takes longer than most short commands). `serve` is the rest of the life: the loop, the watchers, what waits.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import time
from functools import partial

from sandlockd.kernel import launching
from sandlockd.kernel.engine import TERMINAL, Engine
from sandlockd.kernel.fds import OwnedFd
from sandlockd.kernel.files import Patient, Prompt
from sandlockd.kernel.mounts import Mounts, watch_changes
from sandlockd.kernel.orphans import kill_orphans
from sandlockd.launch.prepare import CannotStart
from sandlockd.process.index import ProcessIndex
from sandlockd.sandbox import starting
from sandlockd.sandbox.phase import Event, Phase, after
from sandlockd.sandbox.result import LATENCY_BOUNDS_NS, Reason, Result

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from sandlockd.audit.log import AuditLog
    from sandlockd.kernel.aside import Aside
    from sandlockd.kernel.engine import Ledger, Request
    from sandlockd.kernel.launching import Report
    from sandlockd.launch.prepare import Prepared
    from sandlockd.notify.dispatch import Dispatcher
    from sandlockd.process.state import PerProcessState
    from sandlockd.sandbox.executing import Execution, Executions
    from sandlockd.sandbox.keeping import Keeper, Left
    from sandlockd.sandbox.limits import Limits
    from sandlockd.store.tree import Tree

_START_PATIENCE_S = 30.0
_ASIDE_PATIENCE_S = 10.0  # at the end; whoever of the program wrote to the file is dead
_SETTLING_S, _SETTLING_STEP_S = 1.0, 0.001
_TELLS_HOW_IT_STANDS = frozenset(
    {launching.STOPPED, launching.CONTINUED, launching.EXITED, launching.LIMIT, launching.DONE}
)


class Sandbox:
    """Everything of one run. Used by one thread at a time."""

    def __init__(
        self,
        prepared: Prepared,
        audit: AuditLog,
        *,
        result: Result | None = None,
        terminal_device: int | None = None,
        trees: tuple[Tree, ...] = (),
        limits: Limits | None = None,
        may_execute: bool = False,
        ledger: Ledger | None = None,
        keeper: Keeper | None = None,
    ) -> None:
        """result: to be filled in. trees, limits: taken, and closed with the sandbox; ledger: likewise.

        Of the trees, one in another comes before it. may_execute: further programs may be started in it.
        keeper: told of all that a supervisor needs that replaces us; borrowed.
        """
        self._keeper = keeper
        self._prepared = prepared
        self._may_execute = may_execute
        self._executions: Executions | None = None
        self._trees = trees
        self._limits = limits
        self._audit = audit
        self._terminal_device = terminal_device
        self.phase = Phase.PREPARED
        self.result = result or Result()
        self.result.run_id = audit.run_id
        self._mounts = Mounts()
        self._patient = Patient()
        self._engine = Engine(
            rows=prepared.c_rows,
            zones=prepared.wall.zones.values(),
            native_arch=prepared.native_arch,
            openers=prepared.openers,
            slow_lookups=self._mounts.any_slow,
            mounts=watch_changes(),
            refusals=prepared.c_refusals,
            tell_granted=audit.records_allowed,
            own_pids=prepared.filter_plan.own_pids,
            ledger=ledger,
        )
        self._engine.is_kept = keeper is not None
        self._mounts_changed()
        for number, tree in enumerate(trees):
            fds = (tree.lower_directory, tree.storage.upper, tree.storage.work)
            layers, numbers = tree.index.layers, tree.origins.numbers
            moved = self._engine.add_tree(tree.root, tree.upper_path, layers, numbers, fds)
            tree.on_moved = partial(self._moved, number, moved)
        if limits is not None and limits.disk is not None:
            self._engine.set_disk(limits.disk)
        if limits is not None and limits.memory is not None:
            self._engine.set_memory(limits.memory)
            starting.leave_group_for_trees(limits, trees)
            starting.add_places(limits.memory, prepared, trees)
            if not self._may_trace:
                limits.memory.count_mapped()
        self._init_pid = 0
        self._control: OwnedFd | None = None
        self._index: ProcessIndex | None = None
        self._dispatcher: Dispatcher | None = None
        self._aside: Aside | None = None
        self._unregistered: list[int] = []  # threads seen before there was anybody to watch them
        self._left_over: list[Request] = []  # asked while one thread stopped serving, for the next
        self._status: int | None = None
        self._stop = 0  # the last stop of the program, as counted by init
        self.stopped_by = 0  # the signal, while it is stopped
        self._left: Left | None = None  # by who started it, where that is not us
        self._kill_rule: str | None = None
        self._killed = False
        self._is_paused = False
        self._engine_is_terminal = False
        self._init_died = False
        self._started_at = 0.0
        self.on_stopped: Callable[[int], None] | None = None  # the program was stopped by job control
        self.on_continued: Callable[[], None] | None = None
        self.on_process_exit: Callable[[object], None] | None = None

    # ---- starting ----

    def start(
        self,
        *,
        stdio: tuple[int, int, int] = (-1, -1, -1),
        blocked_signals: int = 0,
        descriptor_limit: tuple[int, int] | None = None,
        umask: int = -1,
        new_session: bool = False,
    ) -> None:
        """Fork, and wait until the listener is ours. Raises CannotStart."""
        prepared = self._prepared
        own_umask, umask = starting.umask_of(prepared, umask)
        self._engine.set_umask(umask)
        if self._keeper is not None:
            self._keeper.noted("umask", umask)
        plan = starting.plan_of(
            prepared,
            self._limits,
            tracer=self._engine if self._may_trace else None,
            stdio=stdio,
            umask=own_umask,
            blocked_signals=blocked_signals,
            descriptor_limit=descriptor_limit,
            new_session=new_session,
            may_execute=self._may_execute,
            is_kept=self._keeper is not None,
        )
        self._started_at = time.monotonic()
        self._init_pid, self._control = launching.start(plan)
        if self._keeper is not None:
            with OwnedFd(os.pidfd_open(self._init_pid)) as pidfd:
                self._keeper.launched(self._init_pid, self._started_at, self._control.fd, pidfd.fd)
        self._launched(self._control)
        self._await_listener()
        self._settle_trees()  # the program waits in execve

    def _launched(self, control: OwnedFd) -> None:
        """There is an init. Raises CannotStart."""
        if self._may_trace:
            self._engine.control_fd = control.fd
        self._prepared.wall.close()  # the child has its own
        self._advance(Event.FORKED)
        if self._limits is not None:
            self._limits.watch(control.fd, self._init_pid)
            self._limits.count_processes(self._engine, self._init_pid)
        self._index = ProcessIndex(self._init_pid)
        if self._may_execute:
            self._executions = self._make_executions()
        self._make_dispatcher()

    def _moved(self, number: int, moved: Callable[[], None], old: bytes, new: bytes) -> None:
        moved()
        if self._keeper is not None:
            self._keeper.moved(number, old, new)

    # ---- in the place of another ----

    def take_over(
        self,
        left: Left,
        revive: Callable[[int], tuple[Callable[[Execution], None], Callable[[Execution], None]]],
    ) -> None:
        """Go on with what a supervisor started that has died; once. Raises CannotStart.

        revive: who is told of the start and of the end of a further program, by its ticket.
        """
        assert left.control is not None and left.listener is not None
        self._left = left
        self._engine.set_umask(left.notes["umask"])
        self._started_at = left.started_at
        self._init_pid, self._control = left.init_pid, left.control
        self._launched(self._control)
        keeper, self._keeper = self._keeper, None  # it knows all this
        self._engine.attach(left.listener)
        self.result.has_run = True
        self._advance(Event.LISTENING)
        for number, old, new in left.moved:
            with contextlib.suppress(OSError):  # it has moved on, or is gone
                self._trees[number].moved(old, new)
        if self._executions is not None:
            self._executions.take_over(left, revive)
        for words in left.reports:
            if not self.over:
                self._on_report(launching.Report(*words))
        self._keeper = keeper
        self._settle_trees()
        for request in self._engine.take_over():
            self.dispatcher.dispatch(request)
        if keeper is not None:
            keeper.ready()

    def _settle_trees(self) -> None:
        try:
            for tree in self._trees:
                tree.storage.settle()
        except OSError as error:
            self.result.has_run = False
            raise CannotStart(f"the storage of changes cannot be made: {error.strerror}") from None

    def _await_listener(self) -> None:
        deadline = time.monotonic() + _START_PATIENCE_S
        while self.phase is Phase.STARTING:
            left_ms = int((deadline - time.monotonic()) * 1000)
            report = launching.read_report(self.control_fd, max(left_ms, 0))
            if report is None:
                self.result.failed("start: no answer from the new process within 30 s")
                self._advance(Event.BROKEN)
                break
            self._on_report(report)
        if self.phase is Phase.FAILED:
            text, status = (
                self.result.error or "start: the new process ended at once",
                self.result.exit_status,
            )
            raise CannotStart(text, status)

    def _make_executions(self) -> Executions:
        from sandlockd.sandbox.executing import Executions  # only where it is wanted

        try:
            start: bytes | None = os.path.join(os.getcwdb(), self._prepared.directory or b"")
        except OSError:
            start = self._prepared.directory  # ours was removed
        return Executions(
            self._prepared, self._audit, self._engine, self._limits, self.control_fd, start, self._keeper
        )

    def _make_dispatcher(self) -> None:
        # Imported here: the new process is on its way meanwhile.
        from sandlockd.sandbox.handling import make_dispatcher

        assert self._index is not None
        files = Prompt(self._mounts)
        self._aside = files.aside
        self._dispatcher = make_dispatcher(
            self._prepared,
            self._engine,
            self._audit,
            self._index,
            self._limits,
            self._trees,
            files=files,
            patient=self._patient,
            init_pid=self._init_pid,
            terminal_device=self._terminal_device,
            further_terminals=() if self._executions is None else self._executions.terminals,
            may_trace=self._may_trace,
            trace=self._trace,
            interrupt=self._interrupt,
            mounts_changed=self._mounts_changed,
            kill=self.kill,
        )

    def _mounts_changed(self) -> None:
        """C met a lookup that may wait, or a mount table that it does not know."""
        self._engine.set_mounts(slow_lookups=self._mounts.any_slow, local=self._mounts.local_ids)

    @property
    def init_pid(self) -> int:
        return self._init_pid

    @property
    def control_fd(self) -> int:
        assert self._control is not None
        return self._control.fd

    @property
    def index(self) -> ProcessIndex:
        assert self._index is not None
        return self._index

    @property
    def dispatcher(self) -> Dispatcher:
        assert self._dispatcher is not None
        return self._dispatcher

    @property
    def engine(self) -> Engine:
        return self._engine

    @property
    def needs_tasks(self) -> bool:
        """Something waits for a nursery."""
        return self.dispatcher.has_waiting

    @property
    def over(self) -> bool:
        return self.phase in (Phase.ENDED, Phase.FAILED)

    # ---- reports of init ----

    def _advance(self, event: Event) -> None:
        self.phase = after(self.phase, event)

    def read_reports(self) -> None:
        """Take every report that is there."""
        while not self.over:
            report = launching.read_report(self.control_fd)
            if report is None:
                return
            self._on_report(report)

    def _on_report(self, report: Report) -> None:
        kind = report.kind
        if self._keeper is not None and kind in _TELLS_HOW_IT_STANDS and not report.serial:
            self._keeper.reported(kind, tuple(report._replace(fd=None)))
        if report.serial:
            if self._executions is not None:
                self._executions.on_report(report)
        elif kind == launching.LISTENER:
            if report.fd is None:
                self.result.failed("start: the listener did not arrive; raise the limit of open files")
                self._advance(Event.BROKEN)
                return
            if self._keeper is not None:
                self._keeper.has_listener(report.fd.fd)
            self._engine.attach(report.fd)
            # It waits in execve, the first call that is trapped.
            if self._limits is not None:
                self._limits.confine(report.pid)
            self._tell_init(partial(launching.order_begin, self.control_fd))
            self.result.has_run = True
            self._advance(Event.LISTENING)
        elif kind == launching.FAILED:
            self._start_failed(report)
        elif kind == launching.STOPPED:
            self._advance(Event.STOPPED)
            self._stop = report.stop
            self.stopped_by = report.status
            if self.on_stopped is not None:
                self.on_stopped(report.status)
        elif kind == launching.CONTINUED:
            self._advance(Event.CONTINUED)
            self.stopped_by = 0
            if self.on_continued is not None:
                self.on_continued()
        elif kind == launching.EXITED:
            self._program_exited(report.status)
        elif kind == launching.LIMIT:
            self._is_paused = False  # who is asked to end is let go for it
            # Who was asked to end before, or was ended by a rule, ends for that.
            if self._limits is not None and not self._killed:
                self._limits.reached(report)
        elif kind == launching.DONE:
            self._done(report)
        elif kind == launching.GONE:
            self._init_gone()

    def _program_exited(self, status: int) -> None:
        self._status = status
        if self.result.error is None:
            self.result.program_ended(status, killed=self._killed)
            self.result.rule = self._kill_rule
        if self._executions is not None:
            self._executions.sandbox_ends = True
        self._advance(Event.EXITED)

    def _done(self, report: Report) -> None:
        self.result.usage_told(report)
        if self._status is None and self.result.error is None:
            self.result.killed_whole(self._kill_rule)
        self._end_executions()
        self._ask_limits()
        self._advance(Event.DONE)

    def _ask_limits(self) -> None:
        if self._limits is None:
            return
        self.result.kept_by = self._limits.kept_by()
        passed = self._limits.passed(self.result)
        if passed is None or self.result.reason is Reason.SANDBOX_ERROR:
            return
        from sandlockd.audit.records import Note

        self.result.over_limit(*passed)
        self._audit.note(Note(subject=passed.rule, text=passed.text))

    def _start_failed(self, report: Report) -> None:
        self.result.has_run = False
        text, status = starting.why_failed(report, self._prepared.argv[0])
        self.result.failed(text, status)
        if self.phase is Phase.STARTING and launching.STAGES[report.stage] != "exec":
            self._advance(Event.BROKEN)

    def _init_gone(self) -> None:
        """Its end is closed without a last word: somebody killed it. Law 8: nothing outlives the sandbox."""
        self._init_died = not self.over
        if not self.over and self.result.error is None:
            self.result.failed("init of the sandbox was killed from outside; everything in it was ended")
        self._end_executions()
        self._advance(Event.BROKEN)

    def _end_executions(self) -> None:
        if self._executions is not None:
            self._executions.all_ended()

    def _tell_calls(self) -> None:
        self.result.calls = self._engine.counts()._asdict()
        self.result.latencies = self._engine.latencies(LATENCY_BOUNDS_NS)
        self.result.handlers = [
            {
                "call": row.name if (row := self._prepared.rows.get(times.nr)) is not None else str(times.nr),
                "by": "python" if times.is_by_python else "c",
                "calls": times.calls,
                "p50": round(times.p50_ns / 1e9, 9),
                "p99": round(times.p99_ns / 1e9, 9),
            }
            for times in self._engine.times()
        ]

    # ---- serving ----

    def serve_early(self, until: float | None, extra_fd: int = -1) -> None:
        """Serve without trio until the time (monotonic), the end, or until extra_fd becomes readable."""
        self._dispatch_left_over()
        with select.epoll(flags=select.EPOLL_CLOEXEC) as waiting:
            waiting.register(self.control_fd, select.EPOLLIN)
            if extra_fd >= 0:
                waiting.register(extra_fd, select.EPOLLIN)
            while not self.over and (until is None or not self.needs_tasks):
                left = None if until is None else until - time.monotonic()
                if left is not None and left <= 0:
                    return
                self._serve_once(waiting.fileno(), left)
                if extra_fd >= 0 and any(fd == extra_fd for fd, _ in waiting.poll(0)):
                    return

    def settle(self) -> None:
        """End what only this thread can end, before another one serves: a caller has the thread for its tracer that has
        it make another call. What comes meanwhile is left to the other.
        """
        end = time.monotonic() + _SETTLING_S
        while self._engine.restarts_under_way and time.monotonic() < end:
            state, requests, _ = self._engine.pump(-1, _SETTLING_STEP_S)
            self._left_over += requests
            if state == TERMINAL:
                self._engine_is_terminal = True

    def _dispatch_left_over(self) -> None:
        while self._left_over:
            self.dispatcher.dispatch(self._left_over.pop(0))

    def _serve_once(self, waiting_fd: int, left_s: float | None) -> None:
        if self._engine_is_terminal:
            self._wait_for_report(left_s)
            return
        state, requests, other = self._engine.pump(waiting_fd, left_s)
        for request in requests:
            self.dispatcher.dispatch(request)
        if not requests:
            self._unregistered += self._engine.new_threads()
        if state == TERMINAL:
            self._engine_is_terminal = True
        if other:
            self.read_reports()

    def _wait_for_report(self, left_s: float | None) -> None:
        report = launching.read_report(self.control_fd, -1 if left_s is None else int(left_s * 1000) + 1)
        if report is not None:
            self._on_report(report)

    async def serve(self) -> None:
        """Serve until nothing of the sandbox is left."""
        import trio

        from sandlockd.notify.loop import Loop
        from sandlockd.process.watcher import prune_now_and_then

        loop = Loop(self._engine, self.dispatcher, self._new_thread, self._pump_failed)
        token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as nursery:

            def start(task: Callable[..., Any], *args: object) -> None:
                if not self.over:  # else the nursery may be closed already, and there is nobody left to serve
                    nursery.start_soon(task, *args)

            def start_soon(task: Callable[..., Any], *args: object) -> None:
                # Handlers run between the steps of trio, outside of any task: what they start goes in by the token.
                token.run_sync_soon(partial(start, task, *args))

            self.dispatcher.start_tasks_with(start_soon)
            self._watch_with(start_soon)
            self._dispatch_left_over()
            nursery.start_soon(prune_now_and_then, self.index)
            if not self._engine_is_terminal:
                nursery.start_soon(loop.run)
            while not self.over:
                await trio.lowlevel.wait_readable(self.control_fd)
                self.read_reports()
            nursery.cancel_scope.cancel()

    def _watch_with(self, start_soon: Callable[..., None]) -> None:
        import trio

        from sandlockd.process.watcher import watch

        def registered(entry: PerProcessState) -> None:
            start_soon(watch, self.index, entry, self.on_process_exit)

        def unregistered(entry: PerProcessState) -> None:
            for tid in entry.threads:
                self._engine.forget_thread(tid)
            trio.lowlevel.notify_closing(entry.pidfd.fd)

        for pid in self.index.pids_snapshot():
            key = self.index.key_for(pid)
            entry = self.index.entry_for(key) if key is not None else None
            if entry is not None:
                registered(entry)
        self.index.on_register = registered
        self.index.on_unregister = unregistered
        waiting, self._unregistered = self._unregistered, []
        for tid in waiting:
            self._new_thread(tid)

    def _new_thread(self, tid: int) -> None:
        if self.index.register_thread(tid) is None:
            self._engine.forget_thread(tid)  # it is gone: its number may come again

    def _pump_failed(self, error: Exception) -> None:
        from sandlockd.audit.records import Note

        self._audit.note(Note(subject="pump", text=f"the pump failed and the loop goes on alone: {error!r}"))

    # ---- further programs ----

    def execute(
        self,
        argv: Sequence[bytes],
        *,
        stdio: tuple[int, int, int],
        environment: Mapping[bytes, bytes] | None = None,
        cwd: bytes | None = None,
        on_started: Callable[[Execution], None] | None = None,
        on_ended: Callable[[Execution], None] | None = None,
        ticket: int = 0,
    ) -> Execution:
        """Start a further program in the sandbox, as one of its own; it ends with the first one at the latest.

        stdio: its descriptors 0, 1 and 2, borrowed; a terminal as the first becomes the one of its session.
        environment: beside what the policy gives. cwd: instead of where the first one was started; relative to that.
        on_started: it has a pid. on_ended: it has an exit status; of all that were asked for this is called once, after
        execute has returned, while the sandbox is served. ticket: as take_over's `revive` is given it.
        Raises CannotExecute.
        """
        from sandlockd.sandbox.executing import CannotExecute  # only where it is wanted

        if self._executions is None:
            raise CannotExecute("this sandbox was not made for further programs")
        if self.phase not in (Phase.RUNNING, Phase.PAUSED):
            raise CannotExecute(f"nothing can be started in a sandbox that is {self.phase.value}")
        if self._is_paused:
            raise CannotExecute("the sandbox is paused: resume it first")
        return self._executions.execute(argv, stdio, environment, cwd, on_started, on_ended, ticket)

    @property
    def executions(self) -> list[Execution]:
        """That have not ended."""
        return [] if self._executions is None else self._executions.open

    def signal_execution(self, execution: Execution, number: int, *, to_group: bool = False) -> None:
        """To a further program. Nothing happens when it is gone."""
        if self._executions is not None:
            self._tell_init(partial(self._executions.signal, execution, number, to_group=to_group))

    # ---- ending ----

    def signal(self, number: int, *, to_group: bool = False) -> None:
        """To the program. Nothing happens when it is gone. to_group: to its process group, if it leads one: so do keys
        of a terminal.
        """
        self._tell_init(partial(launching.order_signal, self.control_fd, number, to_group=to_group))

    @property
    def _may_trace(self) -> bool:
        """A process has one tracer at most: where the program may trace, it is the one."""
        return "ptrace" not in self._prepared.given_back

    def _trace(self, tid: int) -> None:
        if self._may_trace:
            self._tell_init(partial(self._engine.trace, self.control_fd, tid))

    def _interrupt(self, request: Request) -> bool:
        return self._may_trace and self._engine.answer_interrupted(request.slot, self.control_fd)

    def go_on(self) -> None:
        """End the stop that was told last, if the program is still in it."""
        self._tell_init(partial(launching.order_continue, self.control_fd, self._stop))

    # ---- pausing ----

    @property
    def is_paused(self) -> bool:
        return self._is_paused and not self.over

    def pause(self) -> None:
        """Nobody runs until resume() (native/throttle.c); no parent is told, and no handler runs.

        Who waits in the kernel waits on, and is held as soon as it wants a processor. What ends the sandbox ends it as
        ever. Nothing happens when it is paused already, or is gone. Waits for init.
        Raises CannotPause: all run as before.
        """
        if self._is_paused or self.over:
            return
        from sandlockd.sandbox import pausing  # only where it is wanted

        if not self._may_trace:
            raise pausing.CannotPause(pausing.PROGRAM_TRACES)
        try:
            pausing.pause(self.control_fd, self._engine)
        except (BrokenPipeError, ConnectionResetError):
            return  # init is gone, and everything with it
        self._is_paused = True

    def resume(self) -> None:
        """All go on where they were. Nothing happens when it is not paused."""
        if self._is_paused:
            self._is_paused = False
            self._tell_init(partial(launching.order_resume, self.control_fd))

    # ---- the end from here ----

    def kill(self, rule: str | None = None) -> None:
        """End everything in the sandbox now."""
        self._killed = True
        self._kill_rule = self._kill_rule or rule
        self._tell_init(partial(launching.order_kill, self.control_fd))

    def asked_to_end(self) -> None:
        """The end that follows was asked for. Who is paused goes on, to hear it."""
        self._killed = True
        self.resume()

    @staticmethod
    def _tell_init(order: Callable[[], object]) -> None:
        try:
            order()
        except (BrokenPipeError, ConnectionResetError):
            pass  # init is gone, and everything with it

    def close(self) -> None:
        """Release everything; whatever still lives dies with the leash. The result is final afterwards.

        Raises OSError: a change that the program asked for goes on all the same: the trees are not to be touched.
        """
        self.result.wall_s = time.monotonic() - self._started_at if self._started_at else 0.0
        registered = self._index.registered if self._index is not None else 0
        self.result.processes = max(registered, self.result.processes)
        if self._limits is not None:
            self._limits.stop()  # before its word to init could reach somebody else
        self._patient.close()
        for tree in self._trees:
            tree.stop()
        if self._control is not None:
            self._control.close()  # the leash
        if self._init_pid:
            self._await_init()
        self._end_executions()
        if self._init_died:
            self._end_processes()
            kill_orphans(spared=self._patient.pid)
        if self._index is not None:
            self._index.on_unregister = None
            self._index.clear()
        if self._aside is not None and not self._aside.close(_ASIDE_PATIENCE_S):
            raise OSError(errno.EBUSY, "a file that the program changed last is locked by somebody else")
        if self.result.has_run:
            self._tell_calls()
        if self._trees:
            copied = sum(tree.copied_bytes for tree in self._trees)
            self.result.copied_bytes = copied + self._engine.copied_bytes
        self._engine.close()
        for tree in self._trees:
            tree.close()
        if self._limits is not None:
            self._limits.close()
        self._mounts.close()
        self._prepared.close()

    def _await_init(self) -> None:
        if self._left is None or self._left.init_pidfd is None:
            os.waitpid(self._init_pid, 0)
            return
        waiting = select.poll()  # it is a child of who started it
        waiting.register(self._left.init_pidfd.fd, select.POLLIN)
        waiting.poll()

    def _end_processes(self) -> None:
        """Where they do not become our children: whoever we have seen."""
        if self._left is None or self._index is None:
            return
        for pid in self._index.pids_snapshot():
            key = self._index.key_for(pid)
            entry = None if key is None else self._index.entry_for(key)
            if entry is not None:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(entry.pidfd.fd, signal.SIGKILL)
