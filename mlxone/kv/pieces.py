"""Runs of tokens as layers remember them: cut out of a state, cut again, joined to a state.

A piece has arrays of its own: it keeps no larger buffer alive, and its bytes are what it costs.
Whatever kind of state remembers token by token can be cut: its arrays count tokens along one axis.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlxone.backend.arrays import mx

if TYPE_CHECKING:
    from mlxone.kv.state import AttentionState

TOKENS = 2  # the axis of [B, heads, tokens, dim]


@dataclass(frozen=True, slots=True)
class Piece:
    held: tuple[mx.array, ...]  # [B, heads, tokens, dim] each
    state: Callable[
        [Sequence[mx.array], int], AttentionState
    ]  # from such arrays and how many tokens they hold

    def part(self, start: int, end: int) -> Piece:
        return Piece(tuple(own(array, start, end) for array in self.held), self.state)

    def arrays(self) -> Sequence[mx.array]:
        return self.held

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.held)


def joined(pieces: Sequence[Piece], length: int, capacity: int) -> AttentionState:
    """A state that holds the first `length` tokens of the pieces, with room for more up to `capacity`."""
    parts = zip(*(piece.held for piece in pieces), strict=True)
    return pieces[0].state([_joined(arrays, length, capacity) for arrays in parts], length)


def own(array: mx.array, start: int, end: int) -> mx.array:
    """A copy of some tokens. `mx.contiguous` would hand out a small buffer's own memory instead."""
    run = array[:, :, start:end]
    return mx.concatenate([run, run[:, :, :0]], axis=TOKENS)


def _joined(arrays: Sequence[mx.array], length: int, capacity: int) -> mx.array:
    surplus = sum(array.shape[TOKENS] for array in arrays) - length
    *most, last = arrays
    last = last[:, :, : last.shape[TOKENS] - surplus]
    shape = list(last.shape)
    shape[TOKENS] = capacity - length
    return mx.concatenate([*most, last, mx.zeros(shape, last.dtype)], axis=TOKENS)
