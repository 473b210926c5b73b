"""One run, from its policy to what becomes of its changes, whoever asked for it: a terminal or the service.

What is the asker's own stays with it (`Host`): the streams, the signals, how the sandbox is served, who reads what is
said. Order counts here: the program is started before anything is imported that only supervision needs.
"""

from __future__ import annotations

import contextlib
import os
from functools import lru_cache

from sandlockd.audit.log import AuditLog
from sandlockd.audit.records import Level, Note, RunEnd, RunHeader
from sandlockd.audit.state import StateError
from sandlockd.kernel.engine import Ledger
from sandlockd.kernel.orphans import remember_children
from sandlockd.launch.prepare import (
    CannotStart,
    prepare,
    refuse_descriptors_that_lead_out,
    require_room_in_files,
)
from sandlockd.launch.private_directory import PrivateDirectory, sweep
from sandlockd.launch.temporary import NAME as TEMPORARY_NAME
from sandlockd.launch.temporary import temporary_of
from sandlockd.launch.wall import WallError
from sandlockd.policy.errors import PolicyErrors
from sandlockd.sandbox.limits import Limits
from sandlockd.sandbox.policies import (
    compile_file_rules,
    temporary_root,
    working_directory,
    written_paths,
)
from sandlockd.sandbox.result import INTERRUPTED, SANDBOX_FAILED
from sandlockd.sandbox.sandbox import Sandbox
from sandlockd.sandbox.words import unforeseen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from hashlib import _Hash
    from typing import Protocol

    from sandlockd.launch.prepare import Prepared
    from sandlockd.policy.model import Policy
    from sandlockd.sandbox.keeping import Keeper
    from sandlockd.sandbox.result import Result
    from sandlockd.sandbox.trees import RunTree
    from sandlockd.store.tree import Tree

    class Host(Protocol):
        """Who asked for the run."""

        def say(self, text: str) -> None:
            """One line for a person."""

        def begun(self, run: Run, prepared: Prepared, audit: AuditLog) -> None:
            """The log has its header; the program was not started yet."""

        def release(self) -> None:
            """In the keeper: close what it is not to hold, as the program's streams."""

        def supervise(
            self, run: Run, sandbox: Sandbox, audit: AuditLog, spared: Sequence[int], keeper: Keeper | None
        ) -> None:
            """Start it, serve it until nothing of it is left, and close it, whatever raises.

            spared: children of ours that are no processes of the sandbox. keeper: if it has something left, the sandbox
            was started by somebody else, who has died: take it over.
            """


# To clean up with, where memory is what ended the run. Address space only: nobody writes to it (a bytearray is written
# to when it is made). Without any, CPython 3.11 does not raise MemoryError where a call needs room for frames: it
# crashes.
_SPARE_BYTES = 1 << 20


class Asked:
    """What is to be run, and what is to be said of it."""

    def __init__(
        self,
        policy: Policy,
        sources: Sequence[str],
        command: Sequence[bytes],
        *,
        name: str | None = None,
        run_id: str | None = None,
        is_dry_run: bool = False,
        is_quiet: bool = False,
        counts_changes: bool = False,
        terminal_device: int | None = None,
        may_execute: bool = False,
        is_kept: bool = False,
        says_kept_late: bool = False,
    ) -> None:
        """sources: as the policies were named. run_id: a new one, where it is given already. counts_changes: the
        result is to tell how many there were.

        terminal_device: st_rdev of the terminal that the program is given. may_execute: further programs may be started
        in its sandbox. is_kept: whoever supervises it is replaced when he dies (sandbox/keeping.py).
        says_kept_late: the host says `Run.kept_before`, when nobody waits for it; else it is said before the start.
        """
        self.policy = policy
        self.sources = tuple(sources)
        self.command = command
        self.name = name
        self.run_id = run_id
        self.is_dry_run = is_dry_run
        self.is_quiet = is_quiet
        self.counts_changes = counts_changes
        self.terminal_device = terminal_device
        self.may_execute = may_execute
        self.is_kept = is_kept
        self.says_kept_late = says_kept_late


