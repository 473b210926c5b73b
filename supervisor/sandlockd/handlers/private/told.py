"""Files of /proc that would tell of others, or of the machine, told without that: as sealed copies."""

from __future__ import annotations

import os
import re
import stat

from sandlockd.handlers import copies, proctrees
from sandlockd.handlers.private import members, texts
from sandlockd.kernel.paths import unescape
from sandlockd.policy.verdict import Want

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandlockd.handlers.answers import Answer
    from sandlockd.handlers.context import Caller
    from sandlockd.kernel.fds import OwnedFd

_OF_PROCESS = re.compile(rb"/proc/\d+/(?:task/\d+/)?(net/.+|mounts|mountinfo|mountstats)")
_MOUNTS = {
    b"mounts": texts.mount_table,
    b"mountinfo": texts.mount_info,
    b"mountstats": texts.mount_statistics,
}
_ALWAYS_SHOWN = frozenset((b"/", b"/proc", b"/sys", b"/dev", b"/tmp"))
_READ_BYTES = 1 << 16
_HEADING_BYTES = 4096


def tell(caller: Caller, path: bytes, file: OwnedFd, *, close_on_exec: bool) -> Answer | None:
    """What is served instead of a file of /proc, opened for reading. None: the file itself."""
    text = _text_of(caller, path, file)
    return None if text is None else copies.give(caller, text, close_on_exec=close_on_exec)


def _text_of(caller: Caller, path: bytes, file: OwnedFd) -> bytes | None:
    if path == b"/proc/loadavg":
        return load_averages(caller, _read(file))
    if path == b"/proc/locks":
        text = texts.locks(_read(file), lambda pid: members.belongs(caller.context, pid))
        return proctrees.locks(caller, text) if caller.context.trees else text
    match = _OF_PROCESS.fullmatch(path)
    if match is None or stat.S_ISDIR(os.fstat(file.fd).st_mode):
        return None
    if match[1].startswith(b"net/"):
        return texts.network(match[1][4:], os.read(file.fd, _HEADING_BYTES))
    return _MOUNTS[match[1]](_read(file), lambda point: _is_shown(caller, unescape(point)))


def _read(file: OwnedFd) -> bytes:
    parts: list[bytes] = []
    while block := os.read(file.fd, _READ_BYTES):
        parts.append(block)
    return b"".join(parts)


def load_averages(caller: Caller, text: bytes) -> bytes:
    leaders = members.leaders(caller.context)
    return texts.load_averages(text, members.count_threads(leaders), max(leaders, default=caller.tgid))


def _is_shown(caller: Caller, point: bytes) -> bool:
    return point in _ALWAYS_SHOWN or caller.context.rules.judge(point, Want.READ, directory=True).allowed
