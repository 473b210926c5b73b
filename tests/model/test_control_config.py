"""The service's configuration file: what is wrong in it is told with the file and the key, and nothing is guessed."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandlockd.control.config import Config, ConfigError, config_from, read_config

_WHOLE = b"""
[access]
admin_group = "staff"
socket_group = "staff"
socket_mode = "0600"
[per_user]
sandboxes = 3
memory = "2G"
ended = 5
connections = 7
[keeping]
age = "2h"
log = "64K"
users_dir = "/var/lib/x"
[starting]
warm = 0
stop_grace = "1m"
"""


def test_what_is_not_said_has_its_default() -> None:
    config = config_from(b"", "x")
    assert config == Config()
    assert (config.socket_mode, config.memory_per_user, config.log_bytes) == (0o660, None, 10 << 20)
    assert (config.age_s, config.stop_grace_s) == (7 * 86400, 10)


def test_all_can_be_said() -> None:
    config = config_from(_WHOLE, "x")
    assert (config.access.admin_group, config.socket_mode) == ("staff", 0o600)
    assert (config.per_user.sandboxes, config.memory_per_user, config.per_user.connections) == (3, 2 << 30, 7)
    assert (config.age_s, config.log_bytes, config.keeping.users_dir) == (7200, 64 << 10, "/var/lib/x")
    assert (config.starting.warm, config.stop_grace_s) == (0, 60)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[per_user]\nsandboxs = 3", ["sandboxs", "per_user"]),
        ("[limits]", ["limits"]),
        ("[per_user]\nsandboxes = '3'", ["per_user.sandboxes", "str"]),
        ("[per_user]\nsandboxes = -1", ["per_user.sandboxes", ">= 0"]),
        ("[per_user]\nconnections = 0", ["per_user.connections", ">= 1"]),
        ("[per_user]\nmemory = '2GB'", ["per_user.memory", "2GB", "512M"]),
        ("[per_user]\nmemory = '9999999999G'", ["per_user.memory"]),
        ("[keeping]\nage = 'soon'", ["keeping.age", "soon", "7d"]),
        ("[keeping]\nlog = '-1M'", ["keeping.log"]),
        ("[keeping]\nusers_dir = 'relative'", ["keeping.users_dir"]),
        ("[starting]\nwarm = 65", ["starting.warm", "64"]),
        ("[starting]\nstop_grace = '10'", ["starting.stop_grace"]),
        ("[access]\nsocket_mode = '0999'", ["access.socket_mode"]),
        ("[access]\nsocket_mode = 432", ["access.socket_mode"]),
        ("[access]\n=", ["line 2"]),
        ("per_user = 1", ["per_user"]),
    ],
)
def test_what_is_wrong_is_named(text: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        config_from(text.encode(), "/etc/x.toml")
    said = str(caught.value)
    assert said.startswith("/etc/x.toml: ") and "\n" not in said
    assert all(word in said for word in words), said


def test_bytes_that_are_no_text() -> None:
    with pytest.raises(ConfigError, match="it is not UTF-8"):
        config_from(b"[access]\nadmin_group = '\xff'", "x")


def test_a_file_that_is_not_there_is_an_error_only_if_it_was_named(tmp_path: Path) -> None:
    path = str(tmp_path / "none.toml")
    assert read_config(path, must_exist=False) == Config()
    with pytest.raises(ConfigError, match="no such file"):
        read_config(path, must_exist=True)
    with pytest.raises(ConfigError, match="Is a directory"):
        read_config(str(tmp_path), must_exist=False)
