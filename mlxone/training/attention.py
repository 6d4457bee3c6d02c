"""Causal attention whose backward pass never holds all scores at once.

MLX's own keeps [heads, L, S] for it, except on CUDA, where it is fused. Here blocks of queries are
computed one after another, and once more on the way back. Queries stand at the end of the keys.
B: texts, H: heads of the queries, K: of the keys, G = H / K, L: queries, S: keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mlxone.backend.arrays import mx, on_cpu
from mlxone.kv.buffer import causal_mask

BLOCK_BYTES = 4 * 2**20  # of float32 scores; they then stay in a CPU's cache
LARGE_BYTES = 8 * 2**20  # less than this is not worth taking apart


@dataclass(frozen=True, slots=True, eq=False)
class Scoring:
    """How queries and keys become weights. Sinks [H] take part of a head's attention and give nothing."""

    scale: float
    window: int | None = None
    softcap: float | None = None
    sinks: mx.array | None = None


def attend(queries: mx.array, keys: mx.array, values: mx.array, how: Scoring) -> mx.array:
    """[B, H, L, dim], [B, K, S, dim], [B, K, S, V] to [B, H, L, V]. No gradient for the sinks."""
    batch, heads, length, _ = queries.shape
    total = keys.shape[2]
    slides = how.window is not None and total > how.window
    plain = how.softcap is None and how.sinks is None
    fused = plain and _is_fused(queries.dtype)
    if how.softcap is not None or in_blocks(4 * batch * heads * length * total, fused=fused, slides=slides):
        return attend_in_blocks(queries, keys, values, how, block_rows(batch * heads, total))
    mask = causal_mask(length, total - length, how.window) if slides else "causal"
    return mx.fast.scaled_dot_product_attention(
        queries, keys, values, scale=how.scale, mask=mask, sinks=how.sinks
    )


def in_blocks(score_bytes: int, *, fused: bool, slides: bool) -> bool:
    """A window goes in as an array, and with one there is no fused way back anywhere."""
    return score_bytes > LARGE_BYTES and (slides or not fused)


def block_rows(heads: int, keys: int) -> int:
    """A multiple of 16 whose scores take about BLOCK_BYTES."""
    return max(16, BLOCK_BYTES // (4 * heads * keys) // 16 * 16)


def _is_fused(dtype: mx.Dtype) -> bool:
    return not on_cpu() and not mx.metal.is_available() and dtype in (mx.float16, mx.bfloat16)


def attend_in_blocks(
    queries: mx.array, keys: mx.array, values: mx.array, how: Scoring, rows: int
) -> mx.array:
    blocks = _Blocks(queries.shape, keys.shape, how, rows)
    attention: Any = mx.custom_function(blocks.forward)
    attention.vjp(blocks.backward)
    out: mx.array = attention(queries, keys, values)
    return out


class _Blocks:
    def __init__(self, queries: tuple[int, ...], keys: tuple[int, ...], how: Scoring, rows: int) -> None:
        self.batch, self.heads, self.length, _ = queries
        self.kv_heads, self.total = keys[1], keys[2]
        self.how, self.rows = how, rows

    def forward(self, queries: mx.array, keys: mx.array, values: mx.array) -> mx.array:
        outs: list[mx.array] = []
        for start in range(0, self.length, self.rows):
            block = self._folded(queries, start)
            if outs:  # one block after the other: none is begun while another's scores are there
                (block,) = mx.depends([block], [outs[-1]])
            low, high = self._seen(start)
            weights = self._weights(self._scores(block, keys[:, :, low:high]), start)
            outs.append(self._unfolded(weights @ values[:, :, low:high]))
        return mx.concatenate(outs, axis=2)

    def backward(
        self, primals: tuple[mx.array, ...], cotangent: mx.array, output: mx.array
    ) -> tuple[mx.array, ...]:
        queries, keys, values = primals
        d_queries: list[mx.array] = []
        d_keys, d_values = (mx.zeros(x.shape, mx.float32) for x in (keys, values))
        for start in range(0, self.length, self.rows):
            block, d_out, out = (self._folded(x, start) for x in (queries, cotangent, output))
            if d_queries:
                (block,) = mx.depends([block], [d_queries[-1], d_keys, d_values])
            low, high = self._seen(start)
            seen = keys[:, :, low:high]
            scores = self._scores(block, seen)
            weights = self._weights(scores, start)
            d_values[:, :, low:high] = d_values[:, :, low:high] + weights.swapaxes(-1, -2) @ d_out
            towards = (d_out * out).astype(mx.float32).sum(axis=-1, keepdims=True).astype(d_out.dtype)
            d_scores = weights * (d_out @ values[:, :, low:high].swapaxes(-1, -2) - towards)
            if self.how.softcap is not None:
                d_scores = d_scores * (1 - mx.square(scores / self.how.softcap))
            d_queries.append(self._unfolded(self.how.scale * (d_scores @ seen)))
            d_seen = d_scores.swapaxes(-1, -2) @ (self.how.scale * block)
            d_keys[:, :, low:high] = d_keys[:, :, low:high] + d_seen
        d_block = mx.concatenate(d_queries, axis=2)
        return d_block, d_keys.astype(keys.dtype), d_values.astype(values.dtype)

    def _seen(self, start: int) -> tuple[int, int]:
        """The keys that a block's queries may look at, all of them together."""
        first = self.total - self.length + start
        low = 0 if self.how.window is None else max(0, first + 1 - self.how.window)
        return low, min(first + self.rows, self.total)

    def _scores(self, block: mx.array, seen: mx.array) -> mx.array:
        """[B, K, G * rows, keys seen], whether they may be looked at or not."""
        scores, cap = (self.how.scale * block) @ seen.swapaxes(-1, -2), self.how.softcap
        return scores if cap is None else mx.tanh(scores / cap) * cap

    def _weights(self, scores: mx.array, start: int) -> mx.array:
        rows, total = min(self.rows, self.length - start), scores.shape[-1]
        mask = causal_mask(rows, total - rows, self.how.window)
        apart = scores.reshape(self.batch, self.kv_heads, -1, rows, total)
        apart = mx.where(mask, apart, mx.array(-mx.inf, apart.dtype))
        if self.how.sinks is None:
            return mx.softmax(apart, axis=-1, precise=True).reshape(scores.shape)
        sinks = self.how.sinks.astype(apart.dtype).reshape(1, self.kv_heads, -1, 1, 1)
        sinks = mx.broadcast_to(sinks, (*apart.shape[:-1], 1))
        weights = mx.softmax(mx.concatenate([sinks, apart], axis=-1), axis=-1, precise=True)
        return weights[..., 1:].reshape(scores.shape)

    def _folded(self, x: mx.array, start: int) -> mx.array:
        """A block of [B, H, L, dim] as [B, K, G * rows, dim]: one product for all heads of a key's."""
        part = x[:, :, start : start + self.rows]
        return part.reshape(self.batch, self.kv_heads, -1, x.shape[-1])

    def _unfolded(self, x: mx.array) -> mx.array:
        return x.reshape(self.batch, self.heads, -1, x.shape[-1])
