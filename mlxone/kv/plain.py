"""Full attention: every key and value is kept, in order."""

from __future__ import annotations

from collections.abc import Sequence

from mlxone.backend.arrays import mx
from mlxone.kv.buffer import attention, padded, room_for, shared
from mlxone.kv.pieces import Piece, own
from mlxone.kv.state import Mask, Rope


class PlainState:
    __slots__ = ("keys", "offset", "values")
    cuttable = True

    def __init__(self) -> None:
        self.keys: mx.array | None = None  # [B, heads, capacity, dim]
        self.values: mx.array | None = None
        self.offset = 0

    def mask(self, length: int) -> Mask:
        return None if length == 1 else "causal"

    def rotate(self, rope: Rope, x: mx.array) -> mx.array:
        return rope(x, self.offset)

    def append(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        start, end = self.offset, self.offset + keys.shape[2]
        self._reserve(keys, values, end)
        assert self.keys is not None and self.values is not None
        self.keys[..., start:end, :] = keys
        self.values[..., start:end, :] = values
        self.offset = end
        return self.held()

    def held(self) -> tuple[mx.array, mx.array]:
        assert self.keys is not None and self.values is not None
        return self._filled(self.keys), self._filled(self.values)

    def moves(self, length: int) -> bool:
        return self.keys is not None and self.offset + length > self.keys.shape[2]

    attend = staticmethod(attention)

    def _reserve(self, keys: mx.array, values: mx.array, end: int) -> None:
        if self.keys is None or self.values is None:
            room = room_for(keys.shape[2])
            self.keys = mx.zeros((*keys.shape[:2], room, keys.shape[3]), keys.dtype)
            self.values = mx.zeros((*values.shape[:2], room, values.shape[3]), values.dtype)
        elif end > self.keys.shape[2]:
            room = room_for(keys.shape[2])
            self.keys = padded(self._filled(self.keys), room)
            self.values = padded(self._filled(self.values), room)

    def _filled(self, buffer: mx.array) -> mx.array:
        return buffer if self.offset == buffer.shape[2] else buffer[..., : self.offset, :]

    def can_trim(self, count: int) -> bool:
        return 0 <= count <= self.offset

    def trim(self, count: int) -> None:
        self.offset -= count

    def fresh(self) -> PlainState:
        return PlainState()

    def fork(self) -> PlainState:
        twin = PlainState()
        twin.keys, twin.values, twin.offset = shared(self.keys), shared(self.values), self.offset
        return twin

    @staticmethod
    def of(arrays: Sequence[mx.array], offset: int) -> PlainState:
        state = PlainState()
        (state.keys, state.values), state.offset = arrays, offset
        return state

    def cut(self, start: int, end: int) -> Piece:
        return Piece(tuple(own(array, start, end) for array in self.arrays()), PlainState.of)

    def snapshot(self) -> PlainState:
        return PlainState.of(self.cut(0, self.offset).held, self.offset) if self.arrays() else PlainState()

    def arrays(self) -> Sequence[mx.array]:
        return () if self.keys is None or self.values is None else (self.keys, self.values)

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays())
