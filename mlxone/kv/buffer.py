"""Growing a [B, heads, capacity, dim] buffer, and the masks plain arithmetic gives."""

from __future__ import annotations

import copy

from mlxone.backend.arrays import mx

STEP = 256  # buffers grow by multiples of this many tokens


def padded(array: mx.array, extra: int) -> mx.array:
    """The array with room for `extra` more tokens behind it."""
    batch, heads, _, dim = array.shape
    return mx.concatenate([array, mx.zeros((batch, heads, extra, dim), array.dtype)], axis=2)


def room_for(count: int) -> int:
    return -(-count // STEP) * STEP


def shared(array: mx.array | None) -> mx.array | None:
    """A second name for the same data: writing through one leaves the other as it was."""
    return None if array is None else copy.copy(array)


def causal_mask(length: int, offset: int, window: int | None = None) -> mx.array:
    """[length, offset + length]: new token i sees old tokens and itself, at most `window` of them."""
    ages = mx.arange(offset, offset + length)[:, None] - mx.arange(offset + length)
    return ages >= 0 if window is None else (ages >= 0) & (ages < window)


def attention(
    queries: mx.array,
    held: tuple[mx.array, mx.array],
    *,
    scale: float,
    mask: mx.array | str | None,
) -> mx.array:
    return mx.fast.scaled_dot_product_attention(queries, held[0], held[1], scale=scale, mask=mask)
