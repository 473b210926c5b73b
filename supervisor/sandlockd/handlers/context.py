"""What every handler needs: the policy's rules, the wall, the file calls, the index, and a place for refusals."""

from __future__ import annotations

import contextlib
import os
import time

from sandlockd.kernel import acts, procfs
from sandlockd.kernel.aside import PATIENCE_S, TreesLock
from sandlockd.kernel.engine import ZONE_IDENTITY, ZONE_SLOW
from sandlockd.kernel.paths import Identity, acting_as
from sandlockd.policy.files import WORKDIR_RULE
from sandlockd.policy.verdict import FileIdentity, Want
from sandlockd.process.key import Gone

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from typing import Any, TypeVar

    from sandlockd.audit.log import AuditLog
    from sandlockd.handlers.allowed import AllowedCalls
    from sandlockd.handlers.limited.view import View
    from sandlockd.handlers.merged.acquaintance import Acquaintance
    from sandlockd.handlers.private.listing import Look
    from sandlockd.kernel.aside import Aside
    from sandlockd.kernel.engine import Engine, Request, Zone
    from sandlockd.kernel.fds import OwnedFd
    from sandlockd.kernel.files import Files, Patient, Prompt
    from sandlockd.kernel.memlimit import Memory
    from sandlockd.kernel.paths import Object
    from sandlockd.kernel.questions import Questions
    from sandlockd.kernel.syscalls import Syscall
    from sandlockd.policy.files import FileRules
    from sandlockd.process.index import ProcessIndex
    from sandlockd.store.tree import Tree

    Result = TypeVar("Result")


_REMOVE_FILE, _MAKE_DIR = 1 << 5, 1 << 7  # LANDLOCK_ACCESS_FS_*


class TreesBusy(Exception):
    """Another thread has the trees, and may have them for long. Nothing was done."""


