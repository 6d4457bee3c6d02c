"""Who owns which bytes: what is stored, what was given out, and what is free again when it went."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from mlxone.backend.arrays import mx
from mlxone.kv.buffer import STEP
from mlxone.kv.prefixes import PrefixStore
from mlxone.kv.state import ModelState
from tests.kv.stored import (
    KINDS,
    ROOMY,
    append,
    assert_holds,
    empty,
    put,
    take,
)

# Arrays ------------------------------------------------------------------------------------


def wide(ids: Sequence[int], kind: str = "mixed") -> ModelState:
    """Large enough to be seen in what MLX has in use."""
    state = empty(kind)
    array = mx.broadcast_to(mx.array([float(i) for i in ids])[None, None, :, None], (1, 3, len(ids), 32))
    layers: list[Any] = state.layers
    for layer in layers:
        layer.append(mx.contiguous(array), mx.contiguous(array))
    mx.eval(state.arrays())
    return state


def in_use() -> int:
    gc.collect()
    return mx.get_active_memory()


@pytest.fixture
def exact_buffers() -> Iterator[None]:
    """Freed buffers are not used again: a larger one than needed would be counted as it is."""
    limit = mx.set_cache_limit(0)
    yield
    mx.set_cache_limit(limit)


@pytest.mark.usefixtures("exact_buffers")
@pytest.mark.parametrize("kind", ["plain", "sliding", "mixed"])
def test_its_bytes_are_what_it_keeps_in_memory(kind: str):
    """No row's buffer lives on in it, whole or lazily; what goes is free at once."""
    store, before = PrefixStore(ROOMY), in_use()
    texts = [[1] * 700, [1] * 300 + [2] * 50, [3], [1] * 299 + [4], [1] * 700 + [5] * 3]
    for text in texts:
        store.put("a" if text != [3] else "b", text, wide(text, kind))
        assert in_use() - before == store.bytes > 0
    state = store.take("a", texts[1], lambda: empty(kind))
    assert state.offset > 0 or kind != "plain"
    del state
    assert store.take("b", [3, 0], lambda: empty(kind)).offset == 1  # used last, so it stays
    gc.disable()  # a circle of references would only be found by chance
    try:
        store.give_way(1)
        assert mx.get_active_memory() - before == store.bytes > 0
        store.forget("a")
        assert mx.get_active_memory() - before == store.bytes > 0
        store.forget("b")
        assert mx.get_active_memory() - before == store.bytes == 0
    finally:
        gc.enable()


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_given_out_is_ones_own(kind: str):
    store, text = PrefixStore(ROOMY), list(range(1, 12))
    put(store, kind, "a", text)
    first, second = (take(store, kind, "a", [*text, 50]) for _ in range(2))
    append(first, [50])
    append(first, [51, 52])
    append(second, [60])
    third = take(store, kind, "a", [*text, 70])
    assert_holds(first, [*text, 50, 51, 52])
    assert_holds(second, [*text, 60])
    assert_holds(third, text)
    store.forget("a")
    append(third, [70])
    assert_holds(third, [*text, 70])


def test_a_row_writes_in_place_from_its_first_token_on():
    """Else each step would copy all keys and values, as it would where buffers are shared."""
    store, text = PrefixStore(ROOMY), list(range(2000))
    store.put("a", text, wide(text, "plain"))
    state = store.take("a", [*text, 1], lambda: empty("plain"))
    layer: Any = state.layers[0]
    for _ in range(3):
        arrays = layer.arrays()
        mx.reset_peak_memory()
        before = in_use()
        new = mx.ones((1, 3, 1, 32))
        layer.append(new, new)
        mx.eval(layer.arrays())
        assert mx.get_peak_memory() - before < arrays[0].nbytes / 2


def test_buffers_have_room_for_the_whole_prompt():
    store, text = PrefixStore(ROOMY), list(range(300))
    put(store, "plain", "a", text)
    state = take(store, "plain", "a", [*text, *range(3000)])
    assert not state.moves(3001)
    assert state.moves(4000)


def test_a_buffer_has_nothing_of_what_lies_behind_a_checkpoint():
    store, text = PrefixStore(ROOMY), list(range(1, 9))
    for known in ([1, 2, 3], text, [1, 2, 3, 4, 5, 99]):
        put(store, "recurrent", "a", known)
    state = take(store, "recurrent", "a", [*text[:7], 99])
    assert_holds(state, [1, 2, 3])
    assert [array.shape[2] for array in state.layers[0].arrays()] == [STEP, STEP]
