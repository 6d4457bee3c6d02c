"""What a change does to one linear, to linears in one product, and to a norm; the base stays as it was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from mlxone.backend.arrays import mx, on_stream
from mlxone.core.errors import AdapterMismatch
from mlxone.models.changes import (
    Change,
    Changes,
    Dora,
    LowRank,
    LowRankJoined,
    Replaced,
    changed_group,
    changed_linear,
    changed_norm,
)
from mlxone.models.layers import Joined, Linear, Norm, PackedLinear, Parallel, PlainLinear, join
from mlxone.models.quantization import Packing
from tests.models.checkpoints import refused
from tests.models.tuned import linear as reference
from tests.models.tuned import wide

IN, OUT = 64, 32
SCALE = 1.7


@pytest.fixture(autouse=True)
def stream() -> Iterator[None]:
    with on_stream():
        mx.random.seed(11)
        yield


def plain(out: int = OUT, *, bias: bool = False, path: str = "p") -> PlainLinear:
    shift = mx.random.normal((out,)) if bias else None
    return PlainLinear(mx.random.normal((out, IN)) / 8, shift, path=path, bits=6)  # as if it had been packed


def packed(out: int = OUT, *, bias: bool = False, path: str = "p") -> PackedLinear:
    parts = mx.quantize(mx.random.normal((out, IN)) / 8, group_size=32, bits=4)
    shift = mx.random.normal((out,)) if bias else None
    return PackedLinear(*parts, Packing(32, 4), shift, path=path)


def low_rank(out: int = OUT, rank: int = 3, **more: Any) -> LowRank:
    return LowRank(mx.random.normal((IN, rank)) / 8, mx.random.normal((rank, out)), SCALE, **more)


def dora(out: int = OUT) -> Dora:
    low = low_rank(out)
    return Dora(low.a, low.b, mx.random.uniform(0.5, 1.5, (out,)), SCALE)


def x(rows: int = 5) -> mx.array:
    return mx.random.normal((1, rows, IN))


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16, mx.float32])
def test_leaving_out_keeps_the_dtype_and_the_mean(dtype: mx.Dtype):
    thin = low_rank(dropout=0.25, key=mx.random.key(1))
    kept = thin._thinned(mx.ones((4_000, IN), dtype=dtype))
    assert kept.dtype == dtype and abs(mx.mean(kept.astype(mx.float32)).item() - 1) < 0.02


def close(ours: mx.array, theirs: np.ndarray[Any, Any]) -> bool:
    return bool(np.allclose(wide(ours), theirs, atol=2e-5, rtol=1e-5))


@pytest.mark.parametrize("make", [plain, packed])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("change", [low_rank, dora])
def test_equals_the_changed_weight_in_float64(make: Any, bias: bool, change: Any):
    base, made, rows = make(bias=bias), change(), x()
    before = base(rows)
    new = changed_linear(base, [made])
    params = {"lora_a": made.a, "lora_b": made.b} | ({"m": made.magnitude} if isinstance(made, Dora) else {})
    shift = 0 if base.bias is None else wide(base.bias)
    assert close(new(rows), reference(rows, base.dense(), params, SCALE) + shift)
    assert close(new(rows) - before, reference(rows, base.dense(), params, SCALE) + shift - wide(before))
    assert mx.array_equal(before, base(rows)), "the base is another than before"
    assert (new.path, new.in_dims, new.out_dims, new.bits) == ("p", IN, OUT, base.bits)
    assert new.bias is base.bias and {id(a) for a in base.arrays()} <= {id(a) for a in new.arrays()}
    assert close(rows @ new.dense().T, wide(new(rows)) - shift)


def test_the_result_has_the_dtype_of_the_input():
    half = PlainLinear(mx.random.normal((OUT, IN)).astype(mx.bfloat16))
    changes: tuple[Change, ...] = (low_rank(), dora())
    for change in changes:
        assert changed_linear(half, [change])(x().astype(mx.bfloat16)).dtype == mx.bfloat16


def test_several_low_rank_changes_add_up():
    base, one, two, rows = plain(), low_rank(), low_rank(rank=7), x()
    both = changed_linear(base, [one, two])
    assert mx.array_equal(both(rows), base(rows) + one.delta(rows) + two.delta(rows))
    assert close(rows @ both.dense().T, wide(both(rows)))


def test_a_dora_comes_first_whatever_the_order():
    base, one, low, rows = plain(bias=True), dora(), low_rank(), x()
    expected = changed_linear(base, [one])(rows) + low.delta(rows)
    orders: tuple[tuple[Change, ...], ...] = ((one, low), (low, one))
    for order in orders:
        assert mx.array_equal(changed_linear(base, order)(rows), expected)


def test_a_weight_in_its_place():
    base, rows, weight, bias = packed(bias=True), x(), mx.random.normal((OUT, IN)), mx.ones(OUT)
    assert mx.array_equal(
        changed_linear(base, [Replaced(weight)])(rows), PlainLinear(weight, base.bias)(rows)
    )
    assert mx.array_equal(
        changed_linear(base, [Replaced(weight, bias)])(rows), PlainLinear(weight, bias)(rows)
    )
    new = changed_linear(base, [Replaced(weight)])
    assert (new.path, new.bits, new.in_dims, new.out_dims) == ("p", 4, IN, OUT)


@pytest.mark.parametrize("clash", ["two doras", "replaced twice", "replaced and low rank"])
def test_what_cannot_be_together_is_refused_by_path(clash: str):
    other = Replaced(mx.zeros((OUT, IN)))
    changes: dict[str, Sequence[Change]] = {
        "two doras": [dora(), low_rank(), dora()],
        "replaced twice": [other, other],
        "replaced and low rank": [low_rank(), other],
    }
    with refused(AdapterMismatch, "model.q would get", "one at a time"):
        changed_linear(plain(path="model.q"), changes[clash])


def test_a_norm_is_replaced_and_nothing_else():
    norm, rows = Norm(mx.ones(IN), 1e-5, path="n"), x()
    new = changed_norm(norm, [Replaced(mx.full(IN, 2.0))])
    assert mx.allclose(new(rows), 2 * norm(rows)) and (new.path, new.eps) == ("n", 1e-5)
    for wrong in ([low_rank()], [Replaced(mx.ones(IN), mx.ones(IN))], [Replaced(mx.ones(IN))] * 2):
        with refused(AdapterMismatch, "n "):
            changed_norm(norm, wrong)


def test_the_length_in_a_dora_has_no_gradient():
    base, one, rows = plain(), dora(), x()
    factor = one.magnitude / mx.linalg.norm(base.dense() + one.direction.matrix(), axis=1)

    def ours(a: mx.array) -> mx.array:
        return changed_linear(base, [Dora(a, one.b, one.magnitude, SCALE)])(rows).sum()

    def with_a_fixed_factor(a: mx.array) -> mx.array:
        return (factor * (base(rows) + LowRank(a, one.b, SCALE).delta(rows))).sum()

    assert mx.allclose(mx.grad(ours)(one.a), mx.grad(with_a_fixed_factor)(one.a), atol=1e-5)


def test_dropout_is_the_keys_and_there_is_none_without():
    rows, key = mx.ones((1, 400, IN)), mx.random.key(3)
    whole = low_rank()
    dropping = LowRank(whole.a, whole.b, SCALE, 0.25, key)
    assert mx.array_equal(dropping.delta(rows), dropping.delta(rows))
    assert mx.array_equal(LowRank(whole.a, whole.b, SCALE, 0.25).delta(rows), whole.delta(rows))
    other = LowRank(whole.a, whole.b, SCALE, 0.25, mx.random.key(4))
    assert not mx.array_equal(dropping.delta(rows), other.delta(rows))
    # With ones on both sides each output counts what was kept; on the average nothing is lost.
    counts = LowRank(mx.ones((IN, 1)), mx.ones((1, 1)), 1.0, 0.25, key).delta(rows)
    assert mx.abs(counts.mean() - IN) < 1 and counts.max() > IN
    multiples = counts * 0.75
    assert mx.allclose(multiples, mx.round(multiples), atol=1e-3)


# Linears in one product.


def group(
    make: Any, kinds: Sequence[int] = (32, 16, 16), *, bias: bool = False
) -> tuple[Joined, list[Linear]]:
    parts = [make(out, bias=bias, path=f"p{i}") for i, out in enumerate(kinds)]
    joined = join(parts)
    assert type(joined) is Joined
    return joined, parts


@pytest.mark.parametrize("make", [plain, packed])
@pytest.mark.parametrize("bias", [True, False])
def test_what_was_joined_can_be_had_apart(make: Any, bias: bool):
    joined, parts = group(make, bias=bias)
    rows = x()
    for leaf, part in zip(joined.leaves(), parts, strict=True):
        assert (leaf.path, leaf.in_dims, leaf.out_dims, leaf.bits) == (
            part.path, part.in_dims, part.out_dims, part.bits,
        )  # fmt: skip
        assert mx.array_equal(leaf.dense(), part.dense()) and mx.array_equal(leaf(rows), part(rows))
    assert Parallel(parts).leaves() == parts


@pytest.mark.parametrize("make", [plain, packed])
@pytest.mark.parametrize("length", [1, 5])
def test_low_rank_changes_leave_one_product(make: Any, length: int):
    joined, _ = group(make, bias=True)
    rows, changes = x(length), {"p0": (low_rank(32), low_rank(32)), "p2": (low_rank(16),)}
    new = changed_group(joined, changes)
    assert isinstance(new, LowRankJoined) and new.whole is joined.whole
    deltas = [sum(c.delta(rows) for c in changes.get(f"p{i}", ())) for i in range(3)]
    for ours, base, delta in zip(new(rows), joined(rows), deltas, strict=True):
        assert mx.allclose(ours, base + delta, atol=1e-5)
    assert mx.array_equal(new(rows)[1], joined(rows)[1])
    apart = [leaf(rows) for leaf in new.leaves()]
    assert all(mx.allclose(a, b, atol=1e-5) for a, b in zip(apart, new(rows), strict=True))


@pytest.mark.parametrize("make", [plain, packed])
def test_other_changes_take_the_product_apart(make: Any):
    joined, parts = group(make)
    changes: Changes = {"p1": (dora(16),), "p0": (low_rank(32),)}
    rows = x()
    new = changed_group(joined, changes)
    assert isinstance(new, Parallel)
    for ours, part in zip(new(rows), parts, strict=True):
        assert mx.array_equal(ours, changed_linear(part, changes.get(part.path, ()))(rows))


def test_a_group_that_no_change_names_is_the_same_object():
    joined, _ = group(plain)
    assert changed_group(joined, {"elsewhere": (low_rank(),)}) is joined


def test_a_changed_group_can_be_changed_again():
    joined, _ = group(plain)
    rows, one, two = x(), low_rank(32), low_rank(32)
    first: Changes = {"p0": (one,)}
    second: Changes = {"p0": (two,), "p1": (dora(16),)}
    again = changed_group(changed_group(joined, first), second)
    assert mx.allclose(again(rows)[0], joined(rows)[0] + one.delta(rows) + two.delta(rows), atol=1e-5)
