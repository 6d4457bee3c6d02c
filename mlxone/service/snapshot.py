"""Figures of the model that was used last, read off the shelf without waiting for its thread."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlxone.service.catalogue import Offer
from mlxone.service.figures import AdmissionFigures, StateFigures
from mlxone.service.options import Options

if TYPE_CHECKING:
    from mlxone.service.shelf import Loaded, Shelf


def admission_figures(shelf: Shelf, last: Offer | None, options: Options) -> AdmissionFigures:
    loaded = _used_last(shelf, last)
    budget = options.memory_budget
    return AdmissionFigures(
        max_safe_context=loaded.longest if loaded else 0,
        memory_budget_bytes=None if budget is None else int(budget * 1e9),
        usable_bytes=shelf.ledger.budget,
        weights_bytes=loaded.weights_bytes if loaded else 0,
    )


def state_figures(shelf: Shelf, last: Offer | None) -> StateFigures:
    loaded = _used_last(shelf, last)
    if loaded is None:
        return StateFigures()
    layers = loaded.admission.case.facts.layers
    full, sliding = (sum(each.count for each in layers if each.kind == kind) for kind in ("full", "sliding"))
    return StateFigures(full, sliding, loaded.element)


def _used_last(shelf: Shelf, last: Offer | None) -> Loaded | None:
    return shelf.at_hand(last) if last else next(iter(shelf.loaded), None)
