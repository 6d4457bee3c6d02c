"""What a recurrent layer remembers: a few arrays of fixed size, all that is left of what it has read.

They are replaced and never written into, so forks share them for good. The way back is lost with every
token: such a state is stored whole, at one place, and cannot be cut or trimmed.
"""

from __future__ import annotations

from collections.abc import Sequence

from mlxone.backend.arrays import mx
from mlxone.kv.pieces import Piece
from mlxone.kv.state import Mask


class RecurrentState:
    __slots__ = ("held", "offset")
    cuttable = False

    def __init__(self, held: Sequence[mx.array] = (), offset: int = 0) -> None:
        self.held = tuple(held)  # as the layer means them; none before the first token
        self.offset = offset

    def keep(self, arrays: Sequence[mx.array], length: int) -> None:
        """What is to be remembered, now that `length` more tokens are read.

        Everything at once and as a pass's last deed: one that breaks off before leaves the state as it was.
        """
        self.held = tuple(arrays)
        self.offset += length

    def mask(self, length: int) -> Mask:
        return None

    def moves(self, length: int) -> bool:
        return False

    def can_trim(self, count: int) -> bool:
        return count == 0

    def trim(self, count: int) -> None:
        """There is nothing to forget: `can_trim` allowed no tokens."""

    def fresh(self) -> RecurrentState:
        return RecurrentState()

    def fork(self) -> RecurrentState:
        return RecurrentState(self.held, self.offset)

    def cut(self, start: int, end: int) -> Piece | None:
        return None

    def snapshot(self) -> RecurrentState:
        return RecurrentState([_own(array) for array in self.held], self.offset)

    def arrays(self) -> Sequence[mx.array]:
        return self.held

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.held)


def _own(array: mx.array) -> mx.array:
    """A copy: what is held may be the end of a larger buffer."""
    return mx.concatenate([array, array[:0]])