class Run:
    def __init__(self, asked: Asked, result: Result, host: Host, state_dir: bytes) -> None:
        """result: what comes of the run, whatever raises."""
        self.asked = asked
        self.result = result
        self.umask = 0o022  # the caller's
        self.limits = Limits(asked.policy.limits, trees=asked.policy.filesystem.workdir is not None)
        self._host = host
        self._kept_before: Callable[[], list[str]] | None = None
        self._say: Callable[[str], None] = host.say
        self._policy = asked.policy
        self._state_dir = state_dir

    def kept_before(self) -> list[str]:
        """What to say, once, of other runs that keep changes of the workdir. From any thread; looks at all runs."""
        look, self._kept_before = self._kept_before, None
        return [] if look is None or self.asked.is_quiet else look()

    def run(self) -> None:
        """Raises CannotStart, PolicyErrors, StateError, and what nobody foresaw. The program has ended then."""
        # What we make on behalf has the caller's umask; what we make for ourselves names its mode.
        self.umask = os.umask(0)
        require_room_in_files()
        remember_children()
        sweep()
        spare = [bytes(_SPARE_BYTES)]
        private = PrivateDirectory()
        try:
            prepared = self._prepare(private)
            try:
                self._run_prepared(prepared, private)
            finally:
                spare.clear()
                prepared.close()
            if self.result.error is not None:
                self._say(self.result.error)
        finally:
            spare.clear()
            problem = private.remove()
            if problem is not None:
                self._say(problem)
            os.umask(self.umask)

    def _run_prepared(self, prepared: Prepared, private: PrivateDirectory) -> None:
        run_tree = None
        try:
            with self._audit() as audit:
                self._begin(audit, prepared)
                try:
                    self.limits.use_groups(audit.run_id, prepared)
                    run_tree = self._make_tree(prepared, audit.run_id)
                    spared = () if run_tree is None else run_tree.disposers
                    self._run_in(self._trees(prepared, run_tree, private), prepared, audit, spared)
                finally:
                    for line in self.limits.leave_groups():
                        self._say(line)
            if run_tree is not None:
                asked = self.asked
                run_tree.dispose(self.result, self._say, quiet=asked.is_quiet, counted=asked.counts_changes)
        except BaseException:
            if run_tree is not None:
                run_tree.abandon(self._say, has_run=self.result.has_run)
            raise

    def _run_in(
        self, trees: tuple[Tree, ...], prepared: Prepared, audit: AuditLog, spared: Sequence[int]
    ) -> None:
        keeper, ledger = None, Ledger()
        if self.asked.is_kept:
            from sandlockd.sandbox import keeping  # only where it is wanted

            if keeping.is_possible():
                keeper = keeping.keep(self._host.release)
        try:
            self._supervise(trees, prepared, audit, spared, ledger, keeper)
        finally:
            if keeper is not None:
                keeper.over()

    def _supervise(
        self,
        trees: tuple[Tree, ...],
        prepared: Prepared,
        audit: AuditLog,
        spared: Sequence[int],
        ledger: Ledger,
        keeper: Keeper | None,
    ) -> None:
        """As who was forked for it, or as whoever replaces him: the keeper says which."""
        try:
            if keeper is not None and keeper.left is not None:
                self.limits.renew()
                trees = tuple(tree.renewed(self.limits.disk) for tree in trees)
                audit.resume()
            sandbox = Sandbox(
                prepared,
                audit,
                result=self.result,
                terminal_device=self.asked.terminal_device,
                trees=trees,
                limits=self.limits,
                may_execute=self.asked.may_execute,
                ledger=ledger,
                keeper=keeper,
            )
        except BaseException:
            for tree in trees:
                tree.close()
            raise
        self._host.supervise(self, sandbox, audit, spared, keeper)

    def _prepare(self, private: PrivateDirectory) -> Prepared:
        """Raises CannotStart, PolicyErrors."""
        root = temporary_root(self._policy)
        places = self._places()
        if root is None:
            rules = compile_file_rules(self._policy, self._state_dir, places=places, private=[private.path])
            refuse_descriptors_that_lead_out()
            return prepare(self._policy, rules, self.asked.command, private.path)
        rules = compile_file_rules(self._policy, self._state_dir, places=places, layers=[private.path])
        refuse_descriptors_that_lead_out()
        temporary = temporary_of(root, rules)
        return prepare(self._policy, rules, self.asked.command, TEMPORARY_NAME, temporary)

    def _places(self) -> list[bytes]:
        """Where changes are kept, besides the state directory."""
        from sandlockd.review.places import in_use, known, place_for

        files = self._policy.filesystem
        own = None
        if files.storage is not None:
            own = os.path.realpath(files.storage)
        elif files.workdir is not None:
            own = place_for(os.path.realpath(files.workdir), self._state_dir)
        found = known(self._state_dir)
        return [*(path for path in found if in_use(path)), *([own] if own is not None else [])]

    def _trees(
        self, prepared: Prepared, run_tree: RunTree | None, private: PrivateDirectory
    ) -> tuple[Tree, ...]:
        """The innermost first. Raises CannotStart."""
        if run_tree is None or prepared.temporary is None:
            return () if run_tree is None else (run_tree.tree,)
        from sandlockd.sandbox.trees import make_temporary

        try:
            written, disk = written_paths(self._policy), self.limits.disk
            tree = make_temporary(prepared, private.path, written, run_tree.tree, disk)
            try:
                prepared.wall.grant_upper(tree.upper_path)
            except WallError as error:
                tree.close()
                raise CannotStart(str(error)) from None
        except BaseException:
            run_tree.tree.close()
            run_tree.close()
            raise
        if prepared.entered is not None and not os.listdir(prepared.entered) and not self.asked.is_quiet:
            self._say(
                "/tmp is the run's own, and the working directory is empty there: --write or --read grants the real one"
            )
        return run_tree.tree, tree

    def _make_tree(self, prepared: Prepared, run_id: str) -> RunTree | None:
        """Raises CannotStart."""
        files = self._policy.filesystem
        if files.workdir is None:
            return None
        from sandlockd.sandbox.trees import RunTree  # only where there are trees

        run_tree = RunTree(
            files, self._state_dir, run_id, is_dry_run=self.asked.is_dry_run, disk=self.limits.disk
        )
        self._kept_before = run_tree.kept_before
        if not self.asked.says_kept_late:
            for line in self.kept_before():
                self._say(line)
        try:
            prepared.wall.grant_upper(run_tree.tree.upper_path)
        except WallError as error:
            run_tree.tree.close()
            run_tree.close()
            raise CannotStart(str(error)) from None
        return run_tree

    @contextlib.contextmanager
    def _audit(self) -> Iterator[AuditLog]:
        """The log of the run, which has an end and the reason in it whatever raises."""
        audit = AuditLog(self._state_dir, self.asked.run_id, level=Level(self._policy.audit.level))
        self.result.run_id = audit.run_id
        try:
            yield audit
        except BaseException as error:
            lines, exit_status = told(error)
            self.result.went_wrong(in_one(lines), exit_status)
            raise
        finally:
            self._close_audit(audit)

    def _begin(self, audit: AuditLog, prepared: Prepared) -> None:
        audit.begin(
            RunHeader(
                run_id=audit.run_id,
                command=prepared.argv,
                cwd=working_directory(),
                policy_sources=self.asked.sources,
                policy_digest=policy_digest(self._policy),
                version=_version(),
                uid=os.geteuid(),
                pid=os.getpid(),
                level=Level(self._policy.audit.level),
                name=self.asked.name,
            )
        )
        for feature in prepared.wall.missing:
            audit.note(Note(subject="missing-feature", text=f"{feature}: the policy runs without it"))
            if not self.asked.is_quiet:
                self._say(f"running without {feature}, as [degrade] allows")
        self._host.begun(self, prepared, audit)

    def _close_audit(self, audit: AuditLog) -> None:
        result = self.result
        result.denials = audit.denials
        audit.close(
            RunEnd(
                reason=result.reason.value,
                exit_code=result.exit_code,
                signal=result.signal,
                rule=result.rule,
                wall_s=result.wall_s,
                error=result.error,
                has_run=result.has_run,
                exit_status=result.exit_status,
            )
        )
        if not self.asked.is_quiet:
            for line in audit.closing_lines(failed=not result.succeeded or result.error is not None):
                self._say(line.removeprefix("sandlockd: "))


