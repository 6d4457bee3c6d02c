"""Every request gets a response: what is said, what is logged, what is counted."""

from __future__ import annotations

import asyncio
import logging
import threading
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxone import __version__
from mlxone.core.errors import DamagedModel, MlxoneError
from mlxone.server.errors import TooLarge
from mlxone.server.guard import Guard
from mlxone.server.protocols import adapters, llamacpp, openai_chat, openai_completions, openai_models
from mlxone.server.routes import ROUTES
from tests.fakes import FakeContext, spoken
from tests.server.rig import CHAT, app, ask, ask_async, request, whole

PATH = "/v1/chat/completions"


# Routes that answer without a model's work


def test_health():
    answer = ask(app(), "GET", "/health")
    assert (answer.status, answer.json(), answer.headers) == (200, {"status": "ok"}, {})


def test_health_asks_nobody():
    class Mute:
        def __getattr__(self, name: str) -> Any:
            raise AssertionError(f"/health asked for {name}")

    server = app()
    server.shared.context = Mute()  # type: ignore[assignment]
    assert ask(server, "GET", "/v1/health").status == 200


@pytest.mark.parametrize(
    ("phase", "code", "status"),
    [("starting", "starting", 503), ("ok", None, 200), ("draining", "shutting_down", 503)],
)
def test_health_knows_the_phase(phase, code, status):
    server = app(guard=Guard(api_keys=["secret"]))
    server.enter(phase)
    answer = ask(server, "GET", "/health")
    assert answer.status == status
    if code:
        assert answer.error["code"] == code and answer.headers["retry-after"] == "1"


def test_version():
    assert ask(app(), "GET", "/version").json() == {"version": __version__}


def test_models():
    listed = ask(app(), "GET", "/v1/models").json()
    assert [model["id"] for model in listed["data"]] == ["org/fake"]
    assert ask(app(), "GET", "/v1/models/org/fake").json() == listed["data"][0]


def test_an_unknown_model_is_named_beside_those_there_are():
    answer = ask(app(), "GET", "/v1/models/org/other")
    assert (answer.status, answer.error["code"]) == (404, "model_not_found")
    assert "org/other" in answer.error["message"] and "org/fake" in answer.error["message"]


@pytest.mark.parametrize(("verb", "loaded"), [("load", True), ("unload", False)])
def test_managing_models(verb: str, loaded: bool):
    context = FakeContext()
    refused = ask(app(context), "POST", f"/v1/models/{verb}", {"model": "org/other"})
    assert (refused.status, refused.error["code"]) == (403, "not_permitted")
    context.may_manage = True
    answer = ask(app(context), "POST", f"/v1/models/{verb}", {"model": "org/other"}).json()
    assert (answer["id"], answer["loaded"]) == ("org/other", loaded)
    assert ask(app(context), "POST", f"/v1/models/{verb}", {"model": ""}).status == 400
    assert ask(app(context), "POST", f"/v1/models/{verb}", {}).error["param"] == "model"


def test_adapters():
    context = FakeContext()
    server = app(context)
    upper = {
        "id": "upper",
        "path": "upper",
        "rank": 8,
        "scale": 2.0,
        "size_bytes": 1_000,
        "mounted_layers": 14,
    }
    assert ask(server, "GET", "/v1/adapters").json() == {"adapters": [upper]}
    for method, path, body in (("POST", "", {"id": "b", "path": "b"}), ("DELETE", "/upper", b"")):
        refused = ask(server, method, f"/v1/adapters{path}", body)
        assert (refused.status, refused.error["code"]) == (403, "not_permitted")
    missing = ask(server, "DELETE", "/v1/adapters/c")
    assert (missing.status, missing.error["code"], missing.error["param"]) == (
        404,
        "adapter_not_found",
        "adapter",
    )
    context.may_manage = True
    mounted = ask(server, "POST", "/v1/adapters", {"id": "b", "path": "runs/b"}).json()
    assert mounted == {
        **upper,
        "id": "b",
        "path": "runs/b",
        "rank": 4,
        "scale": 0.5,
        "size_bytes": 10,
        "mounted_layers": 2,
    }
    assert ask(server, "DELETE", "/v1/adapters/upper").json() == {"id": "upper", "deleted": True}
    assert ask(server, "GET", "/v1/adapters").json() == {"adapters": [mounted]}


