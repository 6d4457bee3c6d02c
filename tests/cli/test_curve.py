"""The curve in the cells of a terminal, read back dot by dot."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxone.cli.curve import ACROSS, BLANK, DOTS, DOWN, NARROWEST, curve

LOSSES = st.floats(-1e6, 1e6, allow_subnormal=False)
POINTS = st.lists(LOSSES, max_size=300).map(lambda losses: list(enumerate(losses)))


def dots(rows, kind=None) -> set[tuple[int, int]]:
    found = set()
    for row, pieces in enumerate(rows):
        cells = [(c, what) for text, what in pieces[1:] for c in text]
        for column, (character, what) in enumerate(cells):
            bits = ord(character) - BLANK if character != " " else 0
            for x in range(ACROSS):
                for y in range(DOWN):
                    if bits & DOTS[x][y] and kind in (None, what):
                        found.add((column * ACROSS + x, row * DOWN + y))
    return found


def text(rows) -> list[str]:
    return ["".join(piece for piece, _ in row) for row in rows]


@given(POINTS, POINTS, st.integers(1, 120), st.integers(0, 12))
def test_it_keeps_to_its_place(train, valid, width, height):
    rows = curve(train, valid, width, height)
    assert len(rows) in (0, height)
    assert all(len(line) <= width for line in text(rows))
    assert all(what in ("axis", "train", "valid", "") for row in rows for _, what in row)


@given(st.lists(LOSSES, min_size=2, max_size=200))
def test_the_line_is_whole_and_touches_both_ends(losses):
    """A dot in every column, none further from the next column's than a step between rows."""
    rows = curve(list(enumerate(losses)), [], 60, 8)
    columns: dict[int, list[int]] = {}
    for x, y in dots(rows):
        columns.setdefault(x, []).append(y)
    assert sorted(columns) == list(range(max(columns) + 1))
    heights = [y for ys in columns.values() for y in ys]
    if max(losses) > min(losses) and len(losses) <= len(columns):
        assert (min(heights), max(heights)) == (0, 8 * DOWN - 1)
    for x in range(1, len(columns)):
        reach = set(columns[x - 1]) | set(columns[x])
        assert reach == set(range(min(reach), max(reach) + 1))


def test_down_is_down():
    falling, rising = (curve(list(enumerate(v)), [], 40, 4) for v in ([3.0, 2.0, 1.0], [1.0, 2.0, 3.0]))
    assert (0, 0) in dots(falling) and (0, 15) in dots(rising)
    assert text(falling)[0].startswith("3 ┤") and text(falling)[3].startswith("1 ┤")


def test_what_was_held_back_is_drawn_over_what_was_learned():
    points = [(0, 2.0), (10, 1.0)]
    both = curve(points, points, 40, 4)
    assert dots(both, "train") == set()
    assert dots(both, "valid") == dots(curve(points, [], 40, 4))
    apart = curve([(0, 2.0), (10, 2.0)], [(0, 1.0), (10, 1.0)], 40, 4)
    assert {y for _, y in dots(apart, "train")} == {0} and {y for _, y in dots(apart, "valid")} == {15}


@pytest.mark.parametrize("points", [[], [(1, 2.0)], [(1, math.nan), (2, 1.0)], [(1, math.inf)] * 5])
def test_too_little_to_see(points):
    assert curve(points, [], 80, 8) == []


def test_no_room():
    points = [(0, 1.0), (1, 2.0)]
    assert curve(points, [], NARROWEST + 2, 8) == []
    assert curve(points, [], 80, 1) == []
    assert curve(points, [], 80, 2) != []


def test_a_gap_where_the_loss_is_no_number():
    assert curve([(0, 2.0), (1, math.nan), (2, 1.0)], [], 40, 4) == curve([(0, 2.0), (2, 1.0)], [], 40, 4)


def test_a_flat_line():
    assert len({y for _, y in dots(curve([(s, 1.5) for s in range(9)], [], 40, 4))}) == 1
