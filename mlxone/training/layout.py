"""A batch as one row of tokens without any padding. Values and arithmetic only, no arrays.

A sequence's last token is predicted and never read, so it is not in the row. Of a pair the prompt
is there once: the chosen answer follows it, and the rejected one stands behind, looks at the prompt
and at itself, and has the positions it would have behind the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from mlxone.training.samples import Batch, Pair, Sample

Range = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Segment:
    """Neighbouring tokens of the row that are read as one text."""

    start: int
    end: int
    position: int  # of the first of them in its text
    sees: tuple[Range, ...]  # of the row, in the text's order; the last is the segment itself, causally

    @property
    def length(self) -> int:
        return self.end - self.start

    @property
    def alone(self) -> bool:
        return len(self.sees) == 1


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring segments of one length that see only themselves, or one segment."""

    first: Segment
    count: int

    @property
    def end(self) -> int:
        return self.first.start + self.count * self.first.length


@dataclass(frozen=True)
class Layout:
    """`rows` are the places whose next token is scored, `targets` those tokens; of them the first
    `counts[0]` belong to the first sequence, and so on. A pair is two sequences: chosen, rejected."""

    tokens: tuple[int, ...]
    segments: tuple[Segment, ...]
    rows: tuple[int, ...]
    targets: tuple[int, ...]
    counts: tuple[int, ...]

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        runs: list[Run] = []
        for segment in self.segments:
            last = runs[-1] if runs else None
            alike = last and last.first.alone and segment.alone and last.first.length == segment.length
            if last and alike:
                runs[-1] = Run(last.first, last.count + 1)
            else:
                runs.append(Run(segment, 1))
        return tuple(runs)

    @property
    def shape(self) -> tuple[int, int]:
        """As a batch where all segments are alike, else as one row."""
        if len(self.runs) == 1 and self.segments[0].alone:
            return self.runs[0].count, self.segments[0].length
        return 1, len(self.tokens)

    @property
    def is_batch(self) -> bool:
        """All segments are alike: nothing needs to be taken apart."""
        return len(self.runs) == 1 and self.segments[0].alone

    @property
    def positions(self) -> list[int]:
        return [s.position + i for s in self.segments for i in range(s.length)]


@dataclass(slots=True)
class _Row:
    tokens: list[int] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)

    def read(self, ids: Sequence[int], behind: Range | None = None) -> int:
        """Lays tokens out, behind those of an earlier range if one is given; returns where they start."""
        start, end = len(self.tokens), len(self.tokens) + len(ids)
        self.tokens.extend(ids)
        before = () if behind is None else (behind,)
        if ids:
            position = sum(b - a for a, b in before)
            self.segments.append(Segment(start, end, position, (*before, (start, end))))
        return start

    def score(self, rows: Sequence[int], targets: Sequence[int]) -> None:
        self.rows.extend(rows)
        self.targets.extend(targets)
        self.counts.append(len(targets))

    def add(self, ids: Sequence[int], prompt: int) -> int:
        """A whole text; returns where it starts."""
        start, first = self.read(ids[:-1]), max(prompt, 1)
        self.score(range(start + first - 1, start + len(ids) - 1), ids[first:])
        return start

    def add_pair(self, pair: Pair) -> None:
        prompt = len(pair.prompt)
        start = self.add((*pair.prompt, *pair.chosen), prompt)
        shared = (start, start + prompt)
        after = self.read(pair.rejected[:-1], shared)
        self.score([shared[1] - 1, *range(after, after + len(pair.rejected) - 1)], pair.rejected)


def lay_out(batch: Batch, *, shared: bool = True) -> Layout:
    """`shared=False` reads a pair's prompt twice, as two whole texts."""
    row = _Row()
    for item in batch:
        if isinstance(item, Sample):
            row.add(item.ids, item.prompt)
        elif shared and item.prompt and item.chosen and item.rejected:
            row.add_pair(item)
        else:
            row.add((*item.prompt, *item.chosen), len(item.prompt))
            row.add((*item.prompt, *item.rejected), len(item.prompt))
    if not row.rows:
        raise ValueError("a batch without a token to score")
    return Layout(
        tuple(row.tokens), tuple(row.segments), tuple(row.rows), tuple(row.targets), tuple(row.counts)
    )
