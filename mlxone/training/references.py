"""What the model said of each pair before training: computed once, kept in the run's folder.

The file is known by a key of data, model and start, and computed anew if it is another's or damaged.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlxone.backend.arrays import lock, mx, on_stream
from mlxone.training.folder import replacing
from mlxone.training.gradients import pair_logprobs
from mlxone.training.material import Reference, in_batches
from mlxone.training.optimizer import Params
from mlxone.training.samples import Pair
from mlxone.training.setup import Setup

Parts = dict[str, list[Reference]]
Compute = Callable[[Sequence[Pair]], list[Reference]]


def references(
    path: Path,
    key: str,
    parts: Mapping[str, Sequence[Pair]],
    compute: Compute,
    *,
    batch: int,
    tell: Callable[[int, int], object] = lambda done, of: None,
) -> Parts:
    """By part, in the order of the pairs."""
    known = _read(path, key, parts)
    if known is not None:
        return known
    found: Parts = {}
    total, done = sum(len(pairs) for pairs in parts.values()), 0
    for name, pairs in parts.items():
        found[name] = []
        for indices in in_batches(range(len(pairs)), batch):
            tell(done, total)
            found[name] += compute([pairs[at] for at in indices])
            done += len(indices)
    tell(done, total)
    with replacing(path) as place:
        place.write_text(json.dumps({"key": key} | found), encoding="utf-8")
    return found


class Before:
    """Computes them, with the parameters that training starts from; made when they are first needed."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._start: Params | None = None

    def __call__(self, pairs: Sequence[Pair]) -> list[Reference]:
        setup = self._setup
        from_base = setup.recipe.start_from is None  # a new adapter changes nothing yet
        if self._start is None:
            self._start = {} if from_base else setup.start()
        with lock, on_stream():
            trainable = None if from_base else setup.trainable
            found = pair_logprobs(setup.model.decoder, trainable, self._start, pairs)
            mx.clear_cache()
        return found


def _read(path: Path, key: str, parts: Mapping[str, Sequence[Pair]]) -> Parts | None:
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["key"] != key:
            return None
        found = {name: [_reference(r) for r in kept[name]] for name in parts}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    whole = all(len(found[name]) == len(pairs) for name, pairs in parts.items())
    return found if whole else None


def _reference(value: Any) -> Reference:
    chosen, rejected = value
    if not (math.isfinite(chosen) and math.isfinite(rejected)):
        raise ValueError("no log-probs")
    return float(chosen), float(rejected)
