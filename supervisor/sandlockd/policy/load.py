"""Policies and options to one Policy: extends, validation, merging. Every error is found before any is
raised.

Pure: what it needs of the machine is in the Context. Nothing falls back to a default because it was broken.
"""

from __future__ import annotations

from sandlockd.policy.document import Document
from sandlockd.policy.errors import (
    NOT_SUPPORTED_YET,
    BadValue,
    PolicyError,
    PolicyErrors,
    Unavailable,
    suggestion,
)
from sandlockd.policy.frozen import Value
from sandlockd.policy.inputs import MAX_EXTENDS_DEPTH, MAX_POLICIES, Scope
from sandlockd.policy.keys import BY_NAME, KEYS, NOT_YET, OPTIONS, SECTIONS
from sandlockd.policy.model import PathRule, Policy
from sandlockd.policy.spelling import toml_string
from sandlockd.policy.values import toml_type, variable_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from sandlockd.policy.inputs import Context, Overrides, Source
    from sandlockd.policy.keys import Key
    from sandlockd.policy.lines import Place

_BARE = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")


def load(sources: Sequence[Source], context: Context) -> Policy:
    """The policy that these make together, in their order, with the Context's overrides last.

    Raises:
        PolicyErrors: everything that is wrong, in the order of the files and their lines.
    """
    loader = _Loader(context)
    for source in sources:
        loader.add(source, (), None)
    loader.override(context.overrides)
    return loader.finish()


class _Item(Value):
    """One value that a policy gave."""

    value: object
    document: Document | None  # None: an option
    place: Place
    label: str  # the option

    def source(self) -> str:
        return self.label if self.document is None else self.document.where(self.place)


class _Asker(Value):
    """The `extends` element that named a policy."""

    document: Document
    place: Place


