"""What a prompt may be, and which ids it becomes."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import mlxone
from mlxone.core.errors import ContextOverflow, MlxoneError, TemplateError, UsageError
from mlxone.core.words import ChatRequest, Message
from mlxone.service.answer import answer
from tests.engine.tiny import VOCAB, ids_in
from tests.service.rig import TOKENIZER, decoder_of, ids_of, scripted

HI = ids_of("<s>user: Hi\nassistant:")


def read_by(model: mlxone.Model, prompt: Any, **options: Any) -> list[int]:
    """The ids that went through the model before the first draw."""
    generation = mlxone.generate(model, prompt, max_tokens=1, **options)
    list(generation)
    assert ids_in(generation.state.layers[0]) == list(generation.stats.cache_tokens)
    return list(generation.stats.cache_tokens)


@pytest.mark.parametrize(
    "prompt",
    [
        "Hi",
        [{"role": "user", "content": "Hi"}],
        ({"role": "user", "content": "Hi"},),
        [Message("user", "Hi")],
        HI,
        tuple(HI),
        np.array(HI),
    ],
)
def test_one_prompt_in_every_form(prompt: Any):
    assert read_by(scripted("x"), prompt) == HI


def test_a_conversation():
    messages = [
        {"role": "system", "content": "Be short."},
        Message("user", "Hi"),
        {"role": "assistant", "content": "Yes?"},
    ]
    ids = read_by(scripted("x"), messages)
    assert TOKENIZER.decode(ids, skip_special=False) == (
        "<s>system: Be short.\n<s>user: Hi\n<s>assistant: Yes?\nassistant:"
    )


@pytest.mark.parametrize("options", [{"raw": True}, {}])
def test_raw_text_meets_no_template(options: dict[str, Any]):
    model = scripted("x", template=None if not options else "never {{ seen }}")
    assert read_by(model, "Hi <s>", **options) == ids_of("Hi <s>")


def test_raw_text_gets_what_the_tokenizer_itself_adds(monkeypatch: pytest.MonkeyPatch):
    model, asked = scripted("x"), list[bool]()
    encode = TOKENIZER.encode

    def watched(text: str, *, add_special: bool = False) -> list[int]:
        asked.append(add_special)
        return encode(text)

    monkeypatch.setattr(TOKENIZER, "encode", watched)
    read_by(model, "Hi", raw=True)
    assert asked == [True]


def test_options_reach_the_template():
    model = scripted("x")
    assert TOKENIZER.decode(read_by(model, "Hi", thinking=False)).endswith("thinking False\nassistant:")
    ids = read_by(model, "Hi", thinking=True, template_kwargs={"mood": "gay ", "enable_thinking": "own"})
    assert TOKENIZER.decode(ids).endswith("thinking own\ngay assistant:")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"thinking": "yes"}, "thinking must be True, False or None, not 'yes'"),
        ({"template_kwargs": 5}, "template_kwargs must be a mapping, not '5'"),
        ({"template_kwargs": {"messages": []}}, "template_kwargs cannot hold 'messages'"),
        ({"template_kwargs": {"self": 1}}, "template_kwargs cannot hold 'self'"),
        ({"template_kwargs": {5: 1}}, "template_kwargs cannot hold '5'"),
        ({"thinking": True, "raw": True}, "thinking and template_kwargs need a chat template"),
        (
            {"template_kwargs": {"mood": "gay"}, "raw": True},
            "thinking and template_kwargs need a chat template",
        ),
    ],
)
def test_what_no_template_can_be_told(options: dict[str, Any], message: str):
    with pytest.raises(UsageError) as caught:
        mlxone.generate(scripted("x"), "Hi", **options)
    assert caught.value.message == message


@pytest.mark.parametrize(
    "prompt",
    [
        None, 5, 2.5, True, [], (), {}, b"Hi", bytearray(b"Hi"), [True, False], [1.5], ["Hi"], [1, "Hi"],
        [None], {"role": "user", "content": "Hi"}, [{"content": "Hi"}], [{"role": "user"}, 3], {1: 2},
        [[1, 2]],
    ],
)  # fmt: skip
def test_anything_else_is_refused_before_it_runs(prompt: Any):
    model = scripted("x")
    with pytest.raises(UsageError) as caught:
        mlxone.generate(model, prompt)
    assert "prompt" in str(caught.value) or "message" in str(caught.value)
    assert decoder_of(model).log == []


@pytest.mark.parametrize("prompt", ["", "x" * 0])
def test_an_empty_text(prompt: str):
    with pytest.raises(UsageError, match="the prompt is empty"):
        mlxone.generate(scripted("x"), prompt, raw=True)
    assert read_by(scripted("x"), prompt)  # a template makes a prompt of it


@pytest.mark.parametrize("id", [-1, VOCAB, 10**12])
def test_ids_outside_the_vocabulary(id: int):
    with pytest.raises(UsageError, match=f"token id {id} is outside the vocabulary of {VOCAB}"):
        mlxone.generate(scripted("x"), [1, id, 2])


def test_a_tokenizer_may_know_more_tokens_than_the_model(monkeypatch: pytest.MonkeyPatch):
    """MLX would read past the end of the embedding without a word."""
    monkeypatch.setattr(TOKENIZER, "encode", lambda text, *, add_special=False: [1, VOCAB])
    with pytest.raises(UsageError, match=f"token id {VOCAB} is outside"):
        mlxone.generate(scripted("x"), "Hi", raw=True)


def test_messages_for_a_model_without_a_template():
    with pytest.raises(UsageError, match=re.escape("scripted has no chat template")) as caught:
        mlxone.generate(scripted("x", template=None), [{"role": "user", "content": "Hi"}])
    assert "--raw" in caught.value.hint


def test_a_template_that_refuses():
    with pytest.raises(TemplateError, match="no thanks"):
        mlxone.generate(scripted("x", template="{{ raise_exception('no thanks') }}"), "Hi")


@pytest.mark.parametrize(
    "fields", [{}, {"text": "a", "ids": (1,)}, {"messages": (Message("user", "a"),), "text": "a"}]
)
def test_a_request_asks_one_thing(fields: dict[str, Any]):
    with pytest.raises(UsageError, match="exactly one of messages, text and ids"):
        answer(scripted("x"), ChatRequest(**fields))


# Room for an answer ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "context", "ctx_size", "max_tokens", "expected"),
    [
        (20, 30, None, None, 10),
        (20, 30, None, 25, 10),
        (20, 30, None, 4, 4),
        (29, 30, None, None, 1),
        (20, 30, 24, None, 4),
        (20, 30, 99, None, 10),  # the model has no more than it has
        (20, None, 24, None, 4),
        (20, None, None, 40, 40),
    ],
)
def test_an_answer_ends_with_the_context(
    prompt: int, context: int | None, ctx_size: int | None, max_tokens: int | None, expected: int
):
    model = scripted([5, 6], context_length=context)
    generation = mlxone.generate(model, [1] * prompt, max_tokens=max_tokens, ctx_size=ctx_size)
    assert len(list(generation)) == expected
    assert generation.stats.finish_reason == "length"


def test_no_limit_at_all_goes_on_until_one_leaves():
    generation = mlxone.generate(scripted([5, 6], context_length=None), [1], max_tokens=None)
    assert len([next(generation) for _ in range(700)]) == 700  # more than the default of 512
    assert generation.stats.finish_reason == "cancelled"


def test_the_librarys_own_limit_is_512():
    assert len(list(mlxone.generate(scripted([5, 6]), [1]))) == 512


@pytest.mark.parametrize(
    ("prompt", "context", "ctx_size", "limit"),
    [(30, 30, None, 30), (31, 30, None, 30), (20, 30, 20, 20), (20, None, 9, 9), (40, 30, 99, 30)],
)
def test_a_prompt_that_leaves_no_room(prompt: int, context: int | None, ctx_size: int | None, limit: int):
    model = scripted("x", context_length=context)
    with pytest.raises(ContextOverflow) as caught:
        mlxone.generate(model, [1] * prompt, ctx_size=ctx_size)
    assert (
        caught.value.message
        == f"the prompt has {prompt} tokens and the context {limit}: no room for an answer"
    )
    assert ("--ctx-size" in caught.value.hint) is (limit != context)  # only where that would help
    assert isinstance(caught.value, MlxoneError) and caught.value.exit_code == 7