class Context:
    """One sandbox, as its handlers see it.

    There are two of each: for handlers on the loop, where nothing may wait, and for the same handlers in a worker
    thread, where anything may. A worker leaves alone what the loop owns: the engine (but for `alive`), the index, the
    log.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        files: Prompt,
        patient: Patient,
        zones: Mapping[bytes, Zone],
        index: ProcessIndex,
        rules: FileRules,
        rule_for: Callable[[int, tuple[int, ...]], str],
        errno_for: Callable[[int, tuple[int, ...]], int],
        given_back: frozenset[str],
        rows: Mapping[int, Syscall],
        audit: AuditLog,
        init_pid: int,
        terminal_device: int | None,
        further_terminals: Collection[int],
        trace: Callable[[int], None],
        trees: tuple[Tree, ...] = (),
        trees_lock: TreesLock | None = None,
        acquaintance: Acquaintance | None = None,
        hidden: tuple[bytes, ...] | None = None,
        memory: Memory | None = None,
        makes_shared_memory: bool = False,
        view: View | None = None,
    ) -> None:
        """files, patient: for the loop, and for a worker. zones: what the kernel grants, by path. rule_for: the name of
        the rule that traps or refuses a call with these arguments. errno_for: what a refusal of a call with these
        arguments gives the program.
        given_back: calls that the policy gives back from what the laws refuse.
        terminal_device: st_rdev of the terminal that the program was given as descriptor 0, 1 or 2.
        further_terminals: of the programs that were started beside it later; they may become more.
        trace: have init trace the process of a thread that waits in a call (native/tracer.c).
        trees_lock: held by whoever looks at the trees or changes them.
        acquaintance: where there are trees, of the sockets in them.
        hidden: where processes outside do not exist for the program, more of /proc that does not (`proc.hide`).
        memory: where it is limited. makes_shared_memory: callers can be made to make it of an object that we have.
        view: where limits change what the machine is to the program.
        """
        self.engine = engine
        self.files: Files = files
        self._prompt, self._patient = files, patient
        self.zones = zones
        self.index: ProcessIndex | None = index
        self.rules = rules
        self.rule_for = rule_for
        self.errno_for = errno_for
        self.given_back = given_back
        self.rows = rows
        self.audit = audit
        self.init_pid = init_pid
        self.terminal_device = terminal_device
        self.further_terminals = further_terminals
        self.trace = trace
        self.trees = trees
        self.trees_lock = trees_lock or TreesLock()
        # Where the first path of this call leads by a link that only a tree has: the kernel cannot follow it, so
        # nothing is left to it. Set in a copy of the context that serves this one call.
        self.instead: bytes | None = None
        # For what is outside of the trees. Whoever gets to a lower object there, by a way that nobody thought of, may
        # read it as the kernel lets him: changing it on behalf would change the real tree.
        self.rules_outside = rules.narrowed(WORKDIR_RULE, Want.READ | Want.EXECUTE) if trees else rules
        self.acquaintance = acquaintance
        self.hidden = hidden
        self.memory = memory
        self.makes_shared_memory = makes_shared_memory
        self.view = view
        # For names in the trees. What really is where a tree that starts empty lies, no rule outside grants.
        self.rules_inside = rules.with_temporary(
            [tree.root for tree in trees if tree.lower_directory is None]
        )
        self.is_root = os.geteuid() == 0
        self._began_ns = time.time_ns()  # all that is denied by its number was there
        self.allowed: AllowedCalls | None = None  # at audit level `all` only
        self.looks: dict[tuple[int, int], Look] = {}  # of listings of /proc, by process and descriptor

    def copied(self) -> Context:
        """Shallow. Without the module `copy`: importing it takes 1 ms."""
        other = object.__new__(Context)
        other.__dict__.update(self.__dict__)
        return other

    def in_a_worker(self) -> Context:
        """The same for a worker thread."""
        other = self.copied()
        other.files = self._patient
        other.index = None
        return other

    def take_trees(self) -> bool:
        """On the loop: their lock. False: somebody has it and may have it for long (answers.when_free)."""
        return self.trees_lock.acquire(timeout=0 if self.engine.trees_are_parked else PATIENCE_S)

    @contextlib.contextmanager
    def trees_held(self) -> Iterator[None]:
        """For what is asked about them by the way. Raises TreesBusy: begin anew when they are free."""
        if not self.take_trees():
            raise TreesBusy
        try:
            yield
        finally:
            self.trees_lock.release()

    @property
    def aside(self) -> Aside:
        return self._prompt.aside

    def avoid_slow_mounts(self) -> None:
        """What was mounted in a tree is no part of it where its server may never answer. Under their lock."""
        for tree in self.trees:
            tree.avoid(self._prompt.slow_in(tree.root))

    def with_questions(self) -> tuple[Context, Questions]:
        """The same for one call, on the loop, whose file calls that may wait a worker makes one by one."""
        from sandlockd.kernel.questions import Questions  # late: hardly any run needs it

        other = self.copied()
        other.files = questions = Questions(self._prompt, self._patient)
        return other, questions

    def identity_of(self, opened: OwnedFd, found: Object) -> FileIdentity | None:
        """What the rules may know it by. None: it has the number of something denied that is gone, and was made since.

        A file system gives a number anew as soon as it is free: that of the shadow file that useradd(8) replaced to the
        passwd file that it makes next.
        """
        identity = FileIdentity(found.device, found.inode)
        if not self.rules.denies_object(identity):
            return identity
        born_ns = self.files.run(acts.born_ns, opened)
        is_new = born_ns is not None and self._began_ns < born_ns <= time.time_ns()
        return None if is_new else identity

    def kernel_grants(self, path: bytes, need: int) -> bool:
        """Does Landlock grant these LANDLOCK_ACCESS_FS_* of what has this canonical path?

        Not on the spine of a hole, nor in what was made there. As C has it (native/fastpath.c, judge_text).
        """
        at = path.rstrip(b"/")
        while (zone := self.zones.get(at)) is None and at:
            at = at[: at.rindex(b"/")]
        if zone is None or zone.flags & ZONE_SLOW or zone.rights & need != need:
            return False
        return not zone.flags & ZONE_IDENTITY or self._is_still(zone)

    def _is_still(self, zone: Zone) -> bool:
        """The grant was given to an object; a new one that took over its name has none."""
        try:
            with self.files.open(None, zone.path or b"/", os.O_PATH) as opened:
                found = self.files.run(acts.describe, opened)
        except OSError:
            return False
        return (found.device, found.inode) == (zone.device, zone.inode)

    def kernel_grants_names_in(self, directory: bytes) -> bool:
        """May names in this directory be left to Landlock?"""
        return self.kernel_grants(directory, _REMOVE_FILE | _MAKE_DIR)


class Caller:
    """The thread that asked. Facts are read when first needed and checked to be its own.

    Raises (from every property): Vanished when the thread is gone.
    """

    __slots__ = ("_status", "as_somebody", "context", "nobody_locks", "request")

    def __init__(self, context: Context, request: Request) -> None:
        self.context = context
        self.request = request
        self._status: procfs.Status | None = None
        self.nobody_locks = False  # the object of this call: it lies in an upper, and nobody has it open
        self.as_somebody: Identity | None = None  # whose rights count for this call, if not its own

    @property
    def tid(self) -> int:
        return int(self.request.tid)

    @property
    def status(self) -> procfs.Status:
        if self._status is None:
            try:
                self._status = procfs.status(self.tid)
            except OSError:
                raise Gone from None
            self.require_alive()
        return self._status

    @property
    def tgid(self) -> int:
        return int(self.status.tgid)

    @property
    def identity(self) -> Identity | None:
        """Whose rights on-behalf work must have; None: exactly ours.

        Only root can have become somebody else, or have capabilities to lose: no_new_privs keeps every other user
        from the first, and nobody else has any.
        """
        if not self.context.is_root:
            return None
        if self.as_somebody is not None:
            return self.as_somebody
        status = self.status
        return Identity(status.uids[3], status.gids[3], status.groups, status.capabilities)

    def act(self, act: Callable[..., Result], *args: Any) -> Result:
        """Make a call of kernel/acts.py with the caller's rights. Raises OSError, MayWait, Unfinished."""
        if self.nobody_locks:
            with acting_as(self.identity):
                return act(*args)
        return self.context.files.run(act, *args, identity=self.identity)

    def wait_for(self, act: Callable[..., Result], *args: Any) -> Result:
        """As act, in `Later.work`, with objects that were described before."""
        return self.context.files.wait_for(act, *args, identity=self.identity)

    def describe(self, opened: OwnedFd) -> Object:
        return self.context.files.run(acts.describe, opened)

    def require_alive(self) -> None:
        """What was read before this line was the caller's: it still waits in this very call."""
        if not self.context.engine.alive(self.request):
            raise Gone
