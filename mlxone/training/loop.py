"""The loop: steps, and between them validation, samples and saves. One object for one run.

On a GPU the next step is submitted before the last loss is read, so that it never waits for Python.
Where something happens between two steps the last one is read first; then the parameters, the metrics
and the clock stand at the same step.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NoReturn

from mlxone.backend.arrays import mx, on_cpu
from mlxone.core.errors import TrainingFailed
from mlxone.models.adapter_files import AdapterFile, write_adapter, write_peft
from mlxone.training.checkpoints import Checkpoint
from mlxone.training.events import (
    Preparing,
    Sampled,
    Saved,
    Started,
    Stopped,
    StopReason,
    Tested,
    Validated,
    Watcher,
)
from mlxone.training.folder import METRICS, PEFT, REFERENCES, RUN, STATE, RunFolder
from mlxone.training.material import Lot, Reference, Samples, Steps, in_batches, lot
from mlxone.training.metrics import Metrics
from mlxone.training.optimizer import Params
from mlxone.training.pace import Pace, Taken
from mlxone.training.references import Before, Parts, references
from mlxone.training.setup import Setup
from mlxone.training.standing import Standing
from mlxone.training.steps import Learner, Submitted
from mlxone.training.stored import as_in_base

CACHE = 2 << 30  # bytes of freed memory that MLX may keep for the next step


class Loop:
    def __init__(
        self,
        setup: Setup,
        folder: RunFolder,
        tell: Watcher,
        should_stop: Callable[[], bool],
        export: str | None = None,
    ) -> None:
        self.setup, self.recipe, self.folder = setup, setup.recipe, folder
        self._tell, self._asked, self._export = tell, should_stop, export
        # Segments are waited for as they are computed, and so are the CPU's results: nothing to gain there.
        self.ahead = not on_cpu() and not setup.recipe.segment
        self.step = 0
        self.train_loss: float | None = None
        self.valid_loss: float | None = None
        self.test_loss: float | None = None
        self._saved: int | None = None  # the step of the adapter in the folder, if it is this run's
        self._standing = Standing(folder / RUN, setup.steps)
        self._due = "validate"  # the first of what belongs between two steps and is not done yet

    def run(self, checkpoint: Checkpoint | None) -> StopReason:
        self._standing.running(0 if checkpoint is None else checkpoint.step)
        try:
            self._prepare(checkpoint)
            going_on = None if checkpoint is None else self.step
            with contextlib.closing(
                Metrics(self.folder / METRICS, step=going_on, validated=self._due != "validate")
            ) as self._metrics:
                return self._run()
        except BaseException as error:
            self._standing.broken(self.step, error)
            raise

    def _prepare(self, checkpoint: Checkpoint | None) -> None:
        setup, recipe = self.setup, self.recipe
        start, state = (setup.start(), None) if checkpoint is None else checkpoint.hand_over()
        self._learner = Learner(setup.model.decoder, setup.trainable, setup.objective, recipe, start, state)
        self._pace = Pace(setup.steps)
        if checkpoint is not None:
            self.step = checkpoint.step
            self._saved = self.folder.adapter_step()
            self._pace.recall(checkpoint.history)
            self._due = str(checkpoint.history["due"])
            self.train_loss, self.valid_loss = checkpoint.history["losses"]
        known = self._references()
        material = setup.material
        self._steps = Steps(material.train.samples, recipe, known.get("train"))
        self._valid = self._lots(material.valid.samples, recipe.val_batches, known.get("valid"))
        self._test = self._lots(material.test.samples, recipe.test_batches, known.get("test"))
        self._schedule = recipe.pace(setup.steps)
        self._sampler = setup.sampler

    def _run(self) -> StopReason:
        mx.reset_peak_memory()
        self._tell(self._started())
        if self._due:
            self._between()
        if self.step == 0:
            self._write_state()
        self._train()
        whole = self.step == self.setup.steps and not self._due and self._finish()
        return self._stopped("done" if whole else "asked")

    def _train(self) -> None:
        waiting: Submitted | None = None
        for number in range(self.step + 1, self.setup.steps + 1):
            if self._asked():
                break
            self._pace.work()
            lots = self._steps.lots(number - 1)
            submitted = self._learner.submit(number, lots, self._schedule.lr(number - 1))
            if waiting is not None:
                self._read(waiting)
            waiting = submitted
            border = self._is_border(number)
            if border or not self.ahead:
                self._read(waiting)
                waiting = None
            if border:
                self._pace.rest()
                self._due = "validate"
                self._between()
                if number == self.setup.steps or number % self.recipe.save_every == 0:
                    self._save()
        if waiting is not None:
            self._read(waiting)
        self._pace.rest()

    def _read(self, submitted: Submitted) -> None:
        taken = self._learner.read(submitted)
        if not taken.sound:
            what = "gradient" if math.isfinite(taken.total) else "loss"
            self._fail(f"the {what} of step {taken.step} is not a finite number")
        self.step = taken.step
        self._pace.add(taken)
        if self.step % self.recipe.steps_per_report == 0 or self.step == self.setup.steps:
            self._report(taken)
        if mx.get_cache_memory() > CACHE:
            mx.clear_cache()

    def _report(self, taken: Taken) -> None:
        event = self._pace.report(taken, mx.get_peak_memory())
        self.train_loss = event.loss
        self._metrics.stepped(event)
        self._tell(event)

    # Between two steps --------------------------------------------------------------------

    def _is_border(self, step: int) -> bool:
        every = (self.recipe.eval_every, self.recipe.save_every, self.recipe.sample_every)
        return step == self.setup.steps or any(n and step % n == 0 for n in every)

    def _between(self) -> None:
        """What is saved behind this has been looked at, so that going on need not do it again."""
        last = self.step == self.setup.steps
        if self._due == "validate":
            if (last or self.step % self.recipe.eval_every == 0) and not self._validate():
                return
            self._due = "sample"
        if self._sampler is not None and self.step and (last or self.step % self.recipe.sample_every == 0):
            if self._asked():
                return
            text = self._sampler.answer(self._learner.changed())
            self._tell(Sampled(self.step, self._sampler.prompt, text))
        self._due = ""

    def _validate(self) -> bool:
        """False where it was told to stop meanwhile."""
        if not self._valid:
            return True
        mean = self._learner.measure(self._valid, self._asked)
        if mean is None:
            return False
        if not math.isfinite(mean.loss):
            self._fail(f"the validation loss after step {self.step} is not a finite number")
        event = Validated(self.step, mean.loss, mean.extras)
        self.valid_loss = mean.loss
        self._metrics.validated(event)
        self._tell(event)
        mx.clear_cache()
        return True

    def _finish(self) -> bool:
        """False where it was told to stop meanwhile."""
        mean = self._learner.measure(self._test, self._asked) if self._test else None
        if mean is not None:
            self.test_loss = mean.loss
            self._tell(Tested(mean.loss, mean.extras))
        return mean is not None or not self._test

    # What is written ----------------------------------------------------------------------

    def _save(self) -> None:
        if self.recipe.type == "full" and not self._weights_are_good():
            self._fail(f"the loss after step {self.step} is not a finite number")
        self._metrics.flush()
        self._write_adapter(self._learner.params, self.step)
        self._write_state()
        self._standing.running(self.step)
        self._tell(Saved(self.step, self.folder.path))

    def _weights_are_good(self) -> bool:
        """All weights are not held twice, so there is no going back behind what is saved: what replaces
        weights that are good is tried first, on what it has just learned."""
        if not self.step:
            return True
        mean = self._learner.measure(self._steps.lots(self.step - 1)[:1])
        return mean is not None and math.isfinite(mean.loss)

    def _write_adapter(self, params: Params, step: int) -> None:
        if self.recipe.type == "full":
            params = as_in_base(params, self.setup.model.path)
        file = adapter_file(self.setup, step)
        write_adapter(self.folder.path, params, file)
        self._saved = step
        if self._export == "peft":
            write_peft(self.folder / PEFT, params, file, str(self.setup.model.path))

    def _write_state(self) -> None:
        losses = (self.train_loss, self.valid_loss)
        history = {"steps": self.setup.steps, "due": self._due, "losses": losses, "export": self._export}
        Checkpoint(
            self.step,
            self._learner.params,
            self._learner.optimizer.state,
            self.recipe.as_json(),
            self.setup.fingerprints,
            history | self._pace.history(),
        ).write(self.folder / STATE)

    def _stopped(self, reason: Literal["done", "asked"]) -> StopReason:
        if reason == "asked" or self._export:
            self._save()
        self._standing.over(self.step, reason)
        self._tell(Stopped(self.step, reason, self.folder.path))
        return reason

    def _fail(self, what: str) -> NoReturn:
        """Keeps the newest parameters that are known to give a finite loss: those that the last sound step
        began with. Where they are not held, what was saved stays."""
        good = self._learner.good
        if good is not None:
            self._write_adapter(good, self.step - 1)
        elif self.recipe.type == "full" and self.step and self._weights_are_good():
            self._write_adapter(self._learner.params, self.step)
        kept = "nothing was saved before it" if self.step else "no step before it"
        if self._saved is not None:
            kept = f"the last good adapter is in {self.folder.path}, after step {self._saved}"
        self._tell(Stopped(self.step, "nan", self.folder.path))
        raise TrainingFailed(f"{what}; {kept}", hint="lower --lr, or set --grad-clip 1")

    # What it begins with ------------------------------------------------------------------

    def _started(self) -> Started:
        return Started(
            recipe=self.recipe,
            trainable_parameters=sum(a.size for a in self._learner.params.values()),
            total_parameters=self.setup.facts.parameters,
            steps=self.setup.steps,
            samples=len(self.setup.material.train.samples),
            first_step=self.step,
            path=self.folder.path,
        )

    def _references(self) -> Parts:
        if self.recipe.method != "dpo":
            return {}
        setup, material = self.setup, self.setup.material
        encoded = {"train": material.train, "valid": material.valid, "test": material.test}
        parts: dict[str, Any] = {name: part.samples for name, part in encoded.items()}
        key = {name: part.fingerprint for name, part in encoded.items()} | dict(setup.fingerprints)
        return references(
            self.folder / REFERENCES,
            json.dumps(key, sort_keys=True),
            parts,
            Before(setup),
            batch=self.recipe.batch,
            tell=lambda done, of: self._tell(Preparing("references", done, of)),
        )

    def _lots(self, samples: Samples, most: int, known: Sequence[Reference] | None) -> list[Lot]:
        """The same ones each time, at most so many; -1 is all."""
        batches = in_batches(range(len(samples)), self.recipe.batch)
        return [lot(samples, at, known) for at in (batches if most == -1 else batches[:most])]


def adapter_file(setup: Setup, step: int) -> AdapterFile:
    recipe, model = setup.recipe, setup.model
    about = {"base": model.name, "fingerprint": setup.fingerprints["model"], "step": step}
    about |= {"method": recipe.method, "recipe": recipe.as_json()}
    return AdapterFile(
        setup.trainable.kind,
        recipe.rank,
        recipe.adapter_scale,
        recipe.dropout,
        recipe.last_layers,
        extra=about,
    )
