"""`mlxone train-watch`: a training run followed from elsewhere, by what it writes into its folder."""

from __future__ import annotations

import json
import os
import stat
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import click

from mlxone.cli import streams, terminal, train_panel
from mlxone.cli.flags import SectionedCommand, flag
from mlxone.cli.group import verbose_option
from mlxone.cli.known import json_flag
from mlxone.cli.train_progress import Progress
from mlxone.cli.train_rows import Row, Standing, Tail, is_held, saved, standing
from mlxone.cli.train_view import Colours, Silent, View, may_draw, takes_unicode, view
from mlxone.core.errors import UsageError
from mlxone.core.train_settings import ADAPTER_PATH
from mlxone.training.folder import METRICS

PERIOD = 0.5  # seconds between two looks
STATES = {"done": "done", "stopped": "asked", "failed": "failed", "running": "killed"}  # of what is over


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
    path = Path(os.path.expanduser(folder or ADAPTER_PATH))
    try:
        is_folder = stat.S_ISDIR(path.stat().st_mode)
    except FileNotFoundError:
        is_folder = True  # it may come yet
    except OSError:  # no right to look, a name that none can have
        is_folder = False
    if not is_folder:
        raise UsageError(f"{path} is not a folder", hint="name the --adapter-path of a run")
    run = Run(path)
    if once:
        _once(run, as_json=json)
        return
    if not run.has_begun() and (json or not may_draw()):
        streams.complain(f"waiting for a run in {path}")
    if json:
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
    why: str = ""  # it is over, beyond what its state says

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
        said = standing(self.folder)
        self.begun = self.begun or bool(rows) or said is not None
        # One that says that it runs may have begun since we asked.
        self.over = self.begun and not held and not (_is_running(said) and is_held(self.folder))
        self._learn(said)
        return rows

    def has_begun(self) -> bool:
        return standing(self.folder) is not None or os.path.exists(self.folder / METRICS)

    def _learn(self, said: Standing | None) -> None:
        """What the lines do not say."""
        progress = self.progress
        if found := saved(self.folder):
            progress.saved, progress.steps = found
        if said is not None:
            progress.steps = said.steps
        if self.over:
            self._end(said)
        elif self._since is None:
            self._since = (self.clock(), progress.step) if self.begun else None
        elif progress.steps and progress.step > self._since[1]:
            each = (self.clock() - self._since[0]) / (progress.step - self._since[1])
            progress.eta_s = each * max(progress.steps - progress.step, 0)

    def _end(self, said: Standing | None) -> None:
        progress = self.progress
        progress.eta_s = None
        if said is None:  # nobody says; so a run that was killed is taken for one that was stopped
            done = progress.steps is not None and progress.step >= progress.steps
            progress.state = "done" if done else "asked"
            return
        progress.state = STATES.get(said.status, said.status)
        progress.step = max(progress.step, said.step)
        if said.status == "failed":
            self.why = said.reason
        elif _is_running(said):
            saved_at = progress.saved
            self.why = (
                "nothing was saved" if saved_at is None else f"--resume goes on after step {saved_at:,}"
            )


def _is_running(said: Standing | None) -> bool:
    return said is not None and said.status == "running"


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
                _report(run, rows, shown)
            elif not run.begun:
                shown.status(f"waiting for a run in {run.folder}")
            if not run.over:
                sleep(PERIOD)
    finally:
        shown.close()


def _report(run: Run, rows: list[Row], shown: View) -> None:
    """One line for all that is new at once. Why it is over is more than a panel says."""
    progress = run.progress
    if any(row.get("train_loss") is not None for row in rows):
        shown.report(train_panel.report(progress))
    if rows and rows[-1].get("valid_loss") is not None:
        shown.report(train_panel.validated(progress))
    if run.over:
        (shown.note if run.why else shown.report)(_ending(run))
    shown.show(progress, now=True)


def _ending(run: Run) -> str:
    progress = run.progress
    how = train_panel.ENDS.get(progress.state, progress.state)
    return f"the run is over: {how} after step {progress.step:,}" + (f": {run.why}" if run.why else "")


def print_row(row: Row) -> None:
    print(json.dumps(row), flush=True)


def _once(run: Run, *, as_json: bool) -> None:
    rows = run.look()
    if not run.begun:
        raise UsageError(f"there is no run in {run.folder}", hint="name the --adapter-path of one")
    if as_json:
        for row in rows:
            print_row(row)
    elif terminal.is_terminal(sys.stdout) and takes_unicode(sys.stdout):
        columns, height = terminal.size()
        drawn = train_panel.panel(run.progress, columns - 1, height)
        plain = terminal.plain_wanted(os.environ)
        click.echo("\n".join(train_panel.text_of(row) if plain else Colours()(row).text for row in drawn))
        if run.why:
            click.echo(terminal.one_line(_ending(run)))
    else:
        lines = [train_panel.report(run.progress)] if rows else []
        if not rows and not run.over:
            lines = [f"running in {run.folder}: no step is measured yet"]
        click.echo("\n".join([*lines, *([terminal.one_line(_ending(run))] if run.over else [])]))
