"""Bias and penalties equal mlx-lm's on the same tokens, whatever the windows, duplicates and signs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx_lm.sample_utils import make_logits_processors

from mlxone.backend.arrays import mx
from mlxone.core.words import Sampling
from mlxone.engine.processors import History, make_processors

VOCAB = 12
TOKENS = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=20)
WINDOWS = st.integers(0, 25)  # 0 looks at everything
PENALTIES = st.one_of(st.none(), st.floats(-3, 3, width=16).filter(bool))
SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "logit_bias": st.dictionaries(st.integers(0, VOCAB - 1), st.floats(-9, 9, width=16), max_size=3),
        "repetition_penalty": st.one_of(st.none(), st.floats(0.25, 3, width=16)),
        "repetition_context_size": WINDOWS,
        "presence_penalty": PENALTIES,
        "presence_context_size": WINDOWS,
        "frequency_penalty": PENALTIES,
        "frequency_context_size": WINDOWS,
    },
)


def random_logits(seed: int, dtype: mx.Dtype) -> mx.array:
    return mx.array(np.random.default_rng(seed).normal(size=VOCAB) * 3, mx.float32).astype(dtype)


def processed(sampling: Sampling, history: History, logits: mx.array) -> mx.array:
    for process in make_processors(sampling)[0]:
        logits = process(history.recent, logits)
    return logits


@given(SETTINGS, TOKENS, TOKENS, st.sampled_from([mx.float32, mx.bfloat16, mx.float16]))
def test_equal_to_mlx_lm(settings: dict[str, Any], prompt: list[int], answer: list[int], dtype: mx.Dtype):
    sampling = Sampling(**settings)
    history = History(prompt, make_processors(sampling)[1])
    theirs = make_logits_processors(**settings)
    for at, token in enumerate([None, *answer]):
        if token is not None:
            history.add(mx.array(token))
        seen = mx.array(prompt + answer[:at])
        expected = random_logits(at, dtype)[None]
        for process in theirs:
            expected = process(seen, expected)
        ours = processed(sampling, history, random_logits(at, dtype))
        assert ours.dtype == expected.dtype == dtype
        assert mx.array_equal(ours, expected[0])


def test_a_penalty_by_hand():
    """So that the two are not wrong together: token 1 is there twice, 2 once, 3 not within the window."""
    history, logits = History([3, 1, 2, 1], 3), mx.array([1.0, 2.0, -2.0, 4.0])
    cases: list[tuple[dict[str, Any], list[float]]] = [
        ({"repetition_penalty": 2.0, "repetition_context_size": 3}, [1, 1, -4, 4]),
        ({"presence_penalty": 0.5, "presence_context_size": 3}, [1, 1.5, -2.5, 4]),
        ({"frequency_penalty": 0.5, "frequency_context_size": 3}, [1, 1, -2.5, 4]),
        ({"frequency_penalty": -0.5, "frequency_context_size": 1}, [1, 2.5, -2, 4]),
        ({"logit_bias": {0: -7.0, 3: 1.0}}, [-6, 2, -2, 5]),
    ]
    for settings, expected in cases:
        assert processed(Sampling(**settings), history, logits).tolist() == expected
    assert logits.tolist() == [1, 2, -2, 4]  # the model's own array stays as it is


@pytest.mark.parametrize(
    ("settings", "count", "widest"),
    [
        ({}, 0, 1),
        ({"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0}, 0, 1),
        ({"repetition_context_size": 50}, 0, 1),  # of a penalty that is off
        ({"presence_penalty": 1.0, "frequency_penalty": 1.0, "frequency_context_size": 30}, 2, 30),
        ({"presence_penalty": 1.0, "presence_context_size": 0, "frequency_penalty": 1.0}, 2, 0),
        ({"logit_bias": {1: 1.0}}, 1, 1),
    ],
)
def test_only_what_was_asked_for_is_computed(settings: dict[str, Any], count: int, widest: int):
    processors, window = make_processors(Sampling(**settings))
    assert (len(processors), window) == (count, widest)


@given(TOKENS, TOKENS, st.integers(0, 8))
def test_history_keeps_what_its_window_needs_and_no_more(prompt: list[int], answer: list[int], widest: int):
    history = History(prompt, widest)
    for at, token in enumerate(answer, 1):
        history.add(mx.array(token))
        everything = prompt + answer[:at]
        assert history.recent.tolist() == (everything[-widest:] if widest else everything)
