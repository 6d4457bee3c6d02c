"""Tiny models and batches for the numerics, and how close two sets of gradients must be."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mlxone.backend.arrays import lock, mx, on_stream
from mlxone.models.decoder import Decoder
from mlxone.models.loading import load_decoder
from mlxone.training.gradients import loss_and_gradients
from mlxone.training.losses import Objective, Sft
from mlxone.training.samples import Batch, Pair, Sample
from mlxone.training.trainable import Params, Trainable
from tests.models import checkpoints

LLAMA = checkpoints.LLAMA | {"num_hidden_layers": 3}
QWEN3 = checkpoints.QWEN3 | {"num_hidden_layers": 3, "tie_word_embeddings": True}
QWEN2 = checkpoints.LLAMA | {"model_type": "qwen2"}
SLIDING = LLAMA | {
    "sliding_window": 5,
    "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
}
CONFIGS = {"llama": LLAMA, "qwen3": QWEN3, "qwen2": QWEN2, "sliding": SLIDING}
CLOSE = 1e-5


@cache
def _decoder(name: str) -> tuple[Decoder, Any]:
    folder = TemporaryDirectory(prefix="mlxone-tiny-", ignore_cleanup_errors=True)
    return load(Path(folder.name), CONFIGS[name]), folder


def decoder(name: str = "llama") -> Decoder:
    return _decoder(name)[0]


def load(folder: Path, config: Mapping[str, Any], packer: checkpoints.Packer | None = None) -> Decoder:
    arrays = checkpoints.tensors(config)
    arrays = checkpoints.packed(arrays, packer) if packer else arrays
    return load_decoder(checkpoints.save(folder, config, arrays))


def ids(count: int, seed: int = 0) -> tuple[int, ...]:
    draw = random.Random(count + 1000 * seed)
    return tuple(draw.randrange(96) for _ in range(count))


def samples(*sizes: int, prompt: int = 0) -> list[Sample]:
    return [Sample(ids(size, seed), prompt) for seed, size in enumerate(sizes)]


def pairs(*sizes: tuple[int, int, int]) -> list[Pair]:
    return [Pair(ids(a, 7 + i), ids(b, 8 + i), ids(c, 9 + i)) for i, (a, b, c) in enumerate(sizes)]


def params(trainable: Trainable, seed: int = 5) -> Params:
    """As after some training: no lora_b is zero any more."""
    with lock, on_stream():
        found = trainable.start(seed)
        for place, name in enumerate(sorted(found)):
            noise = mx.random.normal(found[name].shape, key=mx.random.key(place))
            found[name] = found[name] + (0.3 if name.endswith("lora_b") else 0.02) * noise
        mx.eval(found)
    return found


def gradients(
    model: Decoder,
    trainable: Trainable,
    values: Params,
    batch: Batch,
    objective: Objective | None = None,
    **options: Any,
) -> tuple[float, Params]:
    with lock, on_stream():
        found, slopes = loss_and_gradients(model, trainable, values, batch, objective or Sft(), **options)
        mx.eval(found.total, found.weight, found.extras, slopes)
    return number(found.total), slopes


def number(array: Any) -> float:
    return float(array.item())


def apart(one: Params, other: Params) -> float:
    """The largest difference between two sets of arrays, as a share of the largest number there is."""
    assert one.keys() == other.keys()
    with lock, on_stream():
        largest = max(number(mx.abs(x).max()) for x in one.values())
        return max(number(mx.abs(one[name] - other[name]).max()) for name in one) / largest


def added(parts: Sequence[Params]) -> Params:
    with lock, on_stream():
        return {name: sum((part[name] for part in parts[1:]), parts[0][name]) for name in parts[0]}
