"""`mlxone train --dry-run`: the memory a run would need, and what would make it fit. Exit 1: it does not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from mlxone.cli import known, streams
from mlxone.cli.sizes import in_words
from mlxone.cli.train_session import Plan, opened, prepared, run_options, source

if TYPE_CHECKING:
    from mlxone.fitting.training import TrainingReport
    from mlxone.training import events

MEANING = {
    "weights": "of the model",
    "trained": "what is trained, its gradients, the optimizer",
    "kept": "of the way there, for the way back",
    "working": "at the worst moment",
}


def dry_run(plan: Plan) -> None:
    from mlxone.training import events
    from mlxone.training.run import train

    said: list[str] = []

    def watch(event: events.Event) -> None:
        if isinstance(event, events.Prepared):
            said.extend(prepared(event))

    data = source(plan.data, quiet=plan.quiet)
    result = train(
        opened(plan),
        data,
        features=plan.features or None,
        callbacks=[watch],
        **run_options(plan),
        dry_run=True,
    )
    assert result.memory is not None
    if plan.as_json:
        known.print_json(result.memory.to_json())
    else:
        for line in said if not plan.quiet else ():
            streams.complain(line)
        click.echo("\n".join(lines(result.memory)))
    if not result.memory.fits:
        raise click.exceptions.Exit(1)


def lines(report: TrainingReport) -> Iterator[str]:
    verdict = "fits" if report.fits else f"does not fit: {report.reason}"
    if report.fits and not report.fits_now:
        verdict = "fits, but not beside what is running now"
    yield f"training {verdict}"
    yield ""
    for part, size in report.parts.items():
        yield f"{part:<14}{in_words(size):>9}  {MEANING[part]}"
    free = f"{in_words(report.free_bytes)} are free now"
    usable = f"of {in_words(report.usable_bytes)} that may be used; {free}"
    yield f"{'peak':<14}{in_words(report.peak_bytes):>9}  {usable}"
    for way in report.way_out:
        yield f"{'would fit':<14}{way}"
