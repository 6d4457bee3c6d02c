"""A run as far as it is known, from both roads that lead to it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxone.cli.train_progress import MOST_POINTS, Progress, Series
from mlxone.training import events
from mlxone.training.metrics import Metrics
from mlxone.training.recipe import Recipe


def stepped(step: int, loss: float = 1.0, **more) -> events.Stepped:
    figures = {"lr": 1e-4, "tokens": 10, "tokens_per_s": 99.0, "peak_memory": 10**9, "grad_norm": 1.0}
    return events.Stepped(step=step, loss=loss, **{**figures, "eta_s": 5.0, **more})


def test_events_and_metrics_say_the_same(tmp_path):
    told: list[events.Event] = [
        events.Started(Recipe(), 10, 100, 3, 5, 0, tmp_path),
        events.Validated(0, 3.0),
        stepped(1, 2.5), stepped(2, 2.0, lr=5e-5), events.Validated(2, 2.2), stepped(3, 1.5),
        events.Validated(3, 2.4),
    ]  # fmt: skip
    live, metrics, read = Progress(), Metrics(tmp_path / "metrics.jsonl"), Progress(steps=3)
    for event in told:
        live.take(event)
        if isinstance(event, events.Stepped):
            metrics.stepped(event)
        elif isinstance(event, events.Validated):
            metrics.validated(event)
    metrics.close()
    from mlxone.cli.train_rows import Tail

    for row in Tail(tmp_path / "metrics.jsonl").read()[1]:
        read.row(row)
    for name in ("steps", "step", "loss", "valid_loss", "best", "lr", "tokens_per_s", "peak_memory"):
        assert getattr(live, name) == getattr(read, name), name
    assert live.train.points == read.train.points == [(1, 2.5), (2, 2.0), (3, 1.5)]
    assert live.valid.points == read.valid.points == [(0, 3.0), (2, 2.2), (3, 2.4)]
    assert live.best == (2.2, 2)


def test_the_end_and_the_saves(tmp_path: Path):
    progress = Progress(steps=9)
    progress.take(stepped(4))
    progress.take(events.Saved(4, tmp_path))
    assert (progress.saved, progress.eta_s, progress.state) == (4, 5.0, "")
    progress.take(events.Stopped(4, "asked", tmp_path))
    assert (progress.step, progress.state, progress.eta_s) == (4, "asked", None)


def test_what_is_not_a_number_is_never_the_best():
    progress = Progress()
    progress.row({"step": 1, "valid_loss": math.nan})
    assert progress.best is None
    progress.row({"step": 2, "valid_loss": 2.0})
    progress.row({"step": 3, "valid_loss": math.nan})
    assert progress.best == (2.0, 2)


@pytest.mark.parametrize(
    "row", [{"step": 2}, {"step": 2, "train_loss": None}, {"step": 2, "train_loss": "x"}]
)
def test_a_row_that_says_little_changes_little(row):
    progress = Progress()
    progress.take(stepped(1))
    progress.row(row)
    assert (progress.step, progress.loss, progress.lr, len(progress.train.points)) == (2, 1.0, 1e-4, 1)


@given(st.integers(0, 3000), st.integers(4, 64).map(lambda n: 2 * n))
def test_however_long_a_run_its_curve_is_short_and_every_point_a_mean_of_equally_many(count, most):
    series = Series(most)
    for step in range(count):
        series.add(step, step % 7)
    assert len(series.points) < most
    each = 1
    while count // each >= most:
        each *= 2
    chunks = [range(at, at + each) for at in range(0, count - each + 1, each)]
    expected = [(sum(c) / each, sum(v % 7 for v in c) / each) for c in chunks]
    assert series.points == [pytest.approx(point) for point in expected]


def test_short_runs_keep_every_point():
    series = Series()
    for step in range(MOST_POINTS - 1):
        series.add(step, 1.0)
    assert len(series.points) == MOST_POINTS - 1
