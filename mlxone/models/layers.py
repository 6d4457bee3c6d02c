"""The pieces with weights: linear, embedding, norm; each plain or packed.

A layer object is a callable over arrays and knows its sizes and the path its checkpoint has it
under ("" for what is no tensor of its own, as a tied head); nothing else. `join` puts several linears
that read the same input into one matrix product; what was joined can still be had apart (`leaves`).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Protocol

from mlxone.backend.arrays import mx, on_cpu
from mlxone.models.quantization import Packing


class Linear(Protocol):
    """One matrix of the model: [in_dims] to [out_dims]."""

    path: str
    in_dims: int
    out_dims: int
    bits: int | None  # that the checkpoint keeps each weight in, whatever they are here; None: not packed
    bias: mx.array | None

    def __call__(self, x: mx.array) -> mx.array: ...

    def dense(self) -> mx.array:
        """[out_dims, in_dims], as the product sees it."""
        ...

    def arrays(self) -> list[mx.array]: ...


class PlainLinear:
    __slots__ = ("bias", "bits", "in_dims", "out_dims", "path", "weight")

    def __init__(
        self, weight: mx.array, bias: mx.array | None = None, *, path: str = "", bits: int | None = None
    ) -> None:
        self.out_dims, self.in_dims = weight.shape
        self.weight = weight.T  # a view: transposed once, not at every call
        self.bias, self.path, self.bits = bias, path, bits

    def __call__(self, x: mx.array) -> mx.array:
        if self.bias is None:
            return x @ self.weight
        return mx.addmm(self.bias, x, self.weight)

    def dense(self) -> mx.array:
        return self.weight.T

    def arrays(self) -> list[mx.array]:
        return [self.weight] if self.bias is None else [self.weight, self.bias]


class PackedLinear:
    __slots__ = ("bias", "biases", "bits", "in_dims", "out_dims", "packing", "path", "scales", "weight")

    def __init__(
        self,
        weight: mx.array,
        scales: mx.array,
        biases: mx.array | None,
        packing: Packing,
        bias: mx.array | None = None,
        *,
        path: str = "",
    ) -> None:
        self.out_dims, self.in_dims = weight.shape[0], scales.shape[1] * packing.group_size
        self.weight, self.scales, self.biases = weight, scales, biases
        self.packing, self.bias, self.path = packing, bias, path
        self.bits: int | None = packing.bits

    def __call__(self, x: mx.array) -> mx.array:
        packing = self.packing
        out = mx.quantized_matmul(
            x, self.weight, scales=self.scales, biases=self.biases, transpose=True,
            group_size=packing.group_size, bits=packing.bits, mode=packing.mode,
        )  # fmt: skip
        return out if self.bias is None else out + self.bias

    def dense(self) -> mx.array:
        packing = self.packing
        return mx.dequantize(
            self.weight, scales=self.scales, biases=self.biases,
            group_size=packing.group_size, bits=packing.bits, mode=packing.mode,
        )  # fmt: skip

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
    """Root-mean-square norm with a learned scale. Some families store it less one: `plus` is added."""

    __slots__ = ("eps", "path", "plus", "stored", "weight")

    def __init__(self, stored: mx.array, eps: float, *, path: str = "", plus: float = 0.0) -> None:
        self.stored, self.eps, self.path, self.plus = stored, eps, path, plus
        self.weight = stored + plus if plus else stored

    def __call__(self, x: mx.array) -> mx.array:
        return mx.fast.rms_norm(x, self.weight, self.eps)

    def with_stored(self, stored: mx.array) -> Norm:
        return Norm(stored, self.eps, path=self.path, plus=self.plus)

    def arrays(self) -> list[mx.array]:
        return [self.weight]


class LayerNorm:
    __slots__ = ("bias", "eps", "path", "stored")

    def __init__(self, stored: mx.array, bias: mx.array | None, eps: float, *, path: str = "") -> None:
        self.stored, self.bias, self.eps, self.path = stored, bias, eps, path

    def __call__(self, x: mx.array) -> mx.array:
        return mx.fast.layer_norm(x, self.stored, self.bias, self.eps)

    def with_stored(self, stored: mx.array) -> LayerNorm:
        return LayerNorm(stored, self.bias, self.eps, path=self.path)

    def arrays(self) -> list[mx.array]:
        return [self.stored] if self.bias is None else [self.stored, self.bias]


AnyNorm = Norm | LayerNorm


class Parallel:
    """Linears that read the same input, each called by itself."""

    __slots__ = ("parts",)

    def __init__(self, parts: Sequence[Linear]) -> None:
        self.parts = list(parts)

    def __call__(self, x: mx.array) -> list[mx.array]:
        return [part(x) for part in self.parts]

    def leaves(self) -> list[Linear]:
        return list(self.parts)

    def arrays(self) -> list[mx.array]:
        return [a for part in self.parts for a in part.arrays()]


class Joined:
    """Linears that read the same input, as one matrix product.

    `parts` are the same linears over views of the joined weights: to be had one by one, and
    `apart` says that one row at a time is faster in separate products.
    """

    __slots__ = ("apart", "borders", "parts", "whole")

    def __init__(self, whole: Linear, borders: list[int], parts: Parallel, *, apart: bool) -> None:
        self.whole, self.borders, self.parts, self.apart = whole, borders, parts, apart

    def __call__(self, x: mx.array) -> list[mx.array]:
        if self.apart and x.shape[-2] == 1:
            return self.parts(x)
        return list(mx.split(self.whole(x), self.borders, axis=-1))

    def leaves(self) -> list[Linear]:
        return self.parts.leaves()

    def arrays(self) -> list[mx.array]:
        return self.whole.arrays() + (self.parts.arrays() if self.apart else [])


def together(parts: Sequence[Linear]) -> Joined | Parallel:
    """Joined on a GPU, where fewer, larger products win and stay bit-equal; apart on the CPU."""
    return Parallel(parts) if on_cpu() or len(parts) == 1 else join(parts)


def join(parts: Sequence[Linear]) -> Joined | Parallel:
    """One product where the parts allow it: all plain, or all packed alike."""
    biases = [p.bias for p in parts if p.bias is not None]
    if len(biases) not in (0, len(parts)):
        return Parallel(parts)
    bias = mx.concatenate(biases) if biases else None
    plain = [p for p in parts if isinstance(p, PlainLinear)]
    if len(plain) == len(parts):
        return _join_plain(plain, bias)
    packed = [p for p in parts if isinstance(p, PackedLinear)]
    if len(packed) == len(parts) and len({p.packing for p in packed}) == 1:
        return _join_packed(packed, bias)
    return Parallel(parts)


def _join_plain(parts: Sequence[PlainLinear], bias: mx.array | None) -> Joined:
    weight = mx.concatenate([p.weight.T for p in parts])
    views = [
        PlainLinear(weight[a:b], None if bias is None else bias[a:b], path=part.path, bits=part.bits)
        for part, (a, b) in zip(parts, _spans(parts), strict=True)
    ]
    # With biases, MLX's CUDA kernels for one row round differently in a wider product.
    return Joined(PlainLinear(weight, bias), _borders(parts), Parallel(views), apart=bias is not None)


def _join_packed(parts: Sequence[PackedLinear], bias: mx.array | None) -> Joined:
    packing = parts[0].packing
    weight, scales = (mx.concatenate([getattr(p, name) for p in parts]) for name in ("weight", "scales"))
    biases = mx.concatenate([p.biases for p in parts]) if parts[0].biases is not None else None  # type: ignore[misc]
    views = [
        PackedLinear(weight[a:b], scales[a:b], None if biases is None else biases[a:b], packing,
                     None if bias is None else bias[a:b], path=part.path)
        for part, (a, b) in zip(parts, _spans(parts), strict=True)
    ]  # fmt: skip
    whole = PackedLinear(weight, scales, biases, packing, bias)
    return Joined(whole, _borders(parts), Parallel(views), apart=True)


def _spans(parts: Sequence[Linear]) -> list[tuple[int, int]]:
    """The rows of the joined weight that are each part's."""
    ends = list(accumulate(part.out_dims for part in parts))
    return list(zip([0, *ends[:-1]], ends, strict=True))


def _borders(parts: Sequence[Linear]) -> list[int]:
    return [end for _, end in _spans(parts)[:-1]]
