"""Python, the stub and the C compiler agree about native/boundary.h."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import sandlockd
from sandlockd._native import ffi, lib
from sandlockd.kernel import launching

STUB = Path(sandlockd.__file__).parent / "_native.pyi"
BOUNDARY = Path(__file__).parents[2] / "native" / "boundary.h"

OPAQUE = {"slk_engine", "slk_disk", "slk_layers", "slk_memory", "slk_output", "slk_numbers", "slk_shared"}


def _lib_class() -> ast.ClassDef:
    (found,) = (
        node
        for node in ast.parse(STUB.read_text()).body
        if isinstance(node, ast.ClassDef) and node.name == "_Lib"
    )
    return found


FUNCTIONS = {node.name: node for node in _lib_class().body if isinstance(node, ast.FunctionDef)}
CONSTANTS = {
    node.target.id
    for node in _lib_class().body
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
}


def test_stub_and_module_have_the_same_names() -> None:
    assert FUNCTIONS.keys() | CONSTANTS == set(dir(lib))


def test_constants_are_numbers_and_functions_are_called() -> None:
    assert all(isinstance(getattr(lib, name), int) for name in CONSTANTS)
    assert all(callable(getattr(lib, name)) for name in FUNCTIONS)


def _stub_type(c_type: ffi.CType) -> str:
    """What the stub says where C has this type."""
    if c_type.kind == "void":
        return "None"
    if c_type.kind != "pointer":
        return "int"
    # bytes may stand for what C only reads; cffi drops const from the types that it shows.
    return "ffi.CData"


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_stub_and_module_agree_about_arguments_and_result(name: str) -> None:
    node = FUNCTIONS[name]
    c_type = ffi.typeof(getattr(lib, name))
    annotations = [ast.unparse(arg.annotation) for arg in node.args.posonlyargs[1:] if arg.annotation]
    assert [text.removesuffix(" | bytes") for text in annotations] == [_stub_type(arg) for arg in c_type.args]
    assert node.returns is not None
    assert ast.unparse(node.returns) == _stub_type(c_type.result)


@pytest.mark.skipif(not BOUNDARY.exists(), reason="needs the source tree")
@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_arguments_are_called_what_the_header_calls_them(name: str) -> None:
    text = re.sub(r"/\*.*?\*/", "", BOUNDARY.read_text(), flags=re.DOTALL)
    found = re.search(rf"\b{name}\((.*?)\);", text, flags=re.DOTALL)
    assert found is not None
    declared = [] if found[1].strip() == "void" else found[1].split(",")
    arguments = FUNCTIONS[name].args.posonlyargs[1:]
    assert [arg.arg for arg in arguments] == [re.findall(r"\w+", one)[-1] for one in declared]
    for argument, one in zip(arguments, declared, strict=True):
        takes_bytes = argument.annotation is not None and "bytes" in ast.unparse(argument.annotation)
        assert takes_bytes == bool(re.match(r"\s*const (char|void) \*\w+$", one))


@pytest.mark.skipif(not BOUNDARY.exists(), reason="needs the source tree")
def test_the_module_was_built_from_this_header() -> None:
    text = re.sub(r"/\*.*?\*/", "", BOUNDARY.read_text(), flags=re.DOTALL)
    assert set(re.findall(r"\bslk_\w+(?=\()", text)) == FUNCTIONS.keys()
    assert set(re.findall(r"\bSLK_\w+", text)) == CONSTANTS


def test_every_struct_has_the_layout_the_c_compiler_gave_it() -> None:
    # cffi compares its own layout with the compiler's at the first use of each, and raises where they differ.
    _, structs, unions = ffi.list_types()[:3]
    names = {name.removeprefix("struct ") for name in (*structs, *unions)}
    assert names >= OPAQUE | {"slk_launch_plan", "slk_request", "slk_report"}
    for name in names - OPAQUE:
        assert ffi.sizeof(f"struct {name}") > 0
        fields = ffi.typeof(f"struct {name}").fields
        assert fields
        ffi.new(f"struct {name} *")


def test_the_engine_stays_opaque() -> None:
    for name in OPAQUE:
        with pytest.raises((ffi.error, TypeError, ValueError)):
            ffi.sizeof(f"struct {name}")


def test_every_stage_has_a_word() -> None:
    stages = {getattr(lib, name): name for name in CONSTANTS if name.startswith("SLK_STAGE_")}
    assert [stages[number].removeprefix("SLK_STAGE_").lower() for number in sorted(stages)] == list(
        launching.STAGES
    )
    assert sorted(stages) == list(range(len(stages)))


def test_arrays_in_structs_are_as_long_as_their_constants() -> None:
    lengths = {
        ("slk_request", "path"): lib.SLK_PATH_MAX,
        ("slk_launch_plan", "rlimits"): lib.SLK_RLIMITS_MAX,
        ("slk_status", "groups"): lib.SLK_STATUS_GROUPS_MAX,
    }
    for (struct, member), length in lengths.items():
        assert len(getattr(ffi.new(f"struct {struct} *"), member)) == length
