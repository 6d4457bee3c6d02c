"""A training run as far as it is known: folded from its events, or from the lines of metrics.jsonl.

Both roads give the same value, so `train` and `train-watch` show the same panel. Curves keep a bounded
number of points, however long the run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlxone.training.events import Event

MOST_POINTS = 2048


class Series:
    """Values by step. When there are too many, neighbours become one: their mean."""

    def __init__(self, most: int = MOST_POINTS) -> None:
        self.points: list[tuple[float, float]] = []
        self._most, self._each = most, 1  # values in a point
        self._waiting: list[tuple[float, float]] = []

    def add(self, step: float, value: float) -> None:
        self._waiting.append((step, value))
        if len(self._waiting) < self._each:
            return
        self.points.append(_mean(self._waiting))
        self._waiting = []
        if len(self.points) >= self._most:
            halves = zip(self.points[::2], self.points[1::2], strict=False)
            self.points = [_mean(pair) for pair in halves]
            self._each *= 2


def _mean(points: list[tuple[float, float]] | tuple[tuple[float, float], ...]) -> tuple[float, float]:
    return sum(step for step, _ in points) / len(points), sum(value for _, value in points) / len(points)


@dataclass(slots=True)
class Progress:
    """What is not known yet is None."""

    steps: int | None = None
    step: int = 0
    loss: float | None = None
    valid_loss: float | None = None
    best: tuple[float, int] | None = None  # the least valid loss and its step
    lr: float | None = None
    tokens_per_s: float | None = None
    peak_memory: int | None = None
    eta_s: float | None = None
    tokens: int = 0
    saved: int | None = None  # the step of the last save
    state: str = ""  # why it is over: "done", "asked", "nan", …; empty while it goes on
    train: Series = field(default_factory=Series)
    valid: Series = field(default_factory=Series)
    extras: dict[str, float] = field(default_factory=dict)

    def take(self, event: Event) -> None:
        from mlxone.training import events

        match event:
            case events.Started():
                self.steps, self.step = event.steps, event.first_step
            case events.Stepped():
                self.tokens += event.tokens
                self.eta_s = event.eta_s
                self.extras = {name: float(value) for name, value in event.extras.items()}
                self._stepped(event.step, event.loss, event.lr, event.tokens_per_s, event.peak_memory)
            case events.Validated():
                self._validated(event.step, event.loss)
            case events.Saved():
                self.saved = event.step
            case events.Stopped():
                self.step, self.state, self.eta_s = event.step, event.reason, None

    def row(self, row: Mapping[str, Any]) -> None:
        """A line of metrics.jsonl: what it does not say stays as it is."""
        step = int(row["step"])
        if (loss := _number(row.get("train_loss"))) is not None:
            memory = _number(row.get("peak_memory"))
            self._stepped(step, loss, _number(row.get("lr")), _number(row.get("tokens_per_s")), memory)
        if (valid := _number(row.get("valid_loss"))) is not None:
            self._validated(step, valid)
        self.step = max(self.step, step)

    def _stepped(
        self, step: int, loss: float, lr: float | None, speed: float | None, memory: float | None
    ) -> None:
        self.step, self.loss = step, loss
        self.lr = self.lr if lr is None else lr
        self.tokens_per_s = self.tokens_per_s if speed is None else speed
        self.peak_memory = self.peak_memory if memory is None else int(memory)
        self.train.add(step, loss)

    def _validated(self, step: int, loss: float) -> None:
        self.valid_loss = loss
        self.valid.add(step, loss)
        if math.isfinite(loss) and (self.best is None or loss < self.best[0]):
            self.best = loss, step


def _number(value: Any) -> float | None:
    return None if isinstance(value, bool) or not isinstance(value, (int, float)) else float(value)
