"""Which of this package answers which call, and what it is put around."""

from __future__ import annotations

from sandlockd.handlers.private import executing, listing, paths, peers, processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sandlockd.handlers.answers import Answer, Later
    from sandlockd.handlers.context import Context
    from sandlockd.kernel.engine import Request

    Handler = Callable[[Context, Request], Answer | Later]


def around(handlers: Mapping[str, Handler]) -> dict[str, Handler]:
    """Handlers by name, with those of this package asked first."""
    named = executing.around(paths.around(handlers))
    return {
        **processes.around(named),
        **dict.fromkeys(listing.NAMES, listing.handle),
        "getsockopt": peers.handle,
    }
