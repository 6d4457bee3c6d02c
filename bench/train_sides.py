"""The two trainers behind one shape: open a folder, then make steps over the same random samples.

mlx-lm's step is the one that its `train` builds, put together the same way and evaluated the same way
(mlx_lm/tuner/trainer.py), but kept from one turn to the next, so that it is traced once. Both train
all seven linears of all layers with rank 8 and AdamW, on samples of which every token is scored.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

RANK, SCALE, RATE = 8, 2.0, 1e-4
SAMPLES = 4  # batches that take turns


@dataclass(frozen=True, slots=True)
class Shape:
    """Of a step: so many samples, each with so many scored tokens."""

    batch: int
    length: int
    segment: int = 0  # layers recomputed together; mlx-lm recomputes one at a time. 0: nothing is

    @property
    def tokens(self) -> int:
        return self.batch * self.length

    def ids(self, vocabulary: int) -> list[list[list[int]]]:
        draw = random.Random(7)
        one = [[draw.randrange(vocabulary) for _ in range(self.length + 1)] for _ in range(self.batch)]
        rest = [[[(id * 31 + k) % vocabulary for id in row] for row in one] for k in range(1, SAMPLES)]
        return [one, *rest]


class Side(Protocol):
    def step(self) -> float:
        """The next step; the loss of the last that was waited for."""
        ...

    def finish(self) -> float:
        """Waits for all steps; the last loss."""
        ...

    def close(self) -> None: ...


class MlxLm:
    def __init__(self, folder: Path, shape: Shape) -> None:
        import mlx.core as mx
        import mlx.nn as nn
        import mlx.optimizers as optim
        from mlx_lm.tuner.trainer import default_loss, grad_checkpoint
        from mlx_lm.tuner.utils import linear_to_lora_layers
        from mlx_lm.utils import load_model

        mx.random.seed(0)
        model, _ = load_model(folder)
        model.freeze()
        lora = {"rank": RANK, "scale": SCALE, "dropout": 0.0}
        linear_to_lora_layers(model, len(model.layers), lora)
        self._block = type(model.layers[0])
        self._plain_call = self._block.__call__
        if shape.segment:
            grad_checkpoint(model.layers[0])
        optimizer = optim.AdamW(learning_rate=RATE)
        with_gradients = nn.value_and_grad(model, default_loss)
        self.state = [model.state, optimizer.state, mx.random.state]

        @partial(mx.compile, inputs=self.state, outputs=self.state)
        def step(batch: Any, lengths: Any) -> Any:
            (loss, tokens), gradients = with_gradients(model, batch, lengths)
            optimizer.update(model, gradients)
            return loss, tokens

        model.train()
        self.model, self._compiled, self._next, self._loss = model, step, 0, 0.0
        vocabulary = model.args.vocab_size
        self._batches = [mx.array(ids, dtype=mx.int32) for ids in shape.ids(vocabulary)]
        self._lengths = mx.array([[0, shape.length]] * shape.batch)

    def step(self) -> float:
        import mlx.core as mx

        self._next += 1
        batch = self._batches[self._next % SAMPLES]
        loss, tokens = self._compiled(batch, self._lengths)
        mx.eval(self.state, loss, tokens)
        if mx.get_cache_memory() > 0:  # its default after every step
            mx.clear_cache()
        self._loss = float(loss.item())
        return self._loss

    def finish(self) -> float:
        return self._loss

    def close(self) -> None:
        self._block.__call__ = self._plain_call  # its checkpointing is put on the class
        self.__dict__.clear()
        _free()


class Ours:
    """What a run of `mlxone.train` does in a step, in the order in which its loop does it."""

    def __init__(self, folder: Path, shape: Shape) -> None:
        from mlxone.backend.arrays import lock, on_cpu, on_stream
        from mlxone.models.loading import load_decoder
        from mlxone.training.loop import CACHE
        from mlxone.training.losses import Sft
        from mlxone.training.material import Lot
        from mlxone.training.recipe import Recipe
        from mlxone.training.samples import Sample
        from mlxone.training.steps import Learner, Submitted
        from mlxone.training.trainable import Trainable

        self.recipe = Recipe(
            rank=RANK, scale=SCALE, lr=RATE, batch=shape.batch, max_seq_length=shape.length + 1,
            checkpoint_every=shape.segment or None,
        )  # fmt: skip
        self._lock, self._on_stream = lock, on_stream
        with self.work():
            self.decoder = load_decoder(folder)
            self.trainable = Trainable(self.decoder, rank=RANK, scale=SCALE)
            self.objective = Sft()
            start = self.trainable.start(0)
        self.learner = Learner(self.decoder, self.trainable, self.objective, self.recipe, start)
        self.ahead = not on_cpu() and not shape.segment
        self._waiting: Submitted | None = None
        self._made, self._loss, self.cache = 0, 0.0, CACHE
        batches = shape.ids(self.decoder.spec.vocab_size)
        self.lots = [Lot([Sample(tuple(ids)) for ids in batch], None) for batch in batches]

    def step(self) -> float:
        self._made += 1
        submitted = self.learner.submit(self._made, [self.lots[self._made % SAMPLES]], RATE)
        if self._waiting is not None:
            self._read(self._waiting)
        self._waiting = submitted
        return self._loss if self.ahead else self.finish()

    def finish(self) -> float:
        if self._waiting is not None:
            self._read(self._waiting)
        self._waiting = None
        return self._loss

    def _read(self, submitted: Any) -> None:
        import mlx.core as mx

        taken = self.learner.read(submitted)
        self._loss = taken.total / taken.weight
        if mx.get_cache_memory() > self.cache:
            mx.clear_cache()

    def close(self) -> None:
        self.__dict__.clear()
        _free()

    @contextmanager
    def work(self) -> Iterator[None]:
        with self._lock, self._on_stream():
            yield


SIDES: Mapping[str, Callable[[Path, Shape], Side]] = {"mlxone": Ours, "mlx-lm": MlxLm}


def timed(side: Side, tokens: int, seconds: float, *, least: int = 1) -> float:
    """Tokens a second over steps that take about so long together."""
    start, count = time.perf_counter(), 0
    while count < least or time.perf_counter() - start < seconds:
        side.step()
        count += 1
    side.finish()
    return count * tokens / (time.perf_counter() - start)


def _free() -> None:
    import mlx.core as mx

    gc.collect()
    mx.clear_cache()
