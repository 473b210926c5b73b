"""Changes that take the lock of a file which somebody has open, and may be writing to for long (kernel/aside.py).

Of one object: what is not over in a moment is answered when it is. Of names: the kernel takes the lock of their
directory before that of the file, so the file's alone is waited for first, while everybody goes on; then the call is
judged anew from the start. Should the next long write have begun by then, the change is made all the same, by another
thread, which keeps the lock of the trees: their other calls wait as they do bare (though bare only those in the same
directory), and the loop does not.

And changes by which a large file loses its last name: what it holds is freed by a worker.
"""

from __future__ import annotations

import os

from sandlockd.handlers import answers
from sandlockd.handlers.answers import Later, Value, when_free, when_over
from sandlockd.kernel import acts
from sandlockd.kernel.aside import Unfinished
from sandlockd.kernel.fds import OwnedFd
from sandlockd.overlay.entries import FsError, Kind
from sandlockd.overlay.steps import Exchange, Link, Make, Move, Remove, Whiteout
from sandlockd.store.making import Making
from sandlockd.store.tree import copies_of, kernel_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sandlockd.handlers.answers import Answer
    from sandlockd.handlers.context import Caller
    from sandlockd.handlers.merged.doing import Call
    from sandlockd.handlers.merged.places import Place
    from sandlockd.overlay.plans import Steps
    from sandlockd.overlay.steps import Step
    from sandlockd.store.tree import Tree


def nobody_locks(caller: Caller, opened: OwnedFd) -> bool:
    """An object of the upper. Whoever it is said of has it by us, so it stays so until we have answered.

    Not of one whose space takes long to free: what is done to it is done aside, too.
    """
    engine = caller.context.engine
    return not engine.is_large(opened) and not engine.may_be_locked(opened)


def noted_when_over(tree: Tree, unfinished: Unfinished, opened: OwnedFd) -> Later:
    """What the object holds by then counts. opened: borrowed."""
    holding = tree.holding
    if holding is None:
        return when_over(unfinished, lambda _: Value(0))
    held = OwnedFd(os.dup(opened.fd))

    def then(_: object) -> Answer:
        with held:
            holding.disk.note(held, b"")
        return Value(0)

    return answers.holding(unfinished, held, then)


def noted(tree: Tree, held: OwnedFd | None, later: Later) -> Later:
    """The same of a call that is answered later. Takes `held`; None: there is no limit."""
    holding = tree.holding
    if holding is None or held is None:
        return later

    def then(found: object) -> Answer | Later:
        answer = later.then(found)
        if isinstance(answer, Later):
            return noted(tree, held, answer)
        with held:
            holding.disk.note(held, b"")
        return answer

    def work() -> object:
        try:
            return later.work()
        except InterruptedError:  # it is asked again, or given up
            raise
        except BaseException:
            held.close()
            raise

    def give_up() -> None:
        later.abandon()
        held.close()

    return later._replace(work=work, then=then, abandon=give_up)


def changed_files(
    call: Call, place: Place, steps: Steps, making: Making | None
) -> tuple[list[OwnedFd], list[OwnedFd]]:
    """Those of which the steps change a name: where somebody has them open, and the large ones among the others."""
    engine = call.caller.context.engine
    locked, large = [], []
    for opened in place.tree.renamed_files(steps):
        if engine.may_be_locked(opened):
            locked.append(opened)
        elif engine.is_large(opened):
            large.append(opened)
        else:
            opened.close()
    if making is not None and making.unnamed is not None:
        locked.append(OwnedFd(os.dup(making.unnamed.fd)))
    return locked, large


def when_freed(large: Sequence[OwnedFd], answer: Answer | Later) -> Answer | Later:
    """large: borrowed, held while names of theirs went. A worker lets go of what has none any more, which frees it."""
    gone = [OwnedFd(opened.take()) for opened in large if os.fstat(opened.fd).st_nlink == 0]

    def let_go() -> None:
        for opened in gone:
            opened.close()

    if gone and not isinstance(answer, Later):
        return Later(let_go, lambda _: answer, let_go, is_busy=True)
    let_go()
    return answer


def carry_out(
    call: Call,
    place: Place,
    steps: Steps,
    making: Making,
    finish: Callable[[OwnedFd | None], Answer | Later],
    locked: Sequence[OwnedFd],
) -> Answer | Later:
    """Takes `locked`."""
    unnamed = None if making.unnamed is None else OwnedFd(os.dup(making.unnamed.fd))

    def wait() -> None:
        for opened in locked:
            acts.until_unlocked(opened)

    def act() -> Answer | Later:
        for opened in locked:
            opened.close()  # held any longer, its end would be told to who watches it after the change, not before
        return finish(carried_out(call, place, steps, making._replace(unnamed=unnamed)))

    def release() -> None:
        for opened in (*locked, *(() if unnamed is None else (unnamed,))):
            opened.close()

    return _aside(call, act, locked, wait, release)


def copy(call: Call, place: Place, steps: Steps) -> Answer | Later:
    """What somebody writes to was changed since it was copied beforehand: it is copied while the trees wait."""
    found = _aside(call, lambda: carried_out(call, place, copies_of(steps), Making()), (), None, _nothing)
    if isinstance(found, Later):
        return found._replace(then=lambda _: call.start_again())
    return Later(_nothing, lambda _: call.start_again(), _nothing)


def carried_out(call: Call, place: Place, steps: Steps, making: Making) -> OwnedFd | None:
    """What is seen of it happens once, also where we die of it (handlers/resumed.py). Raises OSError."""
    engine, request = call.caller.context.engine, call.caller.request
    shows = engine.is_kept and any(map(_is_seen, steps))
    if shows:
        engine.acts(request, _noted(place, steps))
    try:
        made = place.side.executor.carry_out(steps, making)
    except FsError as error:
        raise kernel_error(error) from None
    if shows:
        engine.acted(request)
    return made


def _is_seen(step: Step) -> bool:
    match step:
        case Link():
            return not step.is_copy_up
        case Remove():
            return step.kind is not Kind.WHITEOUT
        case _:
            return isinstance(step, Make | Whiteout | Move | Exchange)


def _noted(place: Place, steps: Steps) -> int:
    """Done, an exchange looks as before: who is to be the other one."""
    visible = place.found.visible
    return visible.inode if visible is not None and any(isinstance(step, Exchange) for step in steps) else 0


def _aside(
    call: Call,
    act: Callable[[], object],
    locked: Sequence[OwnedFd],
    wait: Callable[[], None] | None,
    release: Callable[[], None],
) -> Answer | Later:
    context = call.caller.context

    def unpark() -> None:
        context.engine.park_trees(parked=False)
        context.trees_lock.release()

    try:
        answer: Answer | Later = context.aside.run(
            act,
            files=frozenset(map(acts.number_of, locked)),
            first=None if call.has_waited else wait,
            left=lambda: context.engine.park_trees(parked=True),
            ended=unpark,
            release=release,
        )
    except Unfinished as unfinished:
        if not unfinished.has_begun:
            return when_free(unfinished.job, call.start_patiently)
        call.trees_are_given = True
        return when_over(unfinished, lambda found: found)
    return answer


def _nothing() -> None:
    """There is nothing to release, or to do."""
