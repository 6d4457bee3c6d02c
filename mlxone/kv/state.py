"""The shape every layer state has, and the list of them that is a model's memory.

`LayerState` is what whoever keeps, forks, stores and forgets states needs, and all that recurrent ones
have in common with the others; `AttentionState` adds what attention needs. That kind owns both its
storage and the attention over it, so attention never asks which one it holds: quantized and batched
kinds join by having the same methods.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, Self

from mlxone.backend.arrays import lock, mx
from mlxone.kv.pieces import Piece

Mask = Any  # None, the word "causal", or a boolean array
Rope = Callable[[mx.array, Any], mx.array]  # (x [B, heads, L, dim], position of the first token)


class LayerState(Protocol):
    offset: int  # tokens seen so far: the position of the next one

    @property
    def cuttable(self) -> bool:
        """Whether it remembers token by token; what does not is stored whole, as a snapshot at one place."""

    def mask(self, length: int) -> Mask:
        """What `length` new tokens may look at, asked before they are appended."""

    def moves(self, length: int) -> bool:
        """Whether taking in `length` more tokens copies what is held to another place."""

    def can_trim(self, count: int) -> bool: ...

    def trim(self, count: int) -> None:
        """Forgets the last `count` tokens; only after `can_trim` said yes."""

    def fresh(self) -> Self:
        """An empty state of the same kind."""

    def fork(self) -> Self:
        """An independent state with the same memory. Arrays are shared until one side writes."""

    def cut(self, start: int, end: int) -> Piece | None:
        """Copies what it holds of some tokens; None where it is not cuttable."""

    def snapshot(self) -> Self:
        """A fork with arrays of its own and without room to grow: nothing keeps more alive than it holds."""

    def arrays(self) -> Sequence[mx.array]: ...

    @property
    def nbytes(self) -> int: ...


class AttentionState(LayerState, Protocol):
    """Of a layer that remembers keys and values."""

    def rotate(self, rope: Rope, x: mx.array) -> mx.array:
        """Turns new tokens [B, heads, L, dim], not yet appended, to the positions they have."""

    def append(self, keys: mx.array, values: mx.array) -> Any:
        """Takes in new tokens [B, heads, L, dim]; returns what `attend` needs of all that is held."""

    def held(self) -> Any:
        """What the last `append` returned, for a layer that attends over what this one keeps."""

    def attend(self, queries: mx.array, held: Any, *, scale: float, mask: Mask) -> mx.array: ...


def _nobody() -> None: ...


class ModelState:
    """The memory of one conversation: a state per layer, all at the same offset."""

    def __init__(self, layers: Sequence[LayerState]) -> None:
        self.layers = list(layers)
        self._let_go: Callable[[], None] = _nobody

    def hold(self, let_go: Callable[[], None] = _nobody) -> None:
        """Takes the state over: whoever computed on it before puts it in order and lets go."""
        with lock:
            before, self._let_go = self._let_go, let_go
        before()

    def leave(self, let_go: Callable[[], None]) -> None:
        """Its holder is done. Else holder and state would keep each other, and memory, alive."""
        with lock:
            if self._let_go == let_go:
                self._let_go = _nobody

    @property
    def offset(self) -> int:
        return self.layers[0].offset if self.layers else 0

    @property
    def nbytes(self) -> int:
        return sum(layer.nbytes for layer in self.layers)

    @property
    def cuttable(self) -> bool:
        """Whether any beginning of what it holds can be had from it."""
        return all(layer.cuttable for layer in self.layers)

    def moves(self, length: int) -> bool:
        return any(layer.moves(length) for layer in self.layers)

    def arrays(self) -> list[mx.array]:
        return [array for layer in self.layers for array in layer.arrays()]

    def trim(self, count: int) -> bool:
        """Forgets the last `count` tokens in every layer, or in none and says False."""
        return self.rewind(self.offset - count)

    def rewind(self, offset: int) -> bool:
        """Goes back to the first `offset` tokens in every layer, or in none and says False.

        Layers may stand at different offsets when a forward pass broke off between them.
        """
        surplus = [layer.offset - offset for layer in self.layers]
        if not all(layer.can_trim(n) for layer, n in zip(self.layers, surplus, strict=True)):
            return False
        for layer, n in zip(self.layers, surplus, strict=True):
            layer.trim(n)
        return True

    def forget(self) -> None:
        """Starts anew, for when a broken-off pass left the layers at offsets that cannot be mended."""
        self.layers = [layer.fresh() for layer in self.layers]

    def fork(self) -> ModelState:
        return ModelState([layer.fork() for layer in self.layers])
