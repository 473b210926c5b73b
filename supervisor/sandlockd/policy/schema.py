"""The JSON Schema of policy files and the reference part of docs/policy.md, both from the table of keys.

Pure: builds values; tests/model/test_policy_generated.py writes them and keeps the shipped files equal.
"""

from __future__ import annotations

from sandlockd.policy import values
from sandlockd.policy.keys import KEYS, NOT_YET
from sandlockd.policy.shipped import PRESETS
from sandlockd.policy.syscalls import GIVE_BACK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sandlockd.policy.keys import Key

_PATH = {"type": "string", "minLength": 1}
_NAME = {"type": "string", "minLength": 1}
_SIZE = {
    "anyOf": [
        {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?[KMGTPE]?$"},
        {"type": "integer", "minimum": 1},
    ]
}
_DURATION = {
    "anyOf": [
        {"type": "string", "pattern": r"^([0-9]+(\.[0-9]+)?(ms|s|m|h|d))+$"},
        {"type": "number", "exclusiveMinimum": 0},
    ]
}
_PERCENT = {"anyOf": [{"type": "string", "pattern": r"^[0-9]+(\.0+)?%$"}, {"type": "integer", "minimum": 1}]}

# What each kind takes: a schema, and words for people.
_KINDS: dict[values.Kind, tuple[dict[str, Any], str]] = {
    values.text: ({"type": "string"}, "string"),
    values.boolean: ({"type": "boolean"}, "boolean"),
    values.size: (_SIZE, "size"),
    values.duration: (_DURATION, "duration"),
    values.percent: (_PERCENT, "percentage"),
    values.umask: ({"type": "string", "pattern": "^0?[0-7]{1,3}$"}, "octal string"),
    values.variable_name: ({"type": "string", "pattern": "^[^=]+$"}, "variable name"),
    values.feature: ({"enum": list(values.FEATURES)}, "feature name"),
    values.syscall: (_NAME, "system call name"),
    values.give_back: ({"enum": list(GIVE_BACK)}, "group name"),
    values.granted_path: (_PATH, "path"),
    values.denied_path: (_PATH, "path"),
    values.any_path: (_PATH, "path"),
    values.directory: (_PATH, "directory"),
    values.directory_to_be: (_PATH, "directory"),
    values.command: (_PATH, "name or path"),
    values.network_target: (_NAME, "host, address, network or port"),
    values.network_address: (_NAME, "address and port"),
}


def _of_kind(key: Key) -> tuple[dict[str, Any], str]:
    """The kinds that are built for one key carry what they take as attributes."""
    if key.kind in _KINDS:
        return _KINDS[key.kind]
    choices = getattr(key.kind, "choices", None)
    if choices is not None:
        return {"enum": list(choices)}, " or ".join(f'"{choice}"' for choice in choices)
    low, high = key.kind.bounds  # type: ignore[attr-defined]
    return {"type": "integer", "minimum": low, "maximum": high}, f"integer from {low} to {high}"


def _key_schema(key: Key) -> dict[str, Any]:
    inner, _ = _of_kind(key)
    described: dict[str, Any] = {"description": key.doc + _not_yet(key)}
    if key.shape == "many":
        return described | {"type": "array", "items": inner}
    if key.shape == "table":
        return described | {"type": "object", "additionalProperties": inner}
    return described | inner


def _not_yet(key: Key) -> str:
    return " Not supported yet: refused." if key.name in NOT_YET else ""


def json_schema() -> dict[str, Any]:
    """JSON Schema 2020-12 of a policy file. The loader is stricter: it also looks at the machine."""
    root: dict[str, Any] = {}
    for key in KEYS:
        section, dot, name = key.name.partition(".")
        if not dot:
            root[section] = _key_schema(key)
            continue
        table = root.setdefault(section, {"type": "object", "additionalProperties": False, "properties": {}})
        table["properties"][name] = _key_schema(key)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "sandlockd policy",
        "type": "object",
        "additionalProperties": False,
        "properties": root,
    }


def reference_markdown() -> str:
    """Every key, its type, how policies merge, its default and an example."""
    merged = {"override": "the last one counts", "add": "all of them add up", "update": "name by name"}
    lines: list[str] = []
    last = ""
    for key in KEYS:
        section, dot, _ = key.name.partition(".")
        if section != last:
            lines += [f"### `[{section}]`" if dot else f"### `{section}`", ""]
            lines += ["| key | takes | default | several policies | meaning |", "|---|---|---|---|---|"]
            last = section
        words = _of_kind(key)[1]
        takes = {"one": words, "many": f"array of: {words}", "table": f"table of: {words}"}[key.shape]
        example = f" Example: `{key.example}`."
        row = (f"`{key.name}`", takes, _default(key), merged[key.merge], key.doc + example + _not_yet(key))
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |")
        if key is KEYS[-1] or KEYS[KEYS.index(key) + 1].name.partition(".")[0] != section:
            lines.append("")
    names = ", ".join(f"`{name}`" for name in PRESETS)
    return "\n".join(lines) + f"\nShipped presets: {names}.\n"


def _default(key: Key) -> str:
    if key.instead:
        return key.instead
    if key.default is None:
        return "none"
    if key.default == ():
        return "empty"
    return f"`{str(key.default).lower()}`" if isinstance(key.default, bool) else f'`"{key.default}"`'