class _Loader:
    """What has been read so far, and what was wrong with it."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._errors: list[PolicyError] = []
        self._merged: dict[str, list[_Item]] = {key.name: [] for key in KEYS}
        self._seen: set[bytes] = set()
        self._applied: list[str] = []

    # --- policies, those that they extend first ---

    def add(self, source: Source, above: tuple[bytes, ...], asker: _Asker | None) -> None:
        """Apply a policy after all that it extends. One that was applied already adds nothing."""
        identity = source.identity or source.name.encode("utf-8", "surrogateescape")
        if identity in above:
            self._refuse(
                asker,
                source,
                "extends itself, by way of what it extends" if above[-1] != identity else "extends itself",
            )
            return
        if identity in self._seen:
            return
        if len(above) >= MAX_EXTENDS_DEPTH:
            self._refuse(asker, source, f"is extended more than {MAX_EXTENDS_DEPTH} policies deep")
            return
        if len(self._seen) >= MAX_POLICIES:
            self._refuse(asker, source, f"is one policy too many; there may be {MAX_POLICIES}")
            return
        self._seen.add(identity)
        try:
            document = Document(source)
        except PolicyErrors as errors:
            self._errors += errors.errors
            return
        # The errors of this file come after those of what it extends; sorting them by line is per file.
        self._extend(document, (*above, identity))
        first = len(self._errors)
        self._read(document)
        self._errors[first:] = sorted(self._errors[first:], key=lambda error: error.line or 0)
        self._applied.append(document.name)

    def _refuse(self, asker: _Asker | None, source: Source, message: str) -> None:
        if asker is None:
            self._errors.append(PolicyError(source.name, None, "", message))
        else:
            self._wrong(asker.document, asker.place, f"{source.name} {message}")

    def _extend(self, document: Document, above: tuple[bytes, ...]) -> None:
        names = document.table.get("extends", [])
        if not isinstance(names, list):
            self._wrong(document, ("extends",), f'must be an array such as ["build"], not {toml_type(names)}')
            return
        scope = Scope(self._context, document.directory)
        for index, name in enumerate(names):
            place = ("extends", index)
            try:
                BY_NAME["extends"].kind(name, scope)
                source = self._context.find(name, document.directory)
            except (BadValue, Unavailable) as error:
                self._wrong(document, place, str(error))
            else:
                self.add(source, above, _Asker(document, place))

    def _wrong(self, document: Document, place: Place, message: str) -> None:
        self._errors.append(PolicyError(document.name, document.line(place), dotted(place), message))

    # --- one policy ---

    def _read(self, document: Document) -> None:
        for section, body in document.table.items():
            if section == "extends":
                continue
            if section not in SECTIONS:
                self._wrong(document, (section,), _unknown((section,), BY_NAME.keys() | SECTIONS.keys()))
            elif not isinstance(body, dict):
                self._wrong(document, (section,), f"must be a table, [{section}], not {toml_type(body)}")
            else:
                for name, raw in body.items():
                    key = BY_NAME.get(f"{section}.{name}") if "." not in name else None
                    if key is None:
                        self._wrong(document, (section, name), _unknown((section, name), BY_NAME))
                    else:
                        self._read_key(document, key, raw, (section, name))

    def _read_key(self, document: Document, key: Key, raw: object, place: Place) -> None:
        pairs = self._pairs(document, key, raw, place)
        if pairs is None:
            return
        scope = Scope(self._context, document.directory)
        items, wrong = [], len(self._errors)
        for within, element in pairs:
            try:
                if key.shape == "table":
                    variable_name(within[-1], scope)
                value = key.kind(element, scope)
            except BadValue as bad:
                self._wrong(document, within, str(bad))
                continue
            if value is not None:
                items.append(
                    _Item((within[-1], value) if key.shape == "table" else value, document, within, "")
                )
        if wrong != len(self._errors):
            return
        if key.name in NOT_YET and pairs:
            self._wrong(document, place, NOT_SUPPORTED_YET + key.name)
        else:
            self._merge(key, items, given=True)

    def _pairs(
        self, document: Document, key: Key, raw: object, place: Place
    ) -> list[tuple[Place, object]] | None:
        """The values of a key, each with its place; None when the key holds the wrong shape."""
        if key.shape == "one":
            return [(place, raw)]
        if key.shape == "many" and isinstance(raw, list):
            return [((*place, index), element) for index, element in enumerate(raw)]
        if key.shape == "table" and isinstance(raw, dict):
            return [((*place, name), element) for name, element in raw.items()]
        wanted = "an array" if key.shape == "many" else "a table"
        self._wrong(document, place, f"must be {wanted} such as {key.example}, not {toml_type(raw)}")
        return None

    def _merge(self, key: Key, items: list[_Item], *, given: bool) -> None:
        if key.merge == "override" and given:
            self._merged[key.name] = items
        else:
            self._merged[key.name] += items

    # --- options ---

    def override(self, overrides: Overrides) -> None:
        """Apply the command line's options."""
        scope = Scope(self._context, self._context.cwd)
        for attribute, option, name in OPTIONS:
            given = getattr(overrides, attribute)
            for raw in given if isinstance(given, tuple) else (given,):
                if raw is None or raw is False:
                    continue
                try:
                    item = _Item(_option_value(BY_NAME[name], option, raw, scope), None, (), option)
                except BadValue as bad:
                    self._errors.append(PolicyError(option, None, name, str(bad)))
                    continue
                if name in NOT_YET:
                    self._errors.append(PolicyError(option, None, name, NOT_SUPPORTED_YET + name))
                else:
                    self._merge(BY_NAME[name], [item], given=True)

    # --- the result ---

    def finish(self) -> Policy:
        """The merged policy.

        Raises:
            PolicyErrors: there were errors.
        """
        if self._errors:
            raise PolicyErrors(self._errors)
        sections: dict[str, Any] = {}
        for section, of_type in SECTIONS.items():
            fields = {name: self._value(BY_NAME[f"{section}.{name}"]) for name in of_type.fields}
            sections[section] = of_type(**fields)
        return Policy(**sections, sources=tuple(self._applied))

    def _value(self, key: Key) -> object:
        items = self._merged[key.name]
        if key.shape == "one":
            return items[-1].value if items else key.default
        if key.shape == "table":
            latest: Mapping[Any, object] = dict(item.value for item in items)  # type: ignore[misc]
            return tuple(latest.items())
        # The first of equal elements stays: base is often extended by more than one policy.
        first: dict[object, _Item] = {}
        for position, item in enumerate(items):
            first.setdefault(item.value if key.merge == "add" else position, item)
        if not key.is_path:
            return tuple(item.value for item in first.values())
        return tuple(
            PathRule(item.value, f"{key.name}[{index}]", item.source())  # type: ignore[arg-type]
            for index, item in enumerate(first.values())
        )


def _option_value(key: Key, option: str, raw: object, scope: Scope) -> object:
    """What an option's text means, by the key's own kind."""
    if option == "--dry-run":
        return "discard"
    if option == "--processes" and isinstance(raw, str):
        raw = raw.encode("utf-8", "surrogateescape")
    if key.shape != "table":
        return key.kind(raw, scope)
    assert isinstance(raw, bytes)
    name, equals, value = raw.partition(b"=")
    if not equals or not name:
        raise BadValue(f"must be NAME=VALUE, not {toml_string(raw.decode('utf-8', 'replace'))}")
    return (
        variable_name(name.decode("utf-8", "surrogateescape"), scope),
        key.kind(value.decode("utf-8", "surrogateescape"), scope),
    )


def dotted(place: Place) -> str:
    """`filesystem.read[2]`, with quotes where TOML wants them."""
    out = ""
    for part in place:
        if isinstance(part, int):
            out += f"[{part}]"
        else:
            bare = part if part and _BARE.issuperset(part) else toml_string(part)
            out += f".{bare}" if out else bare
    return out


def _unknown(place: tuple[str, ...], known: Mapping[str, object] | set[str]) -> str:
    """What to say about a key that there is not."""
    *section, name = place
    prefix = "".join(f"{part}." for part in section)
    beside = [key.removeprefix(prefix) for key in known if key.startswith(prefix)]
    beside = [key for key in beside if "." not in key]
    near = suggestion(name, beside)
    if near:
        return f"unknown key{near}"
    elsewhere = [key for key in BY_NAME if key.rpartition(".")[2] == name]
    if elsewhere:
        return f'unknown key; did you mean "{elsewhere[0]}"?'
    return f"unknown key; there may be {', '.join(sorted(beside))}"
