"""The OpenAPI document of a table of routes and the codecs' own wire types: it cannot say anything else.

Errors and small answers are described in full, the others by media type only: what they hold is each
dialect's own.
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
Schemas = dict[type[msgspec.Struct] | None, Value]

_REFUSED = {"4XX": "The request cannot be honoured.", "5XX": "The server cannot answer, now or at all."}
_IN_PATH = re.compile(r"{(\w+)}")
_KEYS: Value = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}


@lru_cache(maxsize=4)
def document(routes: tuple[Route, ...]) -> bytes:
    named = {kind for route in routes for kind in (route.takes, route.answer, route.fails) if kind}
    structs = sorted(named, key=lambda kind: kind.__name__)
    found, components = msgspec.json.schema_components(structs, ref_template="#/components/schemas/{name}")
    schemas: Schemas = dict(zip(structs, found, strict=True))
    paths: Value = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas)
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {"title": "mlxone", "version": __version__, "license": {"name": "MIT"}},
            "servers": [{"url": V1}, {"url": "/", "description": "The same without the prefix."}],
            "security": [{}, *({name: []} for name in _KEYS)],  # a server may ask for a key
            "paths": paths,
            "components": {"schemas": components, "securitySchemes": _KEYS},
        }
    )


def _operation(route: Route, schemas: Schemas) -> Value:
    operation: Value = {
        "operationId": "_".join([route.method.lower(), *re.findall(r"\w+", route.path)]),
        "summary": route.summary,
        "responses": {
            "200": _response("The answer.", route.gives, schemas.get(route.answer)),
            **{status: _response(why, (JSON,), schemas[route.fails]) for status, why in _REFUSED.items()},
        },
    }
    if parameters := [*_parameters("path", _IN_PATH.findall(route.path)), *_parameters("query", route.asks)]:
        operation["parameters"] = parameters
    if route.takes is not None:
        operation["requestBody"] = {"required": True, "content": {JSON: {"schema": schemas[route.takes]}}}
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


def _response(description: str, media_types: Iterable[str], schema: Value | None) -> Value:
    schema = schema or {"type": "object"}
    content = {name: {"schema": schema} if name == JSON else {} for name in media_types}
    return {"description": description, "content": content}
