"""What a report is made of: sums since the last one, and the clock. Validation does not count as time."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mlxone.training.events import Stepped

LATELY = 16  # steps that the speed is of


@dataclass(frozen=True, slots=True)
class Taken:
    """One step as read: sums over its samples, and the weight to divide them by."""

    step: int
    total: float
    weight: float
    extras: Mapping[str, float]
    tokens: int
    lr: float
    grad_norm: float

    @property
    def sound(self) -> bool:
        return math.isfinite(self.total) and math.isfinite(self.grad_norm)


@dataclass(slots=True)
class Pace:
    steps: int  # of the whole run
    clock: Callable[[], float] = time.perf_counter
    total: float = 0.0
    weight: float = 0.0
    extras: dict[str, float] = field(default_factory=dict)
    tokens: int = 0
    _since: float | None = None
    _spent: float = 0.0  # seconds of work in this process
    _done: int = 0  # steps in this process
    # When the last steps were read, in seconds of work, and their tokens. Some are read late, right before
    # the next: the speed is that of all of them together.
    _lately: deque[tuple[float, int]] = field(default_factory=lambda: deque([(0.0, 0)], LATELY + 1))

    def work(self) -> None:
        """The clock goes on."""
        if self._since is None:
            self._since = self.clock()

    def rest(self) -> None:
        """The clock stands still: what comes now is no training."""
        if self._since is not None:
            self._spent += self.clock() - self._since
            self._since = None

    def add(self, taken: Taken) -> None:
        self.total += taken.total
        self.weight += taken.weight
        self.tokens += taken.tokens
        self._done += 1
        self._lately.append((self._worked(), taken.tokens))
        for name, value in taken.extras.items():
            self.extras[name] = self.extras.get(name, 0.0) + value

    def report(self, last: Taken, peak_memory: int) -> Stepped:
        """Of the window, which begins anew."""
        left = self.steps - last.step
        event = Stepped(
            step=last.step,
            loss=self.total / self.weight if self.weight else 0.0,
            lr=last.lr,
            tokens=self.tokens,
            tokens_per_s=self._speed(),
            peak_memory=peak_memory,
            grad_norm=last.grad_norm,
            eta_s=left * self._worked() / self._done if self._done else 0.0,
            extras={name: value / self.weight for name, value in self.extras.items()} if self.weight else {},
        )
        self.total, self.weight, self.tokens, self.extras = 0.0, 0.0, 0, {}
        return event

    def _worked(self) -> float:
        return self._spent + (0.0 if self._since is None else self.clock() - self._since)

    def _speed(self) -> float:
        tokens = sum(tokens for _, tokens in self._lately) - self._lately[0][1]
        seconds = self._lately[-1][0] - self._lately[0][0]
        return tokens / seconds if seconds else 0.0

    # For a run that goes on ---------------------------------------------------------------

    def history(self) -> dict[str, Any]:
        """What is in the window; a report that spans an interruption says what it would have said."""
        return {"total": self.total, "weight": self.weight, "extras": self.extras, "tokens": self.tokens}

    def recall(self, history: Mapping[str, Any]) -> None:
        self.total, self.weight = float(history["total"]), float(history["weight"])
        self.extras, self.tokens = dict(history["extras"]), int(history["tokens"])
