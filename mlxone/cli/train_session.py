"""A training run from the command line: what is shown of it, how it is stopped, what it prints at its end."""

from __future__ import annotations

import contextlib
import math
import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlxone.cli import known, streams, train_panel
from mlxone.cli.sizes import count_in_words
from mlxone.cli.stop_request import StopRequest
from mlxone.cli.table import shortened
from mlxone.cli.terminal import one_line
from mlxone.cli.train_panel import loss_in_words
from mlxone.cli.train_progress import Progress
from mlxone.cli.train_view import View, view
from mlxone.core.errors import StorageError, UsageError
from mlxone.core.train_settings import ADAPTER_PATH

if TYPE_CHECKING:
    from mlxone.service.model import Model
    from mlxone.training import events
    from mlxone.training.run import TrainingResult

LONGEST_PROMPT = 120  # cells that a sample's prompt may take


@dataclass(frozen=True, slots=True)
class Plan:
    model: str
    data: str
    features: Mapping[str, str]
    options: Mapping[str, Any]  # rows of the settings table, by name; only what was given
    as_json: bool = False
    quiet: bool = False
    pull: bool = False


def run(plan: Plan) -> None:
    from mlxone.hub.in_use import in_use
    from mlxone.training.run import train

    _check_early(plan)
    data, model = source(plan.data, quiet=plan.quiet), opened(plan)
    shown = view(quiet=plan.quiet)
    watcher = Watcher(shown)
    with in_use(model.path, what="train"), StopRequest(watcher.stopping) as stop:
        watcher.started = stop.arm
        try:
            result = train(
                model,
                data,
                features=plan.features or None,
                callbacks=[watcher],
                should_stop=stop,
                **run_options(plan),
            )
        except BaseException:
            with contextlib.suppress(StorageError):  # what went wrong first is what is told
                _plot(plan, watcher.progress, model.name)
            raise
        finally:
            shown.close()
    _say(plan, model, result, watcher.progress)
    _plot(plan, watcher.progress, model.name)
    if result.reason == "asked":
        raise click.exceptions.Exit(stop.exit_code)


def opened(plan: Plan) -> Model:
    from mlxone.cli.opening import open_model

    return open_model(plan.model, pull=plan.pull, quiet=plan.quiet)


def run_options(plan: Plan) -> dict[str, Any]:
    """Those that the library has, too."""
    return {name: value for name, value in plan.options.items() if name not in ("plot", "dry_run")}


def source(data: str, *, quiet: bool = False) -> Any:
    """What the library reads: it knows nothing of our stdin, and downloads without a word."""
    from mlxone.cli.transfer import Transfer
    from mlxone.training.data.source import fetch

    if data == "-":
        return sys.stdin.buffer
    with Transfer(quiet=quiet) as transfer:
        fetch(data, transfer)
    return data


def _check_early(plan: Plan) -> None:
    """What can be said before anything is downloaded or loaded."""
    from mlxone.training.folder import check_free
    from mlxone.training.recipe import NAMES, Recipe

    options = plan.options
    resume, overwrite = bool(options.get("resume")), bool(options.get("overwrite"))
    if resume and overwrite:
        raise UsageError("--resume and --overwrite contradict each other", hint="give one of the two")
    check_free(Path(options.get("adapter_path") or ADAPTER_PATH), resume=resume, overwrite=overwrite)
    if not resume and "start_from" not in options:  # else the recipe is not all here
        Recipe.of({name: value for name, value in options.items() if name in NAMES})


class Watcher:
    """From a run's events to what is shown."""

    def __init__(self, shown: View) -> None:
        self.progress = Progress()
        self.started: Any = lambda: None
        self._view = shown

    def __call__(self, event: events.Event) -> None:
        from mlxone.training import events

        saved_before = self.progress.saved
        self.progress.take(event)
        match event:
            case events.Preparing():
                self._view.status(f"preparing, {event.what}: {event.done:,} of {event.rows:,}")
                return
            case events.Prepared():
                for line in prepared(event):
                    self._view.note(line)
            case events.Started():
                self._earlier(event)
                self._view.note(started(event))
                self.started()
            case events.Stepped():
                self._view.report(train_panel.report(self.progress))
            case events.Validated():
                self._view.report(train_panel.validated(self.progress))
            case events.Sampled():
                self._view.note(sampled(event))
            case events.Saved() if event.step != saved_before:
                self._view.report(f"step {event.step:,}: saved to {event.path}")
            case events.Tested():
                self._view.note(tested(event))
        if self.progress.steps:
            self._view.show(self.progress, now=not isinstance(event, events.Stepped))

    def stopping(self) -> None:
        self._view.note("stopping: the run is saved first; once more ends it at once")

    def _earlier(self, event: events.Started) -> None:
        """The losses of the part before, where a run goes on."""
        if event.first_step:
            from mlxone.cli.train_rows import rows_to

            for row in rows_to(event.path, event.first_step):
                self.progress.row(row)


