"""A request made complete: who decides each value, what is refused by name, and what fits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mlxone.core.errors import ContextOverflow, MlxoneError, UsageError
from mlxone.core.settings import FALLBACK_TEMPERATURE
from mlxone.core.words import ChatRequest, Message, Sampling
from mlxone.fitting.admission import Refusal
from mlxone.service import preparing
from mlxone.service.options import Options
from mlxone.service.preparing import Prepared, defaults, prepare
from mlxone.service.shelf import Loaded, Shelf
from tests.engine import tiny
from tests.service.clients import allow, offer_of
from tests.service.rig import Stage, ids_of

HELLO = (Message("user", "Hi"),)


pytestmark = pytest.mark.usefixtures("own_limits")


def loaded(stage: Stage, **files: Any) -> Loaded:
    return Shelf(Options()).take(offer_of(stage.model(**files)))


def asked(**wishes: Any) -> ChatRequest:
    return ChatRequest(messages=HELLO, wishes=wishes)


# Who decides ---------------------------------------------------------------------------------

FALLBACK = Sampling(temperature=FALLBACK_TEMPERATURE)
# A field: what a model, a flag and a request say. Where models have no say, theirs is the fallback.
LEVELS: dict[str, tuple[Any, Any, Any]] = {
    "temperature": (0.3, 0.4, 0.5),
    "top_p": (0.3, 0.4, 0.5),
    "top_k": (3, 4, 5),
    "min_p": (0.03, 0.04, 0.05),
    "repetition_penalty": (1.3, 1.4, 1.5),
    "presence_penalty": (None, 0.4, 0.5),
    "frequency_penalty": (None, 0.4, 0.5),
    "xtc_probability": (None, 0.4, 0.5),
    "xtc_threshold": (None, 0.2, 0.3),
    "seed": (None, 4, 5),
}


@pytest.mark.parametrize("name", LEVELS)
def test_request_then_flag_then_model_then_fallback(stage: Stage, name: str):
    model, flag, request = LEVELS[name]
    with_model = loaded(stage, generation_config={name: model} if model is not None else {})
    flags = Options(sampling={name: flag})

    def found(wishes: dict[str, Any], options: Options) -> Any:
        return getattr(prepare(with_model, asked(**wishes), options).request.sampling, name)

    by_model = getattr(FALLBACK, name) if model is None else model
    assert found({name: request}, flags) == request
    assert found({name: None}, flags) == found({}, flags) == flag  # null is not given
    assert found({}, Options()) == found({}, Options(sampling={name: None})) == by_model
    assert found({name: request}, Options()) == request
    assert getattr(defaults(with_model.words, flags), name) == flag
    without = replace(with_model.words, generation_config={})
    assert getattr(defaults(without, Options()), name) == getattr(FALLBACK, name)


def test_zero_is_a_value_and_not_an_absence(stage: Stage):
    model = loaded(stage, generation_config={"temperature": 0.9, "top_k": 20})
    flags = Options(sampling={"temperature": 0.8, "top_k": 10})
    sampling = prepare(model, asked(temperature=0.0, top_k=0), flags).request.sampling
    assert (sampling.temperature, sampling.top_k) == (0.0, 0)


def test_a_sampling_that_was_decided_stays(stage: Stage):
    model, own = loaded(stage), Sampling(temperature=1.5, seed=3)
    request = ChatRequest(messages=HELLO, sampling=own)
    assert prepare(model, request, Options(sampling={"top_k": 4})).request.sampling == own
    with pytest.raises(UsageError, match="either"):
        prepare(model, replace(request, wishes={"top_k": 3}), Options())


@pytest.mark.parametrize(
    ("flag", "request_", "expected"),
    [(None, None, 512 - 20), (7, None, 7), (7, 9, 9), (None, 9, 9), (None, 10_000, 512 - 20)],
)
def test_max_tokens(stage: Stage, flag: int | None, request_: int | None, expected: int):
    request = ChatRequest(messages=HELLO, max_tokens=request_)
    found = prepare(loaded(stage), request, Options(max_tokens=flag))
    assert len(found.ids) == 20 and found.max_tokens == expected
    assert found.open_ended == (flag is None and request_ is None)


@pytest.mark.parametrize(
    ("flag", "request_", "expected"), [(None, None, 492), (100, None, 80), (100, 50, 30), (50, 100, 30)]
)
def test_the_smallest_context_counts(stage: Stage, flag: int | None, request_: int | None, expected: int):
    request = ChatRequest(messages=HELLO, context_size=request_)
    assert prepare(loaded(stage), request, Options(ctx_size=flag)).max_tokens == expected


def text_of(model: Loaded, request: ChatRequest, options: Options) -> str:
    return model.words.tokenizer.decode(prepare(model, request, options).ids, skip_special=False)


@pytest.mark.parametrize(
    ("flags", "given", "expected"),
    [
        ({}, {}, None),
        ({"thinking": True}, {}, True),
        ({"thinking": True}, {"thinking": False}, False),
        ({"thinking": False}, {"template_kwargs": {"enable_thinking": True}}, True),
        ({"template_kwargs": {"enable_thinking": True}}, {}, True),
        ({"template_kwargs": {"enable_thinking": True}}, {"thinking": False}, False),
        (
            {"template_kwargs": {"enable_thinking": True}},
            {"template_kwargs": {"enable_thinking": False}},
            False,
        ),
    ],
)
def test_thinking(stage: Stage, flags: dict[str, Any], given: dict[str, Any], expected: bool | None):
    text = text_of(loaded(stage), ChatRequest(messages=HELLO, **given), Options(**flags))
    assert ("thinking" in text) == (expected is not None) and f"thinking {not expected}" not in text


def test_template_values_of_a_request_come_before_the_flags(stage: Stage):
    model, flags = loaded(stage), Options(template_kwargs={"mood": "gloomy"})
    assert "gloomy" in text_of(model, ChatRequest(messages=HELLO), flags)
    cheerful = ChatRequest(messages=HELLO, template_kwargs={"mood": "cheerful"})
    assert "cheerful" in text_of(model, cheerful, flags)


def test_texts_and_ids_go_through_no_template(stage: Stage):
    model, flags = loaded(stage), Options(thinking=True, template_kwargs={"mood": "gloomy"})
    assert prepare(model, ChatRequest(text="Hi"), flags).ids == tuple(ids_of("Hi"))
    assert prepare(model, ChatRequest(ids=(5, 6)), flags).ids == (5, 6)
    for name, value in (("thinking", True), ("template_kwargs", {"mood": "x"})):
        values: dict[str, Any] = {name: value}
        with pytest.raises(UsageError, match=name) as refused:
            prepare(model, ChatRequest(text="Hi", **values), Options())
        assert refused.value.param == name


def test_prompts_are_read_as_the_memory_was_counted(stage: Stage):
    model = loaded(stage)

    def step(flag: int, given: int) -> int:
        request = ChatRequest(messages=HELLO, prefill_step=given)
        return prepare(model, request, Options(prefill_step=flag)).request.prefill_step

    assert [step(2048, 2048), step(512, 2048), step(4096, 2048), step(512, 64), step(64, 512)] == [
        2048, 512, 4096, 64, 64,
    ]  # fmt: skip


def test_only_tokens_and_numbers_are_left(stage: Stage):
    request = ChatRequest(messages=HELLO, wishes={"top_k": 2}, template_kwargs={"mood": "x"}, stop=("e",))
    left = prepare(loaded(stage), request, Options()).request
    assert (left.messages, left.text, dict(left.wishes), dict(left.template_kwargs)) == (None, None, {}, {})
    assert left.stop == ("e",) and left.sampling.top_k == 2


# What is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        (asked(temperature=9), "temperature"),
        (asked(temperature="hot"), "temperature"),
        (asked(top_k=1.5), "top_k"),
        (asked(seed=-1), "seed"),
        (asked(logit_bias={"99999": 1}), "logit_bias"),
        (asked(nonsense=1), "nonsense"),
        (ChatRequest(messages=HELLO, max_tokens=0), "max_tokens"),
        (ChatRequest(messages=HELLO, max_tokens=True), "max_tokens"),
    ],
)
def test_a_field_that_cannot_be_honoured_is_named(stage: Stage, request_: ChatRequest, param: str):
    with pytest.raises(MlxoneError) as refused:
        prepare(loaded(stage), request_, Options())
    assert refused.value.status == 400 and refused.value.param == param
    assert param in refused.value.message


def test_a_prompt_as_long_as_the_context(stage: Stage):
    with pytest.raises(ContextOverflow, match="512") as refused:
        prepare(loaded(stage), ChatRequest(ids=(5,) * 512, max_tokens=3), Options())
    assert refused.value.details["prompt_tokens"] == 512
    assert refused.value.details["max_context"] == 512
    assert prepare(loaded(stage), ChatRequest(ids=(5,) * 511), Options()).max_tokens == 1


def tight(stage: Stage, fits: int) -> Loaded:
    """A model that may have a context of `fits` tokens, and not one buffer more."""
    model = loaded(stage)
    work = model.admission._work
    model.admission.budget = model.admission.case.needs(replace(work, context=fits)).total_bytes
    assert model.longest < 512
    return model


def test_what_can_never_fit_is_refused_with_the_numbers(stage: Stage):
    model = tight(stage, 200)
    with pytest.raises(ContextOverflow) as refused:
        prepare(model, ChatRequest(ids=(5,) * 20, max_tokens=400), Options())
    error = refused.value
    assert error.code == "context_over_budget" and error.status == 400
    assert set(error.details) == {
        "prompt_tokens",
        "max_tokens",
        "needed_bytes",
        "budget_bytes",
        "max_context",
    }
    assert error.details["prompt_tokens"] == 20 and error.details["max_tokens"] == 400
    assert error.details["needed_bytes"] > error.details["budget_bytes"] == model.admission.budget
    most = error.details["max_context"]
    assert f"at most {most - 20:,} tokens" in error.hint
    assert prepare(model, ChatRequest(ids=(5,) * 20, max_tokens=most - 20), Options()).max_tokens == most - 20


def test_without_max_tokens_as_far_as_memory_allows(stage: Stage):
    model = tight(stage, 200)
    found = prepare(model, ChatRequest(ids=(5,) * 20), Options())
    assert found.open_ended and found.max_tokens == model.longest - 20
    with pytest.raises(ContextOverflow) as refused:
        prepare(model, ChatRequest(ids=(5,) * (model.longest + 1)), Options())
    assert refused.value.hint == "shorten the prompt"


def test_what_may_be_used_changes_and_open_ends_follow(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    """What was right when the model was loaded refuses nobody later."""
    big = {**tiny.PLAIN, "max_position_embeddings": 100_000}
    size = [40_000_000]
    allow(monkeypatch, lambda: size[0])
    model = Shelf(Options()).take(offer_of(stage.model(config=big)))
    request = ChatRequest(ids=(5,) * 20)
    assert prepare(model, request, Options()).max_tokens == model.longest - 20 < 99_980
    before = model.longest
    for size[0] in (39_000_000, 50_000_000):
        model.ledger.measure()
        found = prepare(model, request, Options())
        assert found.max_tokens == model.longest - 20
        assert model.admission.never(20, found.max_tokens) is None
        assert isinstance(model.admission.never(20, found.max_tokens + 1), Refusal)
        assert (model.longest > before) == (size[0] > 40_000_000)


def test_before_a_refusal_the_machine_is_asked_again(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    model = tight(stage, 200)
    request = ChatRequest(ids=(5,) * 20, max_tokens=400)
    with pytest.raises(ContextOverflow):  # it was asked a moment ago
        prepare(model, request, Options())
    monkeypatch.setattr(preparing, "OLD", 0.0)
    assert prepare(model, request, Options()).max_tokens == 400


# Choices -------------------------------------------------------------------------------------


@given(st.integers(0, 2**63 - 1), st.integers(1, 130))
@example(2**63 - 1, 3)
def test_choices_differ_and_repeat(seed: int, choices: int):
    prepared = Prepared(ChatRequest(ids=(1,), sampling=Sampling(seed=seed), max_tokens=1), False)
    seeds = [prepared.choice(number).request.sampling.seed for number in range(choices)]
    assert seeds[0] == seed and len(set(seeds)) == choices
    assert all(s is not None and 0 <= s < 2**63 for s in seeds)
    unseeded = Prepared(ChatRequest(ids=(1,), max_tokens=1), False)
    assert unseeded.choice(3) == unseeded
