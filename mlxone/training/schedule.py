"""The learning rate of each step: numbers only, any step at any time."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Schedule:
    kind: str  # constant, cosine or linear
    peak: float
    end: float = 0.0
    warmup: int = 0
    start: float = 0.0  # where the warmup comes from; no step has this rate itself
    decay_steps: int = 1

    def lr(self, step: int) -> float:
        """Of step 0, 1, … The peak is reached at step `warmup`, the end `decay_steps` later."""
        if step < self.warmup:
            return self.start + (self.peak - self.start) * (step + 1) / (self.warmup + 1)
        done = min(1.0, (step - self.warmup) / self.decay_steps)
        if self.kind == "cosine":
            return self.end + (self.peak - self.end) * 0.5 * (1 + math.cos(math.pi * done))
        if self.kind == "linear":
            return self.peak + (self.end - self.peak) * done
        return self.peak

    def same_for(self, steps: int, other: Schedule) -> bool:
        """Whether the first so many steps have the same rates under both."""
        return all(self.lr(step) == other.lr(step) for step in range(steps))