def told(error: BaseException) -> tuple[tuple[str, ...], int]:
    """In lines for a person, and as the exit status of sandlockd."""
    match error:
        case PolicyErrors():
            return tuple(map(str, error.errors)), SANDBOX_FAILED
        case CannotStart():
            return (str(error), *error.further), error.exit_status
        case StateError():
            return (str(error),), SANDBOX_FAILED
        case KeyboardInterrupt():
            return ("interrupted before the start",), INTERRUPTED
        case _:
            return (unforeseen(error),), SANDBOX_FAILED


def in_one(lines: Sequence[str]) -> str:
    return "; ".join(lines)


def policy_digest(policy: Policy) -> str:
    """Of the effective policy; sources of its lines do not count."""
    return _sha256()(repr(policy).encode("utf-8", "surrogateescape")).hexdigest()


@lru_cache(maxsize=1)
def _sha256() -> Callable[[bytes], _Hash]:
    """As `random` does it: hashlib loads OpenSSL, 2 ms. Once: a module that is not there is looked for each time."""
    try:
        from _sha2 import sha256  # type: ignore[import-not-found]  # since Python 3.12
    except ImportError:
        try:
            from _sha256 import sha256  # type: ignore[import-not-found]
        except ImportError:
            from hashlib import sha256
    return sha256  # type: ignore[no-any-return]


def _version() -> str:
    from sandlockd import __version__

    return __version__
