"""The OpenAPI document, from the table of endpoints and the types that validate: it cannot say anything else than is
so.
"""

from __future__ import annotations

import inspect
import re
from types import UnionType
from typing import Any, get_args, get_origin

import msgspec

from sandlockd import __version__
from sandlockd.control.calls import EVENT_STREAM, JSON, LINES, Endpoint
from sandlockd.control.objects import API_VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

PROBLEM = "application/problem+json"
_REFERENCE = "#/components/schemas/{name}"
_ALWAYS = (400, 403, 405, 431, 500)
_OF_BODIES = (408, 413, 415)


class ProblemDocument(msgspec.Struct):
    """RFC 9457. More members may follow."""

    type: str
    title: str
    status: int
    detail: str


def document(endpoints: Iterable[Endpoint]) -> dict[str, Any]:
    """OpenAPI 3.1."""
    endpoints = tuple(endpoints)
    kinds = list(dict.fromkeys(_kinds(endpoints)))
    schemas, components = msgspec.json.schema_components(kinds, ref_template=_REFERENCE)
    by_kind = dict(zip(kinds, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        path = re.sub(r"{(\w+):\w+}", r"{\1}", endpoint.path)
        paths.setdefault(path, {})[endpoint.method.lower()] = _operation(endpoint, by_kind)
    return {
        "openapi": "3.1.0",
        "info": {"title": "sandlockd", "version": API_VERSION, "x-sandlockd-version": __version__},
        "paths": paths,
        "components": {"schemas": _plain(components)},
    }


def _kinds(endpoints: Iterable[Endpoint]) -> Iterable[Any]:
    yield ProblemDocument
    for endpoint in endpoints:
        if endpoint.response is not None:
            yield from _choices(endpoint.response)
        if endpoint.body is not None:
            yield endpoint.body


def _choices(response: Any) -> tuple[Any, ...]:
    """Of a stream: what each of it may be."""
    item = get_args(response)[0] if get_origin(response) is list else response
    return get_args(item) if isinstance(item, UnionType) else (item,)


def _schema_of(response: Any, by_kind: dict[Any, Any]) -> dict[str, Any]:
    schemas = [by_kind[kind] for kind in _choices(response)]
    return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}


def _operation(endpoint: Endpoint, schemas: dict[Any, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": endpoint.summary,
        "operationId": endpoint.handler.__name__.strip("_"),
        "parameters": [*_path_parameters(endpoint), *_query_parameters(endpoint.query)],
        "responses": {str(endpoint.status): _success(endpoint, schemas), **_problems(endpoint, schemas)},
    }
    if endpoint.body is not None:
        operation["requestBody"] = {
            "required": False,
            "content": {JSON: {"schema": schemas[endpoint.body]}},
        }
    return operation


def _path_parameters(endpoint: Endpoint) -> Iterable[dict[str, Any]]:
    for name, kind in re.findall(r"{(\w+)(:number)?}", endpoint.path):
        if kind:
            yield {
                "name": name,
                "in": "path",
                "required": True,
                "schema": {"type": "integer", "minimum": 1, "maximum": 10**9 - 1},
            }
            continue
        yield {
            "name": name,
            "in": "path",
            "required": True,
            "description": "its id, its name, or an unambiguous beginning or end of its id",
            "schema": {"type": "string", "minLength": 1},
        }


def _query_parameters(kind: Any) -> Iterable[dict[str, Any]]:
    if kind is None:
        return
    (_,), components = msgspec.json.schema_components([kind], ref_template=_REFERENCE)
    schema = components[kind.__name__]
    for name, one in schema["properties"].items():
        plain = _resolved(one, components)
        is_required = name in schema.get("required", ())
        yield {"name": name, "in": "query", "required": is_required, "schema": plain}


def _resolved(schema: dict[str, Any], components: dict[str, Any]) -> dict[str, Any]:
    """Of a query: what is not given is not null."""
    choices = [one for one in schema.get("anyOf", ()) if one.get("type") != "null"]
    if len(choices) == 1:
        schema = {**{key: value for key, value in schema.items() if key != "anyOf"}, **choices[0]}
    if "$ref" in schema:
        schema = {**components[schema["$ref"].rpartition("/")[2]]}
    return {key: value for key, value in schema.items() if key != "default" or value is not None}


def _success(endpoint: Endpoint, schemas: dict[Any, Any]) -> dict[str, Any]:
    told: dict[str, Any] = {"description": endpoint.summary}
    if endpoint.status in (101, 204):
        return told
    schema = {} if endpoint.response is None else _schema_of(endpoint.response, schemas)
    told["content"] = {endpoint.content_type: {"schema": schema}}
    if endpoint.content_type == LINES:
        told["content"] |= {
            kind: {} for kind in (EVENT_STREAM, "text/plain", JSON, "application/octet-stream")
        }
    return told


def _problems(endpoint: Endpoint, schemas: dict[Any, Any]) -> dict[str, Any]:
    numbers = {*_ALWAYS, *endpoint.problems, *(_OF_BODIES if endpoint.method == "POST" else ())}
    content = {PROBLEM: {"schema": schemas[ProblemDocument]}}
    return {str(number): {"description": "why not", "content": content} for number in sorted(numbers)}


def _plain(components: dict[str, Any]) -> dict[str, Any]:
    """Docstrings as they are meant to be read."""
    for schema in components.values():
        if "description" in schema:
            schema["description"] = inspect.cleandoc(schema["description"])
    return components
