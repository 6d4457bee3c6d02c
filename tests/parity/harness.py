"""Random checkpoints on disk, and the comparison with mlx-lm that parity means.

mlx-lm builds the random model and saves it; both then load the same folder. What is compared is
every logit, with `array_equal`: prefill in chunks, then 40 decode steps.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import _get_classes
from mlx_lm.utils import load_model as mlx_lm_load

from mlxone.backend.arrays import mx, on_stream
from mlxone.models.config import Config
from mlxone.models.decoder import Decoder
from mlxone.models.loading import load_decoder

DECODE_STEPS = 40


def save_random_model(
    folder: Path,
    config: Mapping[str, Any],
    *,
    dtype: mx.Dtype = mx.bfloat16,
    quantization: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> None:
    """`quantization`: {"group_size", "bits", "mode"?}, and per-layer overrides by path."""
    model_class, args_class = _get_classes(dict(config))
    model = model_class(args_class.from_dict(dict(config)))
    mx.random.seed(seed)
    shape_like = tree_map(lambda a: _random(a.shape).astype(dtype), model.parameters())
    model.update(shape_like)
    written = dict(config)
    if quantization is not None:
        _quantize(model, quantization)
        written["quantization"] = written["quantization_config"] = dict(quantization)
    folder.mkdir(parents=True, exist_ok=True)
    mx.save_safetensors(
        str(folder / "model.safetensors"), dict(tree_flatten(model.parameters())), {"format": "mlx"}
    )
    (folder / "config.json").write_text(json.dumps(written))


def _random(shape: Sequence[int]) -> mx.array:
    # Norm weights near 1, matrices small enough to keep activations in range.
    if len(shape) == 1:
        return 1 + 0.1 * mx.random.normal(shape)
    return mx.random.normal(shape) * shape[-1] ** -0.5


def _quantize(model: nn.Module, quantization: Mapping[str, Any]) -> None:
    def setting(path: str, module: nn.Module) -> Any:
        if not hasattr(module, "to_quantized"):
            return False
        return quantization.get(path, True)

    nn.quantize(
        model,
        quantization["group_size"],
        quantization["bits"],
        mode=quantization.get("mode", "affine"),
        class_predicate=setting,
    )


def logits_of_mlx_lm(folder: Path, ids: Sequence[int], chunks: Sequence[int]) -> list[mx.array]:
    model, _ = mlx_lm_load(folder)
    cache = make_prompt_cache(model)
    results: list[mx.array] = []
    for chunk in _chunks(ids, chunks):
        results.append(model(mx.array([chunk]), cache=cache))
        mx.eval(results[-1])
    return results


def logits_of_ours(folder: Path, ids: Sequence[int], chunks: Sequence[int]) -> list[mx.array]:
    return run_ours(load_decoder(folder, config=Config.read(folder)), ids, chunks)


def run_ours(decoder: Decoder, ids: Sequence[int], chunks: Sequence[int]) -> list[mx.array]:
    state = decoder.new_state()
    results: list[mx.array] = []
    with on_stream():
        for chunk in _chunks(ids, chunks):
            results.append(decoder.logits(decoder.hidden(mx.array([chunk]), state)))
            mx.eval(results[-1])
    return results


def _chunks(ids: Sequence[int], chunks: Sequence[int]) -> list[list[int]]:
    """The prompt cut at `chunks`, then the rest one token at a time."""
    parts, start = [], 0
    for size in chunks:
        parts.append(list(ids[start : start + size]))
        start += size
    return parts + [[i] for i in ids[start:]]


def assert_parity(
    folder: Path, vocab: int, chunk_sizes: Sequence[Sequence[int]], steps: int = DECODE_STEPS
) -> None:
    for chunks in chunk_sizes:
        mx.random.seed(7)
        ids = mx.random.randint(0, vocab, (sum(chunks) + steps,)).tolist()
        theirs = logits_of_mlx_lm(folder, ids, chunks)
        ours = logits_of_ours(folder, ids, chunks)
        assert len(theirs) == len(ours) == len(chunks) + steps
        for step, (a, b) in enumerate(zip(theirs, ours, strict=True)):
            assert a.dtype == b.dtype and a.shape == b.shape
            assert mx.array_equal(a, b), (
                f"chunks {chunks}: step {step} differs by {mx.abs(a - b).max().item()}"
            )
            assert not mx.isnan(a).any(), f"chunks {chunks}: step {step} is not a number"
