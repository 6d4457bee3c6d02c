"""A model's memory: the same number of tokens in every layer, forgotten in all of them or in none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from mlxone.kv.plain import PlainState
from mlxone.kv.rotating import RotatingState
from mlxone.kv.state import ModelState
from tests.kv.model import Source, as_batch, held_by


def filled(counts: Sequence[int], window: int = 6) -> ModelState:
    """A plain, a rotating and a plain layer, holding so many tokens each."""
    state = ModelState([PlainState(), RotatingState(window), PlainState()])
    layers: list[Any] = state.layers
    for layer, count in zip(layers, counts, strict=True):
        _, keys, values = Source(1).tokens(max(counts))
        if count:
            layer.append(as_batch(keys[:count]), as_batch(values[:count]))
    return state


def offsets(state: ModelState) -> list[int]:
    return [layer.offset for layer in state.layers]


def test_an_empty_memory():
    state = filled([0, 0, 0])
    assert (state.offset, state.nbytes, state.arrays()) == (0, 0, [])
    assert (ModelState([]).offset, ModelState([]).nbytes) == (0, 0)


def test_its_numbers_are_those_of_its_layers():
    state = filled([5, 5, 5])
    assert state.offset == 5
    assert state.nbytes == sum(layer.nbytes for layer in state.layers) > 0
    assert [a.shape for a in state.arrays()] == [a.shape for layer in state.layers for a in layer.arrays()]


@pytest.mark.parametrize(("held", "count", "done"), [(5, 2, True), (5, 5, True), (5, 6, False), (5, 0, True)])
def test_trim(held: int, count: int, done: bool):
    state = filled([held] * 3)
    assert state.trim(count) is done
    assert offsets(state) == [held - count if done else held] * 3


def test_one_layer_that_cannot_forget_keeps_all():
    state = filled([6, 6, 6])  # the ring is full: what a trim should bring back is gone
    before = [held_by(layer) for layer in state.layers]
    assert state.trim(1) is False
    assert offsets(state) == [6, 6, 6]
    for old, layer in zip(before, state.layers, strict=True):
        np.testing.assert_array_equal(old[0], held_by(layer)[0])


def test_it_never_grows_by_a_trim():
    state = filled([5, 5, 5])
    assert state.trim(-1) is False
    assert state.rewind(6) is False
    assert offsets(state) == [5, 5, 5]


def test_rewind_levels_layers_that_a_broken_pass_left_apart():
    state = filled([5, 5, 3])
    assert state.rewind(3) is True
    assert offsets(state) == [3, 3, 3]
    _, keys, _ = Source(1).tokens(5)
    for layer in state.layers:
        np.testing.assert_array_equal(held_by(layer)[0], keys[:3])


def test_a_fork_is_a_memory_of_its_own():
    state = filled([4, 4, 4])
    twin = state.fork()
    assert twin.trim(3)
    assert (offsets(state), offsets(twin)) == ([4, 4, 4], [1, 1, 1])
    _, keys, values = Source(2).tokens(1)
    layers: list[Any] = twin.layers
    for layer in layers:
        layer.append(as_batch(keys), as_batch(values))
    original = Source(1).tokens(4)[1]
    for layer in state.layers:
        np.testing.assert_array_equal(held_by(layer)[0], original)


def test_forgetting_starts_anew_in_states_of_the_same_kinds():
    state = filled([6, 6, 5], window=3)
    before = list(state.layers)
    state.forget()
    assert offsets(state) == [0, 0, 0]
    assert [type(layer) for layer in state.layers] == [type(layer) for layer in before]
    assert isinstance(state.layers[1], RotatingState) and state.layers[1].window == 3
    assert state.nbytes == 0
    assert before[0].offset == 6  # whoever has the old ones keeps them


def test_the_one_before_lets_go_once():
    state, told = filled([1, 1, 1]), list[str]()
    state.hold(lambda: told.append("first"))
    assert told == []
    state.hold(lambda: told.append("second"))
    assert told == ["first"]
    state.hold()
    state.hold()
    assert told == ["first", "second"]
    state.fork().hold()  # a fork is nobody's
    assert told == ["first", "second"]


def test_who_leaves_too_late_takes_nothing_from_the_next():
    told: list[str] = []
    state = ModelState([PlainState()])

    def first() -> None:
        told.append("first")

    def second() -> None:
        told.append("second")

    state.hold(first)
    state.hold(second)
    state.leave(first)  # it was told to let go, and now says that it is done
    state.hold()
    assert told == ["first", "second"]
    state.hold(first)
    state.leave(first)
    state.hold()
    assert told == ["first", "second"]  # who left in time is not asked
