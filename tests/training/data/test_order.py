from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxone.core.errors import DataError, UsageError
from mlxone.training.data.order import WINDOW, Order

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=60)


def epoch_of(order: Order, epoch: int) -> list[list[int]]:
    first = epoch * order.steps_per_epoch
    return [order.indices(step) for step in range(first, first + order.steps_per_epoch)]


@given(LENGTHS, st.integers(1, 9), st.integers(0, 99), st.none() | st.integers(1, 60))
def test_an_epoch_has_every_sample_exactly_once(lengths: list[int], batch: int, seed: int, pack: int | None):
    order = Order(lengths, batch=batch, seed=seed, pack=pack)
    for epoch in range(3):
        steps = epoch_of(order, epoch)
        assert sorted(at for step in steps for at in step) == list(range(len(lengths)))
        if pack is None:
            assert all(len(step) == batch for step in steps[:-1]) and 1 <= len(steps[-1]) <= batch


@given(LENGTHS, st.integers(1, 9), st.lists(st.integers(0, 300), max_size=9), st.none() | st.integers(1, 60))
def test_a_step_is_the_same_whenever_it_is_asked_for(lengths, batch, asked, pack):
    straight = Order(lengths, batch=batch, seed=7, pack=pack)
    known = [straight.indices(step) for step in range(max(asked, default=0) + 1)]
    jumping = Order(lengths, batch=batch, seed=7, pack=pack)
    assert [jumping.indices(step) for step in asked] == [known[step] for step in asked]


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = [epoch_of(Order([1] * 50, batch=1, seed=seed), epoch) for seed in range(4) for epoch in range(4)]
    assert len({str(order) for order in orders}) == 16
    assert [[at] for at in range(50)] not in orders


def test_the_order_stays_what_it_was():
    """A run that is gone on with by a later version meets the same steps."""
    assert [Order([1] * 8, batch=3, seed=0).indices(step) for step in range(4)] == [
        *([0, 6, 4], [3, 1, 7], [2, 5]),
        [0, 6, 7],
    ]


@given(LENGTHS, st.integers(40, 80), st.integers(0, 9))
def test_packed_rows_hold_no_more_than_they_may(lengths: list[int], room: int, seed: int):
    order = Order(lengths, batch=1, seed=seed, pack=room)
    steps = epoch_of(order, 0)
    sums = sorted(sum(lengths[at] for at in step) for step in steps)
    assert sums[-1] <= room
    assert order.rows == len(steps)
    # First fit: no two rows could be one.
    assert all(one + other > room for one, other in pairwise(sums))


def test_packing_fills_rows_well_and_mixes():
    lengths = [1 + at % 37 for at in range(3 * WINDOW)]
    order = Order(lengths, batch=1, seed=1, pack=100)
    assert order.rows <= 1.05 * sum(lengths) / 100
    assert epoch_of(order, 0) != epoch_of(order, 1)


def test_what_is_too_long_has_a_row_of_its_own():
    order = Order([5, 99, 5], batch=1, seed=0, pack=10)
    assert sorted(map(sorted, epoch_of(order, 0))) == [[0, 2], [1]]


def test_a_batch_counts_packed_rows():
    order = Order([5] * 8, batch=2, seed=0, pack=10)
    assert (order.rows, order.steps_per_epoch) == (4, 2)
    assert [len(step) for step in epoch_of(order, 0)] == [4, 4]


def test_a_batch_may_be_larger_than_all_there_is():
    order = Order([3], batch=8, seed=0)
    assert [order.indices(step) for step in (0, 5)] == [[0], [0]]


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"lengths": []}, DataError),
        ({"batch": 0}, UsageError),
        ({"pack": 0}, UsageError),
    ],
)
def test_what_makes_no_order_is_refused(values, error):
    with pytest.raises(error):
        Order(**{"lengths": [1], "batch": 1, "seed": 0, **values})
