"""What is learned from: token ids, and which of them are scored. Values only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sample:
    """One text. Its first `prompt` tokens are read and not scored; the very first never is."""

    ids: tuple[int, ...]
    prompt: int = 0
    place: str = ""  # where it came from: file and line

    @property
    def scored(self) -> int:
        return len(self.ids) - max(self.prompt, 1)


@dataclass(frozen=True, slots=True)
class Pair:
    """A preference: what follows the same prompt, once as it should be and once as it should not."""

    prompt: tuple[int, ...]
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]
    place: str = ""


Batch = Sequence[Sample] | Sequence[Pair]
