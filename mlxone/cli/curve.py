"""A loss curve in the cells of a terminal: eight dots each, by braille. Pure; colours are the caller's.

Two lines at most: what was learned from (`train`) and what was held back (`valid`), which is drawn over it.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

Points = Sequence[tuple[float, float]]  # step, loss; steps rising
Piece = tuple[str, str]  # a text, and what it is: "axis", "train", "valid" or "" for what is empty

BLANK = 0x2800
DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))  # of a cell: left and right, from the top
ACROSS, DOWN = len(DOTS), len(DOTS[0])
NARROWEST = 8  # cells without the axis; in less a line says nothing


def curve(train: Points, valid: Points, width: int, height: int) -> list[list[Piece]]:
    """`height` rows, none wider than `width`; empty where there is nothing to see or no room for it."""
    train, valid = _finite(train), _finite(valid)
    values = [loss for _, loss in (*train, *valid)]
    if len(values) < 2 or height < 2:
        return []
    low, high = min(values), max(values)
    labels = [_label(high), *[""] * (height - 2), _label(low)]
    room = max(map(len, labels))
    columns = width - room - 2
    if columns < NARROWEST:
        return []
    steps = [step for step, _ in (*train, *valid)]
    frame = _Frame(min(steps), max(steps), low, high, columns * ACROSS, height * DOWN)
    layers = {"train": _cells(frame.dots(train)), "valid": _cells(frame.dots(valid))}
    return [
        [(f"{labels[row]:>{room}} {'┤' if labels[row] else '│'}", "axis"), *_row(layers, row)]
        for row in range(height)
    ]


class _Frame:
    """Where a point lies among the dots."""

    def __init__(self, first: float, last: float, low: float, high: float, width: int, height: int) -> None:
        self._first, self._steps = first, (last - first) or 1.0
        self._high, self._losses = high, (high - low) or 1.0
        self._width, self._height = width, height

    def dots(self, points: Points) -> set[tuple[int, int]]:
        """Of a line through the points: all dots between one column's height and the next one's."""
        found: set[tuple[int, int]] = set()
        before: int | None = None
        for x, y in self._columns(points):
            reach = (y, y) if before is None else (min(y, before), max(y, before))
            found |= {(x, at) for at in range(reach[0], reach[1] + 1)}
            before = y
        return found

    def _columns(self, points: Points) -> Iterator[tuple[int, int]]:
        """Each column's height, between two points on the straight line that joins them."""
        before: tuple[int, float] | None = None
        for x, group in groupby(points, key=lambda point: self._x(point[0])):
            losses = [loss for _, loss in group]
            loss = sum(losses) / len(losses)
            if before is not None:
                run = x - before[0]
                for at in range(1, run):
                    yield before[0] + at, self._y(before[1] + (loss - before[1]) * at / run)
            yield x, self._y(loss)
            before = x, loss

    def _x(self, step: float) -> int:
        return round((step - self._first) / self._steps * (self._width - 1))

    def _y(self, loss: float) -> int:
        return round((self._high - loss) / self._losses * (self._height - 1))


def _finite(points: Points) -> Points:
    return [point for point in points if math.isfinite(point[1])]


def _cells(dots: set[tuple[int, int]]) -> dict[tuple[int, int], int]:
    """Column and row of a cell -> the dots that are set in it."""
    cells: dict[tuple[int, int], int] = {}
    for x, y in dots:
        place = x // ACROSS, y // DOWN
        cells[place] = cells.get(place, 0) | DOTS[x % ACROSS][y % DOWN]
    return cells


def _row(layers: dict[str, dict[tuple[int, int], int]], row: int) -> Iterator[Piece]:
    """Neighbours of one kind joined. A cell has one colour: that of the line drawn last."""

    def cell(column: int) -> Piece:
        here = {kind: cells.get((column, row), 0) for kind, cells in layers.items()}
        kind = next((kind for kind in reversed(here) if here[kind]), "")
        return chr(BLANK + _union(here.values())), kind

    drawn = max((column for cells in layers.values() for column, at in cells if at == row), default=-1)
    for kind, group in groupby(map(cell, range(drawn + 1)), key=lambda piece: piece[1]):
        text = "".join(character for character, _ in group)
        yield (text if kind else " " * len(text), kind)


def _union(dots: Iterable[int]) -> int:
    return functools.reduce(operator.or_, dots, 0)


def _label(loss: float) -> str:
    """As short as a loss can be and still be told from another."""
    return f"{loss:.3g}" if abs(loss) < 1000 else f"{loss:.1e}"
