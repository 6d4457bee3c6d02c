"""The memory that a run's steps will need, before the first: `fitting.training` on the run's real sizes."""

from __future__ import annotations

from mlxone.backend.arrays import lock, on_stream
from mlxone.core.errors import OutOfMemory
from mlxone.fitting.machine import Machine, this_machine
from mlxone.fitting.training import TrainingReport, TrainingWork, training_report
from mlxone.service.here import inside_mlx, learned_store
from mlxone.training.samples import Pair, Sample
from mlxone.training.setup import Setup


def check_memory_for(setup: Setup, *, refuse: bool = True, machine: Machine | None = None) -> TrainingReport:
    """Refuses what cannot fit on this machine, with what would; what is only tight now is for the report."""
    if machine is None:
        with learned_store() as store:
            machine = this_machine(store, inside_mlx())
    report = training_report(setup.facts, work_of(setup), machine, setup.model.decoder.form)
    if refuse and not report.fits:
        raise OutOfMemory(
            f"training does not fit: {report.reason}",
            hint="what would fit: " + "; ".join(report.way_out),
            details={"needed_bytes": report.peak_bytes, "usable_bytes": report.usable_bytes},
        )
    return report


def work_of(setup: Setup) -> TrainingWork:
    """The largest batch that may come."""
    recipe, material = setup.recipe, setup.material
    samples = [*material.train.samples, *material.valid.samples, *material.test.samples]
    length = recipe.max_seq_length if recipe.pack else max(map(text_length, samples))
    return TrainingWork(
        rows=recipe.batch if recipe.pack else min(recipe.batch, len(samples)),
        length=length,
        rank=recipe.rank,
        layers=recipe.last_layers,
        kind=recipe.type,
        checkpoint=recipe.segment,
        optimizer=recipe.optimizer,
        method=recipe.method,
        accumulates=recipe.grad_accum > 1,
        trained=trained_parameters(setup),
    )


def text_length(sample: Sample | Pair) -> int:
    """Of one text: a pair has two."""
    if isinstance(sample, Sample):
        return len(sample.ids)
    return len(sample.prompt) + max(len(sample.chosen), len(sample.rejected))


def trained_parameters(setup: Setup) -> int:
    """Nothing is computed for it: the arrays are promises that are dropped again."""
    with lock, on_stream():
        return sum(array.size for array in setup.trainable.start(0).values())
