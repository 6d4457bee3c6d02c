"""The draw: beside a plain reckoning of which tokens stay, beside mlx-lm's filters, and by its odds."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from mlx_lm import sample_utils

from mlxone.backend.arrays import mx
from mlxone.core.words import Sampling
from mlxone.engine import sample
from mlxone.engine.sample import logprobs_of, make_draw, step_key
from tests.engine.tiny import integers

pytestmark = pytest.mark.usefixtures("plainly_run")

KEY = mx.random.key(0)


def draws(logits: mx.array, sampling: Sampling, count: int, seed: int = 0) -> list[int]:
    draw = make_draw(sampling, seed)
    return integers(mx.stack([draw(logits, step) for step in range(count)]))


def as_logprobs(logits: np.ndarray) -> mx.array:
    wide = mx.array(logits.astype(np.float32))
    return wide - mx.logsumexp(wide)


def kept(logprobs: mx.array) -> set[int]:
    return set(np.flatnonzero(np.array(logprobs) > -np.inf).tolist())


# Logits on a grid, so that ties happen; and shares that no sum of them meets by chance.
LOGITS = st.lists(st.integers(-12, 12).map(lambda n: n / 4), min_size=1, max_size=40).map(np.array)
SHARES = st.floats(0.01, 0.99)


# Seeds and steps ---------------------------------------------------------------------------


def test_greedy_takes_the_likeliest_token_and_the_first_of_equals():
    assert draws(mx.array([0.1, 3.0, -1.0, 3.0]), Sampling(temperature=0), 3) == [1, 1, 1]


def test_a_draw_depends_on_seed_and_step_alone():
    logits, sampling = mx.zeros(1000), Sampling(temperature=1.0)
    mx.random.seed(1)
    first = draws(logits, sampling, 20, seed=7)
    mx.random.seed(2)
    draw, other = make_draw(sampling, 7), make_draw(sampling, 8)
    backwards = []
    for step in reversed(range(20)):  # beside another row, after other random numbers, in another order
        mx.random.uniform()
        other(logits, step)
        backwards.append(draw(logits, step).item())
    assert backwards[::-1] == first


@pytest.mark.parametrize("settings", [{}, {"top_p": 0.9}, {"xtc_probability": 0.5, "xtc_threshold": 0.0001}])
def test_global_random_state_is_neither_read_nor_moved(settings: dict[str, Any]):
    mx.random.seed(3)
    expected = mx.random.uniform(shape=(4,)).tolist()
    mx.random.seed(3)
    draws(mx.arange(50) / 10, Sampling(temperature=1.0, **settings), 3)
    assert mx.random.uniform(shape=(4,)).tolist() == expected


def test_steps_and_seeds_differ():
    logits, sampling = mx.zeros(100_000), Sampling(temperature=1.0)
    rows = [draws(logits, sampling, 20, seed=seed) for seed in (0, 1, 2, 2**32, 2**63 - 1)]
    tokens = [token for row in rows for token in row]
    assert len(set(tokens)) > len(tokens) - 3
    keys = {tuple(integers(step_key(seed, step))) for seed in range(30) for step in range(30)}
    assert len(keys) == 900


# The odds ----------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_come_as_often_as_their_odds_say(temperature: float):
    logits = np.array([1.0, 0.5, 0.0, -0.5, 2.0, -1.0])
    count = 1500
    odds = np.exp(logits / temperature)
    expected = odds / odds.sum() * count
    seen = Counter(draws(mx.array(logits, mx.float32), Sampling(temperature=temperature), count))
    chi_square = sum((seen[i] - e) ** 2 / e for i, e in enumerate(expected))
    assert chi_square < 20.5  # five degrees of freedom: one run in a thousand, and the seed is fixed


@pytest.mark.parametrize("temperature", [1e-3, 1e-39, 5e-324])
def test_the_colder_the_greedier(temperature: float):
    """Down to temperatures whose inverse no float32 holds."""
    logits = mx.array([-3.0, 1.5, 2.0, -mx.inf, 1.9])
    for top_p in (0.0, 0.99):
        assert draws(logits, Sampling(temperature=temperature, top_p=top_p), 20) == [2] * 20


def test_half_precision_logits_are_drawn_as_float32():
    """Else the temperature would take 200 and 201 to 133 and 134, a third too far apart."""
    logits = mx.array([200.0, 201.0], mx.bfloat16)
    sampling = Sampling(temperature=1.5)
    assert draws(logits, sampling, 200) == draws(logits.astype(mx.float32), sampling, 200)


# What stays --------------------------------------------------------------------------------


@given(LOGITS, SHARES, st.sampled_from([0.0, 1.0, -1.0]))
def test_top_p(logits: np.ndarray, share: float, shift: float):
    """The share is of what is there, also where an earlier filter took something away."""
    logprobs = as_logprobs(logits) + shift
    probs = np.exp(logprobs.tolist())
    stay = set()
    for i, p in enumerate(probs):  # equals are kept or left out together
        likelier = probs[probs > p + 1e-7].sum()
        assume(abs(likelier - share * probs.sum()) > 1e-5)
        if likelier < share * probs.sum():
            stay.add(i)
    ours = sample.keep_top_p(logprobs, share)
    assert kept(ours) == stay
    assert mx.array_equal(ours, sample_utils.apply_top_p(logprobs[None], share)[0])


@given(LOGITS, SHARES, st.one_of(st.integers(1, 4), st.integers(1, 50)))
def test_min_p(logits: np.ndarray, share: float, at_least: int):
    logprobs = as_logprobs(logits)
    values = np.array(logprobs.tolist())
    bar = values.max() + math.log(share)
    assume(np.abs(values - bar).min() > 1e-5)
    stay = set(np.flatnonzero(values >= bar).tolist())
    ours = sample.keep_min_p(logprobs, share, at_least)
    result = kept(ours)
    assert len(result) == max(len(stay), min(at_least, len(values)))
    assert min(values[list(result)]) >= max((v for i, v in enumerate(values) if i not in result), default=-99)
    if at_least == 1:
        assert result == stay
    if at_least <= len(values):
        assert mx.array_equal(ours, sample_utils.apply_min_p(logprobs[None], share, at_least)[0])


@given(LOGITS, st.integers(1, 45))
def test_top_k(logits: np.ndarray, count: int):
    logprobs = as_logprobs(logits)
    values = np.array(logprobs.tolist())
    ours = sample.keep_top_k(logprobs, count)
    result = kept(ours)
    assert len(result) == min(count, len(values))
    assert min(values[list(result)]) >= max((v for i, v in enumerate(values) if i not in result), default=-99)
    if count < len(values):
        assert mx.array_equal(ours, sample_utils.apply_top_k(logprobs[None], count)[0])


@given(LOGITS, st.floats(0.01, 0.5), st.sets(st.integers(0, 39), max_size=3))
def test_xtc_leaves_out_all_top_choices_but_the_least(logits: np.ndarray, threshold: float, never: set[int]):
    logprobs = as_logprobs(logits)
    never = {i for i in never if i < len(logits)}
    probs = np.exp(logprobs.tolist())
    assume(np.abs(probs - threshold).min() > 1e-5)
    top = [p for p in probs if p > threshold]
    stay = {i for i, p in enumerate(probs) if not top or p <= min(top) + 1e-7 or i in never}
    ours = sample.leave_out_top_choices(logprobs, 1.0, threshold, tuple(never), KEY)
    assert kept(ours) == stay
    theirs = sample_utils.apply_xtc(logprobs[None], 1.0, threshold, list(never))[0]
    assert mx.array_equal(ours, theirs)


def test_xtc_happens_as_often_as_it_should():
    logprobs = as_logprobs(np.array([2.0, 1.0, 0.0]))
    happened = sum(
        kept(sample.leave_out_top_choices(logprobs, 0.3, 0.1, (), step_key(5, step))) != {0, 1, 2}
        for step in range(600)
    )
    assert abs(happened - 180) < 4 * math.sqrt(600 * 0.3 * 0.7)


def test_xtc_and_the_token_are_independent():
    """With one and the same number for both, what would be drawn tells whether XTC happens."""
    logits = mx.array([0.1, 0.0, -0.1])
    plain = draws(logits, Sampling(temperature=1.0), 900)
    xtc = draws(logits, Sampling(temperature=1.0, xtc_probability=0.5, xtc_threshold=0.32), 900)
    for token, stays in ((0, False), (1, True), (2, True)):  # the least likely above 0.32 is token 1
        times = sum(a == token for a in plain)
        changed = sum(a == token != b for a, b in zip(plain, xtc, strict=True))
        assert changed == 0 if stays else abs(changed - times / 2) < 4 * math.sqrt(times) / 2


# All of them together ----------------------------------------------------------------------

MANY = mx.array([3.0, 2.5, 2.0, 1.5, 1.0, 0.5, 0.0, -4.0])
SETTINGS: list[dict[str, Any]] = [
    {"top_p": 0.7},
    {"min_p": 0.2},
    {"top_k": 3},
    {"min_p": 0.9, "min_tokens_to_keep": 4},
    {"xtc_probability": 1.0, "xtc_threshold": 0.1},
    {"xtc_probability": 1.0, "xtc_threshold": 0.1, "xtc_special_tokens": (1,)},
    {"xtc_probability": 1.0, "xtc_threshold": 0.1, "top_k": 2},  # in the other order one would be left
    {"top_p": 0.8, "xtc_probability": 1.0, "xtc_threshold": 0.24},  # of what top-p left, not of all
    {"top_p": 0.9, "min_p": 0.1, "top_k": 4},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_filters_work_in_mlx_lms_order_and_before_the_temperature(settings: dict[str, Any]):
    expected = (MANY - mx.logsumexp(MANY))[None]
    if "top_p" in settings:
        expected = sample_utils.apply_top_p(expected, settings["top_p"])
    if "min_p" in settings:
        at_least = settings.get("min_tokens_to_keep", 1)
        expected = sample_utils.apply_min_p(expected, settings["min_p"], at_least)
    if "xtc_threshold" in settings:
        never = list(settings.get("xtc_special_tokens", ()))
        expected = sample_utils.apply_xtc(expected, 1.0, settings["xtc_threshold"], never)
    if "top_k" in settings:
        expected = sample_utils.apply_top_k(expected, settings["top_k"])
    # At temperature 5 all that is kept is drawn soon.
    assert set(draws(MANY, Sampling(temperature=5.0, **settings), 250)) == kept(expected[0])


@pytest.mark.parametrize("off", [{"top_p": 0.0}, {"top_p": 1.0}, {"top_k": 0}, {"top_k": 8}, {"min_p": 0.0}])
def test_neutral_values_change_nothing(off: dict[str, Any]):
    assert draws(MANY, Sampling(temperature=1.0, **off), 30) == draws(MANY, Sampling(temperature=1.0), 30)
    if "top_p" in off:  # even rounding must not leave anything out
        assert sample._filters(Sampling(**off)) == []


def test_a_filter_does_not_change_the_odds_of_what_it_keeps():
    """Tokens that a filter leaves alone are drawn as without it: same key, same race."""
    plain = draws(MANY, Sampling(temperature=1.0), 200)
    filtered = draws(MANY, Sampling(temperature=1.0, top_k=4), 200)
    assert [a for a, b in zip(plain, filtered, strict=True) if a < 4] == [
        b for a, b in zip(plain, filtered, strict=True) if a < 4
    ]
    assert set(plain) - {0, 1, 2, 3}


# Log-probabilities -------------------------------------------------------------------------


@given(LOGITS, st.integers(0, 45), st.data())
def test_logprobs(logits: np.ndarray, count: int, data: st.DataObject):
    token = data.draw(st.integers(0, len(logits) - 1))
    exact = logits - np.log(np.exp(logits).sum())
    logprob, best, values = logprobs_of(mx.array(logits, mx.float32), mx.array(token), count)
    assert abs(logprob.item() - exact[token]) < 1e-5
    assert best.size == len(set(integers(best))) == min(count, len(logits))
    np.testing.assert_allclose(np.array(values), exact[np.array(best)], atol=1e-5)
    np.testing.assert_allclose(np.array(values), np.sort(exact)[::-1][:count], atol=1e-5)
    if count >= len(logits):
        assert abs(np.exp(np.array(values)).sum() - 1) < 1e-5


def test_logprobs_of_half_precision_logits_are_reckoned_in_float32():
    logits = mx.array([10.0, 9.0, -3.0], mx.bfloat16)
    logprob, _, _ = logprobs_of(logits, mx.array(1), 0)
    assert logprob.dtype == mx.float32
    assert abs(logprob.item() - (9 - math.log(math.exp(10) + math.exp(9) + math.exp(-3)))) < 1e-5
