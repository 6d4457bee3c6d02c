"""The starter in its own numbers: float16, packed weights and MLX's BLAS, equal to mlx-lm bit for bit.

MLX's packed product in float16 is slow on a CPU: one token takes the starter four seconds there, and
each long text a quarter of an hour. On a GPU all of this takes seconds.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mlx_lm.utils import load_model as mlx_lm_load

import mlxone
from mlxone.backend.arrays import mx
from tests.e2e import beside
from tests.e2e.test_starter import PROMPTS, ids_for
from tests.parity.harness import logits_of_mlx_lm, logits_of_ours


def assert_same_logits(folder: Path, ids: list[int], chunks: tuple[int, ...]) -> None:
    theirs, ours = logits_of_mlx_lm(folder, ids, chunks), logits_of_ours(folder, ids, chunks)
    assert len(theirs) == len(ours) == len(chunks) + 2
    for a, b in zip(theirs, ours, strict=True):
        assert a.dtype == b.dtype == mx.float16
        assert mx.array_equal(a, b)


def test_logits_of_the_first_layers(starter_folder: Path, tmp_path: Path):
    """True weights in their true packing; all layers are below, and in float32 in tests/e2e."""
    config = json.loads((starter_folder / "config.json").read_text()) | {"num_hidden_layers": 2}
    later = tuple(f"model.layers.{i}." for i in range(2, 30))
    weights: dict[str, Any] = mx.load(str(starter_folder / "model.safetensors"))  # type: ignore[assignment]
    kept = {name: array for name, array in weights.items() if not name.startswith(later)}
    mx.save_safetensors(str(tmp_path / "model.safetensors"), kept)
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert_same_logits(tmp_path, [504, 3575, 282, 4649, 314], (3,))  # "The capital of France is"


@pytest.mark.long
def test_logits_of_a_short_prompt(starter_folder: Path):
    ids = mlxone.load(starter_folder).tokenizer.encode("The capital of France is Paris, and")
    assert_same_logits(starter_folder, ids, (4, len(ids) - 6))


@pytest.mark.long
@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_texts(starter_folder: Path, prompt: str):
    ours = mlxone.load(starter_folder)
    theirs, _ = mlx_lm_load(starter_folder)
    ids = ids_for(ours, prompt)
    tokens = [t.token for t in mlxone.generate(ours, ids, max_tokens=64, eos_token_ids=())]
    assert tokens == beside.greedy(theirs, ids, 64)