def prepared(event: events.Prepared) -> list[str]:
    parts = ", ".join(f"{count:,} {name}" for name, count in event.samples.items() if count)
    lines = [*event.notes, f"data: {event.format}; samples: {parts}; {event.tokens:,} tokens to train on"]
    return [*lines, *shortfall(event.truncated, event.skipped)]


def shortfall(truncated: int, skipped: Mapping[str, int]) -> Iterator[str]:
    """What of the data is not learned from, or not measured."""
    if truncated:
        are, were = ("sample is", "was") if truncated == 1 else ("samples are", "were")
        yield f"{truncated:,} {are} longer than --max-seq-length and {were} cut"
    for reason, count in skipped.items():
        yield f"{count:,} {'row' if count == 1 else 'rows'} left out: {one_line(reason)}"


def started(event: events.Started) -> str:
    recipe = event.recipe
    what = recipe.type if recipe.type == "full" else f"{recipe.type} of rank {recipe.rank}"
    share = 100 * event.trainable_parameters / max(event.total_parameters, 1)
    weights = f"{count_in_words(event.trainable_parameters)} parameters ({share:.2g} %)"
    goes_on = f", going on after step {event.first_step:,}" if event.first_step else ""
    return f"{recipe.method}, {what}: {weights}, {_steps(event.steps)}{goes_on}; result in {event.path}"


def _steps(count: int) -> str:
    return "1 step" if count == 1 else f"{count:,} steps"


def sampled(event: events.Sampled) -> str:
    prompt = shortened(one_line(event.prompt), LONGEST_PROMPT)
    return "\n".join(
        [f"step {event.step:,}, asked: {prompt}", *(f"  {line}" for line in event.text.splitlines())]
    )


def tested(event: events.Tested) -> str:
    more = "".join(f", {name} {value:.3g}" for name, value in event.extras.items())
    return f"test loss {loss_in_words(event.loss)}{more}"


def _say(plan: Plan, model: Model, result: TrainingResult, progress: Progress) -> None:
    if result.reason == "asked" and not plan.quiet:
        done = f"stopped after step {result.steps:,} of {progress.steps or 0:,}, all of it saved"
        streams.complain(f"{done}; this goes on: {resuming(plan, result.path)}")
    if plan.as_json:
        known.print_json(as_json(model, result, progress))
    else:
        print(result.path)


def as_json(model: Model, result: TrainingResult, progress: Progress) -> dict[str, Any]:
    return {
        "model": model.name,
        "path": str(result.path),
        "reason": result.reason,
        "steps": result.steps,
        "train_loss": _finite(result.train_loss),
        "valid_loss": _finite(result.valid_loss),
        "test_loss": _finite(result.test_loss),
        "tokens_per_s": progress.tokens_per_s,
        "peak_memory": progress.peak_memory,
    }


def resuming(plan: Plan, path: Path) -> str:
    """The recipe lies beside the adapter, so only what is not in it has to be said again."""
    words = ["mlxone", "train", plan.model, "--data", plan.data, "--adapter-path", str(path), "--resume"]
    for name, key in plan.features.items():
        words += [f"--{name.replace('_', '-')}", key]
    for name in ("export", "plot"):
        if plan.options.get(name) is not None:
            words += [f"--{name}", plan.options[name]]
    return shlex.join([*words, *(["--skip-bad"] if plan.options.get("skip_bad") else [])])


def _finite(loss: float | None) -> float | None:
    """JSON has no word for what is no number."""
    return loss if loss is not None and math.isfinite(loss) else None


def _plot(plan: Plan, progress: Progress, name: str) -> None:
    """Of an unfinished run, too."""
    if plan.options.get("plot") is None or not progress.train.points:
        return
    from mlxone.cli.loss_plot import svg

    path = Path(os.path.expanduser(plan.options["plot"]))
    try:
        path.write_text(svg(progress.train.points, progress.valid.points, f"Loss: {name}"), encoding="utf-8")
    except OSError as error:
        raise StorageError(f"--plot {path}: {error.strerror or error}") from error
    if not plan.quiet:
        streams.complain(f"drawn: {path}")
