"""A download on stderr: a bar on a terminal, one line elsewhere, nothing with --quiet."""

from __future__ import annotations

import os
import sys
from types import TracebackType
from typing import TYPE_CHECKING

from mlxone.cli import terminal

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class Transfer:
    """Starts with the first byte reported, so that what is already there shows nothing."""

    def __init__(self, what: str, *, quiet: bool) -> None:
        self._what = what
        self._silent = quiet
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Transfer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, done: int, total: int) -> None:
        if self._silent:
            return
        if self._bar is None:
            if not terminal.is_terminal(sys.stderr) or terminal.plain_wanted(os.environ):
                self._silent = True  # said once
                print(f"downloading {self._what}", file=sys.stderr, flush=True)
                return
            self._bar, self._task = _start_bar(self._what)
        assert self._task is not None
        self._bar.update(self._task, completed=done, total=total)


def _start_bar(what: str) -> tuple[Progress, TaskID]:
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
    )
    bar = progress.Progress(*columns, console=Console(stderr=True), transient=True)
    bar.start()
    return bar, bar.add_task(what, total=None)
