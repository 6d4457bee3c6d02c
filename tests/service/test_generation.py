"""The library's `generate`: its options, the states it leaves, and how it is iterated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

import mlxone
from mlxone.backend.arrays import mx
from mlxone.core.errors import MlxoneError, UsageError
from mlxone.service.generation import RESERVED
from tests.engine.tiny import ids_in
from tests.service.rig import cold_logits, decoder_of, hold, ids_of, scripted

PROMPT = [(5 * i * i + i + 2) % 300 for i in range(14)]


def tokens(generation: mlxone.Generation) -> list[int]:
    return [t.token for t in generation]


# Options -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RESERVED)
def test_a_reserved_option_is_refused_by_its_name(name: str):
    odd: list[Any] = [7, "all", True, 64.5, mx.array([1.0, 2.0])]
    for given in odd:
        with pytest.raises(UsageError, match=f"{name} is not built yet"):
            mlxone.generate(scripted("x"), "Hi", **{name: given})


@pytest.mark.parametrize(("name", "neutral"), RESERVED.items())
def test_a_reserved_option_may_say_nothing(name: str, neutral: Any):
    for given in (neutral, None):
        assert tokens(mlxone.generate(scripted("ab"), "Hi", **{name: given}))


def test_reserved_are_the_options_that_are_to_come():
    assert RESERVED == {
        "kv_bits": None,
        "kv_group_size": 64,
        "quantized_kv_start": 5000,
        "kv_config": None,
        "prompt_embeddings": None,
        "image_mask": None,
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_tokens": 0}, "max_tokens must be at least 1, not 0"),
        ({"max_tokens": 2.5}, "max_tokens must be a whole number, not '2.5'"),
        ({"max_tokens": True}, "max_tokens must be a whole number, not 'True'"),
        ({"max_tokens": "9"}, "max_tokens must be a whole number, not '9'"),
        ({"prefill_step": 0}, "prefill_step must be at least 1, not 0"),
        ({"prefill_step": 1.0}, "prefill_step must be a whole number, not '1.0'"),
        ({"ctx_size": 0}, "ctx_size must be at least 1, not 0"),
        ({"ctx_size": "all"}, "ctx_size must be a whole number, not 'all'"),
        ({"logprobs": -1}, "logprobs must be at least 0 and below 2**31, not -1"),
        ({"logprobs": True}, "logprobs must be a whole number, not 'True'"),
        ({"stop": 5}, "stop must be a list, not '5'"),
        ({"eos_token_ids": [1, 320]}, "token id 320 is outside the vocabulary of 320"),
        ({"eos_token_ids": ["x"]}, "a token id is a whole number, not 'x'"),
        ({"eos_token_ids": 5}, "eos_token_ids must be a list, not '5'"),
        ({"temprature": 1}, "temprature is not a sampling option"),
        ({"temperature": 9}, "temperature must be between 0 and 5, not 9"),
        ({"seed": 1.5}, "seed must be a whole number, not '1.5'"),
    ],
)
def test_an_option_that_cannot_be_honoured_is_named(options: dict[str, Any], message: str):
    model = scripted("x")
    with pytest.raises(UsageError) as caught:
        mlxone.generate(model, "Hi", **options)
    assert str(caught.value) == message
    assert decoder_of(model).log == []


def test_none_means_not_given():
    names = ["max_tokens", "stop", "logprobs", "eos_token_ids", "ctx_size", "state", "thinking",
             "template_kwargs", "temperature", "top_p", "top_k", "seed", "repetition_penalty",
             "repetition_context_size", "logit_bias", "xtc_special_tokens"]  # fmt: skip
    generation = mlxone.generate(scripted("ab"), "Hi", **dict.fromkeys(names))
    assert tokens(generation) == tokens(mlxone.generate(scripted("ab"), "Hi"))


def test_one_stop_string_needs_no_list():
    generation = mlxone.generate(scripted("hello world"), "Hi", stop="wor")
    assert "".join(t.text for t in generation) == "hello "
    assert generation.stats.stop_string == "wor"


def test_greedy_by_default(model: mlxone.Model):
    ids = list(PROMPT)
    for token in tokens(mlxone.generate(model, PROMPT, max_tokens=4, eos_token_ids=())):
        assert token == mx.argmax(cold_logits(model, ids)).item()
        ids.append(token)


@pytest.mark.parametrize("options", [{}, {"top_p": 0.9}, {"top_k": 20}, {"min_p": 0.02, "prefill_step": 3}])
def test_a_seed_makes_an_answer_repeatable(model: mlxone.Model, options: dict[str, Any]):
    def drawn(**more: Any) -> list[int]:
        return tokens(
            mlxone.generate(model, PROMPT, max_tokens=9, temperature=1.3, eos_token_ids=(), **options, **more)
        )

    assert drawn(seed=5) == drawn(seed=5) != drawn(seed=6)
    assert len({tuple(drawn()) for _ in range(3)}) == 3  # without one each is its own


def test_penalties_and_bias_reach_the_draw():
    a, b = ids_of("ab")
    model = scripted([a])  # says "a" for ever, by 9 logits
    assert tokens(mlxone.generate(model, [1], max_tokens=3, logit_bias={b: 9.5})) == [b] * 3
    assert tokens(mlxone.generate(model, [1], max_tokens=3, logit_bias={str(b): 9.5})) == [b] * 3
    assert tokens(mlxone.generate(model, [1], max_tokens=2, presence_penalty=9.5)) == [a, 0]
    assert tokens(mlxone.generate(model, [1], max_tokens=4, frequency_penalty=4.6)) == [a, a, 0, 2]
    # An old token is forgotten with a window of one.
    window: dict[str, Any] = {"presence_penalty": 9.5, "presence_context_size": 1}
    assert tokens(mlxone.generate(model, [1], max_tokens=4, **window)) == [a, 0, a, 0]


# Layer states ------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["model", "sliding"])
@pytest.mark.parametrize("leave_after", [1, 3, 6])
def test_a_second_turn_on_the_kept_state_equals_a_cold_run(
    request: pytest.FixtureRequest, which: str, leave_after: int
):
    model: mlxone.Model = request.getfixturevalue(which)
    first = mlxone.generate(model, PROMPT, max_tokens=6, eos_token_ids=(), prefill_step=5)
    for t in first:
        if t.index + 1 == leave_after:
            break
    held = list(first.stats.cache_tokens)
    assert held[: len(PROMPT)] == PROMPT
    assert first.state.offset == len(held)
    prompt = [*held, 7, 8, 9]
    options: dict[str, Any] = {"max_tokens": 8, "eos_token_ids": (), "logprobs": 4}
    second = mlxone.generate(model, prompt, state=first.state, **options)
    cold = mlxone.generate(model, prompt, **options)
    for warm_token, cold_token in zip(second, cold, strict=True):
        assert warm_token.token == cold_token.token
        assert abs(warm_token.logprob - cold_token.logprob) < 1e-4
    assert second.stats.cached_tokens == len(held)
    assert cold.stats.cached_tokens == 0
    assert second.stats.cache_tokens == cold.stats.cache_tokens


@pytest.mark.parametrize("held", [4, 5, 9])
def test_a_state_as_long_as_the_prompt_or_longer_goes_back(held: int):
    model, prompt = scripted("abc"), [1, 2, 3, 4]
    state = model.new_state()
    hold(model, [*prompt, 5, 6, 7, 8, 9][:held], state)
    generation = mlxone.generate(model, prompt, state=state, max_tokens=2)
    list(generation)
    assert generation.state is state
    assert generation.stats.cached_tokens == 3  # one is always read anew
    assert ids_in(state.layers[0]) == list(generation.stats.cache_tokens) == [*prompt, ids_of("a")[0]]


def test_a_state_that_cannot_go_back():
    model = scripted("abc", windows=(None, 4))
    state = model.new_state()
    hold(model, [1, 2, 3, 4, 5, 6], state)
    with pytest.raises(UsageError, match="holds 6 tokens and cannot go back to 2") as caught:
        mlxone.generate(model, [1, 2, 3], state=state)
    assert "shorter" in caught.value.hint
    assert state.offset == 6


def test_a_fork_of_a_state_serves_two_answers(model: mlxone.Model):
    start = mlxone.generate(model, PROMPT, max_tokens=1, eos_token_ids=())
    list(start)
    turns = [[*PROMPT, 11], [*PROMPT, 12]]
    states = [start.state, start.state.fork()]
    warm = [mlxone.generate(model, t, state=s, max_tokens=6) for t, s in zip(turns, states, strict=True)]
    mixed: list[list[int]] = [[], []]
    for pair in zip(*warm, strict=False):  # turn by turn, so that each writes while the other is alive
        for at, t in enumerate(pair):
            mixed[at].append(t.token)
    for got, turn in zip(mixed, turns, strict=True):
        assert got == tokens(mlxone.generate(model, turn, max_tokens=6))[: len(got)]


# Iterating ---------------------------------------------------------------------------------


def test_it_is_an_iterator_that_stays_ended():
    generation = mlxone.generate(scripted("ab"), "Hi")
    assert iter(generation) is generation
    assert [t.text for t in generation] == ["a", "b", ""]
    assert list(generation) == []
    assert next(generation, "over") == "over"


def test_asking_for_the_states_ends_it():
    """Before its end they hold a step in flight, which no one but the generation knows of."""
    generation = mlxone.generate(scripted("abc"), [1])
    next(generation)
    assert generation.state.offset == 1
    assert list(generation) == []


def test_leaving_a_with_block_ends_it():
    with mlxone.generate(scripted("abcdef"), [1]) as generation:
        next(generation)
    assert list(generation) == []
    assert generation.stats.finish_reason == "cancelled"


def test_nothing_runs_before_the_first_token_is_asked_for():
    model = scripted("ab")
    generation = mlxone.generate(model, [1, 2, 3])
    assert decoder_of(model).log == []
    next(generation)
    assert decoder_of(model).log[0] == ("pass", 2)


@pytest.mark.parametrize("after", [0, 1, 4])
def test_a_failure_is_raised_once_and_the_model_goes_on(
    model: mlxone.Model, monkeypatch: pytest.MonkeyPatch, after: int
):
    expected = tokens(mlxone.generate(model, PROMPT, max_tokens=6))
    hidden, left = model.decoder.hidden, [1 + after]

    def failing(*args: Any, **kwargs: Any) -> mx.array:
        left[0] -= 1
        if left[0] < 0:
            raise RuntimeError("the device is gone")
        return hidden(*args, **kwargs)

    got: list[int] = []
    generation = mlxone.generate(model, PROMPT, max_tokens=6)
    with monkeypatch.context() as patch:
        patch.setattr(model.decoder, "hidden", failing)
        with pytest.raises(
            MlxoneError, match="generation failed: RuntimeError: the device is gone"
        ) as caught:
            got.extend(t.token for t in generation)
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert list(generation) == []
    stats = generation.stats
    assert stats.finish_reason == "error"
    assert list(stats.cache_tokens) == (PROMPT + expected)[: generation.state.offset]
    assert tokens(mlxone.generate(model, PROMPT, max_tokens=6)) == expected
    # The states hold what they say, and can be gone on with.
    again = mlxone.generate(model, PROMPT, max_tokens=6, state=generation.state)
    assert tokens(again) == expected


def test_tokens_say_their_place_and_text(model: mlxone.Model):
    ids: Sequence[int] = ids_of("The")
    said = list(mlxone.generate(model, ids, max_tokens=5, eos_token_ids=(), logprobs=2))
    assert [t.index for t in said] == [0, 1, 2, 3, 4]
    for t in said:
        assert [a.token for a in t.top_logprobs][0] == t.token  # greedy
        assert t.logprob == t.top_logprobs[0].logprob
        assert [a.text for a in t.top_logprobs] == [
            model.tokenizer.token_text(a.token) for a in t.top_logprobs
        ]
