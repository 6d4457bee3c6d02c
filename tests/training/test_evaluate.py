"""Perplexity and preferences, against the logits of the plain model in float64."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import mlxone
from mlxone.backend.arrays import on_stream
from mlxone.core.errors import AdapterMismatch, DataError, UsageError
from mlxone.models.adapters import Adapter
from mlxone.models.changed import changed_decoder
from mlxone.training.samples import Pair, Sample
from tests.training import runs
from tests.training.runs import PAIRS, ROWS, run


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> mlxone.Model:
    return mlxone.load(runs.model(tmp_path_factory.mktemp("models") / "tiny"))


def logprobs(model: mlxone.Model, ids: tuple[int, ...]) -> np.ndarray:
    """Of each token but the first."""
    logits = np.array(model.logits(list(ids)), dtype=np.float64)[:-1]
    logits -= logits.max(axis=1, keepdims=True)
    return (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))[np.arange(len(ids) - 1), ids[1:]]


SAMPLES = [Sample((5, 9, 3, 7, 2), 0), Sample((4, 8, 1), 2), Sample(tuple(range(1, 30)), 11)]


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_the_mean_over_scored_tokens(model, batch):
    told: list[tuple[int, int]] = []
    found = mlxone.evaluate(model, SAMPLES, batch=batch, tell=lambda done, of: told.append((done, of)))
    scored = np.concatenate([logprobs(model, s.ids)[max(s.prompt, 1) - 1 :] for s in SAMPLES])
    assert found.tokens == len(scored) == sum(s.scored for s in SAMPLES)
    assert found.loss == pytest.approx(-scored.mean(), rel=1e-5)
    assert found.perplexity == pytest.approx(math.exp(-scored.mean()), rel=1e-4)
    assert told[0] == (0, 3) and told[-1] == (3, 3)


def test_the_likelier_answer_wins(model):
    pairs = [Pair((5, 9, 3), (7, 2), (1, 4, 6)), Pair((8, 8), (3,), (11,)), Pair((1, 2), (40, 41), (9, 9))]
    found = mlxone.evaluate(model, pairs)
    margins = []
    for pair in pairs:
        start = len(pair.prompt) - 1
        chosen, rejected = (
            logprobs(model, pair.prompt + answer)[start:].sum() for answer in (pair.chosen, pair.rejected)
        )
        margins.append(0.1 * (chosen - rejected))
    assert found.extras["accuracy"] == pytest.approx(np.mean([m > 0 for m in margins]))
    assert found.extras["margin"] == pytest.approx(np.mean(margins), rel=1e-4)
    assert found.perplexity is None and found.samples == 3 and found.tokens == 11


def test_with_an_adapter_the_model_without_it_is_the_measure(model, tmp_path: Path):
    run(model.path, tmp_path / "a", data=PAIRS, iters=8, lr=1e-2, method="dpo", val_size=0.0)
    with on_stream():
        changes = Adapter.read(tmp_path / "a").changes(model.decoder)
    alone = mlxone.evaluate(replace(model, decoder=changed_decoder(model.decoder, changes)), PAIRS)
    base, adapted = mlxone.evaluate(model, PAIRS), mlxone.evaluate(model, PAIRS, adapter=tmp_path / "a")
    moved = alone.extras["margin"] - base.extras["margin"]
    assert adapted.extras["margin"] == pytest.approx(moved, rel=1e-4)
    assert adapted.extras["accuracy"] == 1.0 and adapted.loss < math.log(2) < base.loss
    with pytest.raises(AdapterMismatch):
        mlxone.evaluate(model, ROWS, adapter=tmp_path)


def test_the_model_itself_is_as_it_was(model, tmp_path: Path):
    before = mlxone.evaluate(model, ROWS).loss
    run(model.path, tmp_path / "a", iters=3, lr=1e-2)
    mlxone.evaluate(model, ROWS, adapter=tmp_path / "a")
    assert mlxone.evaluate(model, ROWS).loss == before


def test_only_the_answer_and_only_so_much(model):
    full, response = (mlxone.evaluate(model, ROWS, scope=scope) for scope in ("full", "response"))
    assert 0 < response.tokens < full.tokens and response.samples == full.samples == 12
    cut = mlxone.evaluate(model, ROWS, max_length=10)
    assert cut.truncated == 12 and cut.tokens == 12 * 9


def test_nothing_to_measure_is_said(model):
    with pytest.raises(DataError):
        mlxone.evaluate(model, [])
    with pytest.raises(UsageError, match="batch"):
        mlxone.evaluate(model, ROWS, batch=0)
