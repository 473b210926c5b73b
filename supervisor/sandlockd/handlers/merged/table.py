"""Which of this package answers which call, and what it is put around."""

from __future__ import annotations

import errno
from functools import partial

from sandlockd.handlers import lookup
from sandlockd.handlers.answers import EACCES, Backstop, Continue, Errno, Later, when_free
from sandlockd.handlers.context import Caller, TreesBusy
from sandlockd.handlers.leased import Leased
from sandlockd.handlers.merged import (
    changing,
    growing,
    handles,
    listing,
    moving,
    naming,
    opening,
    outside,
    seeing,
    sockets,
)
from sandlockd.handlers.merged.doing import Call
from sandlockd.handlers.merged.places import Elsewhere
from sandlockd.kernel import acts
from sandlockd.kernel.aside import NotYet, Unfinished
from sandlockd.kernel.files import Many, MayWait
from sandlockd.overlay.entries import FsError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sandlockd.handlers.answers import Answer
    from sandlockd.handlers.context import Context
    from sandlockd.kernel.engine import Request
    from sandlockd.kernel.questions import Questions

    Handler = Callable[[Context, Request], Answer | Later]
    Merged = Callable[[Call], Answer | Later | Elsewhere]

_SEEN = Continue(Backstop.ONLY_TELLS)

_MERGED: dict[str, Merged] = {
    **dict.fromkeys(("open", "openat", "creat", "openat2"), opening.open_file),
    **dict.fromkeys(("mkdir", "mkdirat"), naming.make_directory),
    **dict.fromkeys(("mknod", "mknodat"), naming.make_node),
    **dict.fromkeys(("symlink", "symlinkat"), naming.make_symlink),
    **dict.fromkeys(("rename", "renameat", "renameat2"), naming.rename),
    **dict.fromkeys(("link", "linkat"), naming.link),
    "rmdir": naming.remove_directory,
    "unlink": naming.remove_file,
    "unlinkat": naming.remove_at,
    "truncate": naming.truncate,
    "fallocate": growing.allocate_space,
    **dict.fromkeys(seeing.STATS, seeing.stat_path),
    "statx": seeing.statx_path,
    "fstat": seeing.stat_descriptor,
    **dict.fromkeys(("access", "faccessat", "faccessat2"), seeing.access_path),
    **dict.fromkeys(("readlink", "readlinkat"), seeing.read_link),
    "getcwd": seeing.get_directory,
    "statfs": seeing.statfs_path,
    "name_to_handle_at": handles.tell_handle,
    **dict.fromkeys(("getdents", "getdents64"), listing.list_directory),
    "chdir": moving.change_directory,
    **dict.fromkeys(("execve", "execveat"), moving.execute),
    **dict.fromkeys(changing.NAMES, changing.handle),
    **dict.fromkeys(("getxattr", "lgetxattr", "fgetxattr"), changing.get_attribute),
    "bind": sockets.bind,
    "connect": sockets.connect,
    "getsockopt": sockets.peer,
    **dict.fromkeys(("listxattr", "llistxattr", "flistxattr"), changing.list_attributes),
}


def around(handlers: Mapping[str, Handler]) -> dict[str, Handler]:
    """Handlers by name, with those of this package asked first."""
    return {**handlers, **{name: partial(_handle, name, handlers.get(name)) for name in _MERGED}}


def _handle(
    name: str,
    bare: Handler | None,
    context: Context,
    request: Request,
    *,
    is_lifted: bool = False,
    has_waited: bool = False,
) -> Answer | Later:
    """On the loop, under the lock of the trees: nothing of it is left to a worker but the questions that may wait."""
    assert context.index is not None
    how = {"is_lifted": is_lifted, "has_waited": has_waited}
    try:
        return _answer(name, bare, context, request, **how)
    except MayWait:
        other, questions = context.with_questions()
        return _answer_with(questions, partial(_answer, name, bare, other, request, **how))


def _answer_with(questions: Questions, answer: Callable[[], Answer | Later]) -> Answer | Later:
    """As far as the answers go. With the next one it begins anew, from the start."""
    try:
        found = answer()
    except MayWait:
        return Later(questions.ask, lambda _: _answer_with(questions, answer), questions.close)
    except BaseException:
        questions.close()
        raise
    questions.close()
    return found


def _answer(
    name: str,
    bare: Handler | None,
    context: Context,
    request: Request,
    *,
    is_lifted: bool,
    has_waited: bool,
) -> Answer | Later:
    again = partial(_handle, name, bare, context, request)
    call = Call(Caller(context, request), name, again, is_lifted=is_lifted, has_waited=has_waited)
    if not context.take_trees():
        return when_free(context.trees_lock, call.start_again)
    try:
        context.avoid_slow_mounts()
        answer = _MERGED[name](call)
    except Leased as leased:
        return leased.then(call.start_again)
    except NotYet as busy:
        return when_free(busy.turn, call.start_patiently if busy.had_lock else call.start_again)
    except FsError as error:
        return Errno(error.errno)
    except OSError as error:
        return Errno(error.errno or errno.EIO)
    finally:
        if not call.trees_are_given:
            context.trees_lock.release()
    if not isinstance(answer, Elsewhere):
        return answer
    try:
        return _elsewhere(name, bare, context, request, answer)
    except Leased as leased:
        return leased.then(call.start_again)
    except TreesBusy:
        return when_free(context.trees_lock, call.start_again)
    except NotYet as busy:
        return when_free(busy.turn, call.start_again)
    except Many:
        return _patiently(name, bare, context, request, answer)
    except Unfinished as unfinished:
        if unfinished.has_begun:
            raise
        return when_free(unfinished.job, partial(_patiently, name, bare, context, request, answer))


def _patiently(
    name: str, bare: Handler | None, context: Context, request: Request, place: Elsewhere
) -> Later:
    return Later(
        partial(_elsewhere, name, bare, context.in_a_worker(), request, place), lambda found: found, _nothing
    )


def _elsewhere(
    name: str, bare: Handler | None, context: Context, request: Request, place: Elsewhere
) -> Answer | Later:
    call = Call(Caller(context, request), name, _again, is_lifted=True, has_waited=True)
    as_written = place.text is None or _kernel_agrees(call, place.text)
    other = context.copied()
    other.rules = context.rules_outside
    if as_written and name != "openat2":
        return _SEEN if bare is None else bare(other, request)
    # A link of the tree, which the kernel does not know, leads there: only we can follow it.
    text = call.text() if as_written or place.text is None else place.text
    other.instead = text
    request = request._replace(path=text)
    if name in ("execve", "execveat"):
        return moving.execute_outside(call, text)
    if bare is None:
        return outside.tell(name, other, request)
    answer = bare(other, request)
    if not isinstance(answer, Continue):
        return answer
    return outside.tell(name, other, request) if name in outside.TOLD else EACCES


def _kernel_agrees(call: Call, text: bytes) -> bool:
    """Does the path as it is written lead the kernel to the same object? Then its links are the lower tree's, too."""
    caller = call.caller
    follow = seeing.follows(call)
    try:
        written = lookup.place_of(caller, call.text(), lookup.dirfd_of(caller))
        with (
            lookup.open_object(caller, written, follow=follow) as one,
            lookup.open_object(caller, lookup.place_of(caller, text, -100), follow=follow) as other,
        ):
            files = caller.context.files
            return files.run(acts.number_of, one) == files.run(acts.number_of, other)
    except OSError:
        return False


def _nothing() -> None:
    """There is nothing to release."""


def _again(**_: bool) -> Answer:
    raise AssertionError("nothing outside of a tree is copied")
