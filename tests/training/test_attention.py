"""Attention in blocks gives the numbers of a whole pass, and does not write all scores down."""

from __future__ import annotations

from typing import Any

import pytest

from mlxone.backend.arrays import lock, mx, on_stream
from mlxone.kv.buffer import attention, causal_mask
from mlxone.training.attention import (
    BLOCK_BYTES,
    Scoring,
    attend,
    attend_in_blocks,
    block_rows,
    in_blocks,
)


def inputs(queries: int, keys: int, *, batch: int = 2, values: int = 16) -> list[mx.array]:
    shapes = [(batch, 6, queries, 16), (batch, 2, keys, 16), (batch, 2, keys, values)]
    arrays = [mx.random.normal(shape, key=mx.random.key(i)) for i, shape in enumerate(shapes)]
    mx.eval(arrays)
    return arrays


@pytest.mark.parametrize(("queries", "keys"), [(37, 37), (16, 40), (1, 9)])
@pytest.mark.parametrize("window", [None, 5, 64])
@pytest.mark.parametrize("rows", [7, 16, 64])
@pytest.mark.parametrize("ways", ["plain", "softcap", "sinks"])
def test_blocks_change_nothing(queries: int, keys: int, window: int | None, rows: int, ways: str):
    with lock, on_stream():
        sinks = mx.random.normal((6,), key=mx.random.key(4))
        all_ways: dict[str, dict[str, Any]] = {"softcap": {"softcap": 0.8}, "sinks": {"sinks": sinks}}
        more = all_ways.get(ways, {})
        how = Scoring(0.3, window, **more)
        values = 16 if ways == "softcap" else 24
        arrays = inputs(queries, keys, values=values)
        slopes = [mx.random.normal((2, 6, queries, values), key=mx.random.key(9))]
        mask = causal_mask(queries, keys - queries, window)

        def whole(q: mx.array, k: mx.array, v: mx.array) -> list[mx.array]:
            return [attention(q, (k, v), scale=0.3, mask=mask, **more)]

        def blocks(q: mx.array, k: mx.array, v: mx.array) -> list[mx.array]:
            return [attend_in_blocks(q, k, v, how, rows)]

        def chosen(q: mx.array, k: mx.array, v: mx.array) -> list[mx.array]:
            return [attend(q, k, v, how)]

        expected = [a for part in mx.vjp(whole, arrays, slopes) for a in part]
        for way in (blocks, chosen):
            found = [a for part in mx.vjp(way, arrays, slopes) for a in part]
            assert len(found) == 4
            assert all(mx.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(expected, found, strict=True))


def test_the_way_back_holds_few_scores_at_once():
    with lock, on_stream():
        arrays = inputs(2048, 2048, batch=1)
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        mx.eval(mx.vjp(lambda q, k, v: [attend(q, k, v, Scoring(0.3))], arrays, [arrays[0]])[1])
        scores = 4 * 6 * 2048 * 2048
        assert scores > 96e6  # what MLX's own way takes more than once
        assert mx.get_peak_memory() - before < 0.7 * scores


def test_only_what_is_large_and_not_fused_is_taken_apart():
    large, small = 2**30, 2**20
    cases = [(fused, slides) for fused in (False, True) for slides in (False, True)]
    assert [in_blocks(large, fused=f, slides=s) for f, s in cases] == [True, True, False, True]
    assert not any(in_blocks(small, fused=f, slides=s) for f, s in cases)


def test_a_block_takes_what_it_may():
    for heads, keys in ((9, 512), (32, 8192), (128, 200_000)):
        rows = block_rows(heads, keys)
        assert rows % 16 == 0 and (rows == 16 or 4 * heads * keys * rows <= BLOCK_BYTES)