def test_among_several_models_an_adapter_says_whose_it_is():
    context = FakeContext()
    context.serves_several = context.may_manage = True
    server = app(context)
    assert ask(server, "GET", "/v1/adapters").json()["adapters"][0]["model"] == "org/fake"
    listed = ask(server, "GET", "/v1/adapters", query={"model": "org/b"}).json()["adapters"]
    assert [one["model"] for one in listed] == ["org/b"]
    assert (
        ask(server, "POST", "/adapters", {"id": "b", "path": "b", "model": "org/b"}).json()["model"]
        == "org/b"
    )


def test_tokens():
    server = app()
    assert ask(server, "POST", "/tokenize", {"content": "Hi"}).json() == {"tokens": [72, 105]}
    assert ask(
        server, "POST", "/tokenize", {"content": "H", "add_special": True, "with_pieces": True}
    ).json() == {"tokens": [{"id": 257, "piece": "<s>"}, {"id": 72, "piece": "H"}]}
    assert ask(server, "POST", "/v1/detokenize", {"tokens": [72, 105]}).json() == {"content": "Hi"}
    assert ask(server, "POST", "/detokenize", {"tokens": [9_999]}).status == 400


def test_props():
    assert ask(app(), "GET", "/props").json()["model_alias"] == "org/fake"
    assert ask(app(), "GET", "/props", query={"model": "b"}).json()["model_alias"] == "b"


def test_completions():
    answer = ask(app(FakeContext(spoken(" is"))), "POST", "/completions", {"prompt": "Paris"})
    assert answer.json()["choices"][0]["text"] == " is"


READERS: dict[str, tuple[Any, str, dict[str, Any]]] = {
    PATH: (openai_chat, "parse", {"messages": [{"role": "user", "content": "x"}]}),
    "/completions": (openai_completions, "parse", {"prompt": "x"}),
    "/tokenize": (llamacpp, "tokenize", {"content": "x"}),
    "/detokenize": (llamacpp, "detokenize", {"tokens": [1]}),
    "/adapters": (adapters, "mounting", {"id": "a", "path": "a"}),
    "/models/load": (openai_models, "named", {"model": "m"}),
    "/models/unload": (openai_models, "named", {"model": "m"}),
}


def test_every_route_with_a_body_has_its_reader():
    assert {path.removeprefix("/v1") for path in READERS} == {route.path for route in ROUTES if route.takes}


@pytest.mark.parametrize(("size", "beside"), [(10, False), (300_000, True)])
@pytest.mark.parametrize("path", READERS)
def test_a_long_body_is_read_beside_the_loop(path: str, size: int, beside: bool, monkeypatch):
    codec, name, body = READERS[path]
    readers: list[threading.Thread] = []

    def reading(body: bytes) -> Any:
        readers.append(threading.current_thread())
        return parse(body)

    parse = getattr(codec, name)
    monkeypatch.setattr(codec, name, reading)
    context = FakeContext(spoken("Hi"))
    context.may_manage = True
    assert ask(app(context), "POST", path, body | {"padding": "x" * size}).status == 200
    assert [reader is not threading.main_thread() for reader in readers] == [beside]


def test_a_long_body_that_is_wrong_is_refused_as_any():
    assert ask(app(), "POST", PATH, b"[" + b" " * 300_000).status == 400


def test_stats_and_metrics():
    async def run():
        server = app(FakeContext(spoken("Hi")))
        server.shared.counters.connections = lambda: 7
        await ask_async(server, "POST", PATH, CHAT)
        await ask_async(server, "GET", "/nowhere")
        await ask_async(server, "DELETE", "/v1/models/x")
        stats = await ask_async(server, "GET", "/stats")
        metrics = await ask_async(server, "GET", "/metrics")
        return stats.json(), metrics

    stats, metrics = asyncio.run(run())
    assert stats["server"]["model"] == "org/fake"
    assert metrics.media_type.startswith("text/plain")
    lines = metrics.body.decode().splitlines()
    for line in (
        'mlxone_http_requests_total{route="/chat/completions",status="200"} 1',
        'mlxone_http_requests_total{route="(unknown)",status="404"} 1',
        'mlxone_http_requests_total{route="/models/{id}",status="405"} 1',
        'mlxone_http_requests_total{route="/stats",status="200"} 1',
        "mlxone_http_requests_running 1",
        "mlxone_http_connections 7",
    ):
        assert line in lines
    names = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(names) == len(set(names))


