"""Who decides a sampling value, and what is no value at all."""

from __future__ import annotations

import math
from typing import Any

import pytest

from mlxone.core.errors import UsageError
from mlxone.core.settings import SETTINGS
from mlxone.core.words import Sampling
from mlxone.service.defaults import make_sampling, sampling_for
from tests.engine.tiny import VOCAB
from tests.service.rig import scripted


def chosen(stated: Any, **flags: Any) -> Sampling:
    return sampling_for(scripted("x", generation_config=stated), flags)


def test_the_flag_then_the_model_then_the_built_in_value():
    stated: dict[str, Any] = {
        "temperature": 0.2,
        "top_p": 0.9,
        "top_k": 30,
        "min_p": 0.1,
        "repetition_penalty": 1.2,
    }
    assert chosen({}) == Sampling(temperature=0.7)
    assert chosen(stated) == Sampling(**stated)
    assert chosen(stated, temperature=1.5, top_k=0) == Sampling(**{**stated, "temperature": 1.5, "top_k": 0})
    assert chosen(stated, temperature=None, top_k=None, seed=None) == Sampling(**stated)
    assert chosen({}, temperature=0.0).temperature == 0.0
    assert chosen({"temperature": 0.0}).temperature == 0.0


def test_a_model_that_says_not_to_sample_is_greedy():
    assert chosen({"do_sample": False, "temperature": 0.6}) == Sampling(temperature=0.0)
    assert chosen({"do_sample": False}, temperature=0.4, top_p=0.5) == Sampling(temperature=0.4, top_p=0.5)
    assert chosen({"do_sample": True, "temperature": 0.6}).temperature == 0.6


@pytest.mark.parametrize("odd", [None, "0.6", True, [], -1, 99, math.nan, math.inf])
def test_what_a_model_says_out_of_range_is_not_heard(odd: Any):
    assert chosen({"temperature": odd, "top_p": odd, "min_p": odd}) == Sampling(temperature=0.7)


def test_what_a_model_says_of_other_things_is_not_heard():
    assert chosen({"top_k": 50.0, "max_length": 20, "seed": 3, "eos_token_id": 2}) == Sampling(
        temperature=0.7
    )


@pytest.mark.parametrize("setting", [s for s in SETTINGS if s.name in Sampling.__dataclass_fields__])
def test_every_setting_is_held_to_its_range(setting: Any):
    for good in (setting.low, setting.high):
        if good is not None:
            assert getattr(make_sampling({setting.name: good}, VOCAB), setting.name) == good
    bad = [setting.low - 1, -math.inf, math.nan, True, "1", [1], {}]
    if setting.high is not None:
        bad += [setting.high + 1, math.inf]
    for value in bad:
        with pytest.raises(UsageError, match=f"^{setting.name} must be "):
            make_sampling({setting.name: value}, VOCAB)
    assert make_sampling({setting.name: None}, VOCAB) == Sampling()


@pytest.mark.parametrize("name", ["top_k", "seed"])
def test_a_whole_number_is_one(name: str):
    with pytest.raises(UsageError, match=f"{name} must be a whole number, not '1.5'"):
        make_sampling({name: 1.5}, VOCAB)


@pytest.mark.parametrize(
    ("name", "low"),
    [
        ("repetition_context_size", 0),
        ("presence_context_size", 0),
        ("frequency_context_size", 0),
        ("min_tokens_to_keep", 1),
    ],
)
def test_options_that_only_the_library_has(name: str, low: int):
    assert getattr(make_sampling({name: low}, VOCAB), name) == low
    for value in (low - 1, 2**31):  # MLX counts in 32 bits
        with pytest.raises(UsageError, match=rf"{name} must be at least {low} and below 2\*\*31, not"):
            make_sampling({name: value}, VOCAB)
    for odd in (1.5, "3", True, math.nan):
        with pytest.raises(UsageError, match=f"{name} must be a whole number"):
            make_sampling({name: odd}, VOCAB)


def test_unknown_names_are_refused():
    for name in ("temp", "topp", "max_tokens", ""):
        with pytest.raises(UsageError, match="is not a sampling option"):
            make_sampling({name: None}, VOCAB)


def test_logit_bias():
    bias = make_sampling({"logit_bias": {0: 1, "7": -2.5, VOCAB - 1: -math.inf}}, VOCAB).logit_bias
    assert bias == {0: 1.0, 7: -2.5, VOCAB - 1: -math.inf}  # minus infinity forbids
    for token in (-1, VOCAB, str(VOCAB)):
        with pytest.raises(UsageError, match=f"token {token}, outside the vocabulary of {VOCAB}"):
            make_sampling({"logit_bias": {token: 1.0}}, VOCAB)
    for value in (math.nan, math.inf, 1e5, -1e5):  # float16 holds no more than 65504
        with pytest.raises(UsageError, match="logit_bias of token 3 must be between ±10000 or -inf"):
            make_sampling({"logit_bias": {3: value}}, VOCAB)
    for odd in (
        [1, 2],
        5,
        "x",
        {1.5: 1},
        {2.0: 1},
        {"a": 1},
        {1: "x"},
        {1: None},
        {math.inf: 1},
        {1: 10**400},
    ):
        with pytest.raises(UsageError, match="logit_bias maps token ids to numbers"):
            make_sampling({"logit_bias": odd}, VOCAB)


def test_xtc_special_tokens_are_tokens():
    """MLX would write past the end of a row without a word."""
    assert make_sampling({"xtc_special_tokens": [1, VOCAB - 1]}, VOCAB).xtc_special_tokens == (1, VOCAB - 1)
    for odd in ([VOCAB], [-1], [1.5], ["1"], 5):
        with pytest.raises(UsageError):
            make_sampling({"xtc_special_tokens": odd}, VOCAB)
