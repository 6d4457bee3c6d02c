"""What was read for one answer and is not read again for the next.

`Memory` is one conversation's: it hands its state on without a copy. `Shared` is everybody's who
asks the same model in the same namespace. An answer takes either and does not know which.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from mlxone.kv.prefixes import PrefixStore
from mlxone.kv.state import ModelState
from mlxone.service.model import Model


class Remembers(Protocol):
    def within(self, key: str) -> Remembers:
        """The same for what these adapters compute: nothing of it may serve others. No key is the base's."""

    def recall(self, model: Model, ids: Sequence[int]) -> ModelState:
        """A state that holds the beginning of these ids, all but the last at most; maybe nothing of them.

        The answer is drawn from what follows the last token read, so one at least is left.
        """

    def checkpoint(self, state: ModelState, tokens: Sequence[int]) -> None:
        """Where others may part from a prompt, and its end. The state is still in use."""

    def keep(self, state: ModelState, tokens: Sequence[int]) -> None:
        """The answer ended, or was left, and has no more use for the state. Not called after a failure."""


class Memory:
    def __init__(self) -> None:
        self._state: ModelState | None = None
        self._tokens: list[int] = []
        self._key = ""  # of the adapters that computed it

    def within(self, key: str) -> Memory:
        if key != self._key:
            self._state, self._tokens, self._key = None, [], key
        return self

    def recall(self, model: Model, ids: Sequence[int]) -> ModelState:
        state, self._state = self._state, None
        shared = _shared_beginning(self._tokens, ids)
        if state is None or not shared or not state.rewind(min(shared, len(ids) - 1)):
            return model.new_state()
        return state

    def checkpoint(self, state: ModelState, tokens: Sequence[int]) -> None:
        """One state is one place: the next turn goes on from the end of this one."""

    def keep(self, state: ModelState, tokens: Sequence[int]) -> None:
        self._state, self._tokens = state, list(tokens)


class Shared:
    def __init__(
        self, store: PrefixStore, namespace: str, others: Callable[[str], None] = lambda namespace: None
    ) -> None:
        """`others` hears of each namespace besides this one that something is kept in."""
        self._store, self._namespace, self._others = store, namespace, others

    def within(self, key: str) -> Shared:
        if not key:
            return self
        namespace = f"{self._namespace}\n{key}"  # no model's key has two lines
        self._others(namespace)
        return Shared(self._store, namespace)

    def recall(self, model: Model, ids: Sequence[int]) -> ModelState:
        return self._store.take(self._namespace, ids, model.new_state)

    def checkpoint(self, state: ModelState, tokens: Sequence[int]) -> None:
        self._store.put(self._namespace, tokens, state)

    def keep(self, state: ModelState, tokens: Sequence[int]) -> None:
        self._store.put(self._namespace, tokens, state)


def _shared_beginning(a: Sequence[int], b: Sequence[int]) -> int:
    for index, (left, right) in enumerate(zip(a, b, strict=False)):
        if left != right:
            return index
    return min(len(a), len(b))
