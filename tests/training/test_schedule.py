"""Learning rates: against MLX's schedules, and the properties that a warmup should have."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxone.backend.arrays import mx
from mlxone.backend.optimizers import optimizers as mlx
from mlxone.training.recipe import Recipe
from mlxone.training.schedule import Schedule

KINDS = ("constant", "cosine", "linear")


@pytest.mark.parametrize("kind", ["cosine", "linear"])
def test_the_decay_is_that_of_mlx(kind):
    theirs = mlx.cosine_decay(1e-3, 40, 1e-5) if kind == "cosine" else mlx.linear_schedule(1e-3, 1e-5, 40)
    ours = Schedule(kind, 1e-3, 1e-5, decay_steps=40)
    for step in range(60):
        assert ours.lr(step) == pytest.approx(theirs(mx.array(step)).item(), rel=1e-5)


@given(st.sampled_from(KINDS), st.integers(0, 30), st.integers(1, 50), st.floats(0, 1e-3), st.floats(0, 1e-3))
def test_up_to_the_peak_and_then_to_the_end(kind, warmup, decay, start, end):
    peak = 1e-2
    schedule = Schedule(kind, peak, end, warmup, start, decay)
    rates = [schedule.lr(step) for step in range(warmup + decay + 3)]
    assert rates[warmup] == pytest.approx(peak)
    assert rates[: warmup + 1] == sorted(rates[: warmup + 1]) and rates[0] > start
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)
    assert rates[warmup + decay] == pytest.approx(peak if kind == "constant" else end, abs=1e-12)


def test_the_same_for_longer_runs_only_where_it_is():
    def same(done: int, before: int, after: int, **options) -> bool:
        recipe = Recipe.of(options)
        return recipe.pace(before).same_for(done, recipe.pace(after))

    assert same(100, 100, 200)
    assert not same(100, 100, 200, schedule="cosine")
    assert same(100, 100, 200, schedule="cosine", decay_steps=80)
    assert same(10, 100, 200, schedule="cosine", warmup=10)
