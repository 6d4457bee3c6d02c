"""One model over the whole line of Macs: what fits where, how far, how fast."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mlxone.core.facts import ModelFacts
from mlxone.fitting.chips import APPLE, Chip
from mlxone.fitting.machine import as_sold
from mlxone.fitting.plot import Cell
from mlxone.fitting.report import Case
from mlxone.fitting.work import Work


def sku_matrix(facts: ModelFacts, work: Work | None = None, chips: Sequence[Chip] = APPLE) -> list[Cell]:
    return list(_cells(facts, work or Work(), chips))


def _cells(facts: ModelFacts, work: Work, chips: Sequence[Chip]) -> Iterator[Cell]:
    for chip in chips:
        for memory in chip.memory_options:
            case = Case(facts, as_sold(chip, memory))
            usable = case.machine.usable_bytes
            longest = case.max_context(work, usable)
            decode, _ = case.speeds(work)
            fits = longest >= min(work.context, facts.context_length or work.context)
            yield Cell(chip.label, memory, fits, longest or None, decode if longest else None)
