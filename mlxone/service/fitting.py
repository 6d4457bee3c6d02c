"""Facts of a model, this machine and what it taught, brought together: the library's `fit`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from mlxone.backend import cpu
from mlxone.core.errors import ModelNotFound, UnsupportedModel, UsageError
from mlxone.core.facts import ModelFacts
from mlxone.fitting import skus
from mlxone.fitting.learned import corrections
from mlxone.fitting.machine import Machine, this_machine, weight_rule
from mlxone.fitting.report import Case, FitReport, best_bits, report
from mlxone.fitting.skus import Sku
from mlxone.fitting.weights import WIDTHS, quantized
from mlxone.fitting.work import KvQuant, Work, usual_context
from mlxone.formats.config import Config
from mlxone.hub import find, remote_facts
from mlxone.hub.facts import read_facts
from mlxone.hub.gguf_facts import gguf_facts
from mlxone.hub.registry import Registry
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
    named = named_facts(model)
    facts = named.facts if bits is None else quantized(named.facts, _width(bits))
    work = _work(facts, Work(ctx or usual_context(facts), batch, vision=vision), kv_quant, prefill_step, ctx)
    with learned_store() as store:
        machine = within(this_machine(store), memory_budget)
        learned = corrections(store, machine, named.name)
    case = Case(facts, machine, weight_rule(machine)(facts.wide_bytes), learned)
    notes = tuple(_notes(case, work, kv_quant))
    found = report(case, work, model=named.name, notes=notes)
    if not best:
        return found
    if facts.context_length is not None and work.context > facts.context_length:
        raise UsageError(found.reason, hint="no bits change that: ask for a shorter context")
    if found.fits and not facts.packed_parameters:  # it need not be quantized at all
        return replace(found, best_bits=round(facts.bits) if facts.bits else None)
    widest = best_bits(case, work)
    smaller = replace(case, facts=quantized(facts, widest or WIDTHS[-1]))
    return replace(report(smaller, work, model=named.name, notes=notes), best_bits=widest)


def sku_matrix(
    model: Source,
    ctx: int | None = None,
    *,
    kv_quant: str = "off",
    batch: int = 1,
    bits: int | None = None,
    prefill_step: int | None = None,
    vision: bool = False,
) -> list[Sku]:
    """The same question for every Mac from M1 on, with each size of memory it is sold with."""
    named = named_facts(model)
    facts = named.facts if bits is None else quantized(named.facts, _width(bits))
    work = Work(ctx or usual_context(facts), batch, vision=vision)
    return skus.sku_matrix(facts, _work(facts, work, kv_quant, prefill_step, ctx))


def named_facts(model: Source) -> Named:
    """From disk where it is there, GGUF files too; else from the Hub."""
    if isinstance(model, ModelFacts):
        return Named(model, model.model_type)
    query = str(model)
    if query.endswith(".gguf"):
        return Named(gguf_facts(Path(query).expanduser()), Path(query).stem)
    try:
        found = find.find(query)
    except ModelNotFound as missing:
        return _on_the_hub(query, missing)
    except UnsupportedModel:  # a GGUF file that an id or words mean
        with Registry() as registry:
            entry = registry.match(query)
        if entry.facts is None:
            raise
        return Named(entry.facts, entry.name)
    return Named(read_facts(found.path, Config.read(found.path)), found.name)


def within(machine: Machine, memory_budget: float | None) -> Machine:
    """The machine as if a model might use so many GB of it."""
    if memory_budget is None:
        return machine
    if isinstance(memory_budget, bool) or not isinstance(memory_budget, int | float):
        raise UsageError(f"memory_budget must be a number of GB, not {memory_budget!r}")
    if not 1e-3 <= memory_budget < 1e6:
        raise UsageError(f"memory_budget must be between 0.001 and 1,000,000 GB, not {memory_budget!r}")
    budget = int(memory_budget * 1e9)
    return replace(machine, usable_bytes=budget, free_now_bytes=min(machine.free_now_bytes, budget))


def _on_the_hub(query: str, missing: ModelNotFound) -> Named:
    name, _, revision = query.partition("@")
    repo = find.repo_for(name)
    if repo is None:
        raise missing
    try:
        return Named(remote_facts.remote_facts(repo, revision or None), repo)
    except UnsupportedModel as error:
        hint = f"get the file you want with `mlxone get {repo} --include …` and ask about that"
        raise UnsupportedModel(error.message, hint=hint) from error


def _work(facts: ModelFacts, work: Work, kv_quant: str, prefill_step: int | None, ctx: int | None) -> Work:
    if kv_quant not in get_args(KvQuant):
        raise UsageError(f"kv_quant is {', '.join(get_args(KvQuant))}, not {kv_quant!r}")
    for name, value in (("ctx", ctx), ("batch", work.rows), ("prefill_step", prefill_step)):
        if value is not None and (type(value) is not int or value < 1):
            raise UsageError(f"{name} must be a whole number from 1 up, not {value!r}")
    if kv_quant == "config" and not any(layer.kv_bits for layer in facts.layers):
        kv_quant = "off"  # `_notes` says so
    work = replace(work, kv_quant=kv_quant)  # type: ignore[arg-type]
    return work if prefill_step is None else replace(work, prefill_step=prefill_step)


def _width(bits: int) -> int:
    if type(bits) is not int or bits not in WIDTHS:
        raise UsageError(f"bits are one of {', '.join(map(str, sorted(WIDTHS)))}, not {bits!r}")
    return bits


def _notes(case: Case, work: Work, kv_quant: str) -> Iterator[str]:
    facts = case.facts
    if case.machine.note:
        yield case.machine.note
    if case.form == "wide":
        yield "on this CPU weights are widened to float32: MLXONE_CPU=packed keeps them packed"
    elif case.form == "packed" and not facts.packed_parameters:
        yield "on this CPU weights are kept in float32"
    elif case.form == "packed":
        why = "" if cpu.mode() == "packed" else ": as float32 they would take over half of what is free"
        yield f"on this CPU weights stay packed{why}"
    if kv_quant != work.kv_quant:
        yield "it ships no kv_config.json, so keys and values stay as they are"
    if facts.sidecar_bytes and not work.vision:
        yield (
            f"its vision or audio part, {facts.sidecar_bytes / 1e9:.2f} GB, is not counted unless asked for"
        )
