"""What is generated equals what it is generated from. `python THIS_FILE --write` writes it."""

from __future__ import annotations

import json
import pprint
import re
import sys
import tomllib
from pathlib import Path

import pytest

import sandlockd
from sandlockd.policy.keys import KEYS
from sandlockd.policy.schema import json_schema, reference_markdown
from sandlockd.policy.shipped import PRESETS, preset_source

POLICY = Path(sandlockd.__file__).parent / "policy"
SCHEMA = POLICY / "policy.schema.json"
SHIPPED = POLICY / "shipped.py"
DOCS = Path(__file__).parents[2] / "docs" / "policy.md"
_BEGIN, _END = "<!-- keys: generated -->\n", "<!-- keys: end -->\n"
_TABLES = "# fmt: off\n"


def preset_toml(name: str) -> str:
    return (POLICY / "presets" / f"{name}.toml").read_text(encoding="utf-8")


def with_reference(text: str) -> str:
    before, _, rest = text.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return f"{before}{_BEGIN}\n{reference_markdown()}\n{_END}{after}"


def test_the_parsed_presets_equal_their_files() -> None:
    assert {path.stem for path in (POLICY / "presets").iterdir()} == set(PRESETS)
    for name in PRESETS:
        assert preset_source(name).table == tomllib.loads(preset_toml(name))


def test_each_preset_begins_with_a_description() -> None:
    for name in PRESETS:
        assert re.match(r"# \S.{20,95}\.\n", preset_toml(name)), name


def test_the_shipped_schema_is_that_of_the_table() -> None:
    assert json.loads(SCHEMA.read_text(encoding="utf-8")) == json_schema()


def test_the_documentation_has_every_key_as_the_table_has_it() -> None:
    text = DOCS.read_text(encoding="utf-8")
    assert text == with_reference(text)
    assert all(f"| `{key.name}` |" in text for key in KEYS)


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.name)
def test_the_schema_takes_the_example_of_every_key(key: object) -> None:
    name, example = key.name, key.example  # type: ignore[attr-defined]
    schema = json_schema()["properties"]
    for part in name.split("."):
        schema = schema["properties"][part] if "properties" in schema else schema[part]
    assert taken(tomllib.loads(f"value = {example}")["value"], schema)


def taken(value: object, schema: dict[str, object]) -> bool:
    """Whether a value fits the part of JSON Schema that is used here."""
    if "anyOf" in schema:
        return any(taken(value, one) for one in schema["anyOf"])  # type: ignore[attr-defined]
    if "enum" in schema:
        return value in schema["enum"]  # type: ignore[operator]
    types = {
        "string": str,
        "boolean": bool,
        "integer": int,
        "number": (int, float),
        "array": list,
        "object": dict,
    }
    if not isinstance(value, types[schema["type"]]):  # type: ignore[index,arg-type]
        return False
    if isinstance(value, str):
        return re.search(str(schema.get("pattern", "")), value) is not None
    if isinstance(value, list):
        return all(taken(element, schema["items"]) for element in value)  # type: ignore[arg-type]
    if isinstance(value, dict):
        inner = schema["additionalProperties"]
        return all(taken(element, inner) for element in value.values())  # type: ignore[arg-type]
    return True


def write() -> None:
    tables = {name: tomllib.loads(preset_toml(name)) for name in PRESETS}
    head = SHIPPED.read_text(encoding="utf-8").partition(_TABLES)[0]
    body = pprint.pformat(tables, width=108, sort_dicts=False, compact=True)
    SHIPPED.write_text(
        f"{head}{_TABLES}_TABLES: Final[dict[str, dict[str, Any]]] = (\n{body}\n)\n", encoding="utf-8"
    )
    SCHEMA.write_text(json.dumps(json_schema(), indent=2) + "\n", encoding="utf-8")
    DOCS.write_text(with_reference(DOCS.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__" and sys.argv[1:] == ["--write"]:
    write()
