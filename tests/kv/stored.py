"""States of every kind that hold the ids themselves, and the recount of a prefix store's books."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from mlxone.backend.arrays import mx
from mlxone.kv.plain import PlainState
from mlxone.kv.prefixes import PrefixStore
from mlxone.kv.radix import Node
from mlxone.kv.recurrent import RecurrentState
from mlxone.kv.rotating import RotatingState
from mlxone.kv.state import ModelState
from tests.engine.tiny import ids_in

ROOMY = 10**9
WINDOW = 5
TOKEN = 8  # bytes of one token in one layer: a key and a value of one float32 each


KINDS: dict[str, Any] = {
    "plain": lambda: [PlainState(), PlainState()],
    "sliding": lambda: [RotatingState(WINDOW)],
    "mixed": lambda: [RotatingState(WINDOW), PlainState(), RotatingState(WINDOW + 2)],
    "recurrent": lambda: [PlainState(), RecurrentState()],
}
# How far back a checkpoint of the kind goes: while it holds fewer tokens than this.
TRIMS = {"plain": ROOMY, "sliding": WINDOW, "mixed": WINDOW, "recurrent": 0}


def empty(kind: str) -> ModelState:
    return ModelState(KINDS[kind]())


def append(state: ModelState, ids: Sequence[int]) -> None:
    held = mx.array([float(i) for i in ids])[None, None, :, None]
    layers: list[Any] = state.layers
    for layer in layers:
        if isinstance(layer, RecurrentState):  # all it knows is the sum of what it has seen
            layer.keep([sum(layer.held, mx.zeros((1,))) + sum(ids)], len(ids))
        else:
            layer.append(held, held)


def state_of(kind: str, ids: Sequence[int]) -> ModelState:
    """Read as an answer's are: most of it at once, the end one by one, so that rings turn."""
    state, singly = empty(kind), len(ids) // 3
    if len(ids) > singly:
        append(state, ids[: len(ids) - singly])
    for id in ids[len(ids) - singly :]:
        append(state, [id])
    return state


def assert_holds(state: ModelState, ids: Sequence[int]) -> None:
    for layer in state.layers:
        assert layer.offset == len(ids)
        if isinstance(layer, RecurrentState):
            assert [total.item() for total in layer.held] == ([sum(ids)] if ids else [])
        else:
            window = layer.window if isinstance(layer, RotatingState) else ROOMY
            assert ids_in(layer) == list(ids)[-(window - 1) :]


# The books ---------------------------------------------------------------------------------


def nodes(store: PrefixStore) -> Iterator[Node]:
    left = list(store._roots.values())
    while left:
        node = left.pop()
        left += node.children.values()
        if node.parent is not None:
            yield node


def arrays_of(store: PrefixStore) -> Iterator[mx.array]:
    for node in nodes(store):
        held = [*node.pieces, *(node.checkpoint.layers if node.checkpoint else ())]
        parts: list[Any] = [part for part in held if part is not None]
        yield from (a for part in parts for a in part.arrays())


def audit(store: PrefixStore) -> None:
    found = list(nodes(store))
    assert store.bytes == sum(a.nbytes for a in arrays_of(store))
    assert store.entries == sum(not node.children for node in found)
    order = {thing: place for place, thing in enumerate(store._order)}
    checkpoints = [node.checkpoint for node in found if node.checkpoint is not None]
    assert set(order) == {*found, *checkpoints} and len(order) == len(found) + len(checkpoints)
    for node in found:
        assert len(node.run) > 0 and node.end == node.start + len(node.run)
        assert node.parent.children[node.run[0]] is node
        assert node.start == node.parent.end
        assert node.nbytes == sum(p.nbytes for p in node.pieces if p is not None)
        assert all(a.shape[2] == len(node.run) for p in node.pieces if p is not None for a in p.arrays())
        assert node.children or not node.lacks_checkpoint
        if node.parent.parent is not None:
            assert order[node] < order[node.parent]
        if node.checkpoint is not None:
            assert node.checkpoint.node is node
            assert order[node.checkpoint] < order[node]
    assert store.bytes <= store._allowed
    assert store.max_entries is None or store.entries <= store.max_entries


def put(store: PrefixStore, kind: str, namespace: str, ids: Sequence[int]) -> bool:
    return store.put(namespace, ids, state_of(kind, ids))


def take(store: PrefixStore, kind: str, namespace: str, ids: Sequence[int]) -> ModelState:
    return store.take(namespace, ids, lambda: empty(kind))
