"""What layer states are compared with: lists of every key and value, and attention in plain numpy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mlxone.backend.arrays import mx

HEADS, KV_HEADS, DIM, VALUE_DIM = 4, 2, 4, 6
SCALE = DIM**-0.5


@dataclass
class Remembered:
    """All tokens that a state was given and did not forget again, with no window."""

    keys: list[np.ndarray] = field(default_factory=list)  # each [KV_HEADS, DIM]
    values: list[np.ndarray] = field(default_factory=list)

    def fork(self) -> Remembered:
        return Remembered(list(self.keys), list(self.values))

    def trim(self, count: int) -> None:
        if count:
            del self.keys[-count:], self.values[-count:]

    def append(self, keys: np.ndarray, values: np.ndarray) -> None:
        self.keys += list(keys)
        self.values += list(values)

    def attention(self, queries: np.ndarray, window: int | None) -> np.ndarray:
        """Queries [L, HEADS, DIM] of the last L tokens; the sum in float64, token by token."""
        outputs, first = [], len(self.keys) - len(queries)
        for position, query in enumerate(queries, first):
            start = 0 if window is None else max(0, position - window + 1)
            outputs.append([self._one_head(query, head, start, position + 1) for head in range(HEADS)])
        return np.array(outputs)

    def _one_head(self, query: np.ndarray, head: int, start: int, end: int) -> np.ndarray:
        own = head * KV_HEADS // HEADS
        keys = np.stack([k[own] for k in self.keys[start:end]]).astype(np.float64)
        values = np.stack([v[own] for v in self.values[start:end]]).astype(np.float64)
        scores = keys @ query[head].astype(np.float64) * SCALE
        weights = np.exp(scores - scores.max())
        return weights / weights.sum() @ values


class Source:
    """Random tokens, no two alike."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)

    def tokens(self, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Queries, keys and values of `count` tokens, [count, heads, dim] each."""
        sizes = ((HEADS, DIM), (KV_HEADS, DIM), (KV_HEADS, VALUE_DIM))
        queries, keys, values = (self._random.normal(size=(count, *s)).astype(np.float32) for s in sizes)
        return queries, keys, values


def as_batch(tokens: np.ndarray) -> mx.array:
    """[L, heads, dim] to MLX's [1, heads, L, dim]."""
    return mx.array(tokens.swapaxes(0, 1)[None])


def as_tokens(batch: mx.array) -> np.ndarray:
    return np.array(batch)[0].swapaxes(0, 1)


def held_by(state: Any) -> tuple[np.ndarray, np.ndarray]:
    """Keys and values as the next token would find them, sorted by nothing; the state stays as it is."""
    if not state.offset:
        return np.zeros((0, KV_HEADS, DIM)), np.zeros((0, KV_HEADS, VALUE_DIM))
    probe = mx.full((1, KV_HEADS, 1, DIM), 99.0), mx.full((1, KV_HEADS, 1, VALUE_DIM), 99.0)
    keys, values = (as_tokens(a) for a in state.fork().append(*probe))
    old = keys[:, 0, 0] != 99
    return keys[old], values[old]
