from __future__ import annotations

from typing import Any

import pytest

from mlxone.server.guard import Guard
from tests.fakes import FakeContext, spoken
from tests.server.rig import CHAT, Answer, app, ask

PAGE = "http://localhost:3000"
CHAT_PATH = "/v1/chat/completions"
ASKING = {"origin": PAGE, "access-control-request-method": "POST"}


def preflight(headers: dict[str, str], path: str = CHAT_PATH, **guard: Any) -> Answer:
    return ask(app(guard=Guard(**guard)), "OPTIONS", path, headers=headers)


def test_a_preflight_says_what_may_be_sent():
    wanted = {"access-control-request-headers": "authorization, content-type, x-stainless-os"}
    answer = preflight(ASKING | wanted, api_keys=["secret"])
    assert answer.status == 204 and answer.body == b""
    assert answer.headers == {
        "allow": "OPTIONS, POST",
        "access-control-allow-origin": PAGE,
        "access-control-expose-headers": "retry-after, x-request-id",
        "access-control-allow-methods": "OPTIONS, POST",
        "access-control-allow-headers": "authorization, content-type, x-stainless-os",
        "access-control-max-age": "600",
        "vary": "origin",
    }


def test_a_page_of_the_network_may_be_let_onto_loopback():
    private = {"access-control-request-private-network": "true"}
    assert preflight(ASKING | private).headers["access-control-allow-private-network"] == "true"
    assert "access-control-allow-private-network" not in preflight(ASKING).headers


def test_a_preflight_of_a_stranger_is_refused_without_a_word_of_cors():
    answer = preflight(ASKING | {"origin": "https://evil.example"})
    assert answer.status == 403
    assert [name for name in answer.headers if name.startswith("access-control")] == []


def test_plain_options_tell_the_methods():
    assert preflight({}).headers == {"allow": "OPTIONS, POST"}
    assert preflight({}, "/v1/models").headers == {"allow": "GET, HEAD, OPTIONS"}
    assert preflight({}, "*").headers == {"allow": "DELETE, GET, HEAD, OPTIONS, POST"}
    assert preflight({}, "/nowhere").status == 404


def test_options_of_a_page_are_no_preflight_by_themselves():
    answer = preflight({"origin": PAGE})
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert "access-control-allow-methods" not in answer.headers


def test_any_origin_is_a_star_and_does_not_vary():
    answer = preflight(ASKING | {"origin": "https://any.example"}, origins=["*"])
    assert answer.headers["access-control-allow-origin"] == "*" and "vary" not in answer.headers


@pytest.mark.parametrize("streams", [False, True])
def test_answers_may_be_read_by_the_page(streams: bool):
    answer = ask(
        app(FakeContext(spoken("Hi"))), "POST", CHAT_PATH, CHAT | {"stream": streams}, {"origin": PAGE}
    )
    assert answer.status == 200
    assert answer.headers["access-control-allow-origin"] == PAGE and answer.headers["vary"] == "origin"
    assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("DELETE", "/v1/models", 405),
        ("POST", CHAT_PATH, 400),
        ("GET", "/v1/models", 401),
    ],
)
def test_so_may_errors(method: str, path: str, status: int):
    keyed = Guard(api_keys=["secret"])
    headers = {"origin": PAGE} | ({} if status == 401 else {"x-api-key": "secret"})
    answer = ask(app(guard=keyed), method, path, b"{}" if method == "POST" else b"", headers)
    assert answer.status == status and answer.headers["access-control-allow-origin"] == PAGE


def test_without_a_page_there_is_nothing_to_say():
    assert ask(app(), "GET", "/health").headers == {}
