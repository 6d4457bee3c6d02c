"""What a run tells those who watch: frozen values, in order. A watcher that raises ends the run.

    Preparing …, Prepared, Started, Validated(0), then Stepped … with Validated, Sampled and Saved between,
    Tested if asked for, and Stopped as the last one, unless an error ends the run.

Losses are means: over scored tokens (sft) or pairs (dpo, orpo). Memory is in bytes. `extras` holds what
preferences tell besides (`accuracy`, `margin`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mlxone.training.recipe import Recipe

StopReason = Literal["done", "asked", "nan"]


@dataclass(frozen=True, slots=True)
class Preparing:
    """So many rows of a part of the data are tokens by now; or so many references are known."""

    what: str  # train, valid, test, references
    done: int
    rows: int


@dataclass(frozen=True, slots=True)
class Prepared:
    """The data was read: which format, how much of each part, what was cut or left out."""

    format: str
    samples: Mapping[str, int]  # by part: train, valid, test
    tokens: int  # of the training part
    truncated: int
    skipped: Mapping[str, int]  # by reason
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Started:
    recipe: Recipe
    trainable_parameters: int
    total_parameters: int
    steps: int
    samples: int
    first_step: int  # steps that an earlier part of this run has done
    path: Path


@dataclass(frozen=True, slots=True)
class Stepped:
    """Every `steps_per_report` steps; loss and tokens are of all the steps since the last such event."""

    step: int
    loss: float
    lr: float
    tokens: int
    tokens_per_s: float
    peak_memory: int
    grad_norm: float
    eta_s: float
    extras: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Validated:
    step: int
    loss: float
    extras: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sampled:
    step: int
    prompt: str
    text: str


@dataclass(frozen=True, slots=True)
class Saved:
    step: int
    path: Path


@dataclass(frozen=True, slots=True)
class Tested:
    loss: float
    extras: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stopped:
    step: int
    reason: StopReason
    path: Path


Event = Preparing | Prepared | Started | Stepped | Validated | Sampled | Saved | Tested | Stopped
Watcher = Callable[[Event], None]
