"""The document against the routes, and against who reads such documents."""

from __future__ import annotations

import json
from typing import Any

import jsonschema_rs
import msgspec
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlxone.server.openapi import document
from mlxone.server.routes import ROUTES
from tests.fakes import FakeContext, spoken
from tests.server.rig import app, ask

DOCUMENT = json.loads(document(ROUTES))
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)


def operations() -> dict[tuple[str, str], Any]:
    return {
        (method.upper(), path): operation
        for path, methods in DOCUMENT["paths"].items()
        for method, operation in methods.items()
    }


def test_it_is_served():
    assert ask(app(), "GET", "/openapi.json").json() == DOCUMENT
    assert ask(app(), "GET", "/v1/openapi.json").json() == DOCUMENT


def test_it_has_exactly_the_routes():
    assert set(operations()) == {(route.method, route.path) for route in ROUTES}


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_an_operation_says_what_its_route_does(route):
    operation = operations()[route.method, route.path]
    assert operation["summary"] == route.summary
    assert set(operation["responses"]["200"]["content"]) == set(route.gives)
    assert ("requestBody" in operation) is (route.takes is not None)
    assert (operation.get("security") == []) is route.open
    if route.takes is not None:
        name = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        fields = {field.encode_name for field in msgspec.structs.fields(route.takes)}
        assert set(DOCUMENT["components"]["schemas"][name]["properties"]) == fields


def test_parameters():
    said = {
        f"{method} {path}": [(p["name"], p["in"], p["required"]) for p in o.get("parameters", ())]
        for (method, path), o in operations().items()
    }
    assert {path: parameters for path, parameters in said.items() if parameters} == {
        "GET /adapters": [("model", "query", False)],
        "DELETE /adapters/{id}": [("id", "path", True), ("model", "query", False)],
        "GET /models/{id}": [("id", "path", True)],
        "GET /props": [("model", "query", False)],
    }


def test_ids_of_operations_are_different():
    ids = [operation["operationId"] for operation in operations().values()]
    assert len(ids) == len(set(ids))


def test_every_reference_leads_somewhere():
    def references(value: Any) -> set[str]:
        if isinstance(value, dict):
            own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
            return own.union(*map(references, value.values()))
        return set().union(*map(references, value)) if isinstance(value, list) else set()

    found = references(DOCUMENT)
    assert len(found) > 5
    for reference in found:
        place: Any = DOCUMENT
        for name in reference.removeprefix("#/").split("/"):
            place = place[name]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/health", b""),
        ("GET", "/version", b""),
        ("POST", "/tokenize", {"content": "Hi"}),
        ("POST", "/tokenize", {"content": "Hi", "with_pieces": True}),
        ("POST", "/detokenize", {"tokens": [72]}),
        ("POST", "/detokenize", {"tokens": "Hi"}),
        ("GET", "/adapters", b""),
        ("POST", "/adapters", {"id": "a", "path": "a"}),
        ("POST", "/chat/completions", {}),
    ],
)
def test_a_small_answer_and_an_error_are_described_in_full(method: str, path: str, body: Any):
    context = FakeContext()
    context.may_manage = True
    answer = ask(app(context), method, path, body)
    said = operations()[method, path]["responses"]["200" if answer.status == 200 else "4XX"]
    reference = said["content"]["application/json"]["schema"]
    schema = {**reference, "components": DOCUMENT["components"]}
    jsonschema_rs.validate(schema, answer.json())
    with pytest.raises(jsonschema_rs.ValidationError):
        jsonschema_rs.validate(schema, {})


def read_by_schemathesis() -> list[Any]:
    found: list[Any] = list(SCHEMA.get_all_operations())
    return [each.ok() for each in found]


def test_its_readers_find_every_operation():
    found = {(each.method.upper(), each.path) for each in read_by_schemathesis()}
    assert found == set(operations())


@settings(suppress_health_check=list(HealthCheck), max_examples=150)
@given(st.data())
def test_requests_made_from_it_are_answered_as_it_says(data):
    operation = data.draw(st.sampled_from(read_by_schemathesis()))
    case = data.draw(operation.as_strategy())
    body = b"" if isinstance(case.body, schemathesis.core.NotSet) else json.dumps(case.body).encode()
    path = operation.path.replace("{id}", str((case.path_parameters or {}).get("id", "")))
    query = {name: str(value) for name, value in (case.query or {}).items()}
    answer = ask(app(FakeContext(spoken("Hi"))), case.method, path, body, query=query)
    assert answer.status < 500
    said = operations()[case.method.upper(), operation.path]["responses"]
    if answer.status == 200:
        assert answer.media_type.partition(";")[0] in {
            kind.partition(";")[0] for kind in said["200"]["content"]
        }
    else:
        assert 400 <= answer.status < 500 and answer.error["message"]
