"""The OpenAPI document of a table of routes and the codecs' own wire types: it cannot say anything else.

Answers are described by media type only; what they hold is each dialect's own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from mlxone import __version__
from mlxone.server.table import JSON, V1, Route

Value = dict[str, Any]

_REFUSED = {"4XX": "The request cannot be honoured.", "5XX": "The server cannot answer, now or at all."}
_IN_PATH = re.compile(r"{(\w+)}")
_KEYS: Value = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}


@lru_cache(maxsize=4)
def document(routes: tuple[Route, ...]) -> bytes:
    structs = [route.takes for route in routes if route.takes is not None]
    schemas, components = msgspec.json.schema_components(structs, ref_template="#/components/schemas/{name}")
    bodies = dict(zip(structs, schemas, strict=True))
    paths: Value = {}
    for route in routes:
        body = None if route.takes is None else bodies[route.takes]
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, body)
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {"title": "mlxone", "version": __version__, "license": {"name": "MIT"}},
            "servers": [{"url": V1}, {"url": "/", "description": "The same without the prefix."}],
            "security": [{}, *({name: []} for name in _KEYS)],  # a server may ask for a key
            "paths": paths,
            "components": {"schemas": components, "securitySchemes": _KEYS, "responses": _refusals()},
        }
    )


def _operation(route: Route, body: Value | None) -> Value:
    operation: Value = {
        "operationId": "_".join([route.method.lower(), *re.findall(r"\w+", route.path)]),
        "summary": route.summary,
        "responses": {"200": {"description": "The answer.", "content": _content(route.gives)}}
        | {status: {"$ref": f"#/components/responses/{status}"} for status in _REFUSED},
    }
    if parameters := [*_parameters("path", _IN_PATH.findall(route.path)), *_parameters("query", route.asks)]:
        operation["parameters"] = parameters
    if body is not None:
        operation["requestBody"] = {"required": True, "content": {JSON: {"schema": body}}}
    if route.open:
        operation["security"] = []
    return operation


def _parameters(place: str, names: Sequence[str]) -> Iterable[Value]:
    for name in names:
        yield {
            "name": name,
            "in": place,
            "required": place == "path",
            "schema": {"type": "string"} | ({"minLength": 1} if place == "path" else {}),
        }


def _content(media_types: Iterable[str]) -> Value:
    return {name: {"schema": {"type": "object"}} if name == JSON else {} for name in media_types}


def _refusals() -> Value:
    return {
        status: {"description": description, "content": _content([JSON])}
        for status, description in _REFUSED.items()
    }
