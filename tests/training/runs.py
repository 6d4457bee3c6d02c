"""Tiny runs for the tests of the loop, and the program that a test kills.

Run as a program: the arguments are the model, the adapter's folder, and "resume" or nothing; each step
that is reported is a line.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mlxone.backend.arrays import mx
from mlxone.training.events import Event, Stepped
from mlxone.training.run import TrainingResult, train
from tests.models.checkpoints import packed
from tests.service import rig

ROWS = [{"prompt": f"say {i}", "completion": f"well, {i * 37 % 101}"} for i in range(12)]
PAIRS = [
    {"prompt": f"say {i}", "chosen": f"well, {i * 37 % 101}", "rejected": "no" * (i % 3 + 1)}
    for i in range(8)
]
OPTIONS: dict[str, Any] = {
    "iters": 12,
    "lr": 1e-2,
    "batch": 2,
    "dropout": 0.1,
    "rank": 4,
    "schedule": "cosine",
    "warmup": 2,
    "eval_every": 4,
    "save_every": 3,
    "steps_per_report": 2,
}


def model(folder: Path) -> Path:
    return rig.write_folder(folder)


def packed_model(folder: Path) -> Path:
    """Its weights in 2, 4 and 8 bits."""
    model(folder)
    bits = {"q_proj": 2, "down_proj": 8}
    config = json.loads((folder / "config.json").read_text())
    how = {"group_size": 32, "bits": 4}
    own = {
        f"model.layers.{layer}.{part}": how | {"bits": bits[part.split(".")[1]]}
        for layer in range(config["num_hidden_layers"])
        for part in ("self_attn.q_proj", "mlp.down_proj")
    }
    arrays = packed(
        tensors(folder / "model.safetensors"),
        lambda path: (32, own.get(path, how)["bits"], "affine") if ".layers." in path else None,
    )
    skipped = {"model.embed_tokens": False, "lm_head": False}
    (folder / "config.json").write_text(json.dumps(config | {"quantization": how | own | skipped}))
    mx.save_safetensors(str(folder / "model.safetensors"), arrays)
    return folder


class Watch(list[Event]):
    def __call__(self, event: Event) -> None:
        self.append(event)

    def of(self, kind: type) -> list[Any]:
        return [event for event in self if isinstance(event, kind)]

    @property
    def losses(self) -> dict[int, float]:
        return {event.step: event.loss for event in self.of(Stepped)}


def run(
    model: Path,
    path: Path,
    watch: Callable[[Event], None] = lambda event: None,
    data: Any = ROWS,
    **more: Any,
) -> TrainingResult:
    return train(model, data, adapter_path=path, callbacks=[watch], **more)


def metrics(path: Path) -> list[dict[str, Any]]:
    """Without what the clock says."""
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("tokens_per_s", "peak_memory")} for line in lines]


def tensors(path: Path) -> dict[str, mx.array]:
    """In memory: their file may be written anew."""
    arrays: Any = mx.load(str(path))
    mx.eval(arrays)
    return arrays


def after(calls: int) -> Callable[[], bool]:
    """Says no so many times, and then yes."""
    answers: Iterator[bool] = iter([False] * calls)
    return lambda: next(answers, True)


if __name__ == "__main__":
    source, target, *how = sys.argv[1:]
    resuming = "resume" in how

    def told(event: Event) -> None:
        if isinstance(event, Stepped):
            print(event.step, flush=True)

    run(Path(source), Path(target), told, resume=resuming, **({} if resuming else OPTIONS))
