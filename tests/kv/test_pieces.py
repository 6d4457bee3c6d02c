"""What is taken out of a state and put together again goes on exactly as the state would."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxone.backend.arrays import mx
from mlxone.kv.pieces import joined, own
from mlxone.kv.plain import PlainState
from mlxone.kv.rotating import RotatingState
from mlxone.kv.state import AttentionState
from tests.kv.model import SCALE, Source, as_batch

CHUNKS = st.lists(st.integers(1, 9), min_size=1, max_size=8)
WINDOWS = st.one_of(st.none(), st.integers(1, 9))


def filled(window: int | None, chunks: list[int], forgotten: int = 0) -> AttentionState:
    state: AttentionState = PlainState() if window is None else RotatingState(window)
    source = Source(1)
    for count in chunks:
        step(state, source, count)
    if state.can_trim(forgotten):
        state.trim(forgotten)
    return state


def step(state: AttentionState, source: Source, count: int) -> list[mx.array]:
    queries, keys, values = (as_batch(a) for a in source.tokens(count))
    mask = state.mask(count)
    held = state.append(keys, values)
    return [*held, state.attend(queries, held, scale=SCALE, mask=mask)]


def assert_go_on_alike(one: AttentionState, other: AttentionState, chunks: list[int]) -> None:
    """The same arrays in the same order, whatever the buffers behind them look like."""
    sources = Source(2), Source(2)
    assert one.offset == other.offset
    for count in chunks:
        for a, b in zip(step(one, sources[0], count), step(other, sources[1], count), strict=True):
            assert mx.array_equal(a, b)


@given(window=WINDOWS, before=CHUNKS, after=CHUNKS, forgotten=st.integers(0, 4))
def test_fuzz_a_snapshot_goes_on_as_the_state_does(
    window: int | None, before: list[int], after: list[int], forgotten: int
):
    state = filled(window, before, forgotten)
    snapshot = state.snapshot()
    kept = [mx.array(a) for a in snapshot.arrays()]
    assert snapshot.nbytes == min(state.offset, window or state.offset) * token_bytes(state)
    assert_go_on_alike(snapshot.fork(), state, after)
    assert all(mx.array_equal(a, b) for a, b in zip(kept, snapshot.arrays(), strict=True))


def token_bytes(state: AttentionState) -> int:
    return sum(a.nbytes // a.shape[2] for a in state.arrays())


@given(window=st.integers(2, 9), before=CHUNKS, back=st.integers(0, 8), after=CHUNKS)
def test_fuzz_a_snapshot_goes_back_as_far_as_the_state(
    window: int, before: list[int], back: int, after: list[int]
):
    state = filled(window, before)
    twin = state.snapshot().fork()
    assert twin.can_trim(back) == state.can_trim(back)
    if state.can_trim(back):
        twin.trim(back)
        state.trim(back)
        assert_go_on_alike(twin, state, after)


@given(data=st.data(), before=CHUNKS, after=CHUNKS, spare=st.integers(0, 20))
def test_fuzz_pieces_joined_go_on_as_the_state_does(
    data: Any, before: list[int], after: list[int], spare: int
):
    state = filled(None, before)
    total = state.offset
    ends = data.draw(st.lists(st.integers(1, total - 1), unique=True).map(sorted)) if total > 1 else []
    cuts = [0, *ends, total]
    pieces = [state.cut(a, b) for a, b in zip(cuts, cuts[1:], strict=False)]
    assert [p.nbytes for p in pieces] == [
        (b - a) * token_bytes(state) for a, b in zip(cuts, cuts[1:], strict=False)
    ]
    length = data.draw(st.integers(cuts[-2] + 1, total))  # the last piece may be needed in part
    again = joined(pieces, length, length + spare)
    assert again.arrays()[0].shape[2] == length + spare
    state.trim(total - length)
    assert_go_on_alike(again, state, after)


@given(length=st.integers(2, 9), at=st.integers(1, 8))
def test_a_piece_in_two_parts_is_the_same_piece(length: int, at: int):
    piece, at = filled(None, [length]).cut(0, length), min(at, length - 1)
    parts = piece.part(0, at), piece.part(at, length)
    assert sum(p.nbytes for p in parts) == piece.nbytes
    for whole, *halves in zip(piece.arrays(), *(p.arrays() for p in parts), strict=True):
        assert mx.array_equal(mx.concatenate(halves, axis=2), whole)


def test_what_cannot_be_cut_says_so():
    assert PlainState().cuttable and not RotatingState(4).cuttable
    assert RotatingState(4).cut(0, 0) is None
    for state in (PlainState(), RotatingState(4)):
        assert state.snapshot().offset == state.snapshot().nbytes == 0


@pytest.mark.parametrize(("start", "end"), [(0, 10), (0, 9), (3, 4), (5, 5)])
def test_own_copies_even_what_would_be_as_good_as_a_view(start: int, end: int):
    limit = mx.set_cache_limit(0)
    try:
        array = mx.random.normal((1, 1, 10, 4))
        mx.eval(array)
        before = mx.get_active_memory()
        copy = own(array, start, end)
        mx.eval(copy)
        assert mx.get_active_memory() - before == copy.nbytes == (end - start) * 16
        assert mx.array_equal(copy, array[:, :, start:end])
    finally:
        mx.set_cache_limit(limit)
