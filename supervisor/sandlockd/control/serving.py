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
from sandlockd.control.config import Access, Config, ConfigError, read_config
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
    from typing import Any

    from structlog.typing import FilteringBoundLogger

FAILED = 1
BADLY_CONFIGURED = 78  # EX_CONFIG of sysexits.h(3head): trying again is of no use
_LISTENS = f"STATUS=sandlockd {__version__} listens"
_END_PATIENCE_S = 30  # for all that follows the grace that programs are given
# syslog(3). What the journal is told before each line (sd-daemon(3)).
_PRIORITIES = {"critical": 2, "error": 3, "warning": 4, "info": 6, "debug": 7}


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
    except ConfigError as error:
        log.error("cannot start", why=str(error))
        return BADLY_CONFIGURED
    except (RegistryError, OSError) as error:
        log.error("cannot start", why=str(error))
        return FAILED
    if registry.note is not None:
        log.warning(registry.note)
    try:
        sockets, own = _sockets(places, config, log)
    except (CannotListen, OSError) as error:
        log.error("cannot start", why=str(error))
        registry.close()
        return FAILED
    soft_limit = _raise_descriptor_limit()
    try:
        trio.run(_serve, places, config, registry, sockets, log, soft_limit)
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
    if systemd.is_journal(sys.stderr.fileno()):
        processors.append(_with_priority)
    structlog.configure(processors, logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    return structlog.get_logger()  # type: ignore[no-any-return]


def _with_priority(logger: object, method: str, line: Any) -> str:
    return f"<{_PRIORITIES.get(method, 6)}>{line}"


def _sockets(
    places: Places, config: Config, log: FilteringBoundLogger
) -> tuple[list[socket.socket], ControlSocket | None]:
    """Raises CannotListen, OSError."""
    given = systemd.given_sockets()
    if given:
        usual = Access()
        for key in ("socket_mode", "socket_group"):
            if getattr(config.access, key) != getattr(usual, key):
                log.warning("a key is of no use: the socket is systemd's", key=f"access.{key}")
        return given, None
    own = ControlSocket(places.socket, mode=config.socket_mode, group=config.access.socket_group)
    return [own.socket], own


def _raise_descriptor_limit() -> int:
    """Ours. Returns: what it was, which is for the programs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return soft


async def _serve(
    places: Places,
    config: Config,
    registry: Registry,
    sockets: list[socket.socket],
    log: FilteringBoundLogger,
    descriptor_limit: int,
) -> None:
    events = Events(registry.events(EVENTS_KEPT), registry.add_event)
    pool = Pool(config.starting.warm, log, descriptor_limit)
    policies = PolicyDirectory(places.policy_dir)
    service = Service(config, places.state_dir, registry, events, pool, policies, Metrics(), log)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(registry.run)
        await nursery.start(pool.run)
        await nursery.start(service.run)
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            async with trio.open_nursery() as answering:
                answering.start_soon(Connections(service, log).serve, sockets)
                answering.start_soon(_feed_watchdog, log)
                _tell(log, "READY=1", _LISTENS)
                where = ", ".join(str(one.getsockname()) for one in sockets)
                log.info("listens", socket=where, version=__version__, pid=os.getpid())
                await _until_told(signals, service, places, log)
                longest_s = service.config.stop_grace_s + _END_PATIENCE_S
                _tell(
                    log, "STOPPING=1", "STATUS=ends all sandboxes", f"EXTEND_TIMEOUT_USEC={longest_s}000000"
                )
                log.info("ends")
                await service.end_all()
                answering.cancel_scope.cancel()
        nursery.cancel_scope.cancel()


async def _until_told(signals: object, service: Service, places: Places, log: FilteringBoundLogger) -> None:
    async for number in signals:  # type: ignore[attr-defined]
        if number != signal.SIGHUP:
            return
        _tell(log, "RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        status = _LISTENS
        try:
            service.reconfigure(read_config(places.config, must_exist=places.config_was_named))
            log.info("read its configuration again")
        except ConfigError as error:
            log.error("its configuration stays as it was", why=str(error))
            status = f"{_LISTENS}; its configuration stays as it was: {error}"
        _tell(log, "READY=1", status.replace("\n", " "))


async def _feed_watchdog(log: FilteringBoundLogger) -> None:
    """As long as the loop goes round."""
    every_s = systemd.watchdog_s()
    while every_s is not None:
        _tell(log, "WATCHDOG=1")
        await trio.sleep(every_s / 3)


def _tell(log: FilteringBoundLogger, *words: str) -> None:
    """That systemd does not listen for a moment is no reason to end anybody's sandbox."""
    try:
        systemd.notify(*words)
    except OSError as error:
        log.warning("systemd was not told", what=words[0], why=str(error))
