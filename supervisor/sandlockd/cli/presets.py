"""`sandlockd presets`: the shipped policies, as a list or as the file to start one's own from."""

from __future__ import annotations

import os
import sys

from sandlockd.cli.ending import say
from sandlockd.policy import shipped
from sandlockd.policy.errors import suggestion
from sandlockd.policy.spelling import printable

_EXIT_NO_SUCH_PRESET = 125


def presets(name: str | None, json: bool) -> int:
    """Print each preset with its description, or the text of one.

    Returns: 0, or 125 if there is no preset of that name.
    """
    if name is None:
        _list(json=json)
        return 0
    if name not in shipped.PRESETS:
        hint = suggestion(name, shipped.PRESETS) or f"; there are {', '.join(shipped.PRESETS)}"
        say("sandlockd", f'there is no preset "{printable(name)}"{hint}')
        return _EXIT_NO_SUCH_PRESET
    text = preset_text(name)
    if json:
        _print_json({"name": name, "description": _description(text), "text": text})
    else:
        sys.stdout.write(text)
    return 0


def preset_text(name: str) -> str:
    """The file of a shipped preset."""
    path = os.path.join(os.path.dirname(shipped.__file__), "presets", f"{name}.toml")
    with open(path, encoding="utf-8") as file:
        return file.read()


def _description(text: str) -> str:
    """The first line of a preset is a comment that says what it is for."""
    return text.partition("\n")[0].removeprefix("# ")


def _list(*, json: bool) -> None:
    rows = [(name, _description(preset_text(name))) for name in shipped.PRESETS]
    if json:
        _print_json([{"name": name, "description": description} for name, description in rows])
        return
    width = max(len(name) for name in shipped.PRESETS)
    for name, description in rows:
        print(f"{name:{width}}  {description}")


def _print_json(value: object) -> None:
    import json

    print(json.dumps(value))
