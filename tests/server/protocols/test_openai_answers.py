"""Events to bytes: golden answers of both routes, and what the official types say of them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from mlxone.core.errors import TimedOut
from mlxone.core.words import Failed, Progress, Token, TopLogprob
from mlxone.server.protocols.openai_answers import TextCall
from tests.server.protocols.calls import (
    ABOUT,
    Numbered,
    chat,
    collected,
    completion,
    done,
    frames,
    likely,
    says,
    streamed,
)

HEAD = (
    b'data: {"id":"chatcmpl-7f","object":"chat.completion.chunk","created":1700000000,"model":"org/tiny",'
    b'"system_fingerprint":"mlxone-1.2.3","choices":['
)
LEGACY_HEAD = HEAD.replace(b"chatcmpl-", b"cmpl-").replace(b"chat.completion.chunk", b"text_completion")
NOT_YET = b'"logprobs":null,"finish_reason":null}'


def test_a_streamed_chat_byte_by_byte():
    events: list[Numbered] = [(0, Progress(2, 5)), *says('Hi "', "", "\N{GRINNING FACE}\n", cached=3)]
    assert streamed(chat(stream=True), events) == b"".join(
        [
            HEAD
            + b'{"index":0,"delta":{"role":"assistant","content":"","refusal":null},'
            + NOT_YET
            + b"]}\n\n",
            HEAD + b'{"index":0,"delta":{"content":"Hi \\""},' + NOT_YET + b"]}\n\n",
            HEAD + b'{"index":0,"delta":{"content":"\xf0\x9f\x98\x80\\n"},' + NOT_YET + b"]}\n\n",
            HEAD + b'{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}]}\n\n',
            b"data: [DONE]\n\n",
        ]
    )


def test_a_streamed_completion_byte_by_byte():
    assert streamed(completion(stream=True), says("a", "", "b", reason="length")) == b"".join(
        [
            LEGACY_HEAD + b'{"index":0,"text":"a",' + NOT_YET + b"]}\n\n",
            LEGACY_HEAD + b'{"index":0,"text":"b",' + NOT_YET + b"]}\n\n",
            LEGACY_HEAD + b'{"index":0,"text":"","logprobs":null,"finish_reason":"length"}]}\n\n',
            b"data: [DONE]\n\n",
        ]
    )


def test_usage_has_a_chunk_of_its_own_and_is_null_before():
    call = chat(stream=True, stream_options={"include_usage": True}, n=2)
    events: list[Numbered] = [*says("a", "b", prompt=7, cached=4), *says("c", choice=1, prompt=7, cached=6)]
    *chunks, last, end = frames(streamed(call, events))
    assert end == "[DONE]"
    assert all("usage" in chunk and chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"] == {
        "prompt_tokens": 7,  # once, though two answers were given to it
        "completion_tokens": 3,
        "total_tokens": 10,
        "prompt_tokens_details": {"cached_tokens": 4},
    }


def test_without_it_no_chunk_speaks_of_usage():
    assert b"usage" not in streamed(chat(stream=True, stream_options={"include_usage": False}), says("a"))


def test_usage_of_several_prompts_counts_each_once():
    call = completion(prompt=["x", "y"], n=2)
    events: list[Numbered] = [
        each for number in range(4) for each in says("a", choice=number, prompt=10 + number, cached=1)
    ]
    answer = collected(call, events)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert answer["usage"]["prompt_tokens"] == 10 + 12
    assert answer["usage"]["completion_tokens"] == 4
    assert answer["usage"]["prompt_tokens_details"] == {"cached_tokens": 2}


def test_a_whole_chat():
    assert collected(chat(), says("Hi", "", "!")) == {
        "id": "chatcmpl-7f",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "org/tiny",
        "system_fingerprint": "mlxone-1.2.3",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hi!", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 5,
            "completion_tokens": 3,
            "total_tokens": 8,
            "prompt_tokens_details": {"cached_tokens": 0},
        },
    }


def test_choices_come_in_their_order_however_they_were_made():
    events: list[Numbered] = [
        (1, Token(0, 0, "b")),
        (0, Token(0, 0, "a")),
        (1, Token(1, 1, "B")),
        (1, done()),
        (0, done()),
    ]
    answer = collected(chat(n=2), events)
    assert [choice["message"]["content"] for choice in answer["choices"]] == ["a", "bB"]


def test_an_answer_without_a_token_is_an_answer():
    assert collected(chat(), [(0, done("length"))])["choices"][0]["message"]["content"] == ""
    first, last, end = frames(streamed(chat(stream=True), [(0, done("length"))]))
    assert first["choices"][0]["delta"]["role"] == "assistant"
    assert last["choices"][0]["finish_reason"] == "length"
    assert end == "[DONE]"


@pytest.mark.parametrize(
    ("reason", "said"), [("stop", "stop"), ("length", "length"), ("cancelled", "length"), ("error", "length")]
)
def test_finish_reasons(reason: Any, said: str):
    assert collected(chat(), [(0, done(reason))])["choices"][0]["finish_reason"] == said


def test_echo_comes_first_for_each_choice_of_each_prompt():
    call = completion(prompt=["x", "y"], n=2, echo=True)
    events: list[Numbered] = [each for number in range(4) for each in says(str(number), choice=number)]
    assert [choice["text"] for choice in collected(call, events)["choices"]] == ["x0", "x1", "y2", "y3"]
    chunks = frames(streamed(call, events))[:-1]
    texts = [
        "".join(c["choices"][0]["text"] for c in chunks if c["choices"][0]["index"] == i) for i in range(4)
    ]
    assert texts == ["x0", "x1", "y2", "y3"]


# Log-probabilities.

HALF = TopLogprob(9, "\N{REPLACEMENT CHARACTER}", float("-inf"))
GREEK = TopLogprob(8, "\N{GREEK SMALL LETTER ALPHA}", -0.25)
WITH_HALVES: list[Numbered] = [
    (0, likely(1, "a", top=[GREEK])),
    (0, likely(2, "", piece="\N{REPLACEMENT CHARACTER}", top=[HALF])),
    (0, likely(3, "\N{GREEK SMALL LETTER ALPHA}", piece="\N{REPLACEMENT CHARACTER}")),
    (0, likely(4, "", piece="</s>")),
    (0, done(generated=4)),
]
NO_TEXT = {"token": "\N{REPLACEMENT CHARACTER}", "logprob": -0.5, "bytes": None}
ENTRIES = [
    {
        "token": "a",
        "logprob": -0.5,
        "bytes": [97],
        "top_logprobs": [{"token": "\N{GREEK SMALL LETTER ALPHA}", "logprob": -0.25, "bytes": [206, 177]}],
    },
    {**NO_TEXT, "top_logprobs": [{**NO_TEXT, "logprob": -9999.0}]},
    {**NO_TEXT, "top_logprobs": []},
    {"token": "</s>", "logprob": -0.5, "bytes": [60, 47, 115, 62], "top_logprobs": []},
]


def test_log_probabilities_of_a_chat():
    answer = collected(chat(logprobs=True, top_logprobs=1), WITH_HALVES)
    assert answer["choices"][0]["logprobs"] == {"content": ENTRIES, "refusal": None}


def test_streamed_log_probabilities_wait_for_text_and_none_is_lost():
    chunks = frames(streamed(chat(logprobs=True, top_logprobs=1, stream=True), WITH_HALVES))[:-1]
    told = [(c["choices"][0]["delta"].get("content"), c["choices"][0]["logprobs"]) for c in chunks]
    assert told == [
        ("", None),
        ("a", {"content": ENTRIES[:1], "refusal": None}),
        ("\N{GREEK SMALL LETTER ALPHA}", {"content": ENTRIES[1:3], "refusal": None}),
        ("", {"content": ENTRIES[3:], "refusal": None}),
        (None, None),
    ]


def test_log_probabilities_of_the_older_route():
    twins = [TopLogprob(5, "x", -0.1), TopLogprob(6, "x", -0.9), TopLogprob(7, "a", -0.5)]
    events: list[Numbered] = [
        (0, likely(7, "a", top=twins)),
        (0, likely(1, "bc")),
        (0, likely(2, "d")),
        (0, done()),
    ]
    lists: dict[str, list[Any]] = {
        "tokens": ["a", "bc", "d"],
        "token_logprobs": [-0.5, -0.5, -0.5],
        "top_logprobs": [{"a": -0.5, "x": -0.1}, {"bc": -0.5}, {"d": -0.5}],
        "text_offset": [0, 1, 3],
    }
    assert collected(completion(logprobs=3), events)["choices"][0]["logprobs"] == lists
    chunks = frames(streamed(completion(logprobs=3, stream=True), events))[:-2]
    for name, values in lists.items():
        assert [c["choices"][0]["logprobs"][name] for c in chunks] == [[value] for value in values]


def test_a_model_that_knows_no_pieces_is_quoted_by_its_text():
    answer = collected(chat(logprobs=True), [(0, Token(1, 0, "a", -1.0, ())), (0, done())])
    assert answer["choices"][0]["logprobs"]["content"][0]["token"] == "a"


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), -1e30])
def test_what_json_cannot_say_is_the_least_there_is(value: float):
    answer = collected(chat(logprobs=True), [(0, Token(1, 0, "a", value, ())), (0, done())])
    assert answer["choices"][0]["logprobs"]["content"][0]["logprob"] == -9999.0


# Comments and failures.


def test_comments_say_how_far_the_prompts_are_read():
    streaming = completion(prompt=["x", "y"], stream=True).streaming(ABOUT)
    said = [streaming.keep_alive()]
    for number, event in [(0, Progress(10, 40)), (1, Progress(0, 30)), (0, Progress(40, 40))]:
        assert streaming.event(number, event) == b""
        said.append(streaming.keep_alive())
    streaming.event(0, Token(1, 0, "a"))
    said.append(streaming.keep_alive())
    streaming.event(1, done())
    said.append(streaming.keep_alive())
    assert said == [
        b": keep-alive\n\n",
        b": prompt 10/40\n\n",
        b": prompt 10/70\n\n",
        b": prompt 40/70\n\n",
        b": prompt 0/30\n\n",
        b": keep-alive\n\n",
    ]


def test_a_failure_is_an_event_with_the_request_and_nothing_is_done():
    said = chat(stream=True).streaming(ABOUT).fail(TimedOut("no new token for 300 s"))
    assert frames(said) == [
        {
            "error": {
                "message": "no new token for 300 s",
                "type": "timeout_error",
                "param": None,
                "code": "timeout",
                "request_id": "7f",
            }
        }
    ]


def test_a_failure_is_not_said_as_an_event_of_an_answer():
    with pytest.raises(TypeError):
        chat(stream=True).streaming(ABOUT).event(0, Failed(TimedOut("late")))


# What OpenAI publishes.


def exactly(kind: type[Any], value: Any) -> None:
    """The official type takes it, strictly, and knows every field of it."""
    read = kind.model_validate_json(json.dumps(value), strict=True)
    assert read.to_dict(mode="json", exclude_unset=True) == value
    assert unknown_to(read) == []


def unknown_to(model: Any) -> list[str]:
    extra = list(model.model_extra or ())
    for name in type(model).model_fields:
        inner = getattr(model, name)
        for each in inner if isinstance(inner, list) else [inner]:
            extra += unknown_to(each) if hasattr(each, "model_extra") else []
    return extra


CHATS = {"plain": chat(n=2), "logprobs": chat(n=2, logprobs=True, top_logprobs=2)}
TWO: list[Numbered] = [*WITH_HALVES, (1, likely(1, "x")), (1, done("length"))]


@pytest.mark.parametrize("call", CHATS.values(), ids=CHATS)
def test_chats_are_of_the_published_type(call: TextCall):
    exactly(ChatCompletion, collected(call, TWO))
    for chunk in frames(streamed(call, TWO))[:-1]:
        exactly(ChatCompletionChunk, chunk)


def test_the_usage_chunk_is_of_the_published_type():
    call = chat(n=2, stream=True, stream_options={"include_usage": True})
    for chunk in frames(streamed(call, TWO))[:-1]:
        exactly(ChatCompletionChunk, chunk)


@pytest.mark.parametrize("logprobs", [None, 0, 2])
def test_completions_are_of_the_published_type(logprobs: int | None):
    call = completion(n=2, logprobs=logprobs)
    exactly(Completion, collected(call, TWO))
    for chunk in frames(streamed(call, TWO))[:-1]:
        # The published type is that of whole answers; before its end a choice has no reason yet.
        chunk["choices"][0]["finish_reason"] = chunk["choices"][0]["finish_reason"] or "stop"
        exactly(Completion, chunk)
