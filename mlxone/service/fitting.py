"""Facts of a model, this machine and what it taught, brought together: the library's `fit`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from mlxone.core.errors import ModelNotFound, UsageError
from mlxone.core.facts import ModelFacts
from mlxone.fitting import skus
from mlxone.fitting.learned import corrections
from mlxone.fitting.machine import Machine, this_machine, weight_rule
from mlxone.fitting.plot import Cell
from mlxone.fitting.report import Case, FitReport, best_bits, report
from mlxone.fitting.weights import WIDTHS, quantized
from mlxone.fitting.work import DEFAULT_CONTEXT, KvQuant, Work
from mlxone.formats.config import Config
from mlxone.hub import find, remote_facts
from mlxone.hub.facts import read_facts
from mlxone.service.here import learned_store

Source = str | Path | ModelFacts


@dataclass(frozen=True, slots=True)
class Named:
    """Facts, and what to call the model they are of."""

    facts: ModelFacts
    name: str = ""


def fit(
    model: Source,
    ctx: int | None = None,
    *,
    memory_budget: float | None = None,
    kv_quant: str = "off",
    batch: int = 1,
    bits: int | None = None,
    best: bool = False,
    prefill_step: int | None = None,
    vision: bool = False,
) -> FitReport:
    """Whether a model fits this machine, how far its context could go, and how fast it would be.

    `model` is a path, a repo id (on this machine or not), a query, or facts. `memory_budget` is in
    decimal GB and takes the place of what a model may use here. `bits` asks about the model as if
    it were quantized to so many; `best` finds the most that fit.
    """
    if best and bits is not None:
        raise UsageError("best looks for the bits that bits already names", hint="give one of them")
    named = facts_of(model)
    work = _work(named.facts, ctx, kv_quant, batch, prefill_step, vision)
    facts = named.facts if bits is None else quantized(named.facts, _width(bits))
    with learned_store() as store:
        machine = within(this_machine(store), memory_budget)
        case = Case(facts, machine, weight_rule(machine)(facts.wide_bytes), corrections(store, machine))
    found = report(case, work, model=named.name, notes=_notes(case, work))
    if not best:
        return found
    widest = best_bits(case, work)
    return replace(_at(case, work, named, widest), best_bits=widest)


def sku_matrix(
    model: Source, ctx: int | None = None, *, kv_quant: str = "off", batch: int = 1, bits: int | None = None
) -> list[Cell]:
    """The same question for every Mac from M1 on, with each size of memory it is sold with."""
    facts = facts_of(model).facts
    if bits is not None:
        facts = quantized(facts, _width(bits))
    return skus.sku_matrix(facts, _work(facts, ctx, kv_quant, batch, None, False))


def facts_of(model: Source) -> Named:
    """From disk where it is there, else from the Hub."""
    if isinstance(model, ModelFacts):
        return Named(model, model.model_type)
    try:
        found = find.find(str(model))
    except ModelNotFound:
        name, _, revision = str(model).partition("@")
        repo = find.repo_for(name)
        if repo is None:
            raise
        return Named(remote_facts.remote_facts(repo, revision or None), repo)
    return Named(read_facts(found.path, Config.read(found.path)), found.name)


def _work(
    facts: ModelFacts, ctx: int | None, kv_quant: str, batch: int, prefill_step: int | None, vision: bool
) -> Work:
    if kv_quant not in get_args(KvQuant):
        raise UsageError(f"kv_quant is {', '.join(get_args(KvQuant))}, not {kv_quant!r}")
    for name, value in (("ctx", ctx), ("batch", batch), ("prefill_step", prefill_step)):
        if value is not None and (type(value) is not int or value < 1):
            raise UsageError(f"{name} must be a whole number from 1 up, not {value!r}")
    usual = min(DEFAULT_CONTEXT, facts.context_length or DEFAULT_CONTEXT)
    work = Work(ctx or usual, batch, kv_quant=kv_quant, vision=vision)  # type: ignore[arg-type]
    return work if prefill_step is None else replace(work, prefill_step=prefill_step)


def _width(bits: int) -> int:
    if type(bits) is not int or bits not in WIDTHS:
        raise UsageError(f"bits are one of {', '.join(map(str, sorted(WIDTHS)))}, not {bits!r}")
    return bits


def within(machine: Machine, memory_budget: float | None) -> Machine:
    if memory_budget is None:
        return machine
    if not (isinstance(memory_budget, int | float) and 0 < memory_budget < float("inf")):
        raise UsageError(f"memory_budget must be a number of GB above 0, not {memory_budget!r}")
    budget = int(memory_budget * 1e9)
    return replace(machine, usable_bytes=budget, free_now_bytes=min(machine.free_now_bytes, budget))


def _at(case: Case, work: Work, named: Named, bits: int | None) -> FitReport:
    """The report with the widest bits that fit; with the narrowest there are where none do."""
    facts = quantized(named.facts, bits or WIDTHS[-1])
    return report(replace(case, facts=facts), work, model=named.name, notes=_notes(case, work))


def _notes(case: Case, work: Work) -> tuple[str, ...]:
    notes = []
    if case.form == "wide":
        notes.append("on this CPU weights are widened to float32: MLXONE_CPU=packed keeps them packed")
    elif case.form == "packed":
        notes.append("on this CPU weights stay packed: as float32 they would take over half of what is free")
    if work.kv_quant == "config" and not any(layer.kv_bits for layer in case.facts.layers):
        notes.append("it ships no kv_config.json, so keys and values stay as they are")
    if case.facts.sidecar_bytes and not work.vision:
        notes.append(
            f"its vision or audio part, {case.facts.sidecar_bytes / 1e9:.2f} GB, is not counted "
            "unless asked for"
        )
    return tuple(notes)
