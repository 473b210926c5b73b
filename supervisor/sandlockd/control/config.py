"""The configuration file of the service (TOML): what it allows each user, how long things are kept, who may connect.

Unknown keys, wrong types and impossible values are errors that name the key; nothing falls back to a default.
"""

from __future__ import annotations

import re
import tomllib
from typing import Annotated

import msgspec
from msgspec import Meta

Count = Annotated[int, Meta(ge=0, le=1_000_000)]
_SIZE = re.compile(r"([0-9]{1,6})([KMGT]?)")
_AGE = re.compile(r"([0-9]{1,6})([smhd])")
_SHIFTS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class ConfigError(Exception):
    """One line, with the file and the key in it."""


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class Access(_Section, frozen=True):
    """admin_group: its members may touch every user's sandboxes. socket_mode: of the control socket; who cannot write
    to it cannot connect.
    """

    admin_group: str = "sandlockd"
    socket_group: str = "sandlockd"
    socket_mode: Annotated[str, Meta(pattern="^0[0-7]{3}$")] = "0660"


class PerUser(_Section, frozen=True):
    """sandboxes: that live at once. memory: of all limits.memory of those that live; none: each as its policy says."""

    sandboxes: Count = 500
    memory: str | None = None
    ended: Count = 500
    connections: Annotated[int, Meta(ge=1, le=100_000)] = 256


class Keeping(_Section, frozen=True):
    """age: sandboxes that ended so long ago are removed, unless they keep changes. log: of what one wrote."""

    age: str = "7d"
    log: str = "10M"
    users_dir: Annotated[str, Meta(pattern="^/")] | None = None


class Starting(_Section, frozen=True):
    """warm: supervisors that wait for work. stop_grace: between SIGTERM and the end of all."""

    warm: Annotated[int, Meta(ge=0, le=64)] = 4
    stop_grace: str = "10s"


class Connections(_Section, frozen=True):
    """idle: without a request, or for the head of one. body: for the body of one."""

    idle: str = "15s"
    body: str = "20s"


class Config(_Section, frozen=True):
    access: Access = Access()
    per_user: PerUser = PerUser()
    keeping: Keeping = Keeping()
    starting: Starting = Starting()
    connections: Connections = Connections()

    @property
    def socket_mode(self) -> int:
        return int(self.access.socket_mode, 8)

    @property
    def memory_per_user(self) -> int | None:
        return None if self.per_user.memory is None else size_bytes(self.per_user.memory)

    @property
    def log_bytes(self) -> int:
        return size_bytes(self.keeping.log)

    @property
    def age_s(self) -> int:
        return seconds(self.keeping.age)

    @property
    def idle_s(self) -> int:
        return seconds(self.connections.idle)

    @property
    def body_s(self) -> int:
        return seconds(self.connections.body)

    @property
    def stop_grace_s(self) -> int:
        return seconds(self.starting.stop_grace)


def size_bytes(text: str) -> int:
    """Raises ValueError."""
    found = _SIZE.fullmatch(text)
    if not found:
        raise ValueError(f"{text!r} is no size: a number and K, M, G or T, as 512M")
    return int(found[1]) << _SHIFTS[found[2]]


def seconds(text: str) -> int:
    """Raises ValueError."""
    found = _AGE.fullmatch(text)
    if not found:
        raise ValueError(f"{text!r} is no time: a number and s, m, h or d, as 7d")
    return int(found[1]) * _SECONDS[found[2]]


def read_config(path: str, *, must_exist: bool) -> Config:
    """Raises ConfigError."""
    try:
        with open(path, "rb") as file:
            content = file.read(1 << 20)
    except FileNotFoundError:
        if not must_exist:
            return Config()
        raise ConfigError(f"{path}: there is no such file") from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    return config_from(content, path)


def config_from(content: bytes, name: str) -> Config:
    """Raises ConfigError."""
    try:
        table = tomllib.loads(content.decode("utf-8"))
    except UnicodeDecodeError:
        raise ConfigError(f"{name}: it is not UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name}: {error}") from None
    try:
        config = msgspec.convert(table, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{name}: {error}") from None
    for key, text, read in (
        ("per_user.memory", config.per_user.memory, size_bytes),
        ("keeping.log", config.keeping.log, size_bytes),
        ("keeping.age", config.keeping.age, seconds),
        ("starting.stop_grace", config.starting.stop_grace, seconds),
        ("connections.idle", config.connections.idle, seconds),
        ("connections.body", config.connections.body, seconds),
    ):
        try:
            if text is not None:
                read(text)
        except ValueError as error:
            raise ConfigError(f"{name}: {key}: {error}") from None
    return config
