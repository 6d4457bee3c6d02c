"""The official client against the codecs: its requests are parsed, and it reads what is answered."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import openai
import pytest

from mlxone.core.errors import ContextOverflow, MlxoneError, ModelNotFound, Overloaded, TimedOut, UsageError
from mlxone.core.words import Progress
from mlxone.server.protocols import openai_chat, openai_completions, openai_models
from mlxone.server.protocols.openai_answers import TextCall
from mlxone.server.protocols.openai_errors import error_body
from mlxone.service.figures import ModelCard
from tests.server.protocols.calls import ABOUT, HELLO, Numbered, likely, says

CARDS = {card.id: card for card in (ModelCard("org/a", 1, 4096, 10, True), ModelCard("b", 2, problem="no"))}
PARSERS: dict[str, Callable[[bytes], TextCall]] = {
    "/v1/chat/completions": openai_chat.parse,
    "/v1/completions": openai_completions.parse,
}


@contextmanager
def client(
    events: Iterable[Numbered] = (), fails: MlxoneError | None = None
) -> Iterator[tuple[Any, list[TextCall]]]:
    """A client that talks to a server of codecs alone: whatever is asked, these events answer it."""
    seen: list[TextCall] = []

    def serve(request: httpx2.Request) -> httpx2.Response:
        path = request.url.path
        if path == "/v1/models":
            return httpx2.Response(200, content=openai_models.listing(CARDS.values()))
        if path.startswith("/v1/models/"):
            return httpx2.Response(200, content=openai_models.one(CARDS[path.removeprefix("/v1/models/")]))
        try:
            call = PARSERS[path](request.read())
            seen.append(call)
            if fails is not None and not call.streams:
                raise fails
        except MlxoneError as e:
            return httpx2.Response(e.status, content=error_body(e, ABOUT.id))
        if call.streams:
            media = call.streaming(ABOUT).media_type
            return httpx2.Response(200, headers={"content-type": media}, content=said(call, events, fails))
        collecting = call.collecting(ABOUT)
        for each in events:
            collecting.event(*each)
        return httpx2.Response(200, content=collecting.body())

    http = openai.DefaultHttpxClient(transport=httpx2.MockTransport(serve))
    with openai.OpenAI(api_key="k", base_url="http://127.0.0.1/v1", http_client=http, max_retries=0) as peer:
        yield peer, seen


def said(call: TextCall, events: Iterable[Numbered], fails: MlxoneError | None) -> bytes:
    """With comments between all events, as a slow server sends them."""
    streaming = call.streaming(ABOUT)
    pieces = [streaming.begin()]
    for each in events:
        pieces += [streaming.keep_alive(), streaming.event(*each)]
    pieces.append(streaming.end() if fails is None else streaming.fail(fails))
    return b"".join(pieces)


def test_a_chat_and_its_usage():
    with client(says("Hi", "!", cached=2)) as (peer, _):
        answer = peer.chat.completions.create(model="m", messages=HELLO)
    assert answer.choices[0].message.content == "Hi!"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.prompt_tokens_details.cached_tokens == 2
    assert answer.usage.total_tokens == 7


def test_a_streamed_chat_of_two_choices():
    events: list[Numbered] = [
        (0, Progress(1, 2)),
        *says("a", "b"),
        *says("c", "d", choice=1, reason="length"),
    ]
    with client(events) as (peer, seen):
        chunks = list(
            peer.chat.completions.create(
                model="m", messages=HELLO, n=2, stream=True, stream_options={"include_usage": True}
            )
        )
    assert seen[0].streams and seen[0].asked.choices == 2
    texts = {0: "", 1: ""}
    for chunk in chunks[:-1]:
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == {0: "ab", 1: "cd"}
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 4


def test_the_clients_own_collecting_of_a_stream():
    """`stream()` joins the chunks itself: text, log-probabilities, reasons and usage."""
    events: list[Numbered] = [
        (0, likely(1, "a")),
        (0, likely(2, "", piece="?")),
        (0, likely(3, "b")),
        says()[0],
    ]
    with (
        client(events) as (peer, _),
        peer.chat.completions.stream(
            model="m", messages=HELLO, logprobs=True, stream_options={"include_usage": True}
        ) as stream,
    ):
        whole = stream.get_final_completion()
    assert whole.choices[0].message.content == "ab"
    assert [entry.token for entry in whole.choices[0].logprobs.content] == ["a", "?", "b"]
    assert whole.choices[0].finish_reason == "stop"
    assert whole.usage.prompt_tokens == 5


def test_the_older_route_streamed_and_whole():
    with client(says("a", "b")) as (peer, seen):
        whole = peer.completions.create(model="m", prompt="x", logprobs=1, extra_body={"top_k": 3})
        chunks = list(peer.completions.create(model="m", prompt="x", stream=True))
    assert whole.choices[0].text == "".join(chunk.choices[0].text for chunk in chunks) == "ab"
    assert whole.choices[0].logprobs.text_offset == [0, 1]
    assert seen[0].asked.requests[0].wishes == {"top_k": 3}


def test_models():
    with client() as (peer, _):
        assert [model.id for model in peer.models.list()] == ["org/a", "b"]
        assert peer.models.retrieve("b").owned_by == "local"


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (UsageError("temperature must be …", param="temperature"), openai.BadRequestError),
        (ContextOverflow("too long", details={"prompt_tokens": 9}), openai.BadRequestError),
        (ModelNotFound("no such model"), openai.NotFoundError),
        (Overloaded("busy"), openai.RateLimitError),
        (MlxoneError("bug"), openai.InternalServerError),
    ],
)
def test_errors_become_the_clients_own(error: MlxoneError, raised: type[openai.APIStatusError]):
    with client(fails=error) as (peer, _), pytest.raises(raised) as caught:
        peer.chat.completions.create(model="m", messages=HELLO)
    assert caught.value.code == error.code
    assert caught.value.param == error.param


def test_a_wrong_field_comes_back_with_its_path():
    with client() as (peer, _), pytest.raises(openai.BadRequestError) as caught:
        peer.chat.completions.create(model="m", messages=[{"role": "user", "content": 3}])
    assert caught.value.param == "messages[0].content"


def test_a_failure_amid_a_stream_is_raised_after_what_was_said():
    with client(says("a", "b")[:1], TimedOut("no new token")) as (peer, _):
        stream = peer.chat.completions.create(model="m", messages=HELLO, stream=True)
        heard: list[Any] = []
        with pytest.raises(openai.APIError, match="no new token"):
            heard.extend(chunk.choices[0].delta.content for chunk in stream)
    assert json.dumps(heard) == '["", "a"]'
