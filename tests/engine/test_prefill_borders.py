"""Where reading a prompt pauses: nowhere new while any beginning can be cut out of the state later."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxone.core.words import Sampling
from mlxone.engine.loop import prefill
from mlxone.engine.row import Row
from tests.engine.tiny import ScriptedDecoder, ids_in

PLAIN, MIXED = (None, None), (None, 4)


def read(
    windows: Sequence[int | None], length: int, step: int, borders: Sequence[int], held: int = 0
) -> tuple[list[int], list[int]]:
    """Where Progress came, and how long the passes were."""
    decoder = ScriptedDecoder([1], windows=windows)
    row = Row(decoder, range(length), decoder.new_state(), Sampling(), seed=0)
    for _ in prefill(Row(decoder, range(held + 1), row.state, Sampling(), seed=0), 99):
        pass
    row = Row(decoder, range(length), row.state, Sampling(), seed=0)
    decoder.log.clear()
    assert all(held < stop < length for stop in row.stops(borders))
    places = []
    for progress in prefill(row, step, row.stops(borders)):
        places.append(progress.done)
        assert progress.total == length
        for layer, window in zip(row.state.layers, windows, strict=True):
            assert ids_in(layer) == list(range(progress.done))[-(window - 1) if window else 0 :]
    assert row.fed == list(range(max(length - 1, held)))
    return places, [count for _, count in decoder.log]


def test_a_state_that_cannot_be_cut_is_read_up_to_each_border():
    assert read(MIXED, 20, 8, [3, 5, 16]) == ([3, 5, 13, 16, 19], [3, 2, 8, 3, 3])


def test_the_chunks_of_one_that_can_stay_as_they_are():
    assert read(PLAIN, 20, 8, [3, 5, 16]) == read(PLAIN, 20, 8, []) == ([8, 16, 19], [8, 8, 3])


@pytest.mark.parametrize("windows", [PLAIN, MIXED])
def test_without_borders_all_is_as_ever(windows: Sequence[int | None]):
    assert read(windows, 20, 8, []) == ([8, 16, 19], [8, 8, 3])


@pytest.mark.parametrize("odd", [[19], [20], [500], [0], [-3], [19, 19, 0]])
def test_borders_outside_the_prompt_mean_nothing(odd: list[int]):
    assert read(MIXED, 20, 8, odd) == ([8, 16, 19], [8, 8, 3])


def test_what_is_held_already_has_no_borders():
    assert read(MIXED, 20, 8, [2, 6, 9], held=6) == ([9, 17, 19], [3, 8, 2])


@given(
    length=st.integers(1, 30),
    step=st.integers(1, 12),
    borders=st.lists(st.integers(-3, 35), max_size=6),
    held=st.integers(0, 29),
)
def test_fuzz_any_borders(length: int, step: int, borders: list[int], held: int):
    held = min(held, length - 1)
    places, passes = read(MIXED, length, step, borders, held)
    assert {b for b in borders if held < b < length} <= {*places}
    assert sum(passes) == length - 1 - held and all(0 < count <= step for count in passes)
    decoder = ScriptedDecoder([1], windows=MIXED)
    stops = Row(decoder, range(length), decoder.new_state(), Sampling(), seed=0).stops(borders)
    assert stops == sorted({*(b for b in borders if 0 < b < length - 1), *range(length - 1, length)} - {0})
