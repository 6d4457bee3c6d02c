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
    sinks: mx.array | None = None,
    softcap: float | None = None,
) -> mx.array:
    keys, values = held
    if softcap is not None:
        return _capped_attention(queries * scale, keys, values, mask, softcap)
    return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask=mask, sinks=sinks)


def _capped_attention(
    queries: mx.array, keys: mx.array, values: mx.array, mask: mx.array | str | None, cap: float
) -> mx.array:
    """Scores are bent to stay within the cap. MLX has no fused form of that."""
    shape = queries.shape
    groups = shape[1] // keys.shape[1]
    if groups > 1:
        queries = queries.reshape(shape[0], keys.shape[1], groups, *shape[2:])
        keys, values = keys[:, :, None], values[:, :, None]
    scores = mx.tanh((queries @ keys.swapaxes(-1, -2)) / cap) * cap
    if isinstance(mask, str):
        mask = causal_mask(shape[2], keys.shape[-2] - shape[2])
    if mask is not None:
        scores = mx.where(mask, scores, mx.array(mx.finfo(scores.dtype).min, scores.dtype))
    return (mx.softmax(scores, precise=True, axis=-1) @ values).reshape(shape)
