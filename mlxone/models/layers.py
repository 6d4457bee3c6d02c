"""The pieces with weights: linear, embedding, norm; each plain or packed.

A layer object is a callable over arrays and knows its sizes; nothing else. `join` puts several
linears that read the same input into one matrix product.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from mlxone.backend.arrays import mx
from mlxone.models.quantization import Packing


class Linear(Protocol):
    out_dims: int

    def __call__(self, x: mx.array) -> mx.array: ...

    def arrays(self) -> list[mx.array]: ...


class PlainLinear:
    __slots__ = ("bias", "out_dims", "weight")

    def __init__(self, weight: mx.array, bias: mx.array | None = None) -> None:
        self.out_dims = weight.shape[0]
        self.weight = weight.T  # a view: transposed once, not at every call
        self.bias = bias

    def __call__(self, x: mx.array) -> mx.array:
        if self.bias is None:
            return x @ self.weight
        return mx.addmm(self.bias, x, self.weight)

    def arrays(self) -> list[mx.array]:
        return [self.weight] if self.bias is None else [self.weight, self.bias]


class PackedLinear:
    __slots__ = ("bias", "biases", "out_dims", "packing", "scales", "weight")

    def __init__(
        self,
        weight: mx.array,
        scales: mx.array,
        biases: mx.array | None,
        packing: Packing,
        bias: mx.array | None = None,
    ) -> None:
        self.out_dims = weight.shape[0]
        self.weight, self.scales, self.biases = weight, scales, biases
        self.packing, self.bias = packing, bias

    def __call__(self, x: mx.array) -> mx.array:
        packing = self.packing
        out = mx.quantized_matmul(
            x, self.weight, scales=self.scales, biases=self.biases, transpose=True,
            group_size=packing.group_size, bits=packing.bits, mode=packing.mode,
        )  # fmt: skip
        return out if self.bias is None else out + self.bias

    def arrays(self) -> list[mx.array]:
        return [a for a in (self.weight, self.scales, self.biases, self.bias) if a is not None]


class PlainEmbedding:
    __slots__ = ("weight",)

    def __init__(self, weight: mx.array) -> None:
        self.weight = weight

    def __call__(self, ids: mx.array) -> mx.array:
        return self.weight[ids]

    def head(self) -> Linear:
        """The same weights read the other way: hidden states to logits."""
        return PlainLinear(self.weight)

    def arrays(self) -> list[mx.array]:
        return [self.weight]


class PackedEmbedding:
    __slots__ = ("biases", "packing", "scales", "weight")

    def __init__(self, weight: mx.array, scales: mx.array, biases: mx.array | None, packing: Packing) -> None:
        self.weight, self.scales, self.biases, self.packing = weight, scales, biases, packing

    def __call__(self, ids: mx.array) -> mx.array:
        packing = self.packing
        return mx.dequantize(
            self.weight[ids], scales=self.scales[ids],
            biases=None if self.biases is None else self.biases[ids],
            group_size=packing.group_size, bits=packing.bits, mode=packing.mode,
        )  # fmt: skip

    def head(self) -> Linear:
        return PackedLinear(self.weight, self.scales, self.biases, self.packing)

    def arrays(self) -> list[mx.array]:
        return [a for a in (self.weight, self.scales, self.biases) if a is not None]


class Norm:
    """Root-mean-square norm with a learned scale."""

    __slots__ = ("eps", "weight")

    def __init__(self, weight: mx.array, eps: float) -> None:
        self.weight, self.eps = weight, eps

    def __call__(self, x: mx.array) -> mx.array:
        return mx.fast.rms_norm(x, self.weight, self.eps)


class Parallel:
    """Linears that read the same input, each called by itself."""

    __slots__ = ("parts",)

    def __init__(self, parts: Sequence[Linear]) -> None:
        self.parts = list(parts)

    def __call__(self, x: mx.array) -> list[mx.array]:
        return [part(x) for part in self.parts]

    def arrays(self) -> list[mx.array]:
        return [a for part in self.parts for a in part.arrays()]


class Joined:
    """Linears that read the same input, as one matrix product.

    `alone` are the same linears over views of the joined weights, for the case where one row
    at a time is faster in separate products.
    """

    __slots__ = ("alone", "borders", "whole")

    def __init__(self, whole: Linear, borders: list[int], alone: Parallel | None) -> None:
        self.whole, self.borders, self.alone = whole, borders, alone

    def __call__(self, x: mx.array) -> list[mx.array]:
        if self.alone is not None and x.shape[-2] == 1:
            return self.alone(x)
        return list(mx.split(self.whole(x), self.borders, axis=-1))

    def arrays(self) -> list[mx.array]:
        return self.whole.arrays() + (self.alone.arrays() if self.alone else [])


def join(parts: Sequence[Linear]) -> Joined | Parallel:
    """One product where the parts allow it: all plain, or all packed alike."""
    borders = [sum(p.out_dims for p in parts[: i + 1]) for i in range(len(parts) - 1)]
    biases = [p.bias for p in parts if isinstance(p, PlainLinear | PackedLinear) and p.bias is not None]
    if len(biases) not in (0, len(parts)):
        return Parallel(parts)
    bias = mx.concatenate(biases) if biases else None
    plain = [p for p in parts if isinstance(p, PlainLinear)]
    if len(plain) == len(parts):
        return Joined(PlainLinear(mx.concatenate([p.weight.T for p in plain]), bias), borders, None)
    packed = [p for p in parts if isinstance(p, PackedLinear)]
    if len(packed) == len(parts) and len({p.packing for p in packed}) == 1:
        return _join_packed(packed, borders, bias)
    return Parallel(parts)


def _join_packed(parts: Sequence[PackedLinear], borders: list[int], bias: mx.array | None) -> Joined:
    packing = parts[0].packing
    weight, scales = (mx.concatenate([getattr(p, name) for p in parts]) for name in ("weight", "scales"))
    biases = mx.concatenate([p.biases for p in parts]) if parts[0].biases is not None else None  # type: ignore[misc]
    whole = PackedLinear(weight, scales, biases, packing, bias)
    ends = [*borders, weight.shape[0]]
    alone = [
        PackedLinear(weight[a:b], scales[a:b], None if biases is None else biases[a:b], packing,
                     None if bias is None else bias[a:b])
        for a, b in zip([0, *borders], ends, strict=True)
    ]  # fmt: skip
    return Joined(whole, borders, Parallel(alone))
