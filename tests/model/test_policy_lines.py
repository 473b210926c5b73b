"""The line of every key and element, against TOML that a renderer wrote while it counted."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandlockd.policy.lines import line_map

Place = tuple[str | int, ...]

SCALARS = [
    "1",
    "-1.5e3",
    "true",
    "1979-05-27 07:32:00",
    '""',
    "''",
    '"a # b ] } , = [x]"',
    "'C:\\'",
    '"quote \\" and backslash \\\\"',
    '"""\nfirst\n  # no comment\n[no.header]\na = 1\n"""',
    "'''\n'' two\n\\'''",
    '"""ends in quotes"""""',
    '"""a \\\n   b \\""" c"""',
    "'''x'''''",
]
KEYS = ["a", "b-1", "_c", "3", '"d.e"', "'f g'", '"h\\u0041\\""', '""', "base", "true"]
GAPS = ["", " ", "\n", "\n\n", " # c ] }\n", "\t\n# 'x\n  "]
Scalar = str
Tree = Scalar | list["Tree"] | dict[str, "Tree"]

trees: st.SearchStrategy[Tree] = st.recursive(
    st.sampled_from(SCALARS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.sampled_from(KEYS), inner, max_size=3)
    ),
    max_leaves=8,
)
documents = st.dictionaries(
    st.lists(st.sampled_from(KEYS), min_size=1, max_size=2).map(tuple),
    st.dictionaries(st.sampled_from(KEYS), trees, max_size=4),
    max_size=4,
)


def decoded(key: str) -> str:
    (name,) = tomllib.loads(f"{key} = 1")
    return name


class Renderer:
    """Writes TOML and knows on which line it stands."""

    def __init__(self, data: st.DataObject) -> None:
        self._draw = data.draw
        self.text = ""
        self.lines: dict[Place, int] = {}

    def note(self, place: Place) -> None:
        self.lines.setdefault(place, self.text.count("\n") + 1)

    def gap(self) -> None:
        self.text += self._draw(st.sampled_from(GAPS))

    def value(self, tree: Tree, place: Place) -> None:
        if isinstance(tree, str):
            self.text += tree
        elif isinstance(tree, list):
            self.text += "["
            for index, element in enumerate(tree):
                self.gap()
                self.note((*place, index))
                self.value(element, (*place, index))
                self.gap()
                self.text += "," if index < len(tree) - 1 else self._draw(st.sampled_from(["", ","]))
            self.gap()
            self.text += "]"
        else:
            self.text += "{"
            for position, (key, element) in enumerate(tree.items()):
                self.text += ", " if position else " "
                self.pair(key, element, place)
            self.text += " }"

    def pair(self, key: str, tree: Tree, place: Place) -> None:
        below = (*place, decoded(key))
        self.note(below)
        self.text += key + self._draw(st.sampled_from(["=", " = ", "\t= "]))
        self.value(tree, below)

    def header(self, keys: tuple[str, ...]) -> Place:
        place: Place = ()
        for key in keys:
            place = (*place, decoded(key))
            self.note(place)
        space = self._draw(st.sampled_from(["", " "]))
        self.text += "[" + f"{space}.{space}".join(keys) + "]" + self._draw(st.sampled_from(["\n", " # c\n"]))
        return place


@given(st.data(), documents)
def test_every_key_and_element_has_the_line_it_was_written_on(
    data: st.DataObject, document: dict[tuple[str, ...], dict[str, Tree]]
) -> None:
    renderer = Renderer(data)
    for keys, body in document.items():
        place = renderer.header(keys)
        for key, tree in body.items():
            renderer.pair(key, tree, place)
            renderer.text += data.draw(st.sampled_from(["\n", " # c\n", "\n\n"]))
    try:
        tomllib.loads(renderer.text)
    except tomllib.TOMLDecodeError:
        return  # two headers that contradict each other
    assert line_map(renderer.text) == renderer.lines


@pytest.mark.parametrize(
    ("text", "place", "line"),
    [
        ("\na.b.c = 1", ("a", "b"), 2),
        ("\na . 'b' = 1", ("a", "b"), 2),
        ("[a]\nb.c = 1\nb.d = 2", ("a", "b", "d"), 3),
        ("[[a]]\nx = 1\n[[a]]\nx = 2\n[a.b]\ny = 1", ("a", 1, "b", "y"), 6),
        ("[[a]]\n[[a.b]]\n[[a.b]]\nz = 1", ("a", 0, "b", 1, "z"), 4),
        ("a = [\r\n  1,\r\n  2\r\n]\r\nb = 1\r\n", ("a", 1), 3),
        ("a = [\r\n  1,\r\n  2\r\n]\r\nb = 1\r\n", ("b",), 5),
        ('a = """\n\n"""\nb = 1', ("b",), 4),
        ("a = { b = [\n1,\n2], c = 1 }", ("a", "c"), 3),
        ("a = 1 # no newline at the end", ("a",), 1),
    ],
)
def test_a_place_has_its_line(text: str, place: Place, line: int) -> None:
    tomllib.loads(text)
    assert line_map(text)[place] == line
