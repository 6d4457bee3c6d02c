"""Sliding-window attention: only the last `window` tokens are kept.

One new token overwrites the oldest in place, as in a ring. Several new tokens are appended in
order behind the last `window - 1` old ones, so that the first of them still sees a full window;
the surplus is dropped at the next single token. The order inside the ring is part of the
contract: attention sums in that order, and parity is bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence

from mlxone.backend.arrays import mx
from mlxone.kv.buffer import STEP, attention, causal_mask, padded, shared
from mlxone.kv.pieces import Piece, own
from mlxone.kv.state import Mask, Rope


class RotatingState:
    __slots__ = ("cursor", "keys", "offset", "values", "window")
    cuttable = False

    def __init__(self, window: int) -> None:
        self.window = window
        self.keys: mx.array | None = None  # [B, heads, held or more, dim]
        self.values: mx.array | None = None
        self.offset = 0
        self.cursor = 0  # where the next single token is written

    def mask(self, length: int) -> Mask:
        if length == 1:
            return None
        old = min(self.window - 1, self.offset)
        return causal_mask(length, old, self.window) if old + length > self.window else "causal"

    def rotate(self, rope: Rope, x: mx.array) -> mx.array:
        return rope(x, self.offset)

    def append(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        if keys.shape[2] == 1:
            return self._append_one(keys, values)
        return self._append_many(keys, values)

    def moves(self, length: int) -> bool:
        if self.keys is None:
            return False
        size = self.keys.shape[2]
        return length > 1 or size > self.window or self.cursor == size < self.window

    attend = staticmethod(attention)

    def _append_many(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        count = keys.shape[2]
        if self.keys is not None and self.values is not None:
            keep = self.window - 1
            keys = mx.concatenate([_last(self._in_order(self.keys), keep), keys], axis=2)
            values = mx.concatenate([_last(self._in_order(self.values), keep), values], axis=2)
        self.offset += count
        self.keys, self.values = keys, values
        self.cursor = keys.shape[2]
        return keys, values

    def _append_one(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        self._make_room(keys, values)
        assert self.keys is not None and self.values is not None
        if self.cursor >= self.window:
            self.cursor = 0
        self.keys[..., self.cursor : self.cursor + 1, :] = keys
        self.values[..., self.cursor : self.cursor + 1, :] = values
        self.offset += 1
        self.cursor += 1
        return self.held()

    def held(self) -> tuple[mx.array, mx.array]:
        assert self.keys is not None and self.values is not None
        if self.offset < self.keys.shape[2]:
            return self.keys[..., : self.offset, :], self.values[..., : self.offset, :]
        return self.keys, self.values

    def _make_room(self, keys: mx.array, values: mx.array) -> None:
        if self.keys is None or self.values is None:
            room = min(STEP, self.window)
            self.keys = mx.zeros((*keys.shape[:2], room, keys.shape[3]), keys.dtype)
            self.values = mx.zeros((*values.shape[:2], room, values.shape[3]), values.dtype)
            return
        size = self.keys.shape[2]
        if size > self.window:  # several tokens came last: drop their surplus
            self.keys, self.values = _last(self.keys, self.window), _last(self.values, self.window)
            self.cursor = self.window
        elif self.cursor == size < self.window:
            room = min(STEP, self.window - size)
            self.keys, self.values = padded(self.keys, room), padded(self.values, room)

    def _in_order(self, buffer: mx.array) -> mx.array:
        """The tokens held, oldest first."""
        if self.cursor == buffer.shape[2]:
            return buffer
        if self.cursor < self.offset:  # the ring has turned
            return mx.concatenate([buffer[..., self.cursor :, :], buffer[..., : self.cursor, :]], axis=2)
        return buffer[..., : self.cursor, :]

    def can_trim(self, count: int) -> bool:
        """Only until the window is full: later, what a trim should bring back is overwritten."""
        return count == 0 or (0 < count <= self.offset < self.window)

    def trim(self, count: int) -> None:
        self.offset -= count
        self.cursor -= count

    def fresh(self) -> RotatingState:
        return RotatingState(self.window)

    def fork(self) -> RotatingState:
        twin = RotatingState(self.window)
        twin.keys, twin.values = shared(self.keys), shared(self.values)
        twin.offset, twin.cursor = self.offset, self.cursor
        return twin

    def cut(self, start: int, end: int) -> Piece | None:
        return None

    def snapshot(self) -> RotatingState:
        """The order inside the ring stays; a surplus that the next token would drop is left out."""
        twin = RotatingState(self.window)
        twin.offset, twin.cursor = self.offset, min(self.cursor, self.window)
        if self.keys is not None and self.values is not None:
            size = self.keys.shape[2]
            start, end = max(0, size - self.window), min(size, self.offset)
            twin.keys, twin.values = own(self.keys, start, end), own(self.values, start, end)
        return twin

    def arrays(self) -> Sequence[mx.array]:
        return () if self.keys is None or self.values is None else (self.keys, self.values)

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays())


def _last(buffer: mx.array, count: int) -> mx.array:
    surplus = buffer.shape[2] - count
    return buffer if surplus <= 0 else buffer[..., surplus:, :]
