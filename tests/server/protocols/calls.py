"""Requests and event streams in a few words, for the tests of OpenAI's codecs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from mlxone.core.errors import UsageError
from mlxone.core.words import Event, Finished, FinishReason, Stats, Token, TopLogprob
from mlxone.server.protocols import openai_chat, openai_completions
from mlxone.server.protocols.dialect import About
from mlxone.server.protocols.openai_answers import TextCall

ABOUT = About(id="7f", created=1_700_000_000, model="org/tiny", version="1.2.3")
HELLO: list[Any] = [{"role": "user", "content": "hello"}]

Numbered = tuple[int, Event]


def chat(**fields: Any) -> TextCall:
    return openai_chat.parse(json.dumps({"messages": HELLO, **fields}).encode())


def completion(**fields: Any) -> TextCall:
    return openai_completions.parse(json.dumps({"prompt": "hello", **fields}).encode())


def refusal(parse: Any, **fields: Any) -> UsageError:
    """The complaint about a request; one that is taken fails the test."""
    try:
        call = parse(**fields)
    except UsageError as e:
        assert e.status == 400
        assert "\n" not in e.message
        return e
    raise AssertionError(f"taken: {call.asked}")


def says(*texts: str, choice: int = 0, **stats: Any) -> list[Numbered]:
    """A whole answer: its tokens, then Finished."""
    tokens: list[Numbered] = [(choice, Token(i, i, text)) for i, text in enumerate(texts)]
    return [*tokens, (choice, done(generated=len(texts), **stats))]


def done(reason: FinishReason = "stop", *, prompt: int = 5, cached: int = 0, generated: int = 1) -> Finished:
    return Finished(
        Stats(prompt_tokens=prompt, cached_tokens=cached, generated_tokens=generated, finish_reason=reason)
    )


def likely(id: int, text: str, *, piece: str | None = None, top: Iterable[TopLogprob] = ()) -> Token:
    return Token(id, id, text, -0.5, tuple(top), text if piece is None else piece)


def streamed(call: TextCall, events: Iterable[Numbered]) -> bytes:
    streaming = call.streaming(ABOUT)
    return streaming.begin() + b"".join(streaming.event(*each) for each in events) + streaming.end()


def collected(call: TextCall, events: Iterable[Numbered]) -> dict[str, Any]:
    collecting = call.collecting(ABOUT)
    for choice, event in events:
        collecting.event(choice, event)
    return json.loads(collecting.body())


def frames(stream: bytes) -> list[Any]:
    """The data of each server-sent event, read as JSON; comments are passed over."""
    assert stream.endswith(b"\n\n")
    blocks = [block for block in stream[:-2].split(b"\n\n") if not block.startswith(b":")]
    assert all(block.startswith(b"data: ") and b"\n" not in block for block in blocks)
    data = [block.removeprefix(b"data: ") for block in blocks]
    return [each.decode() if each == b"[DONE]" else json.loads(each) for each in data]
