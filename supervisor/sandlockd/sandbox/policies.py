"""Policies from the machine: reads the files, fills the Context and the Facts, and hands both to the pure
code.

Opens nothing that could block (a FIFO without a writer, a device) and reads no more than a policy may hold.
Decides
nothing: what a policy means is sandlockd.policy's.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from functools import partial

from sandlockd.audit.state import home_directory
from sandlockd.launch.temporary import NAME as TEMPORARY_NAME
from sandlockd.policy.errors import PolicyError, PolicyErrors, Unavailable, suggestion
from sandlockd.policy.files import Facts, Seen, compile_rules
from sandlockd.policy.inputs import MAX_POLICY_BYTES, Context, Overrides, PathKind, Source
from sandlockd.policy.load import load
from sandlockd.policy.shipped import PRESETS, preset_source
from sandlockd.policy.spelling import POLICY_ENDING, fits, is_policy_name, is_within
from sandlockd.policy.verdict import FileIdentity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence
    from typing import Final

    from sandlockd.policy.files import FileRules
    from sandlockd.policy.model import Policy

DEFAULT_POLICY: Final = "base"
_WRITER_PATIENCE_S: Final = 10  # for whatever has a pipe open and will write the policy into it
_OPENING_PATIENCE_S: Final = 1  # for whatever will open a FIFO


def load_policy(
    policies: Sequence[str | Source], overrides: Overrides | None = None, policy_dir: bytes | None = None
) -> Policy:
    """The policy that `--policy` names (presets, files), or that was read already, in order; `base` if there is none.

    policy_dir: where policies are that names are for, beside the presets.

    Raises:
        PolicyErrors: everything that is wrong with it.
    """
    sources: list[Source] = []
    errors: list[PolicyError] = []
    context = context_here(overrides or Overrides(), policy_dir)
    for named in policies or (DEFAULT_POLICY,):
        if isinstance(named, Source):
            sources.append(named)
            continue
        try:
            sources.append(context.find(named, context.cwd))
        except Unavailable as error:
            errors.append(PolicyError(named, None, "", str(error)))
    try:
        policy = load(sources, context)
    except PolicyErrors as more:
        raise PolicyErrors([*errors, *more.errors]) from None
    if errors:
        raise PolicyErrors(errors)
    return policy


def require_tree_for(overrides: Overrides, policy: Policy) -> None:
    """Who says --dry-run or --on-exit discard counts on nothing being changed. Raises CannotStart."""
    said = "--dry-run" if overrides.dry_run else "--on-exit" if overrides.on_exit is not None else None
    if said is not None and policy.filesystem.workdir is None:
        from sandlockd.launch.prepare import CannotStart  # whoever only checks a policy does without

        raise CannotStart(
            f"{said} is about the changes in a copy-on-write tree, and this run has none: what it may write, it writes"
            " for good; give --workdir, or leave it out"
        )


def compile_file_rules(
    policy: Policy,
    state_dir: bytes | None,
    *,
    places: Sequence[bytes] = (),
    private: Sequence[bytes] = (),
    layers: Sequence[bytes] = (),
) -> FileRules:
    """The file rules of a policy on this machine, now.

    state_dir: sandlockd's own, which no policy grants.
    places: more of that.
    private: directories made for this run, which the program gets whole.
    layers: directories made for this run, of which it gets nothing by their names.

    Raises:
        PolicyErrors: a granted path has gone, or leads to what no policy can grant.
        OSError: /proc/self/mountinfo cannot be read: where procfs is mounted would be unknown.
    """
    known: dict[bytes, Seen] = {}
    return compile_rules(
        policy,
        Facts(
            lambda path: look(path, known),
            _matches,
            procfs=procfs_mounts(),
            state=() if state_dir is None else (*_every_name(state_dir), *places),
            private=tuple(look(path).path for path in private),
            layers=tuple(look(path).path for path in layers),
            home=home_directory(),
        ),
    )


def temporary_root(policy: Policy) -> bytes | None:
    """Where /tmp really is, if the run gets one of its own; None where it gets a directory in the real one.

    It does with a copy-on-write tree, unless the policy itself says what is there.
    """
    files = policy.filesystem
    root = os.path.realpath(TEMPORARY_NAME)
    if files.workdir is None or not os.path.isdir(root):
        return None
    rules = (*files.read, *files.execute, *files.write, *files.deny)
    named = [files.workdir, *(rule.path for rule in rules)]
    return None if any(is_within(root, os.path.realpath(path)) for path in named) else root


def written_paths(policy: Policy) -> list[bytes]:
    """Of what is granted, and where the program starts, as it was written."""
    files, cwd = policy.filesystem, policy.program.cwd
    given = [rule.path for rule in (*files.read, *files.execute, *files.write)]
    return [*given, *(path for path in (files.workdir, cwd) if path is not None)]


def _every_name(path: bytes) -> tuple[bytes, ...]:
    """Where a path leads, and each link on the way: put in the place of one, another tree would be taken for ours."""
    names = [look(path).path]
    so_far = b""
    for part in path.strip(b"/").split(b"/"):
        so_far += b"/" + part
        if os.path.islink(so_far):
            names.append(os.path.join(os.path.realpath(os.path.dirname(so_far)), part))
    return tuple(dict.fromkeys(names))


def context_here(overrides: Overrides, policy_dir: bytes | None = None) -> Context:
    """What a policy needs to know of this process and machine."""
    return Context(
        environment=os.environb,
        home=home_directory(),
        cwd=working_directory(),
        find=partial(find_policy, policy_dir=policy_dir),
        kind_of=kind_of,
        syscall_names=_syscall_names,
        overrides=overrides,
        resolve=os.path.realpath,
    )


def working_directory() -> bytes:
    """Where we are; a name that leads nowhere when the directory was removed, as relative paths do then."""
    try:
        return os.getcwdb()
    except FileNotFoundError:
        return os.readlink(b"/proc/self/cwd")


def _syscall_names() -> Collection[str]:
    from sandlockd.kernel.syscalls import BY_NAME

    return BY_NAME


# --- reading policies ---


def find_policy(name: str, relative_to: bytes, policy_dir: bytes | None = None) -> Source:
    """A preset by its name, or one of the policy directory, or else a file.

    A name is a name before it is a file's: what lies where an untrusted program works must not take its place.

    Raises:
        Unavailable: there is none, or it cannot be read.
    """
    if name in PRESETS:
        return preset_source(name)
    if not name:
        raise Unavailable("the name of a policy is empty")
    if policy_dir is not None and is_policy_name(name):
        path = os.path.join(policy_dir, os.fsencode(name + POLICY_ENDING))
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return _source_of(os.fsdecode(path), path)
    spelled_path = os.fsencode(name)
    if spelled_path.startswith(b"~/") and (home := home_directory()):
        spelled_path = home + spelled_path[1:]
    try:
        return _source_of(name, os.path.join(relative_to, spelled_path))
    except FileNotFoundError:
        if "/" in name or name.endswith(POLICY_ENDING):
            raise Unavailable("there is no such file") from None
    if policy_dir is None:
        hint = suggestion(name, PRESETS) or f"; the presets are {', '.join(PRESETS)}"
        raise Unavailable(f'there is no preset and no file "{name}"{hint}')
    names = policy_names(policy_dir)
    hint = suggestion(name, names) or f"; one of {', '.join(names)}"
    raise Unavailable(f'there is no policy and no file "{name}"{hint}')


def policy_names(policy_dir: bytes) -> list[str]:
    """What names are for: the presets, and what is in the policy directory, as far as it can be told."""
    try:
        listed = [os.fsdecode(name) for name in os.listdir(policy_dir)]
    except OSError:
        listed = []
    found = [name.removesuffix(POLICY_ENDING) for name in listed if name.endswith(POLICY_ENDING)]
    return sorted({*filter(is_policy_name, found), *PRESETS})


def _source_of(name: str, path: bytes) -> Source:
    """Raises FileNotFoundError, Unavailable."""
    try:
        content, size_bytes, identity = read_policy_file(path)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise Unavailable(f"cannot be read: {said}") from None
    directory = os.path.realpath(os.path.dirname(path))
    if directory.startswith((b"/proc/", b"/dev/")):
        directory = os.getcwdb()  # a pipe has no place of its own
    return Source(name, directory, content, size_bytes, identity)


def read_policy_file(path: bytes) -> tuple[bytes, int | None, bytes]:
    """Content (at most MAX_POLICY_BYTES + 1), the size where it is larger than a policy may be, and the
    file's identity.

    Raises:
        OSError: it cannot be read, or is not a file or pipe.
    """
    _require_file_or_pipe(os.stat(path))
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        _require_file_or_pipe(status)
        identity = b"%d:%d" % (status.st_dev, status.st_ino)
        if stat.S_ISREG(status.st_mode) and status.st_size > MAX_POLICY_BYTES:
            return b"", status.st_size, identity
        content = _read_all(fd, is_pipe=stat.S_ISFIFO(status.st_mode))
    finally:
        os.close(fd)
    return content, len(content) if len(content) > MAX_POLICY_BYTES else None, identity


def _require_file_or_pipe(status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, "it is a directory")
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISFIFO(status.st_mode):
        raise OSError(errno.EINVAL, "it is neither a file nor a pipe")


def _read_all(fd: int, *, is_pipe: bool) -> bytes:
    chunks, left, may_be_early = [], MAX_POLICY_BYTES + 1, is_pipe
    while left:
        try:
            chunk = os.read(fd, min(left, 1 << 16))
        except BlockingIOError:
            _await_pipe(fd, _WRITER_PATIENCE_S)
            continue
        if not chunk and may_be_early:
            # A FIFO that nobody has opened for writing yet looks like one that has ended (fifo(7)).
            may_be_early = False
            _await_pipe(fd, _OPENING_PATIENCE_S)
            continue
        if not chunk:
            break
        chunks.append(chunk)
        left -= len(chunk)
        may_be_early = False
    if is_pipe and not chunks:
        raise OSError(errno.EPIPE, "nothing was written into the pipe")
    return b"".join(chunks)


def _await_pipe(fd: int, patience_s: int) -> None:
    import select

    poll = select.poll()
    poll.register(fd, select.POLLIN)
    if not poll.poll(patience_s * 1000):
        raise TimeoutError(errno.ETIMEDOUT, f"nothing came through the pipe for {patience_s} s")


# --- what stands where ---

_UNFINDABLE: Final = frozenset({errno.ENOENT, errno.ENOTDIR})


def kind_of(path: bytes) -> PathKind:
    """What stands at a path, links followed."""
    try:
        return _kind(os.stat(path).st_mode)
    except OSError as error:
        return PathKind.MISSING if error.errno in _UNFINDABLE else PathKind.UNREADABLE


def _kind(mode: int) -> PathKind:
    if stat.S_ISDIR(mode):
        return PathKind.DIRECTORY
    return PathKind.FILE if stat.S_ISREG(mode) else PathKind.OTHER


def look(path: bytes, known: dict[bytes, Seen] | None = None) -> Seen:
    """A path as the kernel resolves it, and the object there.

    known: what was seen of the directories of missing paths, for callers who ask about many.
    """
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in _UNFINDABLE:
            return Seen(_resolved(path, {} if known is None else known), PathKind.MISSING, None)
        return Seen(os.path.realpath(path), PathKind.UNREADABLE, None)
    try:
        status = os.fstat(fd)
        canonical = os.readlink(b"/proc/self/fd/%d" % fd)
    finally:
        os.close(fd)
    if not canonical.startswith(b"/") or canonical.endswith(b" (deleted)"):
        canonical = os.path.realpath(path)  # gone since, or a name that really ends so
    return Seen(canonical, _kind(status.st_mode), FileIdentity(status.st_dev, status.st_ino))


def _resolved(path: bytes, known: dict[bytes, Seen]) -> bytes:
    """A missing path, resolved as far as it exists: what realpath does, without asking about /etc sixty times."""
    directory, _, name = path.rpartition(b"/")
    if name in (b"", b".", b".."):
        return os.path.realpath(path)
    above = known.get(directory)
    if above is None:
        above = known[directory] = look(directory or b"/", known)
    if above.kind is PathKind.DIRECTORY and not os.path.islink(path):
        return above.path.rstrip(b"/") + b"/" + name
    if above.kind is PathKind.MISSING:
        return above.path + b"/" + name
    return os.path.realpath(path)


def _matches(directory: bytes, pattern: bytes) -> Iterable[bytes]:
    try:
        names = os.listdir(directory)
    except OSError:
        return []
    return [directory.rstrip(b"/") + b"/" + name for name in names if fits(name, pattern)]


def procfs_mounts() -> tuple[bytes, ...]:
    """Where a procfs is mounted; /proc always counts. Source: proc(5), mountinfo (octal escapes)."""
    found = {b"/proc": None}
    with open("/proc/self/mountinfo", "rb", buffering=1 << 16) as mounts:
        for line in mounts:
            place, _, kind = line.partition(b" - ")
            if kind.startswith(b"proc "):
                found[_unescaped(place.split(b" ")[4])] = None
    return tuple(found)


def _unescaped(field: bytes) -> bytes:
    head, *rest = field.split(b"\\")
    return head + b"".join(bytes([int(piece[:3], 8)]) + piece[3:] for piece in rest)
