"""name_to_handle_at: the handle of the original, as long as that is where its copy says; else of what the upper has.

Programs compare handles to know a file again. Nobody opens one: open_by_handle_at is refused.
"""

from __future__ import annotations

import errno
import os

from sandlockd.handlers import metadata
from sandlockd.handlers.answers import Errno, Value
from sandlockd.handlers.merged.doing import Call, kernel_finds
from sandlockd.handlers.merged.places import Elsewhere, Place, of_descriptor
from sandlockd.handlers.merged.seeing import SEEN
from sandlockd.kernel import beneath, handles, memory
from sandlockd.overlay.identity import ORIGIN_ATTRIBUTE, decode_origin
from sandlockd.overlay.lookup import Goal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandlockd.handlers.answers import Answer
    from sandlockd.kernel.fds import OwnedFd

_AT_SYMLINK_FOLLOW, _AT_EMPTY_PATH = 0x400, 0x1000


def tell_handle(call: Call) -> Answer | Elsewhere:
    """Raises OSError."""
    flags = call.arg(4) & 0xFFFFFFFF
    if flags & ~(_AT_SYMLINK_FOLLOW | _AT_EMPTY_PATH | handles.OPTIONS):
        return Errno(errno.EINVAL)
    if not call.text() and flags & _AT_EMPTY_PATH:
        return _of_descriptor(call)
    place = call.place(Goal.FOLLOW if flags & _AT_SYMLINK_FOLLOW else Goal.NOFOLLOW)
    if isinstance(place, Elsewhere):
        return place
    if kernel_finds(call, place, follow=bool(flags & _AT_SYMLINK_FOLLOW)):
        return SEEN
    with _told_object(place) as opened:
        return told(call, opened)


def _of_descriptor(call: Call) -> Answer | Elsewhere:
    with metadata.by_descriptor(call.caller, 0, path_only=True) as opened:
        place = of_descriptor(call.caller, opened)
        if isinstance(place, Elsewhere):
            return place
        if place is None:  # without a name by now
            return told(call, opened)
        with _told_object(place) as named:
            return told(call, named)


def _told_object(place: Place) -> OwnedFd:
    tree, found = place.tree, place.found
    shown = tree.open_shown(found)
    if found.lower is not None:
        return shown
    record = beneath.attribute(shown, ORIGIN_ATTRIBUTE)
    origin = None if record is None else decode_origin(record)
    original = tree.open_original(found.path if origin is None else origin.path)
    if original is None:
        return shown
    status = os.fstat(original.fd)
    if (status.st_dev, status.st_ino) != tree.origins.told(os.fstat(shown.fd).st_ino):
        original.close()
        return shown
    shown.close()
    return original


def told(call: Call, opened: OwnedFd) -> Answer:
    """As do_sys_name_to_handle of fs/fhandle.c. Raises OSError: EFAULT, EINVAL, EOPNOTSUPP."""
    caller, flags = call.caller, call.arg(4) & handles.OPTIONS
    capacity = int.from_bytes(memory.read_memory(caller.tid, call.arg(2), handles.HEAD_BYTES)[:4], "little")
    caller.require_alive()
    if capacity > handles.BYTES_MAX:
        return Errno(errno.EINVAL)
    handle, mount_id = caller.context.files.run(handles.handle_of, opened, flags)
    is_too_long = len(handle) - handles.HEAD_BYTES > capacity
    caller.require_alive()
    memory.write_memory(caller.tid, call.arg(3), mount_id)
    memory.write_memory(caller.tid, call.arg(2), handle[: handles.HEAD_BYTES] if is_too_long else handle)
    return Errno(errno.EOVERFLOW) if is_too_long else Value(0)
