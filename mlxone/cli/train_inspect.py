"""`mlxone train --inspect`: what data holds, how long its texts are, and what would be learned of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from mlxone.cli import known, table, terminal
from mlxone.cli.table import Column
from mlxone.cli.train_session import Plan, opened, source
from mlxone.cli.train_view import takes_unicode

if TYPE_CHECKING:
    from mlxone.training.data.inspect import Bucket, Example, Inspection, SplitReport

COLUMNS = (
    Column("PART"),
    Column("ROWS", right=True),
    Column("SAMPLES", right=True),
    Column("TOKENS", right=True),
    Column("SCORED", right=True),
    Column("MEDIAN", right=True, optional=2),
    Column("95 %", right=True, optional=1),
    Column("LONGEST", right=True),
    Column("CUT", right=True),
)
LONGEST_BAR = 40  # cells
LONGEST_TEXT = 2_000  # characters of an example, half of them from its end
READ, SCORED = "\x1b[2m", "\x1b[32m"  # dim, green
PLAIN = "\x1b[0m"


def inspect(plan: Plan) -> None:
    from mlxone.training.data.inspect import inspect_data
    from mlxone.training.data.source import read
    from mlxone.training.material import PREFERENCE, check_method
    from mlxone.training.recipe import NAMES, Recipe

    options = {name: value for name, value in plan.options.items() if name in NAMES}
    recipe = Recipe.of(options)
    data = read(
        source(plan.data, quiet=plan.quiet),
        valid_share=plan.options.get("val_size"),
        seed=recipe.seed,
        features=plan.features or None,
        skip_bad=plan.options.get("skip_bad") or False,
        need=(),
    )
    if data.format == PREFERENCE and "method" not in options:
        recipe = Recipe.of(options | {"method": "dpo"})  # what has no use for preferences is refused
    check_method(data, recipe)
    found = inspect_data(data, opened(plan), scope=recipe.sft_scope, max_length=recipe.max_seq_length)
    if plan.as_json:
        known.print_json(asdict(found))
        return
    drawn = terminal.is_terminal(sys.stdout)
    colours = drawn and not terminal.plain_wanted(os.environ)
    width = terminal.size()[0] if drawn else None
    full = "█" if takes_unicode(sys.stdout) else "#"
    click.echo("\n".join(lines(found, colours=colours, width=width, full=full)), color=colours)


def lines(found: Inspection, *, colours: bool, width: int | None, full: str = "█") -> Iterator[str]:
    scope = ", of which only answers are scored" if found.scope == "response" else ""
    yield f"{found.format} data{scope}; samples of up to {found.max_length:,} tokens"
    yield from map(terminal.one_line, found.notes)
    yield ""
    yield from table.aligned(COLUMNS, [_row(split) for split in found.splits], width)
    for count, reason in _left_out(found):
        yield f"{count:,} left out: {terminal.one_line(reason)}"
    for split in found.splits:
        yield from ["", f"{split.name}, texts by their tokens"]
        yield from bars(split.lengths.histogram, found.max_length, full)
    if found.examples:
        mark = f"{SCORED}scored{PLAIN} and {READ}only read{PLAIN}" if colours else "only read: [[...]]"
        yield from ["", f"What is learned, {mark}"]
    for example in found.examples:
        kind = "" if example.kind == "sample" else f" ({example.kind})"
        yield from [
            "",
            f"{terminal.one_line(example.place)}{kind}",
            marked(example, colours=colours),
        ]


def bars(histogram: Sequence[Bucket], limit: int, full: str = "█") -> Iterator[str]:
    """A bucket that is not within the limit as a whole says so."""
    names = [
        f"{bucket.least:,}" + (f"-{bucket.most:,}" if bucket.most > bucket.least else "")
        for bucket in histogram
    ]
    room, highest = max(map(len, names)), max(bucket.count for bucket in histogram)
    for name, bucket in zip(names, histogram, strict=True):
        # Whoever is there at all is to be seen.
        length = max(round(LONGEST_BAR * bucket.count / highest), bool(bucket.count))
        cut = "  longer than the limit" if bucket.count and bucket.most > limit else ""
        yield f"  {name:>{room}}  {full * length}{' ' * bool(length)}{bucket.count:,}{cut}"


def marked(example: Example, *, colours: bool) -> str:
    """Its text with what is only read set apart; in the middle of a long one something is left out."""
    said = []
    for number, (text, scored) in enumerate(example.spans, 1):
        clean = terminal.neutralise(_ends(text))
        if number == len(example.spans):
            clean = clean.rstrip("\n")
        if colours:
            said.append(f"{SCORED if scored else READ}{clean}{PLAIN}")
        else:
            said.append(clean if scored else f"[[{clean}]]")
    return "".join(said)


def _ends(text: str) -> str:
    half = LONGEST_TEXT // 2
    if len(text) <= LONGEST_TEXT:
        return text
    return f"{text[:half]} … {len(text) - LONGEST_TEXT:,} characters … {text[-half:]}"


def _row(split: SplitReport) -> list[str]:
    return [
        split.name,
        f"{split.rows:,}",
        f"{split.samples:,}",
        f"{split.tokens:,}",
        f"{100 * split.scored_share:.0f} %",
        f"{split.lengths.median:,}",
        f"{split.lengths.p95:,}",
        f"{split.lengths.most:,}",
        f"{split.truncated:,}",
    ]


def _left_out(found: Inspection) -> Iterator[tuple[int, str]]:
    yield from ((count, reason) for reason, count in found.skipped.items())
    for split in found.splits:
        yield from ((count, f"{reason} ({split.name})") for reason, count in split.skipped.items())
