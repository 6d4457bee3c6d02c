"""Twenty steps of SFT have the losses of mlx-lm's own trainer: same start, data, order, optimizer.

One thing differs on purpose: mlx-lm scores one token of padding (id 0) behind each sample that ends
before its row does. Where samples fill their rows there is none; elsewhere it is appended to ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlx_lm.tuner import trainer
from mlx_lm.tuner.callbacks import TrainingCallback
from mlx_lm.tuner.utils import linear_to_lora_layers
from mlx_lm.utils import load_model

from bench.random_models import save_random_model
from mlxone.backend.arrays import lock, mx, on_stream
from mlxone.backend.optimizers import optimizers
from mlxone.models.loading import load_decoder
from mlxone.training.gradients import loss_and_gradients
from mlxone.training.losses import Sft
from mlxone.training.samples import Sample
from mlxone.training.trainable import Trainable
from tests.training import families, tiny

STEPS, LONGEST, BATCH = 20, 33, 2
Rows = list[tuple[np.ndarray, np.ndarray]]  # a batch as mlx-lm lays it out: tokens, (first scored, length)


class Losses(TrainingCallback):  # type: ignore[misc]
    def __init__(self) -> None:
        self.found: list[float] = []

    def on_train_loss_report(self, train_info: dict[str, Any]) -> None:
        self.found.append(train_info["train_loss"])


@pytest.fixture(autouse=True)
def _no_compiler() -> Iterator[None]:
    """mlx-lm compiles its step; on a CPU that calls a C++ compiler."""
    mx.disable_compile()
    yield
    mx.enable_compile()


def data(fills: bool) -> list[tuple[list[int], int]]:
    lengths = [LONGEST + 3 * (i % 4) if fills else 6 + (5 * i) % 23 for i in range(12)]
    return [([1 + t % 95 for t in tiny.ids(n, i)], i % 4) for i, n in enumerate(lengths)]


def of_mlx_lm(folder: Path, rows: list[tuple[list[int], int]], kind: str, optimizer: Any) -> tuple[Any, Rows]:
    model, _ = load_model(folder)
    model.freeze()
    mx.random.seed(3)
    linear_to_lora_layers(model, 2, {"rank": 4, "scale": 5.0, "dropout": 0.0}, use_dora=kind == "dora")
    seen: Rows = []

    def batches(*args: Any, **options: Any) -> Iterator[tuple[mx.array, mx.array]]:
        for tokens, spans in trainer.iterate_batches(*args, **options):
            seen.append((np.array(tokens), np.array(spans)))
            yield tokens, spans

    args = trainer.TrainingArgs(
        batch_size=BATCH, iters=STEPS, steps_per_report=1, steps_per_save=1000,
        max_seq_length=LONGEST, adapter_file=str(folder / "theirs.safetensors"),
    )  # fmt: skip
    losses = Losses()
    np.random.seed(5)
    trainer.train(model, optimizer, rows, None, args, iterate_batches=batches, training_callback=losses)
    return losses.found, seen[:STEPS]


def ours(tokens: np.ndarray, spans: np.ndarray) -> list[Sample]:
    """A row of mlx-lm's as our samples, with the padding that it scores."""
    ends = [min(length + 1, tokens.shape[1]) for _, length in spans]
    return [
        Sample(tuple(row[:end].tolist()), int(first))
        for row, end, (first, _) in zip(tokens, ends, spans, strict=True)
    ]


@pytest.mark.parametrize("fills", [True, False], ids=["full rows", "short samples"])
@pytest.mark.parametrize(
    ("name", "kind", "method"),
    [
        ("llama", "lora", "adam"),
        ("qwen3", "lora", "adamw"),
        ("qwen2", "dora", "adam"),
        ("gemma3", "lora", "adam"),
        ("gemma2", "dora", "adam"),
        ("granite", "lora", "adamw"),
    ],
)
@pytest.mark.parametrize("segment", [0, 1])
def test_twenty_steps_are_the_same(
    tmp_path: Path, capsys: Any, name: str, kind: Any, method: str, fills: bool, segment: int
):
    if name in tiny.CONFIGS:
        decoder = tiny.load(tmp_path, tiny.CONFIGS[name])
    else:
        save_random_model(tmp_path, {**families.BASE, **families.CONFIGS[name]}, dtype=mx.float32)
        decoder = load_decoder(tmp_path)
    make = {"adam": optimizers.Adam, "adamw": optimizers.AdamW}[method]
    expected, rows = of_mlx_lm(tmp_path, data(fills), kind, make(learning_rate=3e-3))
    assert len(expected) == len(rows) == STEPS
    assert all((spans[:, 1] == LONGEST).all() == fills for _, spans in rows)
    found = []
    with lock, on_stream():
        trainable = Trainable(decoder, kind=kind, rank=4, scale=5.0, layers=2)
        values, optimizer = trainable.start(3), make(learning_rate=3e-3)
        for tokens, spans in rows:
            measured, slopes = loss_and_gradients(
                decoder, trainable, values, ours(tokens, spans), Sft(), segment=segment
            )
            slopes = {n: slope / measured.weight for n, slope in slopes.items()}
            values = optimizer.apply_gradients(slopes, values)
            mx.eval(values, optimizer.state)
            found.append((measured.total / measured.weight).item())
    assert found == pytest.approx(expected, rel=1e-4)
    assert found[-1] != pytest.approx(found[0], rel=1e-2)
    theirs: Any = mx.load(str(tmp_path / "theirs.safetensors"))
    assert tiny.apart(theirs, values) < 1e-3