# What is refused


def test_an_unknown_path():
    answer = ask(app(), "GET", "/v1/chat/completion")
    assert (answer.status, answer.error["code"]) == (404, "not_found")
    assert "/v1/chat/completions" in answer.error["message"]


def test_another_method():
    answer = ask(app(), "GET", PATH)
    assert (answer.status, answer.error["code"]) == (405, "method_not_allowed")
    assert answer.headers["allow"] == "OPTIONS, POST"


def test_head_is_answered_as_get():
    assert ask(app(), "HEAD", "/v1/models").status == 200
    assert ask(app(), "HEAD", PATH).status == 405


@pytest.mark.parametrize(
    ("content_type", "taken"),
    [
        ("application/json", True),
        ("Application/JSON; charset=UTF-8", True),
        ('application/json;charset="utf-8"', True),
        ("application/json;", True),
        ('application/json; charset=utf-8; profile="x"', True),
        ('application/json; profile="x" ; charset = "UTF-8"', True),
        ('application/json; profile="x"; charset=latin-1', False),
        ("", True),
        ("text/plain", False),
        ("text/plain;application/json", False),
        ("application/x-www-form-urlencoded", False),
        ("multipart/form-data; boundary=x", False),
        ("application/json; charset=utf-16", False),
        ("application/jsonx", False),
    ],
)
@pytest.mark.parametrize("path", [route.path for route in ROUTES if route.takes])
def test_only_json_is_read(content_type: str, taken: bool, path: str):
    context = FakeContext(spoken("Hi"))
    answer = ask(app(context), "POST", path, CHAT, {"content-type": content_type})
    assert (answer.status == 415) is not taken
    assert taken or context.asked == []


def test_a_page_of_another_origin_starts_no_work():
    context = FakeContext(spoken("Hi"))
    headers = {"origin": "https://evil.example", "content-type": "text/plain"}
    for more in ({}, {"content-type": "application/json"}, {"content-type": ""}):
        assert ask(app(context), "POST", PATH, CHAT, headers | more).status == 403
    assert context.asked == []


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_every_route_but_health_asks_for_the_key(route):
    context = FakeContext()
    context.may_manage = True
    context.mounting.cards["org/fake"] = context.mounting.cards["upper"]
    server = app(context, guard=Guard(api_keys=["secret"]))
    path = route.path.replace("{id}", "org/fake")
    answer = ask(server, route.method, path)
    if route.path == "/health":
        assert answer.status == 200
    else:
        assert (answer.status, answer.error["code"]) == (401, "unauthorized")
        assert answer.headers["www-authenticate"] == "Bearer"
    assert ask(server, route.method, path, headers={"x-api-key": "secret"}).status in (200, 400)


def test_without_a_key_nobody_learns_what_there_is():
    server = app(guard=Guard(api_keys=["secret"]))
    assert ask(server, "GET", "/nowhere").status == ask(server, "DELETE", "/v1/models").status == 401


def test_another_host_is_refused_everywhere():
    server = app(guard=Guard(checks_host=True))
    for path in ("/health", "/v1/models", "/nowhere"):
        assert ask(server, "GET", path, headers={"host": "evil.example"}).status == 403


def test_a_body_that_is_too_large_is_said_in_the_dialect():
    async def read() -> bytes:
        raise TooLarge("the body is larger than 32 MB")

    answer = asyncio.run(serve(app(), replace(request("POST", PATH, b"{}"), read=read)))
    assert (answer.status, answer.error["code"]) == (413, "too_large")


async def serve(server, asked):
    return await whole(await server(asked))


# Failures


