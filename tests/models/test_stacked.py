"""Stacks of matrices: against one matrix at a time, and bit for bit against mlx-lm's modules."""

from __future__ import annotations

from typing import Any, cast

import pytest

from mlxone.backend.arrays import mx
from mlxone.models.quantization import Packing
from mlxone.models.stacked import TILE, Abreast, JoinedStacks, PackedStack, PlainStack, Stack, join_stacks

# isort: split
from mlx_lm.models.mla import MultiLinear
from mlx_lm.models.switch_layers import SwitchLinear

COUNT, IN, OUT = 5, 64, 96
PACKINGS = {
    "4 bits": Packing(32, 4),
    "8 bits": Packing(64, 8),
    "mxfp4": Packing(32, 4, "mxfp4"),
    "nvfp4": Packing(16, 4, "nvfp4"),
}
KINDS = [None, *PACKINGS]


def weights(out: int = OUT, seed: int = 0, dtype: mx.Dtype = mx.float32) -> mx.array:
    mx.random.seed(seed)
    return (mx.random.normal((COUNT, out, IN)) * IN**-0.5).astype(dtype)


def shifts(out: int = OUT) -> mx.array:
    return mx.random.normal((COUNT, out))


def stack(weight: mx.array, bias: mx.array | None, kind: str | None) -> Stack:
    if kind is None:
        return PlainStack(weight, bias, path="here")
    packing = PACKINGS[kind]
    packed, scales, *biases = mx.quantize(weight, packing.group_size, packing.bits, mode=packing.mode)
    return PackedStack(packed, scales, biases[0] if biases else None, packing, bias, path="here")


def theirs(module: Any, weight: mx.array, bias: mx.array | None, kind: str | None) -> Any:
    module.weight = weight
    if bias is not None:
        module.bias = bias
    if kind is None:
        return module
    packing = PACKINGS[kind]
    return module.to_quantized(group_size=packing.group_size, bits=packing.bits, mode=packing.mode)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("is_sorted", [False, True])
def test_gathered(kind: str | None, has_bias: bool, is_sorted: bool):
    weight = weights()
    bias = shifts() if has_bias else None
    ours, other = stack(weight, bias, kind), SwitchLinear(IN, OUT, COUNT, bias=has_bias)
    reference = theirs(other, weight, bias, kind)
    indices = mx.random.randint(0, COUNT, (70,))
    indices = mx.sort(indices) if is_sorted else indices
    x = mx.random.normal((70, 1, IN))
    out = ours.gathered(x, indices, is_sorted)
    assert mx.array_equal(out, reference(x, indices, sorted_indices=is_sorted))
    assert out.shape == (70, 1, OUT)
    dense = ours.dense()
    for row, number in enumerate(cast("list[int]", indices.tolist())):
        expected = x[row, 0] @ dense[number].T
        expected = expected if bias is None else expected + bias[number]
        assert mx.allclose(out[row, 0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
@pytest.mark.parametrize("length", [1, 7, 40])
def test_one_product_for_each_matrix(kind: str | None, dtype: mx.Dtype, length: int):
    weight = weights(dtype=dtype)
    ours, reference = stack(weight, None, kind), theirs(MultiLinear(IN, OUT, COUNT), weight, None, kind)
    x, back = (mx.random.normal((2, COUNT, length, dims)).astype(dtype) for dims in (IN, OUT))
    assert mx.array_equal(ours(x), reference(x))
    assert mx.array_equal(ours.transposed(back), reference(back, transpose=False))
    assert ours(x).shape == (2, COUNT, length, OUT) and ours.transposed(back).shape[-1] == IN


@pytest.mark.parametrize("kind", KINDS)
def test_a_bias_for_each_matrix(kind: str | None):
    weight, bias = weights(), shifts()
    x = mx.random.normal((2, COUNT, 3, IN))
    expected = stack(weight, None, kind)(x) + bias.reshape(1, COUNT, 1, OUT)
    assert mx.array_equal(stack(weight, bias, kind)(x), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_stack_knows(kind: str | None):
    weight, bias = weights(), shifts()
    ours = stack(weight, bias, kind)
    assert (ours.count, ours.in_dims, ours.out_dims, ours.path) == (COUNT, IN, OUT, "here")
    assert ours.bits == (None if kind is None else PACKINGS[kind].bits)
    assert ours.dense().shape == (COUNT, OUT, IN)
    named = {"weight", "scales", "biases", "bias"} if kind else {"weight", "bias"}
    assert len(ours.arrays()) == len([n for n in named if getattr(ours, n) is not None])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("has_bias", [False, True])
def test_joined(kind: str | None, has_bias: bool):
    widths = (TILE, 2 * TILE) if kind and kind.endswith("fp4") else (32, 96)
    parts = [
        stack(weights(out, seed), shifts(out) if has_bias else None, kind) for seed, out in enumerate(widths)
    ]
    joined = join_stacks(parts)
    assert isinstance(joined, JoinedStacks)
    x, indices = mx.random.normal((9, 1, 1, IN)), mx.random.randint(0, COUNT, (9, 2))
    apart = Abreast(parts).gathered(x, indices, False)
    together = joined.gathered(x, indices, False)
    for one, other in zip(apart, together, strict=True):
        assert one.shape == other.shape and mx.allclose(one, other, rtol=1e-5, atol=1e-5)
    assert sum(a.nbytes for a in joined.arrays()) == sum(a.nbytes for part in parts for a in part.arrays())


@pytest.mark.parametrize(
    "parts",
    [
        [stack(weights(), None, None), stack(weights(), None, "4 bits")],
        [stack(weights(), None, "8 bits"), stack(weights(), None, "4 bits")],
        [stack(weights(), shifts(), None), stack(weights(), None, None)],
        [stack(weights(TILE), None, "mxfp4"), stack(weights(TILE // 2), None, "mxfp4")],
    ],
    ids=["packed and not", "packed otherwise", "a bias and none", "not whole tiles"],
)
def test_stacks_kept_unlike_stay_apart(parts: list[Stack]):
    joined = join_stacks(parts)
    assert isinstance(joined, Abreast) and joined.stacks == parts


def test_widened_for_gathering():
    """On the CPU MLX gathers from float32 alone; what comes out is in the dtype it was."""
    weight, bias = weights(dtype=mx.bfloat16), shifts().astype(mx.bfloat16)
    wide = PlainStack(weight, bias).for_gathering()
    x, indices = mx.random.normal((9, 1, IN)).astype(mx.bfloat16), mx.random.randint(0, COUNT, (9,))
    out = wide.gathered(x, indices, False)
    full = PlainStack(weight.astype(mx.float32)).gathered(x.astype(mx.float32), indices, False)
    assert out.dtype == mx.bfloat16
    assert mx.array_equal(out, full.astype(mx.bfloat16) + bias[indices][:, None])
    float32 = PlainStack(weights())
    assert float32.for_gathering() is float32
