"""The notification engine: C receives and answers, Python sees what C does not settle.

One Engine serves the listener of one program, and those of programs that are started beside it later; it is used by one
thread at a time.
"""

from __future__ import annotations

import collections
import os

from sandlockd.kernel.fds import OwnedFd
from sandlockd.kernel.native import check, ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any, NamedTuple

    from sandlockd.kernel.disk import Disk
    from sandlockd.kernel.layers import Layers
    from sandlockd.kernel.memlimit import Memory
    from sandlockd.kernel.numbers import Numbers

LEDGER_BYTES: int = lib.slk_ledger_bytes()

EMPTY = lib.SLK_NOTIF_EMPTY
PENDING = lib.SLK_NOTIF_PENDING
TERMINAL = lib.SLK_NOTIF_TERMINAL

REASON_UNREADABLE = lib.SLK_REASON_UNREADABLE
REASON_REFUSED = lib.SLK_REASON_REFUSED
REASON_LOOKUP = lib.SLK_REASON_LOOKUP
REASON_GRANTED = lib.SLK_REASON_GRANTED
REASON_FAILED = lib.SLK_REASON_FAILED
REASON_NO_ROOM = lib.SLK_REASON_NO_ROOM
REASON_CROWDED = lib.SLK_REASON_CROWDED

# How a call ends that the caller was made to make: see native/boundary.h, enum slk_restart_end.
LEAVE = lib.SLK_RESTART_LEAVE
RETURN = lib.SLK_RESTART_RETURN
AGAIN = lib.SLK_RESTART_AGAIN
OPEN = lib.SLK_RESTART_OPEN
ENTER = lib.SLK_RESTART_ENTER

RESUMED = lib.SLK_RESUMED
RESUMED_ACT = lib.SLK_RESUMED_ACT

ZONE_SLOW = lib.SLK_ZONE_SLOW
ZONE_IDENTITY = lib.SLK_ZONE_IDENTITY
ZONE_TREE = lib.SLK_ZONE_TREE
ZONE_WHOLE = lib.SLK_ZONE_WHOLE
ZONE_ASKER = lib.SLK_ZONE_ASKER
ZONE_TOLD = lib.SLK_ZONE_TOLD

if TYPE_CHECKING:

    class Zone(NamedTuple):
        """What the kernel grants at and beneath `path` (b"" is the root)."""

        path: bytes
        flags: int
        rights: int
        device: int = 0  # counts with ZONE_IDENTITY, as inode does
        inode: int = 0

    class Counts(NamedTuple):
        received: int
        continued: int
        answered: int
        refused: int
        to_python: int
        vanished: int
        wakes: int
        failed: int

    class Times(NamedTuple):
        """How long calls with one number waited for their answer."""

        nr: int
        is_by_python: bool
        calls: int
        p50_ns: int
        p99_ns: int

    class Request(NamedTuple):
        """One call of the program."""

        notif_id: int
        tid: int
        nr: int
        args: tuple[int, ...]
        slot: int
        reason: int
        path: Any  # bytes; None where path_error tells why there are none, which no handler is asked about
        path_error: int  # an errno, or 0
        instruction_pointer: int
        listener: int = 0  # 0: the program's; else as attach_further has it
        is_resumed: int = 0  # who had received it has died (RESUMED_NOT, RESUMED, RESUMED_ACT)
        noted: int = 0  # by who was doing it (RESUMED_ACT)

else:  # without importing typing
    Zone = collections.namedtuple("Zone", "path flags rights device inode", defaults=(0, 0))
    Counts = collections.namedtuple(
        "Counts", "received continued answered refused to_python vanished wakes failed"
    )
    Times = collections.namedtuple("Times", "nr is_by_python calls p50_ns p99_ns")
    Request = collections.namedtuple(
        "Request",
        "notif_id tid nr args slot reason path path_error instruction_pointer listener is_resumed noted",
        defaults=(0, 0, 0),
    )

