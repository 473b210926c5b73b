"""The process that supervisors are forked from: it has imported all that they need, one thread, no loop, and nobody's
words in its memory. It forks when it is told to, says what became of its children, and ends with the control plane.

It is executed anew, with an environment of its own: what is forked from it belongs to users, who can look into their
processes (/proc/PID/environ, ptrace(2)), and what the control plane has there and in its memory is not for them.

What it forks gets its own end of a channel and nothing else: no log, no socket of clients, no other supervisor's line.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import itertools
import os
import resource
import select
import signal
import sys
from functools import partial

from sandlockd.control import messages
from sandlockd.control.channel import Channel, Closed
from sandlockd.control.messages import Fork, Forked, NotForked, Reaped
from sandlockd.kernel.fds import OwnedFd
from sandlockd.kernel.native import check, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from sandlockd.launch.filter_plan import FilterPlan

_STREAMS = (0, 1, 2)
_BUILT_AT_ONCE = 2
_REHEARSALS = 12
_SOMEWHERE, _SOMEWHERE_ELSE = b"/home", b"/var/lib/sandlockd"  # for policies that nobody is held to
# Of the C library: what is large stays apart, so that of it only those pages exist that are in use (mallopt(3): the
# limit grows by itself otherwise). It does not matter to what is started: a supervisor has its user's environment.
_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "MALLOC_MMAP_THRESHOLD_": "131072"}


def start_zygote(descriptor_limit: int | None = None) -> tuple[Channel, int]:
    """The line to it, and its pid. descriptor_limit: soft, of it and all that come from it. Raises OSError."""
    import subprocess

    ours, theirs = Channel.pair()
    try:
        with theirs:
            started = subprocess.Popen(
                [sys.executable, "-I", "-m", __name__, str(theirs.fd), str(descriptor_limit or 0)],
                pass_fds=(theirs.fd,),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=_ENVIRONMENT,
                cwd="/",
                # What keys of a terminal send is for the control plane, which ends all others in order; and by /dev/tty
                # a user's supervisor would have the terminal that root has started the service from.
                start_new_session=True,
            )
    except BaseException:
        ours.close()
        raise
    pid, started.returncode = started.pid, 0  # whoever asked waits for it
    return ours, pid


def _be_zygote(channel_fd: int, descriptor_limit: int) -> None:
    """Raises OSError, Unfit."""
    if descriptor_limit:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptor_limit, hard))
    _name("sandlockd-zyg")
    channel = Channel.of(_alone_with(OwnedFd(channel_fd)))
    _import_all()
    gc.disable()  # what is shared with the children stays so: the collector writes into what it looks at
    _freeze()
    _serve(channel)


def _alone_with(channel_end: OwnedFd) -> OwnedFd:
    """Everything else is closed; the streams lead nowhere, but for errors, which are for people."""
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for fd in _STREAMS[:2]:
        os.dup2(null, fd)
    kept = len(_STREAMS)
    if channel_end.fd != kept:
        os.dup2(channel_end.take(), kept, inheritable=False)
    else:
        channel_end.take()
    check(lib.slk_close_from(kept + 1, 0))
    return OwnedFd(kept)


def _name(text: str) -> None:
    with contextlib.suppress(OSError), open("/proc/self/comm", "w") as comm:
        comm.write(text)  # for people


def _import_all() -> None:
    """Of a run with all that it may have: what a supervisor imports late is paid for by each. Likewise what libraries
    load when they are first asked.
    """
    import sandlockd.control.supervising
    import sandlockd.handlers.limited.view
    import sandlockd.handlers.merged.acquaintance
    import sandlockd.handlers.merged.table
    import sandlockd.handlers.private.table
    import sandlockd.handlers.record
    import sandlockd.handlers.table
    import sandlockd.kernel.memlimit
    import sandlockd.launch.processors
    import sandlockd.notify.dispatch
    import sandlockd.notify.loop
    import sandlockd.notify.waits
    import sandlockd.process.watcher
    import sandlockd.review.changelist
    import sandlockd.review.dropping
    import sandlockd.sandbox.handling
    import sandlockd.sandbox.keeping
    import sandlockd.sandbox.trees  # noqa: F401 - imported for what is forked
    from sandlockd.kernel import users
    from sandlockd.sandbox.policies import load_policy
    from sandlockd.sandbox.run import policy_digest

    policy_digest(load_policy([]))
    with contextlib.suppress(users.NoUser, OSError):
        users.look_up(0)


def _serve(channel: Channel) -> None:
    """Until the control plane is gone. Raises OSError."""
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    waiting = select.poll()
    waiting.register(channel.fileno(), select.POLLIN)
    waiting.register(reader, select.POLLIN)
    left = _beforehand()
    for _ in range(_BUILT_AT_ONCE):
        left.pop()()
    with contextlib.suppress(Closed):
        while True:
            ready = dict(waiting.poll(0 if left else None))
            if not ready:
                left.pop()()
            if reader in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(reader, 1 << 12)
                _reap(channel)
            if channel.fileno() in ready:
                _fork_one(channel)


def _beforehand() -> list[Callable[[], None]]:
    """What is done while nobody asks for a supervisor. The last comes first."""
    return [
        _freeze,
        *[_rehearse] * _REHEARSALS,
        *(partial(_build, plan) for plan in _usual_filters()),
    ]


def _freeze() -> None:
    gc.collect()
    gc.freeze()


def _rehearse() -> None:
    """A start without a program, as far as it leaves nothing behind: what the interpreter learns from it (PEP 659) is
    not learnt anew by each supervisor, in pages that it would have for itself by that.
    """
    from sandlockd.launch.prepare import CannotStart, prepare
    from sandlockd.launch.temporary import NAME, temporary_of
    from sandlockd.policy.errors import PolicyErrors
    from sandlockd.policy.inputs import Overrides
    from sandlockd.sandbox.policies import compile_file_rules, load_policy, temporary_root

    try:
        policy = load_policy([], Overrides(workdir=_SOMEWHERE))
        root = temporary_root(policy)
        if root is None:
            return
        rules = compile_file_rules(policy, _SOMEWHERE_ELSE, layers=[root + b"/sandlockd"])
        prepare(policy, rules, [b"true"], NAME, temporary_of(root, rules)).close()
    except (CannotStart, PolicyErrors, OSError):
        return  # a run will say so


def _usual_filters() -> list[FilterPlan]:
    """A filter takes 10 ms to build and prove; those that are there when a supervisor is forked it need not build. The
    likeliest last: that is taken first.
    """
    from sandlockd.launch.filter_plan import FilterPlan

    both = (True, False)
    return [
        FilterPlan(trees=trees, own_pids=own, memory_limited=memory, processes_limited=processes)
        for processes, memory, own, trees in itertools.product(both, both, both[::-1], both)
    ]


def _build(plan: FilterPlan) -> None:
    """As the start of a run does (launch/prepare.py); what that asks for is remembered."""
    from sandlockd.kernel.engine import keep_native_rows
    from sandlockd.launch import filter_plan
    from sandlockd.launch.filter import FilterError, build

    with contextlib.suppress(FilterError):  # a run that needs it will say so
        build(plan)
        keep_native_rows(filter_plan.c_rows(plan))
        filter_plan.c_refusals(plan)


def _fork_one(channel: Channel) -> None:
    """Raises Closed, Unfit, OSError."""
    try:
        data, fds = channel.receive()
    except BlockingIOError:
        return
    order = messages.for_zygote_from(data)
    if len(fds) != 1:
        raise messages.Unfit("a fork needs one descriptor")
    with fds[0] as end:
        _answer_fork(channel, order, end)


def _answer_fork(channel: Channel, order: Fork, end: OwnedFd) -> None:
    try:
        pid = os.fork()
    except OSError as error:
        _tell(channel, NotForked(order.ticket, error.errno or errno.EAGAIN))
        return
    if pid == 0:
        _be_supervisor(channel, end)
    with OwnedFd(os.pidfd_open(pid)) as pidfd:
        _tell(channel, Forked(order.ticket, pid), pidfd.fd)


def _be_supervisor(channel: Channel, end: OwnedFd) -> NoReturn:
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        channel.close()
        _name("sandlockd-sup")
        from sandlockd.control.supervising import supervise_after_fork

        supervise_after_fork(_alone_with(end))
    finally:
        os._exit(1)


def _reap(channel: Channel) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        _tell(channel, Reaped(pid, status))


def _tell(channel: Channel, message: messages.Message, *fds: int) -> None:
    """Here waiting is right: there is nothing else to do for whoever does not read. Raises Closed, OSError."""
    while True:
        try:
            channel.send(message, fds)
            return
        except BlockingIOError:
            waiting = select.poll()
            waiting.register(channel.fileno(), select.POLLOUT)
            waiting.poll()


if __name__ == "__main__":
    _be_zygote(int(sys.argv[1]), int(sys.argv[2]))
