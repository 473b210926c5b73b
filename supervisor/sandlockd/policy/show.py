"""A Policy as the TOML or JSON that would load to it again, each path with the line that it comes from.

Pure. Keys that hold their default are left out; what could not be loaded here is never set, so never shown.
"""

from __future__ import annotations

from sandlockd.policy.keys import KEYS, SECTIONS
from sandlockd.policy.model import NetworkRule, PathRule
from sandlockd.policy.spelling import printable, spelled, toml_string

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sandlockd.policy.keys import Key
    from sandlockd.policy.model import Policy

# Shown though they are the default: what a reader asks first.
_ALWAYS = frozenset({"filesystem.base", "program.clean_env", "audit.level"})


def effective(policy: Policy) -> dict[str, dict[str, Any]]:
    """The policy as a tree that is a valid policy file, in JSON's types."""
    tree: dict[str, dict[str, Any]] = {}
    for key, value in _chosen(policy):
        section, _, name = key.name.partition(".")
        shown = dict(value) if key.shape == "table" else _plain(key, value)
        tree.setdefault(section, {})[name] = shown
    return tree


def path_rules(policy: Policy) -> tuple[PathRule, ...]:
    """Every path of the policy, with its rule and source."""
    found: list[PathRule] = []
    for key in KEYS:
        if key.is_path:
            section, _, name = key.name.partition(".")
            found += getattr(getattr(policy, section), name)
    return tuple(found)


def effective_toml(policy: Policy) -> str:
    """The policy as TOML text with comments."""
    sources = printable(", ".join(policy.sources) or "nothing")
    lines = [f"# made of: {sources}"]
    last = ""
    for key, value in _chosen(policy):
        section, _, name = key.name.partition(".")
        if section != last:
            lines += ["", f"[{section}]"]
            last = section
        lines += _toml_lines(key, name, value)
    return "\n".join(lines) + "\n"


def _chosen(policy: Policy) -> list[tuple[Key, Any]]:
    by_section = {section: getattr(policy, section) for section in SECTIONS}
    pairs = []
    for key in KEYS:
        section, dot, name = key.name.partition(".")
        if not dot:
            continue
        value = getattr(by_section[section], name)
        is_default = value == key.default or value == ()
        if not is_default or key.name in _ALWAYS:
            pairs.append((key, value))
    return pairs


def _toml_lines(key: Key, name: str, value: Any) -> list[str]:
    if key.is_path:
        rows = [f"    {toml_string(spelled(rule.path))},  # {printable(rule.source)}" for rule in value]
        return [f"{name} = [", *rows, "]"]
    if key.shape == "table":
        pairs = (f"{toml_string(variable)} = {toml_string(text)}" for variable, text in value)
        return [f"{name} = {{ {', '.join(pairs)} }}"]
    return [f"{name} = {_toml(_plain(key, value))}"]


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(element) for element in value) + "]"
    return toml_string(value) if isinstance(value, str) else repr(value)


def _plain(key: Key, value: Any) -> Any:
    """A value as its key would take it."""
    if isinstance(value, tuple):
        return [_plain(key, element) for element in value]
    if isinstance(value, PathRule):
        return spelled(value.path)
    if isinstance(value, NetworkRule):
        return value.text
    if isinstance(value, bytes):
        return spelled(value)
    if key.name == "program.umask":
        return f"{value:03o}"
    return value
