"""`sandlockd serve`: the control plane, from its configuration to its end.

It holds no program's files. What it must survive is the work of users: each has supervisors of its own.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from typing import NamedTuple

import structlog
import trio

from sandlockd import __version__
from sandlockd.control import systemd
from sandlockd.control.config import Config, ConfigError, read_config
from sandlockd.control.connections import Connections
from sandlockd.control.events import EVENTS_KEPT, Events
from sandlockd.control.listening import CannotListen, ControlSocket
from sandlockd.control.metrics import Metrics
from sandlockd.control.policies import PolicyDirectory
from sandlockd.control.pool import Pool
from sandlockd.control.registry import Registry, RegistryError
from sandlockd.control.service import Service

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

    from structlog.typing import FilteringBoundLogger

FAILED = 1


class Places(NamedTuple):
    """config: must be there if it was named."""

    socket: str
    state_dir: str
    policy_dir: str
    config: str
    config_was_named: bool


def serve(places: Places) -> int:
    """The exit status."""
    log = _logger()
    try:
        config = read_config(places.config, must_exist=places.config_was_named)
        os.makedirs(places.state_dir, 0o700, exist_ok=True)
        registry = Registry(places.state_dir)
        registry.remove_orphans()
    except (ConfigError, RegistryError, OSError) as error:
        log.error("cannot start", why=str(error))
        return FAILED
    if registry.note is not None:
        log.warning(registry.note)
    try:
        sockets, own = _sockets(places, config)
    except (CannotListen, OSError) as error:
        log.error("cannot start", why=str(error))
        registry.close()
        return FAILED
    _raise_descriptor_limit()
    try:
        trio.run(_serve, places, config, registry, sockets, log)
    finally:
        if own is not None:
            own.close()
        registry.close()
    return 0


def _logger() -> FilteringBoundLogger:
    """A line for each event on standard error: for people on a terminal, JSON elsewhere."""
    processors: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if sys.stderr.isatty():
        processors.append(structlog.processors.ExceptionRenderer())
        processors.append(structlog.processors.KeyValueRenderer(key_order=["timestamp", "level", "event"]))
    else:
        processors.append(structlog.processors.format_exc_info)
        processors.append(structlog.processors.JSONRenderer())
    structlog.configure(processors, logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    return structlog.get_logger()  # type: ignore[no-any-return]


def _sockets(places: Places, config: Config) -> tuple[list[socket.socket], ControlSocket | None]:
    given = systemd.given_sockets()
    if given:
        return given, None
    own = ControlSocket(places.socket, mode=config.socket_mode, group=config.access.socket_group)
    return [own.socket], own


def _raise_descriptor_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _serve(
    places: Places,
    config: Config,
    registry: Registry,
    sockets: list[socket.socket],
    log: FilteringBoundLogger,
) -> None:
    events = Events(registry.events(EVENTS_KEPT), registry.add_event)
    pool = Pool(config.starting.warm, log)
    policies = PolicyDirectory(places.policy_dir)
    service = Service(config, places.state_dir, registry, events, pool, policies, Metrics(), log)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(registry.run)
        await nursery.start(pool.run)
        await nursery.start(service.run)
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            async with trio.open_nursery() as answering:
                answering.start_soon(Connections(service, log).serve, sockets)
                answering.start_soon(_feed_watchdog)
                systemd.notify("READY=1", f"STATUS=sandlockd {__version__} listens")
                log.info("listens", socket=places.socket, version=__version__, pid=os.getpid())
                await _until_told(signals, service, places, log)
                systemd.notify("STOPPING=1")
                log.info("ends")
                await service.end_all()
                answering.cancel_scope.cancel()
        nursery.cancel_scope.cancel()


async def _until_told(signals: object, service: Service, places: Places, log: FilteringBoundLogger) -> None:
    async for number in signals:  # type: ignore[attr-defined]
        if number != signal.SIGHUP:
            return
        systemd.notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            service.reconfigure(read_config(places.config, must_exist=places.config_was_named))
            log.info("read its configuration again")
        except ConfigError as error:
            log.error("its configuration stays as it was", why=str(error))
        systemd.notify("READY=1")


async def _feed_watchdog() -> None:
    """As long as the loop goes round."""
    every_s = systemd.watchdog_s()
    while every_s is not None:
        systemd.notify("WATCHDOG=1")
        await trio.sleep(every_s / 3)
