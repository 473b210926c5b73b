"""`tcp://10.0.0.0/8:443` to a NetworkRule. Apart from the other values because ipaddress takes 4 ms to
import.

Pure. Names are not resolved here.
"""

from __future__ import annotations

import ipaddress

from sandlockd.policy.errors import BadValue
from sandlockd.policy.model import NetworkRule
from sandlockd.policy.spelling import toml_string

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

_DIGITS = frozenset("0123456789")
_LABEL = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_")


def target(value: object) -> NetworkRule:
    """[tcp://|udp://][HOST|ADDRESS[/PREFIX]][:PORT[-PORT]]; not everything may be left out."""
    rule = _rule(value, '"example.org:443", "10.0.0.0/8" or ":53"')
    if rule.host is None and rule.ports is None:
        raise BadValue(f"names neither a host nor a port: {toml_string(rule.text)}")
    return rule


def address(value: object) -> NetworkRule:
    """[tcp://|udp://][ADDRESS|localhost]:PORT[-PORT]."""
    rule = _rule(value, '"127.0.0.1:8000-8010"')
    if rule.ports is None:
        raise BadValue(f"needs a port, such as {toml_string(rule.text + ':8000')}")
    host = rule.host or "localhost"
    if host != "localhost" and not _is_address(host):
        raise BadValue(f"must name an address of this machine or localhost, not {toml_string(host)}")
    return rule


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _rule(value: object, such_as: str) -> NetworkRule:
    if not isinstance(value, str):
        raise BadValue(f"must be a string such as {such_as}")
    protocol: Literal["tcp", "udp"] | None = None
    rest = value
    scheme, slashes, after = value.partition("://")
    if slashes:
        if scheme == "tcp":
            protocol = "tcp"
        elif scheme == "udp":
            protocol = "udp"
        else:
            raise BadValue(
                f'must begin with "tcp://" or "udp://" if with anything, not {toml_string(scheme)}'
            )
        rest = after
    host, ports = _split(rest, value)
    return NetworkRule(protocol, _host(host, value) if host else None, _ports(ports, value), value)


def _split(rest: str, whole: str) -> tuple[str, str | None]:
    """Host and ports. An IPv6 address with a port is bracketed; without one it may stand bare."""
    if rest.startswith("["):
        host, bracket, after = rest[1:].partition("]")
        if not bracket or (after and not after.startswith(":")) or ":" not in host:
            raise BadValue(f'must be like "[2001:db8::1]:443", not {toml_string(whole)}')
        return host, after[1:] if after else None
    if rest.count(":") > 1:
        return rest, None
    host, colon, ports = rest.partition(":")
    return host, ports if colon else None


def _ports(ports: str | None, whole: str) -> tuple[int, int] | None:
    if ports is None:
        return None
    low, dash, high = ports.partition("-")
    ends = (low, high if dash else low)
    if not all(end and len(end) <= 5 and _DIGITS.issuperset(end) for end in ends):
        raise BadValue(f'must end in a port such as ":443" or ":8000-8010", not {toml_string(whole)}')
    first, last = int(ends[0]), int(ends[1])
    if not 1 <= first <= last <= 65535:
        raise BadValue(f"must have ports from 1 to 65535, the smaller first, not {toml_string(whole)}")
    return first, last


def _host(host: str, whole: str) -> str:
    try:
        network = ipaddress.ip_network(host, strict=True)
    except ValueError as error:
        if "/" in host or ":" in host or _DIGITS.issuperset(host.replace(".", "")):
            raise BadValue(f"{toml_string(host)} is not an address or network: {error}") from None
    else:
        return str(network) if "/" in host else str(network.network_address)
    name = host.lower().removesuffix(".")
    labels = name.split(".")
    good = len(name) <= 253 and all(
        0 < len(label) <= 63 and _LABEL.issuperset(label) and label[0] != "-" != label[-1] for label in labels
    )
    if not good:
        raise BadValue(f"{toml_string(host)} is not the name of a host")
    return name
