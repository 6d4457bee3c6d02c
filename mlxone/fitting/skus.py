"""One model over the whole line of Macs: what fits where, how far, how fast."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mlxone.core.facts import ModelFacts
from mlxone.fitting.chips import APPLE, Chip
from mlxone.fitting.machine import as_sold
from mlxone.fitting.report import Case, report
from mlxone.fitting.work import Work


@dataclass(frozen=True, slots=True)
class Sku:
    """One Mac as it is sold; names as in a `FitReport`."""

    chip: str
    memory_gb: int
    bandwidth: float  # bytes a second
    fits: bool
    total_bytes: int
    usable_bytes: int
    max_safe_context: int
    predicted_decode_tps: float | None  # None where it does not fit
    predicted_prefill_tps: float | None


def sku_matrix(facts: ModelFacts, work: Work | None = None, chips: Sequence[Chip] = APPLE) -> list[Sku]:
    return list(_skus(facts, work or Work(), chips))


def _skus(facts: ModelFacts, work: Work, chips: Sequence[Chip]) -> Iterator[Sku]:
    for chip in chips:
        for memory in chip.memory_options:
            found = report(Case(facts, as_sold(chip, memory)), work)
            yield Sku(
                chip.label,
                memory,
                chip.bandwidth,
                found.fits,
                found.total_bytes,
                found.usable_bytes,
                found.max_safe_context,
                found.predicted_decode_tps if found.fits else None,
                found.predicted_prefill_tps if found.fits else None,
            )
