"""What a conversation's layer states hold, kept from one of its answers to the next."""

from __future__ import annotations

from collections.abc import Sequence

from mlxone.kv.state import ModelState
from mlxone.service.model import Model


class Memory:
    def __init__(self) -> None:
        self._state: ModelState | None = None
        self._tokens: list[int] = []

    def recall(self, model: Model, ids: Sequence[int]) -> ModelState:
        """A state that holds the beginning of these ids: the kept one where they agree, else a new one."""
        state, self._state = self._state, None
        shared = _shared_beginning(self._tokens, ids)
        # One token at least is left to be read: an answer is drawn from what follows it.
        if state is None or not shared or not state.rewind(min(shared, len(ids) - 1)):
            return model.new_state()
        return state

    def keep(self, state: ModelState, tokens: Sequence[int]) -> None:
        self._state, self._tokens = state, list(tokens)


def _shared_beginning(a: Sequence[int], b: Sequence[int]) -> int:
    for index, (left, right) in enumerate(zip(a, b, strict=False)):
        if left != right:
            return index
    return min(len(a), len(b))
