"""A plain table: aligned on a terminal and never wider than it, tab-separated anywhere else.

Made for thousands of rows, so nothing is drawn around them. Where the width does not suffice,
cells take their shorter forms, column by column from the right, then optional columns go, and in
the end the elastic column is shortened in the middle.
"""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import click

from mlxone.cli import terminal

GAP = 2
NARROWEST = 8  # of the elastic column; a terminal that has less gets longer lines

Cell = str | tuple[str, ...]  # a text, or its forms from the longest to the shortest


@dataclass(frozen=True, slots=True)
class Column:
    title: str
    right: bool = False
    optional: int = 0  # the highest goes first
    comfortable: int = 0  # what the elastic column has before the optional ones go


def show(columns: Sequence[Column], rows: Sequence[Sequence[Cell]], *, wide: bool = False) -> None:
    """On stdout; `wide` neither shortens nor leaves out."""
    if not terminal.is_terminal(sys.stdout):
        click.echo(tab_separated(columns, rows), nl=False)
        return
    lines = aligned(columns, rows, None if wide else terminal.size()[0])
    if not terminal.plain_wanted(os.environ):
        lines[0] = f"\x1b[1m{lines[0]}\x1b[0m"
    click.echo("\n".join(lines), color=True)


def tab_separated(columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> str:
    head = "\t".join(column.title for column in columns)
    return "\n".join([head, *("\t".join(_text(cell, 0) for cell in row) for row in rows), ""])


def aligned(columns: Sequence[Column], rows: Sequence[Sequence[Cell]], width: int | None) -> list[str]:
    """The header and a line a row, without spaces at the end."""
    layout = _Layout(columns, rows)
    if width is not None:
        layout.fit(width)
    lines = [layout.line([column.title for column in columns])]
    return lines + [layout.line(row) for row in rows]


def display_width(text: str) -> int:
    """Cells that a terminal gives it: two for wide characters, none for what joins the one before."""
    if text.isascii():
        return len(text)
    return sum(map(_character_width, text))


def shortened(text: str, width: int) -> str:
    """In the middle, as both ends of a name tell most."""
    if display_width(text) <= width:
        return text
    end = (width - 1) // 2
    tail = _first(text[::-1], end)[::-1]
    return _first(text, width - 1 - display_width(tail)) + "…" + tail


class _Layout:
    """Which columns are shown, in which form and how wide."""

    def __init__(self, columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> None:
        self._columns = columns
        self._measured = [_measured(column, [row[i] for row in rows]) for i, column in enumerate(columns)]
        self._forms = [0] * len(columns)
        self._shown = list(range(len(columns)))
        self._squeezed = 0  # cells taken from the elastic column

    def fit(self, width: int) -> None:
        for at in reversed(self._shown):
            while self._total() > width and self._forms[at] < len(self._measured[at]) - 1:
                self._forms[at] += 1
        # Optional columns go only for a name that would be hard to tell from others.
        while self._total(comfortable=True) > width and (optional := self._optional()):
            self._shown.remove(max(optional, key=lambda at: self._columns[at].optional))
        self._squeezed = max(self._total() - width, 0)

    def line(self, row: Sequence[Cell]) -> str:
        cells = []
        for at in self._shown:
            width = self._width(at)
            text = shortened(_text(row[at], self._forms[at]), width)
            space = " " * (width - display_width(text))
            cells.append(space + text if self._columns[at].right else text + space)
        return (" " * GAP).join(cells).rstrip()

    def _optional(self) -> list[int]:
        return [at for at in self._shown if self._columns[at].optional]

    def _total(self, *, comfortable: bool = False) -> int:
        widths = [
            min(self._width(at), (comfortable and self._columns[at].comfortable) or self._width(at))
            for at in self._shown
        ]
        return sum(widths) + GAP * (len(widths) - 1)

    def _width(self, at: int) -> int:
        width = self._measured[at][self._forms[at]]
        return max(width - self._squeezed, min(width, NARROWEST)) if self._columns[at].comfortable else width


def _measured(column: Column, cells: Sequence[Cell]) -> list[int]:
    """The width of each of its forms."""
    forms = max((len(cell) for cell in cells if isinstance(cell, tuple)), default=1)
    title = display_width(column.title)
    return [max([title, *(display_width(_text(cell, form)) for cell in cells)]) for form in range(forms)]


def _text(cell: Cell, form: int) -> str:
    text = cell if isinstance(cell, str) else cell[min(form, len(cell) - 1)]
    return text if text.isascii() and text.isprintable() else terminal.one_line(text)


def _character_width(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _first(text: str, width: int) -> str:
    used = 0
    for at, character in enumerate(text):
        used += _character_width(character)
        if used > width:
            return text[:at]
    return text