# So many threads of all processes together for each process that is allowed: node has 11, a JVM some 30 and more.
THREADS_PER_PROCESS = 16

# So many forks that find no room fail at once; those that follow wait first, until the program has asked less often.
REFUSALS_AT_ONCE = 100

_BATCH = lib.SLK_BATCH_MAX
_untouched = ffi.new_allocator(should_clear_after_alloc=False)  # C fills what it says that it has filled
_NEW_THREADS = 256
_TRACE_PATIENCE_MS = 100  # somebody may have stopped init; it needs 0.1 ms
_RESTART_PATIENCE_MS = 20  # what takes longer is gone on with between other calls


class Ledger:
    """What outlives the process that serves a sandbox: its open calls (native/takeover.c), and what is shared with
    init.

    Made before whoever may take over is forked, who has it by that.
    """

    def __init__(self) -> None:
        """Raises OSError."""
        self.file = OwnedFd(os.memfd_create("sandlockd-ledger", os.MFD_CLOEXEC))
        os.ftruncate(self.file.fd, LEDGER_BYTES)
        holder = ffi.new("struct slk_shared **")
        try:
            check(lib.slk_shared_create(holder))
        except BaseException:
            self.file.close()
            raise
        self.shared = holder[0]

    def close(self) -> None:
        if self.shared:
            lib.slk_shared_destroy(self.shared)
            self.shared = ffi.NULL
        self.file.close()


_native: dict[
    int, tuple[Sequence[tuple[int, ...]], ffi.CData]
] = {}  # the rows, too: so the number stays theirs


def _native_rows(rows: Sequence[tuple[int, ...]]) -> ffi.CData:
    """Each row in the order of the fields. The zygote has made those of the usual policies."""
    known = _native.get(id(rows))
    return ffi.new("struct slk_call[]", rows) if known is None else known[1]


def keep_native_rows(rows: Sequence[tuple[int, ...]]) -> None:
    """For engines to come, here and in what is forked."""
    _native[id(rows)] = rows, _native_rows(rows)


