"""What is written down of a request, and what never is."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest

from mlxone.core.words import Stats
from mlxone.server.counters import Counters
from mlxone.server.exchange import Exchange, Spent
from mlxone.server.guard import Guard
from tests.fakes import FakeContext, spoken
from tests.server.rig import CHAT, app, ask, request, stream

PATH = "/v1/chat/completions"


def lines(
    caplog, *args: Any, level: int = logging.INFO, server: Any = None, **more: Any
) -> list[dict[str, Any]]:
    with caplog.at_level(level, "mlxone"):
        ask(server or app(FakeContext(spoken("Hello"))), *args, **more)
    return [record.fields for record in caplog.records if hasattr(record, "fields")]


@pytest.mark.parametrize("streams", [False, True])
def test_one_line_for_an_answer(streams: bool, caplog):
    (fields,) = lines(caplog, "POST", PATH, CHAT | {"stream": streams})
    assert fields.pop("ms") >= 0
    assert fields == {
        "id": "req-1",
        "peer": "127.0.0.1",
        "method": "POST",
        "path": PATH,
        "status": 200,
        "prompt_tokens": 5,
        "cached_tokens": 0,
        "generated_tokens": 5,
        "tokens_per_second": 100.0,
    }
    assert caplog.records[-1].levelno == logging.INFO
    said = caplog.records[-1].getMessage()
    assert (
        said.startswith(f"req-1 POST {PATH} 200 ") and "5 prompt (0 cached), 5 generated, 100.0 tok/s" in said
    )


@pytest.mark.parametrize("streams", [False, True])
def test_choices_share_a_prompt_and_add_their_tokens(streams: bool, caplog):
    two = app(FakeContext([*spoken("Hello", choice=1), *spoken("You", choice=0)]))
    (fields,) = lines(caplog, "POST", PATH, CHAT | {"n": 2, "stream": streams}, server=two)
    assert (fields["prompt_tokens"], fields["generated_tokens"]) == (5, 8)


@pytest.mark.parametrize("streams", [False, True])
def test_each_prompt_is_counted_once(streams: bool, caplog):
    script = [step for choice in range(4) for step in spoken("Hi", choice=choice)]
    asked = {"prompt": ["a", "b"], "n": 2, "stream": streams}
    (fields,) = lines(caplog, "POST", "/completions", asked, server=app(FakeContext(script)))
    assert (fields["prompt_tokens"], fields["generated_tokens"]) == (10, 8)


def test_a_second_end_changes_nothing(caplog):
    async def run() -> Counters:
        server = app(FakeContext(spoken("Hi")))
        body = await stream(server, "POST", PATH, CHAT | {"stream": True})
        assert [piece async for piece in body]
        await body.aclose()
        await body.aclose()
        return server.shared.counters

    with caplog.at_level(logging.INFO, "mlxone"):
        counters = asyncio.run(run())
    assert (counters.total, counters.in_flight) == (1, 0)
    assert len([record for record in caplog.records if hasattr(record, "fields")]) == 1


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", PATH, CHAT),
        ("POST", "/completions", {"prompt": "x"}),
        ("POST", "/tokenize", {"content": "x"}),
        ("POST", "/detokenize", {"tokens": [1]}),
        ("POST", "/models/load", {"model": "m"}),
        ("POST", "/models/unload", {"model": "m"}),
    ],
)
def test_what_means_nothing_is_named_in_the_debug_log(method: str, path: str, body: dict[str, Any], caplog):
    lines(caplog, method, path, body | {"frobnicate": 1}, level=logging.DEBUG)
    assert any("req-1 gave frobnicate" in record.getMessage() for record in caplog.records)


def test_so_is_what_means_nothing_in_a_query(caplog):
    lines(caplog, "GET", "/props", query={"modle": "SECRET", "model": "m"}, level=logging.DEBUG)
    said = [record.getMessage() for record in caplog.records if " gave " in record.getMessage()]
    assert said == ["req-1 gave ?modle, which means nothing here"]


@pytest.mark.parametrize(("level", "most"), [(logging.INFO, 0), (logging.DEBUG, 50)])
def test_how_much_of_it_is_named(level: int, most: int, caplog):
    given = iter(map(str, range(1_000)))
    with caplog.at_level(level, "mlxone"):
        Exchange(request("GET", "/"), app().shared).ignores(given)
    assert len(caplog.records) == most and next(given) == str(most)


def test_a_refusal_is_a_line_with_its_code(caplog):
    (fields,) = lines(caplog, "POST", PATH, {"messages": []})
    assert (fields["status"], fields["error"]) == (400, "usage")
    assert "prompt_tokens" not in fields


def test_probes_are_logged_at_debug_only(caplog):
    assert lines(caplog, "GET", "/health") == []
    assert len(lines(caplog, "GET", "/health", level=logging.DEBUG)) == 1


def test_a_path_cannot_write_lines_of_its_own(caplog):
    lines(caplog, "GET", "/a\nreq-2 GET /b 200 \x1b[2J\u2028" + "c" * 5_000)
    said = caplog.records[-1].getMessage()
    assert said.isprintable() and len(said) < 400


@pytest.mark.parametrize("level", [logging.INFO, logging.DEBUG])
@pytest.mark.parametrize(
    "body", [CHAT, {"messages": "PROMPT"}, b'{"messages": PROMPT}', {"prompt": "PROMPT"}]
)
def test_keys_and_prompts_are_never_logged(level: int, body: Any, caplog):
    if body is CHAT:
        body = {"messages": [{"role": "user", "content": "PROMPT"}]}
    keyed = app(FakeContext(spoken("ANSWER")), guard=Guard(api_keys=["KEY-ONE", "KEY-TWO"]))
    with caplog.at_level(level, "mlxone"):
        for headers in ({"x-api-key": "KEY-ONE"}, {"authorization": "Bearer WRONG-KEY"}):
            for streams in (False, True):
                said = body if isinstance(body, bytes) else body | {"stream": streams}
                ask(keyed, "POST", PATH, said, headers, query={"api_key": "KEY-TWO"})
    assert caplog.records
    for record in caplog.records:
        text = record.getMessage() + json.dumps(getattr(record, "fields", {})) + str(record.exc_info)
        assert not any(word in text for word in ("PROMPT", "ANSWER", "KEY"))


def test_what_was_spent_is_summed():
    spent = Spent()
    spent.add(Stats(prompt_tokens=3, cached_tokens=1, generated_tokens=10, decode_ms=100.0))
    spent.add(Stats(prompt_tokens=3, cached_tokens=3, generated_tokens=30, decode_ms=300.0))
    assert spent.fields() == {
        "prompt_tokens": 6,
        "cached_tokens": 4,
        "generated_tokens": 40,
        "tokens_per_second": 100.0,
    }
