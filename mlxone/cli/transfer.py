"""A download on stderr: bars on a terminal, a line for each file elsewhere, nothing with --quiet."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING

from mlxone.cli import streams, terminal
from mlxone.cli.sizes import in_words
from mlxone.hub.watch import State, Watch

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from mlxone.hub.repo import File, Plan


class Transfer(Watch):
    """Says nothing where everything is there already, unless all of it is to be verified."""

    def __init__(self, *, quiet: bool, verify: bool = False) -> None:
        self.fetched = 0  # bytes that came over the network
        self._quiet, self._verify = quiet, verify
        self._view: _Lines | _Bars | None = None

    def __enter__(self) -> Transfer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._view is None:
            return
        self._view.close()
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            streams.complain("stopped; the same command goes on from there")

    def begin(self, plan: Plan, held: Mapping[str, int]) -> None:
        if self._quiet or (sum(held.values()) == plan.total_bytes and not self._verify):
            return
        plain = not terminal.is_terminal(sys.stderr) or terminal.plain_wanted(os.environ)
        verb = "checking" if self._verify else "downloading"
        self._view = _Lines(plan, held, verb) if plain else _Bars(plan, held)

    def file(self, file: File, state: State, held: int) -> None:
        if self._view is not None:
            self._view.file(file, state, held)

    def end(self, fetched: int) -> None:
        self.fetched = fetched


class _Lines:
    """For logs: what begins, and each file when it is there."""

    def __init__(self, plan: Plan, held: Mapping[str, int], verb: str) -> None:
        there_bytes, total = sum(held.values()), plan.total_bytes
        there = f", {in_words(there_bytes)} of it here already" if 0 < there_bytes < total else ""
        streams.complain(terminal.one_line(f"{verb} {plan.repo} ({in_words(total)}{there})"))

    def file(self, file: File, state: State, held: int) -> None:
        if state is State.DONE:
            streams.complain(terminal.one_line(f"{file.name} ({in_words(file.size)})"))

    def close(self) -> None: ...


class _Bars:
    """The whole on top, below it the files in flight."""

    def __init__(self, plan: Plan, held: Mapping[str, int]) -> None:
        self._held = dict(held)
        self._bars = _progress()
        self._total = self._bars.add_task(
            terminal.one_line(plan.repo), total=plan.total_bytes, completed=sum(held.values())
        )
        self._files: dict[str, TaskID] = {}
        self._bars.start()

    def file(self, file: File, state: State, held: int) -> None:
        self._held[file.name] = held
        self._bars.update(self._total, completed=sum(self._held.values()))
        if state is State.DONE:
            if file.name in self._files:
                self._bars.remove_task(self._files.pop(file.name))
            return
        if file.name not in self._files:
            self._files[file.name] = self._bars.add_task("", total=file.size, completed=held)
        what = file.name if state is State.FETCHING else f"{file.name}: {state.value}"
        self._bars.update(self._files[file.name], completed=held, description=terminal.one_line(f"  {what}"))

    def close(self) -> None:
        self._bars.stop()


def _progress() -> Progress:
    from rich import progress
    from rich.console import Console
    from rich.table import Column

    columns = (
        # A long name may be cut; the numbers may not.
        progress.TextColumn(
            "{task.description}", markup=False, table_column=Column(overflow="ellipsis", no_wrap=True)
        ),
        progress.BarColumn(bar_width=None, table_column=Column(max_width=30, ratio=1)),
        progress.DownloadColumn(table_column=Column(no_wrap=True, justify="right")),
        progress.TransferSpeedColumn(table_column=Column(no_wrap=True, justify="right")),
        progress.TimeRemainingColumn(table_column=Column(no_wrap=True)),
    )
    return progress.Progress(*columns, console=Console(stderr=True), transient=True)