class Engine:
    """Owns the listener, the ledger and the tables of the fast path."""

    def __init__(
        self,
        *,
        rows: Sequence[tuple[int, ...]],
        zones: Iterable[Zone],
        native_arch: int,
        openers: tuple[int, int, int, int],
        slow_lookups: bool,
        refusals: Sequence[tuple[int, ...]] = (),
        tell_granted: bool = False,
        mounts: OwnedFd | None = None,
        own_pids: bool = False,
        ledger: Ledger | None = None,
    ) -> None:
        """rows: as launch/filter_plan.py's c_rows. openers: the numbers of open, openat, creat, openat2, -1: none.

        refusals: (number, argument, mask, value, errno). tell_granted: see SLK_REASON_GRANTED.
        mounts: /proc/self/mountinfo, taken, and nobody else's to poll.
        own_pids: whatever path comes by /proc is Python's, only looked at or not.
        ledger: taken; None: one of its own.
        """
        self._mounts = mounts
        self._trees = 0
        self.trees_are_parked = False
        self.ledger = ledger or Ledger()
        config = ffi.new("struct slk_engine_config *")
        calls = _native_rows(rows)
        config.calls, config.call_count = calls, len(rows)
        zone_list = list(zones)
        texts = [ffi.new("char[]", zone.path) for zone in zone_list]
        native_zones = ffi.new(
            "struct slk_zone[]",
            [
                (text, len(zone.path), zone.flags, zone.rights, zone.device, zone.inode)
                for text, zone in zip(texts, zone_list, strict=True)
            ],
        )
        config.zones, config.zone_count = native_zones, len(zone_list)
        native_refusals = ffi.new(
            "struct slk_refusal[]",
            [(mask, value, number, argument, error) for number, argument, mask, value, error in refusals],
        )
        config.refusals, config.refusal_count = native_refusals, len(refusals)
        config.tell_granted = tell_granted
        config.own_pids = own_pids
        config.native_arch = native_arch
        config.open_nr, config.openat_nr, config.creat_nr, config.openat2_nr = openers
        config.slow_lookups = slow_lookups
        config.mounts_fd = -1 if mounts is None else mounts.fd
        config.ledger_fd, config.shared = self.ledger.file.fd, self.ledger.shared
        holder = ffi.new("struct slk_engine **")
        check(lib.slk_engine_create(config, holder))
        self._engine = holder[0]
        self._batch = _untouched("struct slk_request[]", _BATCH)
        self._count = ffi.new("uint32_t *")
        self._other = ffi.new("int32_t *")
        self._tids = ffi.new("int32_t[]", _NEW_THREADS)
        self.listener: OwnedFd | None = None
        self._listener_fds: dict[int, int] = {}  # of all, the ended ones too; for `alive`
        self.sync_wake_up = False
        self.process_limit: int | None = None
        self.is_kept = False  # somebody takes over where we die
        self.control_fd = -1  # init's, where it traces processes (native/tracer.c); borrowed

    def attach(self, listener: OwnedFd) -> None:
        """Take the listener over."""
        self.listener = listener
        self._listener_fds[0] = listener.fd
        self.sync_wake_up = bool(check(lib.slk_engine_attach(self._engine, listener.fd)))

    def attach_further(self, listener: OwnedFd, at: int = 0) -> int:
        """Serve that of a further program too. Taken, and closed when it has ended, without a word.

        at: the number that it is to have, by which open calls in the ledger know it; 0: any.
        Returns: its number. Raises OSError: ENOSPC: they are as many as can be, or another has that number.
        """
        number = check(lib.slk_engine_attach_further(self._engine, listener.fd, at))
        self._listener_fds[number] = listener.take()
        return number

    @property
    def further(self) -> int:
        """How many further programs have processes that live."""
        return int(lib.slk_engine_further(self._engine))

    @property
    def further_fd(self) -> int:
        """Readable when one of their listeners is. Pumping waits for it by itself."""
        return int(lib.slk_engine_further_fd(self._engine))

    @property
    def listener_fd(self) -> int:
        if self.listener is None:
            raise ValueError("no listener yet")
        return self.listener.fd

    def listener_state(self) -> int:
        return check(lib.slk_listener_state(self.listener_fd))

    def drain(self) -> tuple[int, list[Request]]:
        """Receive all that is queued: (state, what Python must handle)."""
        state = check(lib.slk_drain(self._engine, self._batch, _BATCH, self._count))
        return state, self._requests()

    def pump(self, other_fd: int, timeout_s: float | None) -> tuple[int, list[Request], bool]:
        """Serve in C until Python is needed, other_fd is readable or the time is up (None: for ever).

        Returns: (state, what Python must handle, whether other_fd is readable).
        """
        timeout_us = -1 if timeout_s is None else min(int(timeout_s * 1e6), 1 << 50)
        state = check(
            lib.slk_pump(self._engine, other_fd, timeout_us, self._batch, _BATCH, self._count, self._other)
        )
        return state, self._requests(), bool(self._other[0])

    def _requests(self) -> list[Request]:
        count = self._count[0]
        return [self._request(self._batch[index]) for index in range(count)] if count else []

    @staticmethod
    def _request(native: ffi.CData) -> Request:
        length = native.path_length
        return Request(
            native.notif_id,
            native.tid,
            native.nr,
            tuple(native.args),
            native.slot,
            native.reason,
            ffi.unpack(native.path, length) if length else (b"" if not native.path_error else None),
            native.path_error,
            native.instruction_pointer,
            native.listener,
            native.is_resumed,
            native.noted,
        )

    def take_over(self) -> list[Request]:
        """In the place of a process that has died: answer again what it answered. The listeners are attached.

        Returns: what it left open and Python must handle; acts that were begun come first.
        """
        lib.slk_take_over(self._engine)
        requests: list[Request] = []
        while True:
            more = check(lib.slk_take_over_calls(self._engine, self._batch, _BATCH, self._count))
            requests += self._requests()
            if not more:
                return requests

    def handles(self, request: Request) -> None:
        """Whoever dies now dies of this call, perhaps."""
        lib.slk_handles(self._engine, request.slot)

    def acts(self, request: Request, noted: int = 0) -> None:
        """What it asks for is about to be done, and nothing stands against it: if it is found done later, this has done
        it.

        noted: enough to tell whether it was, where what is there does not.
        """
        lib.slk_slot_acts(self._engine, request.slot, noted)

    def acted(self, request: Request) -> None:
        """It is done: others may undo it before it is answered, with 0 or a descriptor. From any thread, as `acts`."""
        lib.slk_slot_acted(self._engine, request.slot)

    def new_threads(self) -> list[int]:
        """Thread ids that asked for the first time since the last call."""
        tids: list[int] = []
        while True:
            count = lib.slk_new_threads(self._engine, self._tids, _NEW_THREADS)
            tids += ffi.unpack(self._tids, count)
            if count < _NEW_THREADS:
                return tids

    def forget_thread(self, tid: int) -> None:
        lib.slk_forget_thread(self._engine, tid)

    # Answers: 0 or more, or -errno (-ENOENT: the caller is gone). Only notify/reply.py calls these.

    def answer_errno(self, slot: int, error: int) -> int:
        return int(lib.slk_answer_errno(self._engine, slot, error))

    def answer_value(self, slot: int, value: int) -> int:
        return int(lib.slk_answer_value(self._engine, slot, value))

    def answer_continue(self, slot: int) -> int:
        return int(lib.slk_answer_continue(self._engine, slot))

    def answer_fd(self, slot: int, fd: int, *, close_on_exec: bool) -> int:
        return int(lib.slk_answer_fd(self._engine, slot, fd, close_on_exec))

    def hand_over_fd(self, slot: int, fd: int, *, close_on_exec: bool) -> int:
        """As answer_fd; the descriptor is closed, whatever is returned, before the program goes on."""
        return int(lib.slk_hand_over_fd(self._engine, slot, fd, close_on_exec))

    def give_fd(self, slot: int, fd: int, *, close_on_exec: bool) -> int:
        """The first half of hand_over_fd: its number there, or -errno. The call waits on."""
        number = int(lib.slk_give_fd(self._engine, slot, fd, close_on_exec))
        os.close(fd)
        return number

    def answer_given(self, slot: int, number: int) -> int:
        """The second half."""
        return int(lib.slk_answer_given(self._engine, slot, number))

    def exchange_fd(self, slot: int, fd: int, number: int, *, close_on_exec: bool) -> None:
        """Put a duplicate in the place of a descriptor of the caller's, which has one thread. The call waits on.

        Raises OSError.
        """
        check(lib.slk_exchange_fd(self._engine, slot, fd, close_on_exec, number))

    def answer_restart(
        self,
        slot: int,
        nr: int,
        args: Sequence[int],
        *,
        end: int = RETURN,
        fd: int = -1,
        fd_argument: int = 0,
    ) -> int:
        """Have the caller make another call in the place of its own (native/rewrite.c).

        end: LEAVE, RETURN, AGAIN, OPEN, ENTER.
        fd: borrowed; the caller gets a duplicate, closed on exec, whose number is that argument and which is closed
            after the call; not with LEAVE.
        -EPERM: somebody else traces it, -EAGAIN: its process is in execve; the call waits on then, and nothing was
        given. From the thread that drains or pumps.
        """
        call = ffi.new(
            "struct slk_restart *",
            {"nr": nr, "end": end, "close_fd": -1, "fd_argument": fd_argument, "args": args},
        )
        patience = _RESTART_PATIENCE_MS
        return int(lib.slk_answer_restart(self._engine, slot, self.control_fd, call, fd, patience))

    @property
    def restarts_under_way(self) -> int:
        """Callers that this thread still has in its hands; pumping goes on with them."""
        return int(lib.slk_restarts_under_way(self._engine))

    def restart_result(self, tid: int) -> int | None:
        """What a call that ended with AGAIN has returned to its thread, once: a value or -errno."""
        result = ffi.new("int64_t *")
        return int(result[0]) if lib.slk_restart_result(self._engine, tid, result) else None

    def may_wait(self, slot: int) -> None:
        """Say before continuing: the call may wait in the kernel, and signals may end it as they do bare."""
        lib.slk_answer_may_wait(self._engine, slot)

    def answer_interrupted(self, slot: int, control_fd: int) -> bool:
        """End a served wait with the signals pending for its thread, as the kernel would. False: it waits on."""
        return bool(lib.slk_answer_interrupted(self._engine, slot, control_fd, _TRACE_PATIENCE_MS) == 1)

    def trace(self, control_fd: int, tid: int) -> bool:
        """Have init trace the process of a thread that waits in a call. Waits for init, _TRACE_PATIENCE_MS at most.

        False: not to be had. Raises OSError EPIPE when init is gone.
        """
        order = lib.SLK_ORDER_TRACE
        return bool(check(lib.slk_order_init(self._engine, control_fd, order, tid, _TRACE_PATIENCE_MS)))

    @property
    def native(self) -> ffi.CData:
        """For the plan of the launch: init maps the same ledger."""
        engine: ffi.CData = self._engine
        return engine

    def alive(self, request: Request) -> bool:
        """Is the caller still waiting in this call (seccomp_unotify(2), SECCOMP_IOCTL_NOTIF_ID_VALID)?

        From any thread, and also when it is all over: asks by the id, which no other call ever gets.
        """
        # A number that another file has by now knows of no such id.
        listener_fd = self._listener_fds.get(request.listener, -1)
        return bool(lib.slk_notif_id_valid(listener_fd, request.notif_id) == 1)

    def comes_by_asker(self, base: bytes, path: bytes) -> bool:
        """Does a path come by what depends on who asks? base: absolute, where it is relative."""
        return bool(lib.slk_way_is_askers(self._engine, base, len(base), path, len(path)))

    def set_mounts(self, *, slow_lookups: bool, local: Sequence[int]) -> None:
        """What the mount table says now. The engine itself only ever sees that it has changed.

        slow_lookups: a lookup may wait for a server. local: ids of mounts where none does.
        """
        ids = ffi.new("int32_t[]", local)
        lib.slk_engine_set_mounts(self._engine, slow_lookups, ids, len(local))

    def add_tree(
        self,
        root: bytes,
        upper: bytes,
        layers: Layers,
        numbers: Numbers,
        fds: tuple[OwnedFd | None, OwnedFd, OwnedFd],
    ) -> Callable[[], None]:
        """fds: of the lower directory, the upper, and work; borrowed, as the rest. All as in struct slk_tree_config.

        A tree in another one is added before it.
        Returns: what to call when a lower directory was renamed.
        """
        config = ffi.new("struct slk_tree_config *")
        root_text, upper_text = ffi.new("char[]", root), ffi.new("char[]", upper)
        config.root, config.root_length = root_text, len(root)
        config.upper, config.upper_length = upper_text, len(upper)
        config.layers, config.numbers = layers.native, numbers.native
        config.lower_fd, config.upper_fd, config.work_fd = (-1 if fd is None else fd.fd for fd in fds)
        check(lib.slk_engine_add_tree(self._engine, config))
        number = self._trees
        self._trees += 1
        return lambda: lib.slk_engine_tree_moved(self._engine, number)

    def may_be_locked(self, opened: OwnedFd) -> bool:
        """An object of an upper directory: may somebody hold its lock, for as long as he likes? (native/given.c)"""
        return bool(lib.slk_engine_may_be_locked(self._engine, opened.fd))

    @staticmethod
    def is_large(opened: OwnedFd) -> bool:
        """A file of which to free the space is too much for the loop."""
        return bool(lib.slk_is_large(opened.fd))

    def watched(self) -> None:
        """The program watches something in a tree: what is opened only to look would be told."""
        lib.slk_engine_watched(self._engine)

    def park_trees(self, *, parked: bool) -> None:
        """Another thread changes them: C leaves them alone. From any thread."""
        self.trees_are_parked = parked
        if self._engine:
            lib.slk_engine_park_trees(self._engine, parked)

    def set_disk(self, disk: Disk) -> None:
        """What the trees hold is limited; borrowed."""
        lib.slk_engine_set_disk(self._engine, disk.native)

    def set_memory(self, memory: Memory) -> None:
        """Memory is limited; borrowed."""
        lib.slk_engine_set_memory(self._engine, memory.native)

    def break_known(self, tid: int, end: int) -> int:
        """Where the heap of a thread that waits in brk ends, up to a page. Returns: to the byte, if that is known."""
        return int(lib.slk_break_known(self._engine, tid, end))

    def limit_processes(self, limit: int, init_pid: int) -> None:
        """How many may live below init (native/forks.c). Before the listener is attached.

        Raises OSError: ENOENT where the kernel does not list children.
        """
        tasks = limit * THREADS_PER_PROCESS
        check(
            lib.slk_engine_limit_processes(
                self._engine, limit, tasks, REFUSALS_AT_ONCE, init_pid, self.control_fd
            )
        )
        self.process_limit = limit

    def process_fits(self) -> bool:
        """Is there room for one more, that is about to be made below init? It counts then."""
        return bool(lib.slk_engine_process_fits(self._engine))

    @property
    def holds_forks(self) -> bool:
        """Some wait until others have happened: who does not pump drains again soon."""
        return bool(lib.slk_engine_holds_forks(self._engine))

    def ids_changed(self) -> None:
        """A process of the program may have other rights than it started with: C does nothing on behalf any more."""
        lib.slk_engine_ids_changed(self._engine)

    def set_umask(self, umask: int) -> None:
        """What the program starts with."""
        lib.slk_engine_set_umask(self._engine, umask)

    def counts(self) -> Counts:
        native = ffi.new("struct slk_engine_counts *")
        check(lib.slk_engine_counts(self._engine, native))
        return Counts(
            native.received,
            native.continued,
            native.answered,
            native.refused,
            native.to_python,
            native.vanished,
            native.wakes,
            native.failed,
        )

    @property
    def copied_bytes(self) -> int:
        """Of data, that the fast path copied into trees."""
        return int(lib.slk_engine_copied(self._engine))

    def times(self) -> list[Times]:
        """Of each number that was answered, in C and in Python."""
        native = ffi.new("struct slk_times[]", 2 * lib.SLK_CALLS_MAX)
        count = lib.slk_engine_times(self._engine, native, 2 * lib.SLK_CALLS_MAX)
        return [
            Times(row.nr, bool(row.is_by_python), row.count, row.p50_ns, row.p99_ns)
            for row in (native[index] for index in range(max(count, 0)))
        ]

    def latencies(self, bounds_ns: Sequence[int]) -> tuple[list[int], list[int]]:
        """How many calls waited no longer than each bound, and longer than the one before; the last: longer than all.

        Returns: of those that C answered, and of Python's.
        """
        size = len(bounds_ns) + 1
        counts = ffi.new("uint64_t[]", 2 * size)
        check(
            lib.slk_engine_latencies(self._engine, ffi.new("uint64_t[]", list(bounds_ns)), size - 1, counts)
        )
        found = ffi.unpack(counts, 2 * size)
        return found[:size], found[size:]

    def close(self) -> None:
        """Release everything. Trapped calls of a program that still lives get ENOSYS from now on."""
        if self._engine:
            lib.slk_engine_destroy(self._engine)
            self._engine = ffi.NULL
        self._listener_fds.clear()
        if self.listener is not None:
            self.listener.close()
        if self._mounts is not None:
            self._mounts.close()
        self.ledger.close()
