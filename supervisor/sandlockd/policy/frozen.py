"""Value: the base of this package's frozen types, because importing `dataclasses` costs more than a whole
policy.

`dataclasses` imports `inspect` and `typing`: 13 ms before the program starts, of a budget of a few. This
does the part that is used here: slots, no assignment after construction, equality, hash, repr, pattern
matching. It does not inherit fields, has no factories and no conversions. Modules with such types need
`from __future__ import annotations`.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self, dataclass_transform
else:

    def dataclass_transform(**_options):
        """Stand in for typing.dataclass_transform, which says something to type checkers only."""
        return lambda decorated: decorated


@dataclass_transform(frozen_default=True)
class _Slotted(type):
    """Turns the annotations of a class body into slots, and the values given there into defaults."""

    fields: tuple[str, ...]
    places: tuple[Any, ...]  # where each is kept; to go by the name takes twice as long
    defaults: dict[str, Any]

    def __new__(mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> _Slotted:
        fields = tuple(namespace.get("__annotations__", ()))
        defaults = {field: namespace.pop(field) for field in fields if field in namespace}
        namespace["__slots__"] = fields
        namespace["__match_args__"] = fields
        made = super().__new__(mcs, name, bases, namespace)
        made.fields = fields
        made.places = tuple(made.__dict__[field] for field in fields)
        made.defaults = defaults
        return made


class Value(metaclass=_Slotted):
    """A frozen value: equal when its fields are, hashable when they are."""

    def __init__(self, *args: Any, **named: Any) -> None:
        made = type(self)
        if len(args) == len(made.places) and not named:
            for place, value in zip(made.places, args, strict=True):
                place.__set__(self, value)
            return
        fields, defaults = made.fields, made.defaults
        if len(args) > len(fields):
            raise TypeError(f"{type(self).__name__} takes {len(fields)} values, {len(args)} were given")
        store = object.__setattr__
        for field, value in zip(fields, args, strict=False):
            store(self, field, value)
        for field in fields[len(args) :]:
            if field in named:
                store(self, field, named.pop(field))
            elif field in defaults:
                store(self, field, defaults[field])
            else:
                raise TypeError(f"{type(self).__name__} needs {field!r}")
        if named:
            raise TypeError(f"{type(self).__name__} has no {', '.join(map(repr, named))} left to set")

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen: {name!r} cannot be set")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen: {name!r} cannot be deleted")

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(getattr(self, field) == getattr(other, field) for field in type(self).fields)

    def __hash__(self) -> int:
        return hash(tuple([place.__get__(self) for place in type(self).places]))

    def __repr__(self) -> str:
        inside = ", ".join(f"{field}={getattr(self, field)!r}" for field in type(self).fields)
        return f"{type(self).__name__}({inside})"

    def __reduce__(self) -> tuple[type[Self], tuple[Any, ...]]:
        # Copying and pickling would otherwise restore slots by assignment, which is refused.
        return type(self), tuple(getattr(self, field) for field in type(self).fields)

    def replaced(self, **changes: Any) -> Self:
        """A copy with some fields changed.

        Raises:
            TypeError: a name that is not a field.
        """
        fields = {field: getattr(self, field) for field in type(self).fields}
        return type(self)(**(fields | changes))
