"""Figures of what is in memory, and of the model used last: read off the shelf, waiting for no thread."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from mlxone.service.catalogue import Offer
from mlxone.service.figures import AdapterFigures, AdmissionFigures, CacheFigures, Figures, StateFigures
from mlxone.service.options import Options

if TYPE_CHECKING:
    from mlxone.service.shelf import Loaded, Shelf


def with_shelf(found: Figures, shelf: Shelf, last: Offer | None, options: Options) -> Figures:
    """The same with all that the shelf knows."""
    return replace(
        found,
        loaded=tuple(one.offer.id for one in shelf.in_memory),
        prompt_cache=CacheFigures(**asdict(shelf.prefixes.figures())),
        admission=admission_figures(shelf, last, options),
        states=state_figures(shelf, last),
        adapters=adapter_figures(shelf),
        memory=shelf.memory,
    )


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


def adapter_figures(shelf: Shelf) -> AdapterFigures:
    cards = [card for _, card in shelf.mounted]
    return AdapterFigures(len(cards), sum(card.size_bytes for card in cards))


def _used_last(shelf: Shelf, last: Offer | None) -> Loaded | None:
    return shelf.at_hand(last) if last else next(iter(shelf.loaded), None)
