"""How well a model, with or without an adapter, expects a text; or tells a better answer from a worse one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlxone.backend.arrays import lock, on_stream
from mlxone.core.errors import DataError, UsageError
from mlxone.models.adapters import Adapter
from mlxone.models.changed import changed_decoder
from mlxone.service.loading import load
from mlxone.service.model import Model
from mlxone.training.data.encode import encode
from mlxone.training.data.source import Data, Source, read
from mlxone.training.gradients import pair_logprobs
from mlxone.training.losses import Dpo, Sft
from mlxone.training.material import Lot, Samples, in_batches, lot
from mlxone.training.samples import Pair, Sample
from mlxone.training.steps import mean_of

SPLITS = ("test", "valid", "train")  # the first that there is
BETA = 0.1


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Of texts: the mean loss of `tokens` scored ones, and e to its power. Of preferences: dpo's loss, and in
    `extras` how often the chosen answer wins (`accuracy`) and by how much (`margin`), compared with the
    model without the adapter if there is one, else by their probabilities alone."""

    loss: float
    perplexity: float | None  # None for preferences
    tokens: int
    samples: int
    extras: Mapping[str, float] = field(default_factory=dict)
    split: str = ""
    truncated: int = 0
    skipped: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def evaluate(
    model: Model | str | Path | None,
    data: Source | Data | Sequence[Sample] | Sequence[Pair],
    *,
    adapter: str | Path | None = None,
    batch: int = 4,
    max_length: int = 2048,
    scope: str = "full",
    features: Mapping[str, str] | None = None,
    skip_bad: bool = False,
    tell: Callable[[int, int], object] = lambda done, of: None,
) -> Evaluation:
    """The test set of the data if it has one, else the valid set, else all of it.

    `data` is what `train` takes, or samples that are tokens already; `tell(done, all)` counts samples.
    """
    if batch < 1:
        raise UsageError(f"batch must be at least 1, not {batch}", param="batch")
    model = model if isinstance(model, Model) else load(model)
    with lock, on_stream():
        changes = {} if adapter is None else Adapter.read(adapter).changes(model.decoder)
        decoder = changed_decoder(model.decoder, changes)
    longest = min(max_length, model.context_length or max_length)
    samples, about = _samples(model, data, longest, scope, features, skip_bad)
    lots = [lot(samples, at) for at in in_batches(range(len(samples)), batch)]
    if isinstance(samples[0], Pair):
        lots = [_referred(model, one) for one in lots] if adapter is not None else lots
        mean = mean_of(decoder, None, {}, _told(lots, len(samples), tell), Dpo(BETA))
        perplexity = None
        tokens = sum(len(pair.chosen) + len(pair.rejected) for pair in samples)
    else:
        mean = mean_of(decoder, None, {}, _told(lots, len(samples), tell), Sft())
        assert mean is not None
        perplexity, tokens = _exp(mean.loss), round(mean.weight)
    assert mean is not None
    return Evaluation(mean.loss, perplexity, tokens, len(samples), mean.extras, **about)


def _samples(
    model: Model, data: Any, longest: int, scope: str, features: Mapping[str, str] | None, skip_bad: bool
) -> tuple[Samples, dict[str, Any]]:
    if isinstance(data, list | tuple) and data and isinstance(data[0], Sample | Pair):
        return list(data), {}
    if not isinstance(data, Data):
        data = read(data, valid_share=0.0, features=features, skip_bad=skip_bad, need=())
    split = next((name for name in SPLITS if getattr(data, name)), None)
    if split is None:
        raise DataError(f"{data.name} holds no rows")
    rows = getattr(data, split)
    made = encode(rows, model, data.format, scope=scope, max_length=longest, skip_bad=skip_bad)
    skipped = {**data.skipped}
    for reason, count in made.skipped.items():
        skipped[reason] = skipped.get(reason, 0) + count
    notes = tuple(note for note in data.notes if not note.startswith("no valid set"))  # none is needed
    about = {"split": split, "truncated": made.truncated, "skipped": skipped, "notes": notes}
    return made.samples, about


def _referred(model: Model, one: Lot) -> Lot:
    """With what the model without the adapter says of the pairs."""
    with lock, on_stream():
        return Lot(one.batch, pair_logprobs(model.decoder, None, {}, one.batch))  # type: ignore[arg-type]


def _told(lots: Sequence[Lot], samples: int, tell: Callable[[int, int], object]) -> Iterator[Lot]:
    """The lots; says how many samples were in those that are done."""
    done = 0
    for one in lots:
        tell(done, samples)
        yield one
        done += len(one.batch)
    tell(done, samples)


def _exp(loss: float) -> float:
    return math.exp(loss) if loss < 700 else math.inf
