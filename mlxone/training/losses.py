"""Objectives as pure functions of log-probabilities; each gives a sum and what to divide it by.

A mean would not add up over micro-batches: SFT is weighted by tokens, the others by pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from mlxone.backend.arrays import mx


@dataclass(frozen=True, slots=True)
class Sft:
    """Cross-entropy of the scored tokens."""


@dataclass(frozen=True, slots=True)
class Dpo:
    """-log sigmoid(beta * margin), the margin being how much further than the reference model the
    trained one has moved chosen and rejected apart."""

    beta: float = 0.1


@dataclass(frozen=True, slots=True)
class Orpo:
    """Cross-entropy of the chosen answer per token, and `weight` times -log sigmoid(log odds ratio)."""

    weight: float = 0.1


Objective = Sft | Dpo | Orpo


@dataclass(slots=True)
class Measured:
    """`total` / `weight` is the loss. For pairs `extras` has "accuracy" and "margin", sums too, and
    "logprobs" [pairs, 2], of the chosen and the rejected answer."""

    total: mx.array
    weight: mx.array
    extras: dict[str, mx.array] = field(default_factory=dict)


def measured(
    objective: Objective, logprobs: mx.array, counts: Sequence[int], references: mx.array | None = None
) -> Measured:
    """`logprobs` of all scored tokens, `counts[i]` of them belonging to sequence i."""
    if isinstance(objective, Sft):
        return sft(logprobs)
    sums = by_sequence(logprobs, counts).reshape(-1, 2)
    if isinstance(objective, Dpo):
        return dpo(sums, references, objective.beta)
    return orpo(sums, mx.array(list(counts)).reshape(-1, 2), objective.weight)


def by_sequence(logprobs: mx.array, counts: Sequence[int]) -> mx.array:
    parts = mx.split(logprobs, list(accumulate(counts))[:-1])
    return mx.stack([part.sum() for part in parts])


def sft(logprobs: mx.array) -> Measured:
    return Measured(-logprobs.sum(), mx.array(float(logprobs.size)))


def dpo(sums: mx.array, references: mx.array | None, beta: float) -> Measured:
    """[pairs, 2]: log-probabilities of whole answers; without references, of a model that has none."""
    moved = sums if references is None else sums - references
    margins = beta * (moved[:, 0] - moved[:, 1])
    return _preference(margins, _not_chosen(margins), sums)


def orpo(sums: mx.array, counts: mx.array, weight: float) -> Measured:
    means = sums / mx.maximum(counts, 1)
    odds = means - _log_of_rest(means)
    margins = odds[:, 0] - odds[:, 1]
    return _preference(margins, weight * _not_chosen(margins) - means[:, 0], sums)


def _preference(margins: mx.array, losses: mx.array, sums: mx.array) -> Measured:
    extras = {"accuracy": (margins > 0).sum(), "margin": margins.sum(), "logprobs": sums}
    return Measured(
        losses.sum(), mx.array(float(losses.size)), {name: mx.stop_gradient(x) for name, x in extras.items()}
    )


def _not_chosen(margins: mx.array) -> mx.array:
    """-log sigmoid."""
    return mx.logaddexp(-margins, 0.0)


def _log_of_rest(logprobs: mx.array) -> mx.array:
    """log(1 - e^x). Certainty is left out by a hair: its odds would be infinite."""
    return mx.log(-mx.expm1(mx.minimum(logprobs, -1e-7)))