@pytest.mark.parametrize(
    "error", [RuntimeError("/secret/place"), MlxoneError("/secret/place"), RecursionError()]
)
def test_what_fails_inside_is_a_plain_500_and_a_traceback_in_the_log(error, caplog):
    with caplog.at_level(logging.INFO, "mlxone"):
        answer = ask(app(FakeContext(refusal=error)), "POST", PATH, CHAT, id="req-77")
    assert (answer.status, answer.error["code"], answer.error["request_id"]) == (500, "internal", "req-77")
    assert "secret" not in answer.body.decode() and type(error).__name__ not in answer.body.decode()
    failed, line = caplog.records
    assert failed.levelno == logging.ERROR and failed.exc_info[1] is error
    assert "req-77" in failed.getMessage() and line.fields["id"] == "req-77"


def test_what_the_operator_has_to_mend_is_in_the_log(caplog):
    with caplog.at_level(logging.INFO, "mlxone"):
        answer = ask(app(FakeContext(refusal=DamagedModel("/srv/model is short"))), "POST", PATH, CHAT)
    assert answer.status == 500 and "/srv" not in answer.body.decode()
    assert caplog.records[0].levelno == logging.WARNING and "/srv/model" in caplog.records[0].getMessage()


def test_a_failure_leaves_the_server_as_it_was():
    async def run():
        context = FakeContext(spoken("Hi"), refusal=RuntimeError("once"))
        server = app(context)
        first = await ask_async(server, "POST", PATH, CHAT)
        context.refusal = None
        return first.status, (await ask_async(server, "POST", PATH, CHAT)).status, server.shared.counters

    first, second, counters = asyncio.run(run())
    assert (first, second) == (500, 200)
    assert counters.in_flight == 0 and counters.total == 2


# Phases


def test_who_comes_early_waits():
    async def run():
        server = app(FakeContext(spoken("Hi")), phase="starting")
        early = asyncio.create_task(ask_async(server, "POST", PATH, CHAT))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not early.done()
        quick = [(await ask_async(server, "GET", route.path)).status for route in ROUTES if route.quick]
        server.enter("ok")
        return (await early).status, set(quick)

    assert asyncio.run(run()) == (200, {200, 503})


def test_who_waited_for_nothing_is_told():
    async def run():
        server = app(phase="starting")
        early = asyncio.create_task(ask_async(server, "POST", PATH, CHAT))
        await asyncio.sleep(0)
        server.enter("draining")
        return await early

    answer = asyncio.run(run())
    assert (answer.status, answer.error["code"]) == (503, "shutting_down")
    assert answer.headers["retry-after"] == "1"


# Any request

HEADERS = st.dictionaries(
    st.sampled_from(
        ["host", "origin", "content-type", "authorization", "x-api-key", "access-control-request-method"]
    ),
    st.one_of(
        st.sampled_from(
            ["localhost", "http://localhost:3000", "application/json", "POST", "Bearer secret", "secret"]
        ),
        st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=30),
    ),
)
PATHS = st.one_of(
    st.sampled_from([prefix + route.path for route in ROUTES for prefix in ("", "/v1")]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=30).map(lambda text: "/" + text),
)
METHODS = st.one_of(
    st.sampled_from(["GET", "POST", "HEAD", "OPTIONS", "PUT"]), st.from_regex(r"[A-Z]{1,30}", fullmatch=True)
)
BODIES = st.one_of(
    st.binary(max_size=60),
    st.sampled_from(
        [CHAT, CHAT | {"stream": True}, {"prompt": "x"}, {"content": "x"}, {"tokens": [1]}, {"model": "m"}]
    ),
)


@given(METHODS, PATHS, HEADERS, BODIES, st.sampled_from(["", "secret"]))
def test_any_request_gets_a_response_with_a_valid_body(method, path, headers, body, key):
    guard = Guard(api_keys=[key] if key else [], checks_host=True)
    server = app(FakeContext(spoken("Hi")), guard=guard)
    answer = ask(server, method, path, body, headers, id="req-9")
    assert answer.status in {200, 204, 400, 401, 403, 404, 405, 415}
    if answer.status >= 400:
        assert answer.media_type == "application/json"
        assert answer.error["request_id"] == "req-9"
        assert answer.error["message"] and answer.error["message"].isprintable()
    elif answer.media_type == "application/json" and answer.status != 204:
        answer.json()
    assert ("allow" in answer.headers) is (
        answer.status == 405 or method == "OPTIONS" and answer.status == 204
    )
    assert server.shared.counters.total == 1 and server.shared.counters.in_flight == 0
