"""What a person wants to know of data before training on it, as plain values; the cli draws them.

Lengths are those before cutting, so that the limit can be chosen by them. Examples are shown as they
are trained on: cut, in whole characters, with special tokens written out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from mlxone.service.model import Model
from mlxone.text.tokenizer import Tokenizer
from mlxone.training.data.encode import Encoded, encode
from mlxone.training.data.formats import Format
from mlxone.training.data.rows import Row
from mlxone.training.data.source import Data
from mlxone.training.samples import Pair, Sample

BUCKETS = 12  # of a histogram, at most
ROUND = (1, 2, 4, 5, 8)  # widths of a bucket, times a power of ten


@dataclass(frozen=True, slots=True)
class Bucket:
    least: int  # tokens
    most: int
    count: int


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens per text; of a pair the longer of both."""

    total: int
    least: int
    median: int
    p95: int
    most: int
    histogram: tuple[Bucket, ...]


@dataclass(frozen=True, slots=True)
class SplitReport:
    name: str
    rows: int
    samples: int  # that are learned from
    lengths: Lengths
    truncated: int
    tokens: int  # that are learned from, after cutting
    scored: int  # of those
    skipped: dict[str, int]  # rows by reason

    @property
    def scored_share(self) -> float:
        return self.scored / self.tokens if self.tokens else 0.0


@dataclass(frozen=True, slots=True)
class Example:
    """One text; its spans (text, scored) joined are the whole of it."""

    place: str
    kind: str  # "sample", "chosen", "rejected"
    spans: tuple[tuple[str, bool], ...]


@dataclass(frozen=True, slots=True)
class Inspection:
    name: str
    format: Format
    scope: str
    max_length: int
    splits: tuple[SplitReport, ...]
    examples: tuple[Example, ...]
    skipped: dict[str, int]  # bad rows of the files by reason
    notes: tuple[str, ...]


def inspect_data(
    data: Data, model: Model, *, scope: str = "full", max_length: int = 2048, show: int = 2
) -> Inspection:
    """Rows that this model's template refuses are counted here, whatever a training would do with them."""
    reports, examples = [], list[Example]()
    for name, rows in (("train", data.train), ("valid", data.valid), ("test", data.test)):
        if not rows:
            continue
        encoded = encode(rows, model, data.format, scope=scope, max_length=max_length, skip_bad=True)
        reports.append(_report(name, rows, encoded))
        for sample in encoded.samples[: show if name == "train" else 0]:
            examples += examples_of(sample, model.tokenizer)
    return Inspection(
        data.name,
        data.format,
        scope,
        max_length,
        tuple(reports),
        tuple(examples),
        dict(data.skipped),
        tuple(data.notes),
    )


def _report(name: str, rows: Sequence[Row], encoded: Encoded) -> SplitReport:
    return SplitReport(
        name,
        len(rows),
        len(encoded.samples),
        lengths_of(encoded.whole),
        encoded.truncated,
        sum(encoded.lengths),
        encoded.scored,
        dict(encoded.skipped),
    )


def lengths_of(lengths: Sequence[int]) -> Lengths:
    """Of at least one. Percentiles are lengths that occur: the first that so many do not exceed."""
    ordered = sorted(lengths)

    def percentile(share: int) -> int:
        return ordered[max(-(-len(ordered) * share // 100) - 1, 0)]

    return Lengths(sum(ordered), ordered[0], percentile(50), percentile(95), ordered[-1], histogram(ordered))


def histogram(lengths: Sequence[int]) -> tuple[Bucket, ...]:
    """Equal buckets of a round width that begin at multiples of it; every length is in exactly one."""
    least, most = min(lengths), max(lengths)
    width = next(
        width
        for power in range(20)
        for width in (digit * 10**power for digit in ROUND)
        if most // width - least // width < BUCKETS
    )
    counts = dict.fromkeys(range(least // width * width, most + 1, width), 0)
    for length in lengths:
        counts[length // width * width] += 1
    return tuple(Bucket(start, start + width - 1, count) for start, count in counts.items())


def examples_of(sample: Sample | Pair, tokenizer: Tokenizer) -> list[Example]:
    if isinstance(sample, Sample):
        return [Example(sample.place, "sample", spans(sample.ids, max(sample.prompt, 1), tokenizer))]
    sides = (("chosen", sample.chosen), ("rejected", sample.rejected))
    before = len(sample.prompt)
    return [Example(sample.place, kind, spans(sample.prompt + ids, before, tokenizer)) for kind, ids in sides]


def spans(ids: Sequence[int], prompt: int, tokenizer: Tokenizer) -> tuple[tuple[str, bool], ...]:
    """A character of several tokens goes to the one that completes it."""
    stream = tokenizer.stream(skip_special=False)
    pieces = [(stream.add(id), at >= prompt) for at, id in enumerate(ids)]
    pieces.append((stream.finish(), pieces[-1][1]))
    joined = [("".join(text for text, _ in run), scored) for scored, run in groupby(pieces, lambda p: p[1])]
    return tuple((text, scored) for text, scored in joined if text)
