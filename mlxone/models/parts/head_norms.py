"""Norms of queries, keys and values: each head with one weight for all, or with a weight of its own."""

from __future__ import annotations

from mlxone.backend.arrays import mx
from mlxone.models.layers import AnyNorm
from mlxone.models.spec import AttentionSpec, DecoderSpec, HeadNorm
from mlxone.models.weights import WeightSource


class WeightlessNorm:
    __slots__ = ("eps",)

    def __init__(self, eps: float) -> None:
        self.eps = eps

    def __call__(self, x: mx.array) -> mx.array:
        return mx.fast.rms_norm(x, None, self.eps)


class NormForEachHead:
    """A layer norm with as many weights as heads: [B, L, H * dim] to [B, L, H, dim]."""

    __slots__ = ("eps", "weight")

    def __init__(self, weights: list[mx.array], eps: float) -> None:
        self.weight, self.eps = mx.stack(weights), eps

    def __call__(self, x: mx.array) -> mx.array:
        x = x.reshape(*x.shape[:2], *self.weight.shape)
        return self.weight * mx.fast.layer_norm(x, None, None, self.eps)

    def arrays(self) -> list[mx.array]:
        return [self.weight]


HeadNormalizer = AnyNorm | NormForEachHead


def head_norms(
    spec: AttentionSpec, model: DecoderSpec, source: WeightSource, path: str
) -> tuple[HeadNormalizer | None, HeadNormalizer | None]:
    """Of the queries and of the keys."""
    if spec.head_norm is None:
        return None, None
    found = [
        _head_norm(spec.head_norm, f"{path}.{model.name(role)}", heads, spec.head_dim, source)
        for role, heads in (("q_norm", spec.heads), ("k_norm", spec.kv_heads))
        if role == "q_norm" or not spec.shared
    ]
    return found[0], found[1] if len(found) > 1 else None


def _head_norm(own: HeadNorm, path: str, heads: int, dims: int, source: WeightSource) -> HeadNormalizer:
    if own.reach == "own":
        weights = [source.vector(f"{path}.norms.{head}.weight", dims) for head in range(heads)]
        return NormForEachHead(weights, own.norm.eps)
    return source.norm(path, dims if own.reach == "head" else heads * dims, own.norm)
