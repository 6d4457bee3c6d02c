"""Log lines and, on a terminal, a bar that stays below them: written by one thread of its own.

So a reader of stderr that stops reading stops no server. Lines wait for it in a bounded queue; what finds
no place there is counted, and the count is said later.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections.abc import Callable, Sequence
from typing import TextIO

from mlxone.cli import terminal
from mlxone.cli.live import Line, LiveRegion
from mlxone.cli.table import display_width

WAITING = 10_000  # lines
PATIENCE = 1.0  # seconds that the last lines may take

Bar = Sequence[Line]


class LogScreen:
    def __init__(
        self,
        write: Callable[[str], object],
        *,
        live: bool,
        size: Callable[[], tuple[int, int]] = terminal.size,
        waiting: int = WAITING,
    ) -> None:
        """Where it is not live, lines are all there is, and nothing moves a cursor."""
        self.live = live
        self._write, self._size = write, size
        self._region = LiveRegion()
        self._bar: Bar = ()
        self._queue: queue.Queue[str | Bar | threading.Event | None] = queue.Queue(waiting)
        self._lost = 0
        self._thread = threading.Thread(target=self._run, name="mlxone-log", daemon=True)

    def __enter__(self) -> LogScreen:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self, patience: float = PATIENCE) -> None:
        """The bar goes, the lines stay. Nothing is written after this."""
        with contextlib.suppress(queue.Full):
            self._queue.put((), timeout=patience)
            self._queue.put(None, timeout=patience)
            self._thread.join(patience)

    def line(self, text: str) -> None:
        """May hold line ends; safe on any thread."""
        try:
            self._queue.put_nowait(text)
        except queue.Full:
            self._lost += 1

    def bar(self, lines: Bar) -> None:
        """In place of the bar before. While lines wait, it can wait for the next one."""
        if self.live and self._queue.empty():
            with contextlib.suppress(queue.Full):
                self._queue.put_nowait(lines)

    def clear(self) -> None:
        """Without the bar when it returns, so that others may write to the same terminal."""
        done = threading.Event()
        with contextlib.suppress(queue.Full):
            self._queue.put((), timeout=PATIENCE)
            self._queue.put(done, timeout=PATIENCE)
            done.wait(PATIENCE)

    def _run(self) -> None:
        while (what := self._queue.get()) is not None:
            if isinstance(what, threading.Event):
                what.set()
                continue
            out = self._drawn(what) if self.live else self._plain(what)
            # Nobody may be there any more: the queue is emptied all the same.
            with contextlib.suppress(OSError, ValueError):
                self._write(out)

    def _plain(self, what: str | Bar) -> str:
        return "".join(f"{line}\n" for line in self._lines(what))

    def _drawn(self, what: str | Bar) -> str:
        columns = self._size()[0]
        lines = [Line(text, display_width(text)) for text in self._lines(what)]
        if not isinstance(what, str):
            self._bar = what
        kept = self._region.commit(lines, columns) if lines else ""
        return kept + self._region.update(self._bar, columns)

    def _lines(self, what: str | Bar) -> list[str]:
        """Those of the log, and what is to be said of lines that are not there."""
        lines = what.split("\n") if isinstance(what, str) else []
        lost, self._lost = self._lost, 0
        if lost:
            lines.append(f"({lost:,} lines of the log were lost: nobody took them in time)")
        return lines


def writer(stream: TextIO) -> Callable[[str], object]:
    """Past Python's own buffer: a thread that waits in it for ever would not let the process end."""
    try:
        number = stream.fileno()
    except (OSError, ValueError):  # not a file
        return _flushing(stream)

    def write(text: str) -> None:
        left = text.encode(stream.encoding or "utf-8", "replace")
        while left:
            left = left[os.write(number, left) :]

    return write


def _flushing(stream: TextIO) -> Callable[[str], object]:
    def write(text: str) -> None:
        stream.write(text)
        stream.flush()

    return write
