"""A model with an adapter mounted equals mlx-lm with the same adapter loaded, bit for bit."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any, cast

import pytest
from mlx.utils import tree_flatten
from mlx_lm.tuner.utils import linear_to_lora_layers
from mlx_lm.utils import load_model as mlx_lm_load

from bench.random_models import save_random_model
from mlxone.backend.arrays import lock, mx, on_stream
from mlxone.models.adapter_files import write_adapter
from mlxone.models.adapters import Adapter
from mlxone.models.changed import changed_decoder
from mlxone.models.loading import load_decoder
from tests.models.tuned import facts, random_params
from tests.parity.harness import logits_of_mlx_lm, run_ours
from tests.parity.test_families import BASE, CONFIGS, PACKINGS, VOCAB

CHUNKS = [(37,), (1, 30, 6)]
STEPS = 12
BOTH = ("lora", "dora")
CASES = [
    *product(("llama", "llama-biases", "qwen2-untied"), ("bf16",), BOTH),
    *product(("qwen3", "llama-biases", "smollm3"), ("4-bit",), BOTH),
    *product(("qwen3",), ("mxfp4",), BOTH),
    ("llama", "mixed", "lora"),  # mlx-lm mistakes the inputs of a 6-bit weight where it makes a DoRA of it
]


def assert_same(base: Path, adapter: Path) -> None:
    for chunks in CHUNKS:
        mx.random.seed(7)
        ids = cast("list[int]", mx.random.randint(0, VOCAB, (sum(chunks) + STEPS,)).tolist())
        theirs = logits_of_mlx_lm(base, ids, chunks, adapter=adapter)
        decoder = load_decoder(base)
        ours = run_ours(changed_decoder(decoder, Adapter.read(adapter).changes(decoder)), ids, chunks)
        plain = run_ours(decoder, ids, chunks)
        for step, (a, b, without) in enumerate(zip(theirs, ours, plain, strict=True)):
            assert a.dtype == b.dtype and mx.array_equal(a, b), f"chunks {chunks}: step {step} differs"
            assert not mx.array_equal(b, without), "the adapter changes nothing, so this proves nothing"


def saved_model(folder: Path, family: str, packing: str) -> Path:
    save_random_model(folder, {**BASE, **CONFIGS[family]}, quantization=PACKINGS[packing])
    return folder


@pytest.mark.parametrize(("family", "packing", "kind"), CASES)
def test_logits_equal_mlx_lm(tmp_path: Path, family: str, packing: str, kind: str) -> None:
    base = saved_model(tmp_path / "base", family, packing)
    params = random_params(load_decoder(base), kind)
    write_adapter(tmp_path / "adapter", params, facts(kind))
    assert_same(base, tmp_path / "adapter")


@pytest.mark.parametrize("kind", BOTH)
def test_in_the_dtype_it_was_saved_in(tmp_path: Path, kind: str) -> None:
    base = saved_model(tmp_path / "base", "llama", "4-bit")
    write_adapter(
        tmp_path / "adapter", random_params(load_decoder(base), kind, dtype=mx.bfloat16), facts(kind)
    )
    assert_same(base, tmp_path / "adapter")


@pytest.mark.parametrize("kind", BOTH)
def test_ranks_of_every_size_and_the_last_layers_alone(tmp_path: Path, kind: str) -> None:
    """What was filled up with zeros is the same to mlx-lm."""
    base = saved_model(tmp_path / "base", "llama", "bf16")
    params = random_params(
        load_decoder(base), kind, rank=lambda number: 2 + number % 5, wanted=lambda path: ".layers.2." in path
    )
    write_adapter(tmp_path / "adapter", params, facts(kind, layers=1))
    assert_same(base, tmp_path / "adapter")


def test_a_full_fine_tuning(tmp_path: Path) -> None:
    base = saved_model(tmp_path / "base", "qwen3", "bf16")
    params = random_params(
        load_decoder(base), "full", dtype=mx.bfloat16, wanted=lambda path: ".layers.1." in path
    )
    write_adapter(tmp_path / "adapter", params, facts("full"))
    assert_same(base, tmp_path / "adapter")


def test_an_adapter_that_mlx_lm_wrote(tmp_path: Path) -> None:
    base = saved_model(tmp_path / "base", "qwen3", "4-bit")
    settings: dict[str, Any] = {"rank": 6, "scale": 3.0, "dropout": 0.0}
    model, _ = mlx_lm_load(base)
    model.freeze()
    linear_to_lora_layers(model, 2, settings)
    with lock, on_stream():
        arrays: dict[str, Any] = dict(tree_flatten(model.trainable_parameters()))
        noisy = {name: array + 0.1 * mx.random.normal(array.shape) for name, array in arrays.items()}
        (tmp_path / "adapter").mkdir()
        mx.save_safetensors(str(tmp_path / "adapter" / "adapters.safetensors"), noisy)
    (tmp_path / "adapter" / "adapter_config.json").write_text(
        json.dumps({"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": settings, "seed": 0})
    )
    assert_same(base, tmp_path / "adapter")
