"""The pump: the C loop that sleeps in trio's stead."""

from __future__ import annotations

import os

import trio

from sandlockd.notify.loop import epoll_of_trio


def test_the_descriptor_that_trio_sleeps_on_is_found_every_time() -> None:
    # trio runs the tasks of one turn in random order.
    for _ in range(40):
        fd = trio.run(_found)
        assert fd >= 0


async def _found() -> int:
    fd = await epoll_of_trio()
    assert os.readlink(f"/proc/self/fd/{fd}") == "anon_inode:[eventpoll]"
    return fd
