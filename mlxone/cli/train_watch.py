"""`mlxone train-watch`: a training run followed from elsewhere, by what it writes into its folder."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import click

from mlxone.cli import terminal, train_panel
from mlxone.cli.flags import SectionedCommand, flag
from mlxone.cli.group import verbose_option
from mlxone.cli.known import json_flag
from mlxone.cli.train_progress import Progress
from mlxone.cli.train_rows import Row, Tail, is_held, saved
from mlxone.cli.train_view import Colours, Silent, View, takes_unicode, view
from mlxone.core.errors import UsageError
from mlxone.core.train_settings import ADAPTER_PATH
from mlxone.training.folder import METRICS

PERIOD = 0.5  # seconds between two looks


@click.command(
    "train-watch",
    cls=SectionedCommand,
    params=[
        click.Argument(["folder"], metavar="[DIR]", required=False),
        flag("Output", "--once", "Show how it stands, and end.", is_flag=True),
        json_flag("Print each line of the run's metrics.jsonl as it comes."),
        verbose_option(),
    ],
)
def command(folder: str | None, *, once: bool, json: bool) -> None:
    """Follow a training run from elsewhere.

    DIR is the run's --adapter-path [adapters]. Shows what `mlxone train` shows, of a run that is over,
    too; waits for one that has not begun. Ends with the run.
    """
    path = Path(folder or ADAPTER_PATH).expanduser()
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path} is not a folder", hint="name the --adapter-path of a run")
    run = Run(path)
    if once:
        _once(run, as_json=json)
    elif json:
        follow(run, Silent(), print_row)
    else:
        follow(run, view(otherwise=click.echo))


@dataclass
class Run:
    """What is known of it so far."""

    folder: Path
    clock: Callable[[], float] = time.monotonic
    progress: Progress = field(default_factory=Progress)
    begun: bool = False
    over: bool = False

    def __post_init__(self) -> None:
        self._tail = Tail(self.folder / METRICS)
        self._since: tuple[float, int] | None = None  # when we came, and the step it was at

    def look(self) -> list[Row]:
        """What is new. A run that goes on after a stop is told from its first line again."""
        held = is_held(self.folder)  # asked first: what such a run wrote last is read then
        anew, rows = self._tail.read()
        if anew:
            self.progress, self._since = Progress(), None
        for row in rows:
            self.progress.row(row)
        self.begun = self.begun or bool(rows)
        self.over = self.begun and not held
        self._learn()
        return rows

    def _learn(self) -> None:
        """What the lines do not say."""
        progress = self.progress
        if found := saved(self.folder):
            progress.saved, progress.steps = found
        if self.over:
            done = progress.steps is not None and progress.step >= progress.steps
            progress.state, progress.eta_s = ("done" if done else "asked"), None
        elif self._since is None:
            self._since = (self.clock(), progress.step) if self.begun else None
        elif progress.steps and progress.step > self._since[1]:
            each = (self.clock() - self._since[0]) / (progress.step - self._since[1])
            progress.eta_s = each * max(progress.steps - progress.step, 0)


def follow(
    run: Run,
    shown: View,
    told: Callable[[Row], None] | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Until it is over."""
    try:
        while not run.over:
            rows = run.look()
            for row in rows:
                if told is not None:
                    told(row)
            if rows or run.over:
                _report(run.progress, rows, shown)
            elif not run.begun:
                shown.status(f"waiting for a run in {run.folder}")
            if not run.over:
                sleep(PERIOD)
    finally:
        shown.close()


def _report(progress: Progress, rows: list[Row], shown: View) -> None:
    """One line for all that is new at once."""
    if any(row.get("train_loss") is not None for row in rows):
        shown.report(train_panel.report(progress))
    if rows and rows[-1].get("valid_loss") is not None:
        shown.report(train_panel.validated(progress))
    if progress.state:
        shown.report(f"the run is over: {train_panel.ENDS[progress.state]} after step {progress.step:,}")
    shown.show(progress, now=True)


def print_row(row: Row) -> None:
    print(json.dumps(row), flush=True)


def _once(run: Run, *, as_json: bool) -> None:
    rows = run.look()
    if not rows:
        raise UsageError(f"there is no run in {run.folder}", hint="name the --adapter-path of one")
    if as_json:
        for row in rows:
            print_row(row)
    elif terminal.is_terminal(sys.stdout) and takes_unicode(sys.stdout):
        columns, height = terminal.size()
        drawn = train_panel.panel(run.progress, columns - 1, height)
        plain = terminal.plain_wanted(os.environ)
        click.echo("\n".join(train_panel.text_of(row) if plain else Colours()(row).text for row in drawn))
    else:
        click.echo(train_panel.report(run.progress))
