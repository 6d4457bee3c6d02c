"""A data source to what one run learns from: the splits as tokens, in the order that a recipe asks for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlxone.core.errors import DataError, UsageError
from mlxone.service.model import Model
from mlxone.training.data.encode import Encoded, encode, length, watched
from mlxone.training.data.order import Order
from mlxone.training.data.rows import Row
from mlxone.training.data.source import Data, Source, read
from mlxone.training.events import Prepared, Preparing, Watcher
from mlxone.training.recipe import Recipe
from mlxone.training.samples import Batch, Pair, Sample

PREFERENCE = "preference"
Samples = list[Sample] | list[Pair]
Reference = tuple[float, float]  # the log-probs of a pair's chosen and rejected text before training


@dataclass(frozen=True, slots=True)
class Material:
    data: Data
    train: Encoded
    valid: Encoded
    test: Encoded
    notes: tuple[str, ...] = ()  # beside the data's own

    @property
    def prepared(self) -> Prepared:
        parts = {"train": self.train, "valid": self.valid, "test": self.test}
        skipped = Counter(self.data.skipped)
        for part in parts.values():
            skipped.update(part.skipped)
        return Prepared(
            self.data.format,
            {name: len(part.samples) for name, part in parts.items()},
            sum(self.train.lengths),
            sum(part.truncated for part in parts.values()),
            dict(skipped),
            (*self.data.notes, *self.notes),
        )


def gather(
    model: Model,
    source: Source | Data,
    recipe: Recipe,
    *,
    features: Mapping[str, str] | None = None,
    skip_bad: bool = False,
    tell: Watcher = lambda event: None,
) -> Material:
    data = _data(source, recipe, features, skip_bad)
    check_method(data, recipe)
    limit = min(recipe.max_seq_length, model.context_length or recipe.max_seq_length)

    def encoded(name: str, rows: Sequence[Row]) -> Encoded:
        return encode(
            watched(rows, lambda done, of: tell(Preparing(name, done, of))) if rows else (),
            model,
            data.format,
            scope=recipe.sft_scope,
            max_length=limit,
            skip_bad=skip_bad,
        )

    parts = {"train": data.train, "valid": data.valid, "test": data.test if recipe.test else []}
    train, valid, test = (encoded(name, rows) for name, rows in parts.items())
    notes: tuple[str, ...] = ()
    if limit < recipe.max_seq_length and train.truncated + valid.truncated + test.truncated:
        notes = (f"the model itself reads no more than {limit:,} tokens: samples are cut there",)
    return Material(data, train, valid, test, notes)


def _data(source: Source | Data, recipe: Recipe, features: Mapping[str, str] | None, skip_bad: bool) -> Data:
    need = ("train", "test") if recipe.test else ("train",)
    if not isinstance(source, Data):
        return read(
            source,
            valid_share=recipe.val_size,
            seed=recipe.seed,
            features=features,
            skip_bad=skip_bad,
            need=need,
        )
    for name, given in (("val_size", recipe.val_size is not None), ("features", bool(features))):
        if given:
            raise UsageError(f"data that was read before has no use for {name}", param=name)
    for split in need:
        if not getattr(source, split):
            raise DataError(f"{source.name or 'the data'} has no {split} set")
    return source


def check_method(data: Data, recipe: Recipe) -> None:
    if data.format == PREFERENCE and recipe.method == "sft":
        raise DataError(f"{data.name} holds preferences", hint="learn from them with --method dpo or orpo")
    if data.format != PREFERENCE and recipe.method != "sft":
        raise DataError(
            f"{data.name} holds {data.format} rows, and {recipe.method} needs preferences",
            hint="rows of prompt, chosen and rejected; or --method sft",
        )


@dataclass(frozen=True, slots=True)
class Lot:
    """What is computed together; for dpo with the reference log-probs of each pair."""

    batch: Batch
    references: Sequence[Reference] | None = None

    @property
    def tokens(self) -> int:
        return sum(length(sample) for sample in self.batch)


class Steps:
    """Which lots make a step: any step at any time."""

    def __init__(
        self, samples: Samples, recipe: Recipe, references: Sequence[Reference] | None = None
    ) -> None:
        self._samples, self._references, self._batch = samples, references, recipe.batch
        self._lengths = [length(sample) for sample in samples]
        self._room = recipe.max_seq_length if recipe.pack else None
        self._order = Order(self._lengths, batch=recipe.samples_per_step, seed=recipe.seed, pack=self._room)

    @property
    def per_epoch(self) -> int:
        return self._order.steps_per_epoch

    def lots(self, step: int) -> list[Lot]:
        return [lot(self._samples, at, self._references) for at in self._divided(self._order.indices(step))]

    def _divided(self, indices: list[int]) -> list[list[int]]:
        if self._room is None:
            return in_batches(indices, self._batch)
        return _filled(indices, self._lengths, self._batch * self._room)


def lot(samples: Samples, indices: Sequence[int], references: Sequence[Reference] | None = None) -> Lot:
    chosen: Any = [samples[at] for at in indices]
    return Lot(chosen, None if references is None else [references[at] for at in indices])


def in_batches(indices: Sequence[int], size: int) -> list[list[int]]:
    return [list(indices[at : at + size]) for at in range(0, len(indices), size)]


def _filled(indices: Sequence[int], lengths: Sequence[int], room: int) -> list[list[int]]:
    """In their order, as many to a batch as it has room for."""
    batches: list[list[int]] = []
    left = 0
    for at in indices:
        if not batches or lengths[at] > left:
            batches.append([])
            left = room
        batches[-1].append(at)
        left -= lengths[at]
    return batches
