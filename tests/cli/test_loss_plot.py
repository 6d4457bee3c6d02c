"""The picture of the losses, read as XML."""

from __future__ import annotations

import math
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxone.cli.loss_plot import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, svg

SVG = "{http://www.w3.org/2000/svg}"
LOSSES = st.floats(-1e9, 1e9, allow_subnormal=False)
POINTS = st.lists(st.tuples(st.integers(0, 10**6), LOSSES), max_size=60, unique_by=lambda p: p[0]).map(sorted)


def lines(text: str) -> dict[str, list[tuple[float, ...]]]:
    root = ElementTree.fromstring(text)
    return {
        line.get("class"): [tuple(map(float, p.split(","))) for p in line.get("points").split()]
        for line in root.iter(f"{SVG}polyline")
    }


@given(POINTS, POINTS, st.text(max_size=40))
def test_any_run_gives_a_picture_that_holds_it(train, valid, title):
    text = svg(train, valid, title)
    root = ElementTree.fromstring(text)
    drawn = lines(text)
    for points in drawn.values():
        for x, y in points:
            assert LEFT - 0.1 <= x <= WIDTH - RIGHT + 0.1 and TOP - 0.1 <= y <= HEIGHT - BOTTOM + 0.1
    assert len(list(root.iter(f"{SVG}circle"))) == len(valid)
    assert ("valid" in drawn) == bool(valid) and ("train" in drawn) == bool(train)


def test_falling_losses_fall_from_left_to_right():
    points = lines(svg([(1, 3.0), (2, 2.0), (3, 1.0)], []))["train"]
    assert points == sorted(points)
    assert [y for _, y in points] == sorted(y for _, y in points)  # y grows downwards


def test_many_points_get_a_smooth_line_that_begins_with_them():
    train = [(step, 2.0 + (step % 2)) for step in range(100)]
    drawn = lines(svg(train, []))
    assert set(drawn) == {"train faint", "train"}
    spread = [max(y for _, y in points[50:]) - min(y for _, y in points[50:]) for points in drawn.values()]
    assert spread[1] < spread[0] / 5
    assert drawn["train"][0] == drawn["train faint"][0]


def test_what_is_no_number_is_left_out():
    assert svg([(1, 2.0), (2, math.nan), (3, 1.0)], []) == svg([(1, 2.0), (3, 1.0)], [])


def test_ticks_are_round_and_around_the_losses():
    root = ElementTree.fromstring(svg([(0, 0.32), (600, 2.9)], []))
    words = [text.text for text in root.iter(f"{SVG}text")]
    assert {"0", "1", "2", "3", "200", "400", "600", "step"} <= set(words)


@pytest.mark.parametrize("title", ["<script>", "a & b", "\x00x"])
def test_words_cannot_become_markup(title):
    root = ElementTree.fromstring(svg([(1, 1.0)], [], title))
    assert not list(root.iter(f"{SVG}script"))
