"""One step: its lots through the model, their gradients summed, the parameters moved on.

A step is submitted and read apart, so that the device has the next one before the last loss is asked
for. The loss of a step is the mean over all that its lots score: two lots of two are one lot of four.
Dropout follows from seed and step alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from mlxone.backend.arrays import lock, mx, on_stream
from mlxone.models.changed import changed_decoder
from mlxone.models.decoder import Decoder
from mlxone.training.gradients import Measured, loss_and_gradients, measure
from mlxone.training.losses import Objective
from mlxone.training.material import Lot
from mlxone.training.optimizer import Optimizer, Params
from mlxone.training.pace import Taken
from mlxone.training.recipe import Recipe
from mlxone.training.trainable import Trainable


@dataclass(frozen=True, slots=True)
class Submitted:
    step: int
    lr: float
    tokens: int
    total: mx.array
    weight: mx.array
    extras: dict[str, mx.array]
    norm: mx.array
    before: Params | None  # the parameters that the loss is of


@dataclass(frozen=True, slots=True)
class Mean:
    """Of a measurement over many lots."""

    loss: float
    weight: float  # scored tokens, or pairs
    extras: dict[str, float]


class Learner:
    """The parameters on their way, and all that moves them."""

    def __init__(
        self,
        decoder: Decoder,
        trainable: Trainable,
        objective: Objective,
        recipe: Recipe,
        params: Params,
        state: Params | None = None,
    ) -> None:
        """`state`: the optimizer's, of a run that goes on."""
        self.decoder, self.trainable, self.objective = decoder, trainable, objective
        self._recipe = recipe
        self._proven: Params | None = None
        with lock, on_stream():
            # Laid out as a file would give them back, and steps keep it so: sums run along memory, and of the
            # same numbers laid out otherwise they are others. Going on would not be exact.
            self.params = {name: mx.contiguous(array) for name, array in params.items()}
            self.optimizer = Optimizer(recipe, self.params)
            self.optimizer.state = self.optimizer.state if state is None else state
            mx.eval(self.params, self.optimizer.state)

    def submit(self, step: int, lots: Sequence[Lot], lr: float) -> Submitted:
        """Step 1, 2, …"""
        with lock, on_stream():
            measured, gradients = self._gradients(step, lots)
            gradients = {name: g / measured.weight for name, g in gradients.items()}
            loss = measured.total / measured.weight
            before = None if self._recipe.type == "full" else self.params
            self.params, norm = self.optimizer.step(self.params, gradients, loss, lr)
            extras = scalars(measured)
            mx.async_eval(self.params, self.optimizer.state, measured.total, measured.weight, extras, norm)
        tokens = sum(lot.tokens for lot in lots)
        return Submitted(step, lr, tokens, measured.total, measured.weight, extras, norm, before)

    def read(self, submitted: Submitted) -> Taken:
        """Waits for it."""
        with lock, on_stream():
            taken = Taken(
                step=submitted.step,
                total=_number(submitted.total),
                weight=_number(submitted.weight),
                extras={name: _number(a) for name, a in submitted.extras.items()},
                tokens=submitted.tokens,
                lr=submitted.lr,
                grad_norm=_number(submitted.norm),
            )
        if taken.sound:
            self._proven = submitted.before
        return taken

    @property
    def good(self) -> Params | None:
        """The newest parameters that gave a finite loss, one step before those of the last sound step. None
        where none are known, or held: all weights would be too much to hold twice."""
        return self._proven

    def changed(self) -> Decoder:
        """The model with the parameters as they are."""
        with lock, on_stream():
            return changed_decoder(self.decoder, self.trainable.changes(self.params))

    def measure(self, lots: Sequence[Lot], stop: Callable[[], bool] = lambda: False) -> Mean | None:
        """None where it was told to stop before its end."""
        return mean_of(self.decoder, self.trainable, self.params, lots, self.objective, stop)

    def _gradients(self, step: int, lots: Sequence[Lot]) -> tuple[Measured, Params]:
        whole: Measured | None = None
        gradients: Params = {}
        for number, lot in enumerate(lots):
            measured, more = loss_and_gradients(
                self.decoder,
                self.trainable,
                self.params,
                lot.batch,
                self.objective,
                references=lot.references,
                segment=self._recipe.segment,
                key=self._key(step, number),
            )
            whole = measured if whole is None else _sum(whole, measured)
            gradients = {n: gradients[n] + g for n, g in more.items()} if gradients else more
            if len(lots) > 1:  # one after another, or all their activations would be there at once
                mx.async_eval(gradients, whole.total, whole.weight)
        assert whole is not None
        return whole, gradients

    def _key(self, step: int, number: int) -> mx.array | None:
        if not self._recipe.dropout:
            return None
        text = f"{self._recipe.seed} {step} {number}".encode()
        return mx.random.key(int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little"))


def mean_of(
    decoder: Decoder,
    trainable: Trainable | None,
    params: Params,
    lots: Iterable[Lot],
    objective: Objective,
    stop: Callable[[], bool] = lambda: False,
) -> Mean | None:
    total, weight, extras = 0.0, 0.0, dict[str, float]()
    for lot in lots:
        if stop():
            return None
        with lock, on_stream():
            one = measure(decoder, trainable, params, lot.batch, objective, references=lot.references)
            found = scalars(one)
            mx.eval(one.total, one.weight, found)
            total += _number(one.total)
            weight += _number(one.weight)
            for name, array in found.items():
                extras[name] = extras.get(name, 0.0) + _number(array)
    return Mean(total / weight, weight, {name: value / weight for name, value in extras.items()})


def scalars(measured: Measured) -> dict[str, mx.array]:
    """The sums among the extras; the rest is of each sequence."""
    return {name: array for name, array in measured.extras.items() if array.ndim == 0}


def _sum(one: Measured, other: Measured) -> Measured:
    extras = {name: array + other.extras[name] for name, array in scalars(one).items()}
    return Measured(one.total + other.total, one.weight + other.weight, extras)


def _number(array: mx.array) -> float:
    return float(array.item())  # type: ignore[arg-type]
