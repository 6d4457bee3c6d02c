"""What a recurrent layer keeps: replaced and never written, whole or not at all."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from mlxone.backend.arrays import mx
from mlxone.kv.plain import PlainState
from mlxone.kv.recurrent import RecurrentState
from mlxone.kv.state import LayerState, ModelState


def read(state: RecurrentState, values: list[float]) -> None:
    """A layer that remembers the last two values, and the sum of all."""
    tail, total = state.held or (mx.zeros((1, 2)), mx.zeros((1,)))
    seen = mx.concatenate([tail, mx.array([values])], axis=1)
    state.keep((seen[:, -2:], total + sum(values)), len(values))


def held(state: RecurrentState) -> list[object]:
    return [array.tolist() for array in state.held]


def test_it_is_a_layer_state_like_the_others():
    state: LayerState = RecurrentState()
    assert (state.offset, state.nbytes, list(state.arrays())) == (0, 0, [])
    assert not state.cuttable
    assert state.mask(1) is state.mask(7) is None
    assert not state.moves(1000)
    assert state.cut(0, 0) is None


def test_it_counts_tokens_and_bytes():
    state = RecurrentState()
    read(state, [1, 2, 3])
    read(state, [4])
    assert (state.offset, state.nbytes) == (4, 4 * 3)
    assert held(state) == [[[3, 4]], [10]]


def test_there_is_no_way_back():
    state = RecurrentState()
    read(state, [1, 2, 3])
    assert [state.can_trim(count) for count in (-1, 0, 1, 3)] == [False, True, False, False]
    state.trim(0)
    assert held(state) == [[[2, 3]], [6]]
    assert state.fresh().offset == 0 and state.fresh().held == ()


@pytest.mark.parametrize("copy", ["fork", "snapshot"])
def test_each_goes_on_by_itself(copy: str):
    state = RecurrentState()
    read(state, [1, 2, 3])
    twin: RecurrentState = getattr(state, copy)()
    read(state, [4])
    read(twin, [50, 60])
    assert (held(state), state.offset) == ([[[3, 4]], [10]], 4)
    assert (held(twin), twin.offset) == ([[[50, 60]], [116]], 5)


@pytest.fixture
def exact_buffers() -> Iterator[None]:
    limit = mx.set_cache_limit(0)
    yield
    mx.set_cache_limit(limit)


@pytest.mark.usefixtures("exact_buffers")
def test_a_snapshot_keeps_no_more_in_memory_than_it_holds():
    gc.collect()
    before = mx.get_active_memory()
    state = RecurrentState()
    state.keep((mx.random.normal((1, 4096, 64))[:, -3:],), 4096)  # the end of a large buffer
    mx.eval(state.arrays())
    assert mx.get_active_memory() - before > 100 * state.nbytes
    snapshot = state.snapshot()
    mx.eval(snapshot.arrays())
    del state
    gc.collect()
    assert mx.get_active_memory() - before == snapshot.nbytes == 3 * 64 * 4


def test_a_model_with_one_cannot_forget_single_tokens():
    plain, recurrent = PlainState(), RecurrentState()
    state = ModelState([plain, recurrent])
    plain.append(mx.ones((1, 1, 3, 2)), mx.ones((1, 1, 3, 2)))
    read(recurrent, [1, 2, 3])
    assert not state.cuttable
    assert state.trim(1) is False
    assert (plain.offset, recurrent.offset) == (3, 3)


def test_a_pass_that_broke_off_behind_it_can_only_be_forgotten():
    plain, recurrent = PlainState(), RecurrentState()
    state = ModelState([recurrent, plain])
    read(recurrent, [1, 2])
    assert state.rewind(0) is False
    state.forget()
    assert [layer.offset for layer in state.layers] == [0, 0]
    assert held(recurrent) == [[[1, 2]], [3]]  # whoever has the old one keeps it


def test_a_pass_that_broke_off_before_it_is_mended():
    plain, recurrent = PlainState(), RecurrentState()
    state = ModelState([plain, recurrent])
    plain.append(mx.ones((1, 1, 3, 2)), mx.ones((1, 1, 3, 2)))
    assert state.rewind(0) is True
    assert [layer.offset for layer in state.layers] == [0, 0]
