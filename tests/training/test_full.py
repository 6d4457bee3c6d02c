"""Whole weights: where they may be trained, how they are stored, what is left when they go wrong."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

import mlxone
from mlxone.backend.arrays import mx
from mlxone.core.errors import TrainingFailed, UsageError
from mlxone.training import gradients, steps
from mlxone.training.data.source import read
from mlxone.training.optimizer import Optimizer
from tests.training import runs
from tests.training.runs import ROWS, Watch, run

FULL: dict[str, Any] = {"type": "full", "lr": 1e-3, "batch": 2, "iters": 9}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.model(tmp_path_factory.mktemp("models") / "tiny")


def test_a_packed_model_has_no_place_for_them(tmp_path: Path):
    packed = runs.packed_model(tmp_path / "packed")
    with pytest.raises(UsageError, match="is packed .2, 4, 8 bits a weight.") as caught:
        run(packed, tmp_path / "a", **FULL)
    assert caught.value.param == "type" and "lora" in caught.value.hint and not (tmp_path / "a").exists()
    with pytest.raises(UsageError, match="is packed .2 bits"):
        run(packed, tmp_path / "a", **FULL, target_modules="q_proj")


def test_they_are_stored_as_the_base_has_them(tmp_path: Path):
    narrow = runs.model(tmp_path / "narrow")
    weights = {n: a.astype(mx.bfloat16) for n, a in runs.tensors(narrow / "model.safetensors").items()}
    mx.save_safetensors(str(narrow / "model.safetensors"), weights)
    config = json.loads((narrow / "config.json").read_text())
    (narrow / "config.json").write_text(json.dumps(config | {"torch_dtype": "bfloat16"}))
    result = run(narrow, tmp_path / "a", **FULL | {"iters": 3}, val_size=0.5)
    stored = runs.tensors(tmp_path / "a" / "adapters.safetensors")
    assert {a.dtype for a in stored.values()} == {mx.bfloat16} and stored.keys() <= weights.keys()
    masters = runs.tensors(tmp_path / "a" / "state.safetensors")
    assert all(a.dtype == mx.float32 for n, a in masters.items() if n.startswith("params/"))
    found = mlxone.evaluate(narrow, read(ROWS, valid_share=0.5), adapter=tmp_path / "a")
    assert found.loss == pytest.approx(result.valid_loss, rel=1e-2)  # of weights that are rounded now


@pytest.mark.parametrize(("save_every", "words"), [(2, "loss of step 4"), (3, "loss after step 3")])
def test_bad_weights_never_replace_good_ones(model: Path, tmp_path: Path, monkeypatch, save_every, words):
    """Step 3 makes them so large that no loss comes of them."""
    good, path = tmp_path / "good", tmp_path / "a"
    run(model, good, **FULL | {"iters": 2})
    real, calls = Optimizer.step, list[int]()

    def step(self, params, gradients, loss, lr):
        calls.append(1)
        new, norm = real(self, params, gradients, loss, lr)
        return ({n: a * 1e30 for n, a in new.items()} if len(calls) == 3 else new), norm

    monkeypatch.setattr(Optimizer, "step", step)
    with pytest.raises(TrainingFailed, match=f"the {words} is not a finite number") as caught:
        run(model, path, **FULL, save_every=save_every)
    if save_every == 3:
        assert "nothing was saved" in caught.value.message and not (path / "adapters.safetensors").exists()
        return
    assert "after step 2" in caught.value.message
    kept, expected = (runs.tensors(p / "adapters.safetensors") for p in (path, good))
    assert all(mx.array_equal(kept[name], expected[name]).item() for name in expected)


def test_weights_that_are_good_are_kept_where_a_batch_is_not(model: Path, tmp_path: Path, monkeypatch):
    good, path = tmp_path / "good", tmp_path / "a"
    run(model, good, **FULL | {"iters": 2})
    real, calls = gradients.loss_and_gradients, list[int]()

    def broken(*args, **options):
        calls.append(1)
        measured, slopes = real(*args, **options)
        if len(calls) == 3:
            slopes = {name: a * math.inf for name, a in slopes.items()}
        return measured, slopes

    monkeypatch.setattr(steps, "loss_and_gradients", broken)
    watch = Watch()
    with pytest.raises(TrainingFailed, match="the gradient of step 3 .* after step 2"):
        run(model, path, watch, **FULL)
    kept, expected = (runs.tensors(p / "adapters.safetensors") for p in (path, good))
    assert all(mx.array_equal(kept[name], expected[name]).item() for name in expected)
