"""Matrices of one shape in one tensor, plain or packed: one for each expert, or for each head.

Two ways to use them: `gathered`, where each row of the input names the matrix it wants, and one product
per matrix (a call, or `transposed` for the way back). N: matrices in a stack.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from mlxone.backend.arrays import mx, on_cpu
from mlxone.models.quantization import Packing

TILE = 128


class PlainStack:
    __slots__ = ("bias", "bits", "count", "in_dims", "narrow", "out_dims", "path", "weight")

    def __init__(
        self, weight: mx.array, bias: mx.array | None = None, *, path: str = "", bits: int | None = None
    ) -> None:
        self.count, self.out_dims, self.in_dims = weight.shape
        self.weight = weight.swapaxes(-1, -2)  # a view: swapped once, not at every call
        self.bias, self.path, self.bits = bias, path, bits
        self.narrow: mx.Dtype | None = None  # what the weights were before `for_gathering` widened them

    def gathered(self, x: mx.array, indices: mx.array, is_sorted: bool) -> mx.array:
        """[.., 1, in] and [..] matrix numbers to [.., 1, out]."""
        if self.narrow is not None:
            x = x.astype(mx.float32)
        out = mx.gather_mm(x, self.weight, rhs_indices=indices, sorted_indices=is_sorted)
        return _shifted(out if self.narrow is None else out.astype(self.narrow), self.bias, indices)

    def for_gathering(self) -> PlainStack:
        """On the CPU MLX gathers from float32 alone."""
        if not on_cpu() or self.weight.dtype == mx.float32:
            return self
        wide = PlainStack(self.dense().astype(mx.float32), self.bias, path=self.path, bits=self.bits)
        wide.narrow = self.weight.dtype
        return wide

    def __call__(self, x: mx.array) -> mx.array:
        """[B, N, L, in] to [B, N, L, out]."""
        out = x @ self.weight
        return out if self.bias is None else out + self.bias[:, None]

    def transposed(self, x: mx.array) -> mx.array:
        """[B, N, L, out] to [B, N, L, in]."""
        return x @ self.dense()

    def dense(self) -> mx.array:
        """[N, out, in]."""
        return self.weight.swapaxes(-1, -2)

    def arrays(self) -> list[mx.array]:
        return [self.weight] if self.bias is None else [self.weight, self.bias]


class PackedStack:
    __slots__ = (
        "bias", "biases", "bits", "count", "in_dims", "out_dims", "packing", "path", "scales", "weight",
    )  # fmt: skip

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
        self.count, self.out_dims = weight.shape[:2]
        self.in_dims = scales.shape[2] * packing.group_size
        self.weight, self.scales, self.biases = weight, scales, biases
        self.packing, self.bias, self.path = packing, bias, path
        self.bits: int | None = packing.bits

    def gathered(self, x: mx.array, indices: mx.array, is_sorted: bool) -> mx.array:
        packing = self.packing
        out = mx.gather_qmm(
            x, self.weight, self.scales, self.biases, rhs_indices=indices, transpose=True,
            group_size=packing.group_size, bits=packing.bits, mode=packing.mode, sorted_indices=is_sorted,
        )  # fmt: skip
        return _shifted(out, self.bias, indices)

    def for_gathering(self) -> PackedStack:
        return self

    def __call__(self, x: mx.array) -> mx.array:
        out = self._product(x, transpose=True)
        return out if self.bias is None else out + self.bias[:, None]

    def transposed(self, x: mx.array) -> mx.array:
        return self._product(x, transpose=False)

    def _product(self, x: mx.array, *, transpose: bool) -> mx.array:
        packing = self.packing
        return mx.quantized_matmul(
            x, self.weight, scales=self.scales, biases=self.biases, transpose=transpose,
            group_size=packing.group_size, bits=packing.bits, mode=packing.mode,
        )  # fmt: skip

    def dense(self) -> mx.array:
        packing = self.packing
        return mx.dequantize(
            self.weight, scales=self.scales, biases=self.biases,
            group_size=packing.group_size, bits=packing.bits, mode=packing.mode,
        )  # fmt: skip

    def arrays(self) -> list[mx.array]:
        return [a for a in (self.weight, self.scales, self.biases, self.bias) if a is not None]


Stack = PlainStack | PackedStack


def _shifted(out: mx.array, bias: mx.array | None, indices: mx.array) -> mx.array:
    return out if bias is None else out + mx.expand_dims(bias[indices], -2)


class Abreast:
    """Stacks that read the same input."""

    __slots__ = ("stacks",)

    def __init__(self, stacks: Sequence[Stack]) -> None:
        self.stacks = list(stacks)

    def gathered(self, x: mx.array, indices: mx.array, is_sorted: bool) -> list[mx.array]:
        return [stack.gathered(x, indices, is_sorted) for stack in self.stacks]

    def arrays(self) -> list[mx.array]:
        return [a for stack in self.stacks for a in stack.arrays()]


class JoinedStacks:
    """Stacks that read the same input, as one gathered product."""

    __slots__ = ("borders", "whole")

    def __init__(self, whole: Stack, borders: list[int]) -> None:
        self.whole, self.borders = whole, borders

    def gathered(self, x: mx.array, indices: mx.array, is_sorted: bool) -> list[mx.array]:
        return list(mx.split(self.whole.gathered(x, indices, is_sorted), self.borders, axis=-1))

    def arrays(self) -> list[mx.array]:
        return self.whole.arrays()


def join_stacks(stacks: Sequence[Stack]) -> Abreast | JoinedStacks:
    """One product where the stacks allow it: all plain, or all packed alike."""
    borders = list(accumulate(stack.out_dims for stack in stacks))[:-1]
    plain = [s for s in stacks if isinstance(s, PlainStack)]
    packed = [s for s in stacks if isinstance(s, PackedStack)]
    if len({stack.bias is None for stack in stacks}) > 1:
        return Abreast(stacks)
    if len(plain) == len(stacks) and len({s.narrow for s in plain}) == 1:
        return JoinedStacks(_join_plain(plain), borders)
    if len(packed) == len(stacks) and len({s.packing for s in packed}) == 1 and _stays_exact(packed):
        return JoinedStacks(_join_packed(packed), borders)
    return Abreast(stacks)


def _stays_exact(stacks: Sequence[PackedStack]) -> bool:
    """Modes other than affine have a faster CUDA kernel for widths that are whole tiles, which rounds
    differently: a stack that is none must not become part of one that is."""
    return stacks[0].packing.mode == "affine" or all(s.out_dims % TILE == 0 for s in stacks)


def _join_plain(stacks: Sequence[PlainStack]) -> PlainStack:
    weight = mx.concatenate([s.dense() for s in stacks], axis=1)
    whole = PlainStack(weight, _together([s.bias for s in stacks]), bits=stacks[0].bits)
    whole.narrow = stacks[0].narrow
    return whole


def _join_packed(stacks: Sequence[PackedStack]) -> PackedStack:
    weight = mx.concatenate([s.weight for s in stacks], axis=1)
    scales = mx.concatenate([s.scales for s in stacks], axis=1)
    biases, bias = _together([s.biases for s in stacks]), _together([s.bias for s in stacks])
    return PackedStack(weight, scales, biases, stacks[0].packing, bias)


def _together(arrays: Sequence[mx.array | None]) -> mx.array | None:
    there = [a for a in arrays if a is not None]
    return mx.concatenate(there, axis=1) if there else None
