"""The table of routes, and the way from a path to one of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxone.server.routes import ROUTES
from mlxone.server.table import Table

TABLE = Table(ROUTES)
PROMISED = {
    *("POST /chat/completions", "POST /completions", "GET /models", "GET /models/{id}", "POST /models/load"),
    *("POST /models/unload", "GET /health", "GET /stats", "GET /metrics", "GET /props", "POST /tokenize"),
    *("GET /adapters", "POST /adapters", "DELETE /adapters/{id}"),
    *("POST /detokenize", "GET /version", "GET /openapi.json"),
}


def found(method: str, path: str) -> tuple[str, str] | None:
    place = TABLE.find(path)
    route = place and place.route(method)
    return (route.path, place.argument) if route else None


def test_the_table_holds_what_was_promised():
    assert {f"{route.method} {route.path}" for route in ROUTES} == PROMISED


def test_only_health_is_open():
    assert [route.path for route in ROUTES if route.open] == ["/health"]


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.path)
@pytest.mark.parametrize("prefix", ["", "/v1"])
def test_every_route_is_there_with_and_without_the_prefix(route, prefix):
    path = prefix + route.path.replace("{id}", "some/model")
    place = TABLE.find(path)
    assert place.route(route.method) is route
    assert (place.route("HEAD") is route) == (route.method == "GET")


@pytest.mark.parametrize(
    ("method", "path", "to"),
    [
        ("GET", "/v1/models/org/name", ("/models/{id}", "org/name")),
        ("GET", "/models/org/name:4bit@main", ("/models/{id}", "org/name:4bit@main")),
        ("GET", "/v1/models//srv/models/one", ("/models/{id}", "/srv/models/one")),
        ("GET", "/v1/models/load", ("/models/{id}", "load")),  # a model may be called that
        ("HEAD", "/v1/models/unload", ("/models/{id}", "unload")),
        ("POST", "/v1/models/load", ("/models/load", "load")),
        ("POST", "/v1/models/load/more", None),
        ("GET", "/v1/models/", None),
        ("GET", "/v1/v1/models", None),
        ("GET", "/v1models", None),
        ("GET", "/v1", None),
        ("GET", "/", None),
        ("GET", "", None),
        ("GET", "/health/", None),
        ("GET", "/HEALTH", None),
        ("get", "/health", None),
    ],
)
def test_finding(method: str, path: str, to: tuple[str, str] | None):
    assert found(method, path) == to


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/v1/chat/completions", "OPTIONS, POST"),
        ("/v1/models", "GET, HEAD, OPTIONS"),
        ("/v1/models/load", "GET, HEAD, OPTIONS, POST"),
        ("/v1/models/x", "GET, HEAD, OPTIONS"),
        ("/v1/adapters", "GET, HEAD, OPTIONS, POST"),
        ("/v1/adapters/x", "DELETE, OPTIONS"),
    ],
)
def test_methods_of_a_path(path: str, methods: str):
    assert TABLE.find(path).methods == methods


@pytest.mark.parametrize(
    ("path", "near"),
    [
        ("/v1/chat/completion", "/v1/chat/completions"),
        ("/chat/completions/", "/v1/chat/completions"),
        ("/v1/model", "/v1/models"),
        ("/helth", "/v1/health"),
    ],
)
def test_an_unknown_path_hears_of_its_neighbours(path: str, near: str):
    error = TABLE.unknown(path)
    assert repr(path) in error.message and near in error.hint


def test_a_path_like_none_of_ours_hears_where_all_are():
    assert "/openapi.json" in TABLE.unknown("/wp-admin.php").hint


@given(st.text())
def test_any_path_is_found_or_is_unknown_in_one_short_line(path: str):
    place = TABLE.find(path)
    if place is None:
        message = str(TABLE.unknown(path * 1_000))
        assert len(message) < 1_500 and message.isprintable()
    else:
        assert place.path in {route.path for route in ROUTES}


def test_a_route_stands_there_once():
    with pytest.raises(AssertionError, match="twice"):
        Table([*ROUTES, ROUTES[0]])
