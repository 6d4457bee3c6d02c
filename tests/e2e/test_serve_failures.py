"""The engine fails inside a step: that answer ends with a 500 or an error event, and the others go on."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.e2e.serving import (
    CHAT,
    PATIENCE,
    Here,
    Theatre,
    chat,
    read_answer,
    recited,
    request_bytes,
    serve,
    until,
)
from tests.service.rig import TOKENIZER

SECRET = "no tensor at /srv/somebody/models"


@pytest.fixture
def theatre(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Theatre]:
    made = Theatre(tmp_path, monkeypatch)
    yield made
    made.go()


@pytest.fixture
def server(theatre: Theatre) -> Iterator[Here]:
    with serve(theatre.model) as running:
        yield running


def says_nothing_internal(body: bytes) -> None:
    for word in (b"Traceback", b"somebody", b"RuntimeError", b".py", b"tensor"):
        assert word not in body


@pytest.mark.parametrize("error", [RuntimeError(SECRET), ValueError(SECRET), AssertionError(SECRET)])
def test_a_whole_answer_becomes_a_500(theatre: Theatre, server: Here, error: Exception, caplog):
    theatre.failing.append(error)
    with caplog.at_level(logging.ERROR, "mlxone"):
        answer = server.chat("Hello")
    assert (answer.status, answer.error["type"], answer.error["code"]) == (500, "server_error", "internal")
    says_nothing_internal(answer.body)
    # The operator finds all of it under the request's id.
    [record] = [r for r in caplog.records if answer.error["request_id"] in r.getMessage()]
    assert record.exc_info is not None and SECRET in caplog.text
    assert answer.headers["x-request-id"] == answer.error["request_id"]
    server.until_idle()
    assert server.chat("Hello").text == recited("Hello", 4)
    assert server.stats()["totals"]["failed"] == 1


def test_not_enough_memory_inside_a_step_is_said(theatre: Theatre, server: Here):
    theatre.failing.append(RuntimeError("[metal::malloc] Attempting to allocate 99 bytes"))
    answer = server.chat("Hello")
    assert (answer.status, answer.error["code"]) == (507, "memory")
    assert server.chat("Hello").text == recited("Hello", 4)


def test_a_stream_that_has_begun_ends_with_the_error(theatre: Theatre, server: Here):
    theatre.hold()
    sock = server.connect()
    sock.sendall(request_bytes("POST", CHAT, chat("Hello", stream=True, max_tokens=50)))
    assert theatre.at_work.wait(PATIENCE)
    theatre.failing.append(RuntimeError(SECRET))
    theatre.go()
    answer = read_answer(sock)
    sock.close()
    assert answer.status == 200
    *_, last = answer.events
    assert last["error"]["type"] == "server_error"
    says_nothing_internal(answer.body)
    server.until_idle()
    assert server.chat("Hello").text == recited("Hello", 4)


@pytest.mark.parametrize("streams", [False, True])
def test_the_official_client_hears_of_it(theatre: Theatre, server: Here, streams: bool):
    theatre.failing.append(RuntimeError(SECRET))
    asked: Any = chat("Hello") | {"model": "scripted", "stream": streams}
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        with pytest.raises(openai.APIError) as caught:
            list(client.chat.completions.create(**asked))
        # Of a stream the head came before the failure, so that it has no status.
        assert isinstance(caught.value, openai.InternalServerError) is not streams
        assert caught.value.code == "internal" and SECRET not in str(caught.value)
        assert client.chat.completions.create(**(asked | {"stream": False})).choices


@pytest.mark.parametrize("streams", [False, True])
def test_an_answer_that_gets_nowhere_is_ended(theatre: Theatre, streams: bool):
    """The step it is in cannot be ended; who waits for it is told, and it goes no further."""
    with serve(theatre.model, timeout=0.3) as server:
        theatre.hold()
        answer = server.chat("Hello", stream=streams, max_tokens=1_000)
        said = answer.events[-1]["error"] if streams else answer.error
        assert (answer.status, said["code"]) == (200 if streams else 504, "timeout")
        theatre.go()
        server.until_idle()
        assert server.chat("Hello").text == recited("Hello", 4)
        assert theatre.passes < 20


def test_those_in_the_queue_are_answered(theatre: Theatre, server: Here):
    """One fails in its prompt; of the others' answers not a letter is missing."""
    theatre.hold()
    socks = []
    for number in range(6):
        socks.append(server.connect())
        socks[-1].sendall(request_bytes("POST", CHAT, chat(f"Question {number}")))
        if not number:
            assert theatre.at_work.wait(PATIENCE)
    theatre.failing.append(RuntimeError(SECRET))
    theatre.go()
    answers = [read_answer(sock) for sock in socks]
    assert [answer.status for answer in answers] == [500, *[200] * 5]
    assert [answer.text for answer in answers[1:]] == [recited(f"Question {n}", 4) for n in range(1, 6)]
    for sock in socks:
        sock.close()
    server.until_idle()


def test_what_a_broken_pass_left_is_not_kept(theatre: Theatre, server: Here):
    """Of an answer that fails half-way the prompt may be remembered, and nothing behind it."""
    sock = server.connect()
    body = chat("Hello", stream=True, max_tokens=8_000)
    sock.sendall(request_bytes("POST", CHAT, body, {"connection": "close"}))
    assert sock.recv(1)
    until(lambda: theatre.passes > 50, "the middle of the answer")
    theatre.failing.append(RuntimeError(SECRET))
    while sock.recv(65_536):
        pass
    sock.close()
    prompt = "<s>user: Hello\nassistant:"
    asked = {"prompt": prompt + recited("Hello", 30), "max_tokens": 4, "temperature": 0}
    again = server.ask("POST", "/v1/completions", asked).json
    read = len(TOKENIZER.encode_rendered(prompt))
    assert 0 < again["usage"]["prompt_tokens_details"]["cached_tokens"] <= read
    assert again["choices"][0]["text"] == recited("Hello", 34)[30:]
