"""How a run is shown while it goes on: a panel below its notices on a terminal, lines elsewhere, or nothing.

All of it goes to stderr. On a terminal a thread of its own writes, so one that stops reading stops no step.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from mlxone.cli import streams, terminal, train_panel
from mlxone.cli.live import Line
from mlxone.cli.log_screen import LogScreen, writer
from mlxone.cli.table import display_width, shortened
from mlxone.cli.train_panel import Row
from mlxone.cli.train_progress import Progress

if TYPE_CHECKING:
    from rich.console import Console

FRAME = 0.2  # seconds between two drawings
SHARE = 20  # drawing may take one part of this many: the thread that draws is the one that trains
# Columns: terminals disagree about where the cursor is after a full line, and echo a ^C behind it.
KEPT_FREE = 3
STYLES = {"axis": "dim", "train": "cyan", "valid": "yellow", "done": "green"}


class View(Protocol):
    def show(self, progress: Progress, *, now: bool = False) -> None:
        """The run as it stands; what comes too soon after the one before may be left out unless `now`."""

    def note(self, text: str) -> None:
        """A line for good."""

    def report(self, text: str) -> None:
        """A line that only says what the panel shows anyway."""

    def status(self, text: str) -> None:
        """In the panel's place, before there is one."""

    def close(self) -> None: ...


class Silent:
    def show(self, progress: Progress, *, now: bool = False) -> None: ...
    def note(self, text: str) -> None: ...
    def report(self, text: str) -> None: ...
    def status(self, text: str) -> None: ...
    def close(self) -> None: ...


class Lines:
    """For logs and for terminals that are not to be drawn on."""

    def __init__(self, say: Callable[[str], object] = streams.complain) -> None:
        self._say = say

    def show(self, progress: Progress, *, now: bool = False) -> None: ...

    def note(self, text: str) -> None:
        self._say(terminal.neutralise(text))

    def report(self, text: str) -> None:
        self.note(text)

    def status(self, text: str) -> None: ...

    def close(self) -> None: ...


class Panel:
    """The last panel stays on the screen when it is over."""

    def __init__(
        self,
        screen: LogScreen,
        paint: Callable[[Row], Line],
        *,
        size: Callable[[], tuple[int, int]] = terminal.size,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._screen, self._paint, self._size, self._clock = screen, paint, size, clock
        self._next_frame = 0.0
        self._last: Progress | None = None
        screen.__enter__()

    def show(self, progress: Progress, *, now: bool = False) -> None:
        self._last = progress
        started = self._clock()
        if now or started >= self._next_frame:
            self._screen.bar(self._lines(progress))
            self._next_frame = started + max(FRAME, SHARE * (self._clock() - started))

    def note(self, text: str) -> None:
        self._screen.line(terminal.neutralise(text))
        if self._last is not None:
            self.show(self._last, now=True)

    def report(self, text: str) -> None: ...

    def status(self, text: str) -> None:
        if self._clock() >= self._next_frame:
            columns = self._size()[0] - 1
            self._screen.bar([self._paint([(shortened(terminal.one_line(text), columns), "axis")])])
            self._next_frame = self._clock() + FRAME

    def close(self) -> None:
        if self._last is not None:
            self._screen.line("\n".join(line.text for line in self._lines(self._last)))
        self._screen.end()

    def _lines(self, progress: Progress) -> Sequence[Line]:
        columns, rows = self._size()
        return [self._paint(row) for row in train_panel.panel(progress, columns - KEPT_FREE, rows)]


class Colours:
    """A row of the panel as a line for the terminal."""

    def __init__(self, console: Console | None = None) -> None:
        from rich.console import Console

        self._console = console or Console(stderr=True)

    def __call__(self, row: Row) -> Line:
        from rich.text import Text

        text = Text()
        for words, kind in row:
            text.append(words, STYLES.get(kind, ""))
        with self._console.capture() as written:
            self._console.print(text, end="", soft_wrap=True, highlight=False)
        return Line(written.get(), display_width(text.plain))


def view(*, quiet: bool = False, otherwise: Callable[[str], object] = streams.complain) -> View:
    """`otherwise` takes the lines where nothing can be drawn."""
    if quiet:
        return Silent()
    if not may_draw():
        return Lines(otherwise)
    return Panel(LogScreen(writer(sys.stderr), live=True), Colours())


def may_draw() -> bool:
    """A curve needs a terminal that takes its characters, too."""
    drawn = terminal.is_terminal(sys.stderr) and not terminal.plain_wanted(os.environ)
    return drawn and takes_unicode(sys.stderr)


def takes_unicode(stream: Any) -> bool:
    return (getattr(stream, "encoding", None) or "").lower().replace("-", "") == "utf8"
