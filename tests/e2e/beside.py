"""mlx-lm, computing in the same numbers as mlxone does by default on a Linux CPU: all in float32."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.nn as nn
from mlx.utils import tree_map, tree_unflatten
from mlx_lm.generate import generate_step
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model

from mlxone.backend.arrays import mx


def widened(folder: Path) -> Any:
    """The model as mlx-lm loads it, then every packed weight dequantized."""
    model, _ = load_model(folder)
    wide = [(path, _wide(part)) for path, part in model.named_modules() if hasattr(part, "scales")]
    model.update_modules(tree_unflatten(wide))
    model.update(tree_map(lambda a: a.astype(mx.float32), model.parameters()))
    mx.eval(model.parameters())
    return model


def _wide(part: nn.Module) -> nn.Module:
    scales, biases = (part[name].astype(mx.float32) for name in ("scales", "biases"))
    weight = mx.dequantize(part["weight"], scales, biases, group_size=part.group_size, bits=part.bits)
    plain: nn.Module
    if isinstance(part, nn.QuantizedEmbedding):
        plain = nn.Embedding(1, 1)
    else:
        plain = nn.Linear(1, 1, bias=False)
        assert isinstance(part, nn.QuantizedLinear) and "bias" not in part
    plain.weight = weight
    return plain


def logits(model: Any, chunks: Sequence[Sequence[int]]) -> list[mx.array]:
    cache, results = make_prompt_cache(model), []
    for chunk in chunks:
        results.append(model(mx.array([list(chunk)]), cache=cache)[0])
        mx.eval(results[-1])
    return results


def greedy(model: Any, prompt: Sequence[int], count: int) -> list[int]:
    """Its tokens, the end of sequence among them like any other."""
    return [int(token) for token, _ in generate_step(mx.array(list(prompt)), model, max_tokens=count)]
