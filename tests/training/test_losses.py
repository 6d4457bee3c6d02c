"""DPO and ORPO as written down in their papers, in float64 and without tricks."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mlxone.backend.arrays import lock, mx, on_stream
from mlxone.training.losses import Dpo, Orpo, Sft, by_sequence, measured

COUNTS = (3, 5, 1, 2, 4, 4)
LOGPROBS = -np.random.default_rng(0).exponential(1.5, sum(COUNTS))
REFERENCES = [(-4.0, -6.5), (-1.0, -2.0), (-9.0, -3.0)]


def sequences() -> list[tuple[np.ndarray, np.ndarray]]:
    parts = np.split(LOGPROBS, np.cumsum(COUNTS)[:-1])
    return list(zip(parts[::2], parts[1::2], strict=True))


def log_sigmoid(x: float) -> float:
    return math.log(1 / (1 + math.exp(-x)))


def dpo(beta: float, references: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of each pair: loss and margin."""
    margins = [
        beta * ((c.sum() - rc) - (r.sum() - rr))
        for (c, r), (rc, rr) in zip(sequences(), references, strict=True)
    ]
    return [(-log_sigmoid(m), m) for m in margins]


def orpo(weight: float) -> list[tuple[float, float]]:
    def log_odds(part: np.ndarray) -> float:
        probability = math.exp(part.mean())
        return math.log(probability / (1 - probability))

    margins = [log_odds(c) - log_odds(r) for c, r in sequences()]
    return [(-c.mean() - weight * log_sigmoid(m), m) for (c, _), m in zip(sequences(), margins, strict=True)]


@pytest.mark.parametrize(
    ("objective", "references", "expected"),
    [
        (Dpo(0.1), REFERENCES, dpo(0.1, REFERENCES)),
        (Dpo(2.0), REFERENCES, dpo(2.0, REFERENCES)),
        (Dpo(0.5), None, dpo(0.5, [(0.0, 0.0)] * 3)),
        (Orpo(0.1), None, orpo(0.1)),
        (Orpo(1.5), None, orpo(1.5)),
    ],
)
def test_preferences_are_measured_as_written_down(objective, references, expected):
    with lock, on_stream():
        given = None if references is None else mx.array(references)
        found = measured(objective, mx.array(LOGPROBS.astype(np.float32)), COUNTS, given)
        assert found.total.item() == pytest.approx(sum(loss for loss, _ in expected), rel=1e-5)
        assert found.weight.item() == 3
        assert found.extras["margin"].item() == pytest.approx(sum(m for _, m in expected), rel=1e-5)
        assert found.extras["accuracy"].item() == sum(m > 0 for _, m in expected)
        sums = [[c.sum(), r.sum()] for c, r in sequences()]
        assert np.allclose(np.array(found.extras["logprobs"]), sums, rtol=1e-5)


def test_cross_entropy_is_weighted_by_tokens():
    with lock, on_stream():
        found = measured(Sft(), mx.array([-1.0, -2.0, -4.0]), (1, 2))
        assert (found.total.item(), found.weight.item()) == (7.0, 3.0)


def test_each_sequence_gets_its_own():
    with lock, on_stream():
        sums = by_sequence(mx.array([1.0, 2.0, 4.0, 8.0]), (1, 0, 3))
        assert sums.tolist() == [1.0, 0.0, 14.0]


@pytest.mark.parametrize("objective", [Dpo(5.0), Orpo(0.1)])
@pytest.mark.parametrize("chosen", [0.0, -1e-9, -80.0, -3000.0])
def test_extremes_stay_finite(objective, chosen: float):
    """Certainty, its opposite, and margins that an exponential cannot hold; the slopes, too."""
    with lock, on_stream():

        def total(logprobs: mx.array) -> mx.array:
            return measured(objective, logprobs, (1, 1)).total

        for values in ([chosen, -2.0], [-2.0, chosen]):
            loss, slope = mx.value_and_grad(total)(mx.array(values))
            assert mx.isfinite(loss).item() and mx.isfinite(slope).all().item()
