"""Plain and rotating states, beside a list of everything and beside mlx-lm's caches.

One invariant for any sequence of appends, trims and forks: what a state holds, and the attention
it computes, is that of plain attention over the true window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx_lm.models.base import create_attention_mask
from mlx_lm.models.cache import KVCache, RotatingKVCache

from mlxone.backend.arrays import mx
from mlxone.kv import buffer, rotating
from mlxone.kv.plain import PlainState
from mlxone.kv.rotating import RotatingState
from mlxone.kv.state import AttentionState
from tests.kv.model import SCALE, Remembered, Source, as_batch, as_tokens, held_by

STEP = 4  # instead of 256: a buffer is outgrown every few tokens

# ("append", how many), ("trim", how many) or ("fork", 0); which of the forks is meant comes first.
OPERATIONS = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.one_of(
            st.tuples(st.just("append"), st.one_of(st.just(1), st.integers(2, 13))),
            st.tuples(st.just("trim"), st.integers(0, 9)),
            st.tuples(st.just("fork"), st.just(0)),
        ),
    ),
    min_size=1,
    max_size=14,
)
WINDOWS = st.one_of(st.none(), st.integers(1, 11))


@pytest.fixture(autouse=True, scope="module")
def _short_steps() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(buffer, "STEP", STEP)
        patch.setattr(rotating, "STEP", STEP)
        patch.setattr(KVCache, "step", STEP)
        patch.setattr(RotatingKVCache, "step", STEP)
        yield


def new_state(window: int | None) -> AttentionState:
    return PlainState() if window is None else RotatingState(window)


def append(state: AttentionState, truth: Remembered, source: Source, count: int, window: int | None) -> None:
    queries, keys, values = source.tokens(count)
    mask = state.mask(count)
    held = state.append(as_batch(keys), as_batch(values))
    truth.append(keys, values)
    got = as_tokens(state.attend(as_batch(queries), held, scale=SCALE, mask=mask))
    np.testing.assert_allclose(got, truth.attention(queries, window), rtol=2e-5, atol=2e-6)


def check_held(state: AttentionState, truth: Remembered, window: int | None) -> None:
    """The next token must find the last `window - 1` tokens; in order where nothing rotates."""
    assert state.offset == len(truth.keys)
    keys, values = held_by(state)
    if window is not None:
        assert len(keys) < max(2, window)
        order = np.argsort([_place(key, truth.keys) for key in keys])
        keys, values = keys[order], values[order]
    expected = len(truth.keys) if window is None else min(window - 1, len(truth.keys))
    assert len(keys) == expected
    if expected:
        np.testing.assert_array_equal(keys, truth.keys[-expected:])
        np.testing.assert_array_equal(values, truth.values[-expected:])


def _place(key: np.ndarray, keys: list[np.ndarray]) -> int:
    return next(i for i, known in enumerate(keys) if np.array_equal(key, known))


@given(window=WINDOWS, operations=OPERATIONS)
def test_fuzz_any_sequence_remembers_the_true_window(window: int | None, operations: list[Any]):
    source = Source(1)
    pairs: list[tuple[AttentionState, Remembered]] = [(new_state(window), Remembered())]
    for which, (what, count) in operations:
        state, truth = pairs[which % len(pairs)]
        if what == "append":
            append(state, truth, source, count, window)
        elif what == "fork":
            pairs.append((state.fork(), truth.fork()))
        elif state.can_trim(count):
            state.trim(count)
            truth.trim(count)
        for each, true in pairs:  # the other forks as well: nobody writes into their memory
            check_held(each, true, window)


@given(window=WINDOWS, operations=OPERATIONS)
def test_fuzz_order_and_masks_are_those_of_mlx_lm(window: int | None, operations: list[Any]):
    source, state = Source(2), new_state(window)
    theirs: Any = KVCache() if window is None else RotatingKVCache(max_size=window)
    for _, (what, count) in operations:
        if what == "append":
            _, keys, values = source.tokens(count)
            assert_same_mask(state.mask(count), mlx_lm_mask(theirs, count, window))
            ours = state.append(as_batch(keys), as_batch(values))
            for a, b in zip(ours, theirs.update_and_fetch(as_batch(keys), as_batch(values)), strict=True):
                assert mx.array_equal(a, b)
        elif what == "trim" and state.can_trim(count):
            state.trim(count)
            assert count == 0 or theirs.is_trimmable()
            assert theirs.trim(count) == count
        assert state.offset == theirs.offset


def mlx_lm_mask(cache: Any, count: int, window: int | None) -> Any:
    """As its models ask for it: by way of the hidden states, which only lend their length."""
    return create_attention_mask(mx.zeros((1, count, 8)), cache, window_size=window)


def assert_same_mask(ours: Any, theirs: Any) -> None:
    if isinstance(ours, mx.array) and isinstance(theirs, mx.array):
        assert mx.array_equal(ours, theirs)
    else:
        assert ours is theirs or ours == theirs


@given(window=WINDOWS, before=st.integers(0, 20), count=st.integers(-1, 24))
def test_can_trim_says_yes_exactly_when_nothing_is_lost(window: int | None, before: int, count: int):
    state = new_state(window)
    _, keys, values = Source(3).tokens(max(1, before))
    for i in range(before):
        state.append(as_batch(keys[i : i + 1]), as_batch(values[i : i + 1]))
    whole = window is None or before < window or count == 0
    assert state.can_trim(count) == (0 <= count <= before and whole)


@given(window=WINDOWS, first=st.integers(1, 9), lost=st.integers(1, 9), then=st.integers(1, 9))
def test_trimmed_tokens_leave_no_trace(window: int | None, first: int, lost: int, then: int):
    source = Source(4)
    parts = [source.tokens(n) for n in (first, lost, then)]
    trimmed, clean = new_state(window), new_state(window)
    for _, keys, values in parts[:2]:
        trimmed.append(as_batch(keys), as_batch(values))
    if not trimmed.can_trim(lost):
        return
    trimmed.trim(lost)
    _, keys, values = parts[0]
    clean.append(as_batch(keys), as_batch(values))
    queries, keys, values = parts[2]
    assert_same_mask(trimmed.mask(then), clean.mask(then))
    mask = clean.mask(then)
    results = [state.append(as_batch(keys), as_batch(values)) for state in (trimmed, clean)]
    for a, b in zip(*results, strict=True):
        assert mx.array_equal(a, b)
    outputs = [trimmed.attend(as_batch(queries), held, scale=SCALE, mask=mask) for held in results]
    assert mx.array_equal(outputs[0], outputs[1])


@pytest.mark.parametrize("make", [PlainState, lambda: RotatingState(6), lambda: RotatingState(3)])
@pytest.mark.parametrize("writer", [0, 1])
def test_forks_do_not_see_each_others_writes(make: Callable[[], AttentionState], writer: int):
    source, state = Source(5), make()
    _, keys, values = source.tokens(5)
    state.append(as_batch(keys), as_batch(values))
    sides = [state, state.fork()]
    before = held_by(sides[1 - writer])
    for count in (1, 1, 2, 1):  # in place, around the ring, past the end
        _, keys, values = source.tokens(count)
        mx.eval(sides[writer].append(as_batch(keys), as_batch(values)))
    for old, now in zip(before, held_by(sides[1 - writer]), strict=True):
        np.testing.assert_array_equal(old, now)
    assert (sides[0].offset, sides[1].offset) == ((10, 5) if writer == 0 else (5, 10))


@pytest.mark.parametrize("window", [None, 9])
def test_nbytes_is_what_the_buffers_take(window: int | None):
    source, state = Source(6), new_state(window)
    assert state.nbytes == 0
    assert list(state.arrays()) == []
    _, keys, values = source.tokens(1)
    state.append(as_batch(keys), as_batch(values))
    per_token = keys.nbytes + values.nbytes
    assert state.nbytes == STEP * per_token  # room for a whole step
    _, keys, values = source.tokens(STEP)
    state.append(as_batch(keys), as_batch(values))
    assert state.nbytes == (1 + STEP) * per_token  # what was filled, and a whole step again
    assert state.nbytes == sum(a.nbytes for a in state.arrays())


@pytest.mark.parametrize("window", [None, 6])
def test_buffers_grow_by_a_step_and_a_ring_to_its_window_only(window: int | None):
    source, state = Source(7), new_state(window)
    for count in range(1, 21):
        _, keys, values = source.tokens(1)
        state.append(as_batch(keys), as_batch(values))
        steps = -(-count // STEP) * STEP
        assert state.nbytes == min(steps, window or steps) * (keys.nbytes + values.nbytes)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
@pytest.mark.parametrize("window", [None, 5])
def test_states_keep_the_dtype_they_are_given(window: int | None, dtype: mx.Dtype):
    state = new_state(window)
    for count in (1, 3, 1, 1, 7):
        _, keys, values = Source(8).tokens(count)
        held = state.append(as_batch(keys).astype(dtype), as_batch(values).astype(dtype))
        assert {a.dtype for a in (*held, *state.arrays())} == {dtype}


def test_a_batch_of_rows_is_remembered_row_by_row():
    source = Source(9)
    for window in (None, 4):
        alone, together = [new_state(window), new_state(window)], new_state(window)
        for count in (3, 1, 1, 4, 1):
            rows = [source.tokens(count)[1:] for _ in alone]
            pairs = [
                state.append(as_batch(k), as_batch(v)) for state, (k, v) in zip(alone, rows, strict=True)
            ]
            keys, values = (mx.concatenate([as_batch(row[i]) for row in rows]) for i in (0, 1))
            for i, held in enumerate(together.append(keys, values)):
                assert mx.array_equal(held, mx.concatenate([pair[i] for pair in pairs]))


@given(WINDOWS, st.lists(st.one_of(st.just(1), st.integers(2, 13)), min_size=2, max_size=20))
def test_a_state_says_beforehand_when_it_copies_what_it_holds(window: int | None, counts: list[int]) -> None:
    state, source, truth = new_state(window), Source(3), Remembered()
    for count in counts:
        held = [a.shape[2] for a in state.arrays()]
        moves = state.moves(count)
        append(state, truth, source, count, window)
        if held and not moves:
            assert [a.shape[2] for a in state.arrays()] == held
        elif held and count == 1:
            assert [a.shape[2] for a in state.arrays()] != held
        assert moves is False or held
