"""Random adapters for tiny models, and what they should make of it, worked out apart in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mlxone.backend.arrays import lock, mx, on_stream
from mlxone.models.adapter_files import AdapterFile
from mlxone.models.changed import linears_of, norms_of
from mlxone.models.decoder import Decoder

IDS = [5, 7, 11, 13, 17]


def random_params(
    decoder: Decoder,
    kind: str = "lora",
    *,
    rank: Callable[[int], int] = lambda number: 4,
    wanted: Callable[[str], bool] = lambda path: True,
    dtype: mx.Dtype = mx.float32,
    seed: int = 1,
) -> dict[str, mx.array]:
    """For every wanted linear, in order; `rank` of the number that it has in the model."""
    found: dict[str, mx.array] = {}
    with lock, on_stream():
        mx.random.seed(seed)
        for number, (path, facts) in enumerate(linears_of(decoder).items()):
            if wanted(path):
                found |= _random(path, kind, facts.in_dims, facts.out_dims, rank(number))
        if kind == "full":
            norms = {path: norm for path, norm in norms_of(decoder).items() if wanted(path)}
            found |= {f"{p}.weight": 1 + 0.1 * mx.random.normal(n.stored.shape) for p, n in norms.items()}
        found = {name: array.astype(dtype) for name, array in found.items()}
        mx.eval(found)
    return found


def _random(path: str, kind: str, in_dims: int, out_dims: int, rank: int) -> dict[str, mx.array]:
    if kind == "full":
        return {f"{path}.weight": mx.random.normal((out_dims, in_dims)) * in_dims**-0.5}
    a, b = mx.random.normal((in_dims, rank)) * in_dims**-0.5, mx.random.normal((rank, out_dims)) * 0.3
    m = {f"{path}.m": mx.random.uniform(0.5, 1.5, (out_dims,))} if kind == "dora" else {}
    return {f"{path}.lora_a": a, f"{path}.lora_b": b} | m


def facts(kind: Any = "lora", **more: Any) -> AdapterFile:
    return AdapterFile(kind, **({"rank": 4, "scale": 1.7} | more))


def answers(decoder: Decoder) -> mx.array:
    with lock, on_stream():
        out = decoder.logits(decoder.hidden(mx.array([IDS]), decoder.new_state()))
        mx.eval(out)
    return out


def wide(array: mx.array) -> np.ndarray[Any, Any]:
    return np.array(array.astype(mx.float32).tolist(), dtype=np.float64)


def linear(x: mx.array, weight: mx.array, params: dict[str, mx.array], scale: float) -> np.ndarray[Any, Any]:
    """x through one linear that `params` ("lora_a", "lora_b", maybe "m") change."""
    changed = wide(weight) + scale * (wide(params["lora_a"]) @ wide(params["lora_b"])).T
    if "m" in params:
        changed *= (wide(params["m"]) / np.sqrt((changed**2).sum(axis=1)))[:, None]
    product: np.ndarray[Any, Any] = wide(x) @ changed.T
    return product
