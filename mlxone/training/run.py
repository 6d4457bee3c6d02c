"""A run from its options to its end; the order in which things happen, and nothing of how they are done.

What is on the disk is whole at any moment (`folder`, `checkpoints`), and a run that goes on computes what
it would have computed. Prints nothing: whoever watches gets events.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlxone.core.errors import MlxoneError, OutOfMemory, UsageError
from mlxone.core.train_settings import ADAPTER_PATH, EXPORTS
from mlxone.fitting.training import TrainingReport
from mlxone.service.model import Model
from mlxone.training.checkpoints import Checkpoint
from mlxone.training.data.source import Data, Source
from mlxone.training.events import Event
from mlxone.training.folder import STATE, RunFolder, check_free
from mlxone.training.foresight import check_memory_for
from mlxone.training.loop import Loop
from mlxone.training.setup import Setup, prepare, recipe_of

LESS = "--grad-checkpoint, a smaller --batch or a shorter --max-seq-length needs less"


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """`reason` is "done", "asked" (it was told to stop), or "dry-run": then only `memory` says something."""

    steps: int
    train_loss: float | None
    valid_loss: float | None
    test_loss: float | None
    path: Path
    reason: str
    memory: TrainingReport | None = None


def train(
    model: Model | str | Path | None,
    data: Source | Data,
    *,
    adapter_path: str | Path = ADAPTER_PATH,
    resume: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    skip_bad: bool = False,
    export: str | None = None,
    features: Mapping[str, str] | None = None,
    callbacks: Iterable[Callable[[Event], None]] = (),
    should_stop: Callable[[], bool] | None = None,
    **options: Any,
) -> TrainingResult:
    """Fine-tunes a model and writes an adapter that mlxone and mlx-lm load.

    `model` is a loaded model, or what `mlxone.load` takes; `data` a folder, a file, a data set's name, rows
    of one's own, or `Data`. The options are those of `mlxone train --help`, with underscores: method, type,
    rank, lr, iters, …; see `mlxone.training.recipe.Recipe`.

    The adapter and all that is needed to go on lie in `adapter_path`. With `resume` the run there goes on
    exactly: options may be left out, and may not differ. A folder with another adapter is refused, unless
    `overwrite` says otherwise. `dry_run` only predicts the memory. `features` names a row's keys
    (`{"prompt_feature": "question"}`). `export="peft"` writes the adapter for PEFT as well.

    Each of `callbacks` gets every event (`mlxone.training.events`), as frozen values. `should_stop` is asked
    between steps: once it says yes, the run is saved and ends. What goes wrong is raised as an
    `MlxoneError`; `TrainingFailed` says at which step the loss was no number.
    """
    path, watchers = Path(adapter_path), tuple(callbacks)
    if export is not None and export not in EXPORTS:
        raise UsageError(f"export must be one of {', '.join(EXPORTS)}, not {export}", param="export")
    if not dry_run or resume:
        check_free(path, resume=resume, overwrite=overwrite)
        _check_apart(path, options.get("start_from"))

    def tell(event: Event) -> None:
        for watcher in watchers:
            watcher(event)

    with contextlib.ExitStack() as open_, _memory_in_words():
        # What is gone on with is held first: nobody may go on with it between our reading and our writing.
        folder = open_.enter_context(RunFolder(path, resume=True)) if resume and not dry_run else None
        checkpoint = Checkpoint.read(path / STATE) if resume else None
        recipe = recipe_of(options, checkpoint)
        if checkpoint is not None and export is None:
            export = checkpoint.history.get("export")
        if export is not None and recipe.type == "full":
            raise UsageError(f"type full makes no adapter for {export}", hint="leave it out", param="export")
        setup = prepare(model, data, recipe, tell, features=features, skip_bad=skip_bad)
        _check_same_run(setup, checkpoint)
        report = check_memory_for(setup, refuse=not dry_run)
        if dry_run:
            return TrainingResult(0, None, None, None, path, "dry-run", report)
        folder = folder or open_.enter_context(RunFolder(path, overwrite=overwrite))
        loop = Loop(setup, folder, tell, should_stop or (lambda: False), export)
        reason = loop.run(checkpoint)
    return TrainingResult(loop.step, loop.train_loss, loop.valid_loss, loop.test_loss, path, reason, report)


def _check_apart(path: Path, start_from: object) -> None:
    """The result would take the start's place, and the run could not be gone on with."""
    if isinstance(start_from, str) and os.path.realpath(start_from) == os.path.realpath(path):
        raise UsageError(
            f"{path} cannot be both where training starts from and where its result goes",
            hint="--adapter-path names another folder; --resume goes on with a run",
            param="adapter_path",
        )


def _check_same_run(setup: Setup, checkpoint: Checkpoint | None) -> None:
    """Whether the rest of a run is the rest of this one."""
    if checkpoint is None:
        return
    checkpoint.check_fingerprints(setup.fingerprints)
    done, planned = checkpoint.step, int(checkpoint.history["steps"])
    if setup.steps < done:
        raise UsageError(f"the run has done {done} steps already", hint="ask for more", param="iters")
    recipe = setup.recipe
    if not recipe.pace(planned).same_for(done, recipe.pace(setup.steps)):
        raise UsageError(
            f"with {setup.steps} steps instead of {planned} the {recipe.schedule} schedule would have "
            "been another from the beginning",
            hint="only a run with a constant schedule, or with --decay-steps, can be made longer",
            param="iters",
        )


class _memory_in_words:
    """MLX's own way to say that there is no memory left, as ours."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, MlxoneError) or not isinstance(error, RuntimeError | MemoryError):
            return
        if isinstance(error, MemoryError) or "allocat" in str(error) or "out of memory" in str(error):
            raise OutOfMemory(f"not enough memory: {error}", hint=LESS) from error
