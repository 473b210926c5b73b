"""A run that goes on is served by the whole supervisor, not by its first part, which does without an event loop."""

from __future__ import annotations

import os

from harness.waiting import until


def wait_for_whole_supervisor(pid: int) -> None:
    """Until it has an event loop: another epoll descriptor than the one of its first part, and a socket pair."""

    def has_event_loop() -> bool:
        links = []
        for name in os.listdir(f"/proc/{pid}/fd"):
            try:
                links.append(os.readlink(f"/proc/{pid}/fd/{name}"))
            except FileNotFoundError:
                continue
        return (
            any(link == "anon_inode:[eventpoll]" for link in links)
            and sum("socket:" in link for link in links) >= 3
        )

    until(has_event_loop, "the supervisor's event loop")
