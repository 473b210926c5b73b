"""chdir and execve in a tree: the kernel does them where it finds what the program sees."""

from __future__ import annotations

import errno

from sandlockd.handlers.answers import LANDLOCK_FILES, Backstop, Continue, Errno
from sandlockd.handlers.merged.doing import Call, denied, kernel_finds
from sandlockd.handlers.merged.places import Elsewhere
from sandlockd.overlay.entries import FsError, Kind
from sandlockd.overlay.lookup import Goal
from sandlockd.policy.verdict import Want

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandlockd.handlers.answers import Answer

_SEEN = Continue(Backstop.ONLY_TELLS)


def change_directory(call: Call) -> Answer | Elsewhere:
    place = call.place(Goal.FOLLOW)
    if isinstance(place, Elsewhere):
        return place
    found = place.found
    if found.kind is not Kind.DIRECTORY:
        return Errno(errno.ENOTDIR)
    access = found.view.access
    try:
        if access is not None:
            access.search(found)
    except FsError as error:
        return Errno(error.errno)
    if kernel_finds(call, place, follow=True):
        return _SEEN
    return Errno(errno.ENOSYS)


def execute(call: Call) -> Answer | Elsewhere:
    if not call.caller.request.path:
        return Elsewhere(None)
    place = call.place(Goal.FOLLOW)
    if isinstance(place, Elsewhere):
        return place
    refusal = denied(call, place, Want.EXECUTE)
    if refusal is not None:
        return refusal
    if kernel_finds(call, place, follow=True):
        return LANDLOCK_FILES
    return Errno(errno.ENOSYS)
