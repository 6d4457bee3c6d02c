"""The rewritten part of the terminal: lines that may still change stand at the bottom, all above is final.

Pure: `LiveRegion` turns wanted lines into the characters to write, and `MarkdownScreen` decides
what is wanted. It promises that no line shows twice and none is lost, however tall the answer,
because the region never grows beyond the screen: what does not fit is shown when it is final.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from mlxone.cli.blocks import Block, BlockSplitter

FRAME = 0.05  # seconds between rewrites of the unfinished block
SHARE = 4  # rendering may take one part of this many, so that it never slows the model down


@dataclass(frozen=True, slots=True)
class Line:
    text: str  # with its colours
    cells: int  # columns it takes


class Renderer(Protocol):
    def __call__(self, block: Block, width: int) -> list[Line]: ...


class LiveRegion:
    """The cursor rests at the end of the last line shown."""

    def __init__(self) -> None:
        self._shown: list[Line] = []
        self._columns = 0

    def update(self, lines: Sequence[Line], columns: int) -> str:
        same_width = columns == self._columns
        out = self._to_top(columns) + ("" if same_width else "\x1b[J")
        for number, line in enumerate(lines):
            last = number == len(lines) - 1
            kept = same_width and not last and number < len(self._shown) and self._shown[number] == line
            out += ("" if kept else f"{line.text}\x1b[K") + ("" if last else "\n")
        if len(lines) < len(self._shown):
            out += "\x1b[J"
        self._shown, self._columns = list(lines), columns
        return out

    def commit(self, lines: Sequence[Line], columns: int) -> str:
        """Writes lines for good in the region's place and leaves the cursor on a fresh line."""
        out = self._to_top(columns) + "".join(f"{line.text}\x1b[K\n" for line in lines)
        if self._shown:
            out += "\x1b[J"
        self._shown, self._columns = [], columns
        return out

    def _to_top(self, columns: int) -> str:
        if not self._shown:
            return ""
        # A terminal made narrower has wrapped what was shown.
        up = sum(max(1, math.ceil(line.cells / columns)) for line in self._shown) - 1
        return "\r" + (f"\x1b[{up}A" if up else "")


class MarkdownScreen:
    """Streams an answer to a terminal: finished blocks for good, the last one live."""

    def __init__(
        self,
        write: Callable[[str], object],
        render: Renderer,
        size: Callable[[], tuple[int, int]],
        clock: Callable[[], float],
    ) -> None:
        self._write, self._render, self._size, self._clock = write, render, size, clock
        self._splitter = BlockSplitter()
        self._region = LiveRegion()
        self._begun = False  # something stands there for good, so a gap means an empty line
        self._next_frame = 0.0

    def feed(self, text: str) -> None:
        self._commit(self._splitter.feed(text))
        if self._clock() >= self._next_frame:
            self._refresh()

    def finish(self) -> None:
        self._commit(self._splitter.finish())

    def _commit(self, blocks: Sequence[Block]) -> None:
        if not blocks:
            return
        columns = self._size()[0]
        lines: list[Line] = []
        for block in blocks:
            lines += self._lines(block, columns)
            self._begun = True
        self._write(self._region.commit(lines, columns))

    def _refresh(self) -> None:
        rest = self._splitter.rest
        if rest is None:
            return
        started = self._clock()
        columns, rows = self._size()
        lines = self._lines(rest, columns)[-(rows - 1) :]
        if lines:
            self._write(self._region.update(lines, columns))
        self._next_frame = started + max(FRAME, SHARE * (self._clock() - started))

    def _lines(self, block: Block, columns: int) -> list[Line]:
        # One column stays free: a full line would leave terminals at odds about where the cursor is.
        lines = self._render(block, columns - 1)
        return [Line("", 0), *lines] if block.gap and self._begun and lines else lines
