"""The memory contract: whether a model fits a machine at a context, how far it could go, how fast.

Pure arithmetic on facts and a machine. Nothing is loaded, and no file is read.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from mlxone.backend.cpu import WeightForm
from mlxone.core.facts import ModelFacts
from mlxone.fitting.machine import Machine
from mlxone.fitting.speed import decode_tps, prefill_tps
from mlxone.fitting.states import kv_bytes
from mlxone.fitting.transient import transient_bytes
from mlxone.fitting.weights import WIDTHS, element_bytes, quantized, weights_bytes
from mlxone.fitting.work import Work

# Searched for where a config names no limit of its own.
LONGEST = 2**22


@dataclass(frozen=True, slots=True)
class Corrections:
    """What was measured on a machine over what was predicted there; 1 where nothing was measured."""

    transient: float = 1.0
    decode: float = 1.0
    prefill: float = 1.0


@dataclass(frozen=True, slots=True)
class Needs:
    """Bytes at one context."""

    weights_bytes: int
    kv_bytes: int
    transient_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.kv_bytes + self.transient_bytes


@dataclass(frozen=True, slots=True)
class FitReport:
    model: str
    machine: str
    fits: bool  # on this machine, were it free
    fits_now: bool  # beside what is running
    reason: str  # why it does not fit; empty where it does
    context_tokens: int
    rows: int
    kv_quant: str
    weights_bytes: int
    kv_bytes: int
    transient_bytes: int
    total_bytes: int
    usable_bytes: int
    free_bytes: int
    max_safe_context: int  # for each row; 0: not even the shortest
    max_context_now: int
    context_length: int | None  # what the model was made for
    predicted_decode_tps: float | None
    predicted_prefill_tps: float | None
    predicted_first_token_seconds: float | None
    parameters: int
    bits: float | None
    weight_form: WeightForm
    sidecar_bytes: int
    best_bits: int | None = None  # the most that fit, where that was asked
    notes: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "notes": list(self.notes)}


@dataclass(frozen=True, slots=True)
class Case:
    """One model on one machine, held in one form."""

    facts: ModelFacts
    machine: Machine
    form: WeightForm = "stored"
    corrections: Corrections = Corrections()

    def needs(self, work: Work) -> Needs:
        element = element_bytes(self.facts, self.form)
        transient = transient_bytes(self.facts, work, self.machine.kind, element)
        return Needs(
            weights_bytes(self.facts, self.form, vision=work.vision),
            kv_bytes(self.facts, work, element),
            round(transient * self.corrections.transient),
        )

    def max_context(self, work: Work, budget: int) -> int:
        """The longest context of each row that stays within the budget; 0 when none does."""
        low, high = 0, self.facts.context_length or LONGEST
        if self._total(work, high) <= budget:
            return high
        while low < high - 1:
            middle = (low + high) // 2
            if self._total(work, middle) <= budget:
                low = middle
            else:
                high = middle
        return low

    def _total(self, work: Work, context: int) -> int:
        return self.needs(replace(work, context=context)).total_bytes

    def speeds(self, work: Work) -> tuple[float | None, float | None]:
        """Predicted tokens a second: decoding, and reading the prompt."""
        decode = decode_tps(self.facts, self.machine, work, self.form)
        prefill = prefill_tps(self.facts, self.machine, work, self.form)
        return (
            None if decode is None else decode * self.corrections.decode,
            None if prefill is None else prefill * self.corrections.prefill,
        )


def report(case: Case, work: Work, *, model: str = "", notes: tuple[str, ...] = ()) -> FitReport:
    facts, machine = case.facts, case.machine
    needs = case.needs(work)
    longest = facts.context_length
    too_long = longest is not None and work.context > longest
    fits = needs.total_bytes <= machine.usable_bytes and not too_long
    decode, prefill = case.speeds(work)
    return FitReport(
        model=model,
        machine=machine.name,
        fits=fits,
        fits_now=fits and needs.total_bytes <= machine.free_now_bytes,
        reason=_reason(needs, machine, work, longest if too_long else None),
        context_tokens=work.context,
        rows=work.rows,
        kv_quant=work.kv_quant,
        weights_bytes=needs.weights_bytes,
        kv_bytes=needs.kv_bytes,
        transient_bytes=needs.transient_bytes,
        total_bytes=needs.total_bytes,
        usable_bytes=machine.usable_bytes,
        free_bytes=machine.free_now_bytes,
        max_safe_context=case.max_context(work, machine.usable_bytes),
        max_context_now=case.max_context(work, machine.free_now_bytes),
        context_length=longest,
        predicted_decode_tps=_rounded(decode),
        predicted_prefill_tps=_rounded(prefill),
        predicted_first_token_seconds=_first_token(work, decode, prefill),
        parameters=facts.parameters,
        bits=facts.bits,
        weight_form=case.form,
        sidecar_bytes=facts.sidecar_bytes,
        notes=notes,
    )


def best_bits(case: Case, work: Work) -> int | None:
    """The most bits a quantization may have and still fit; None when not even the fewest do."""
    for bits in WIDTHS:
        smaller = replace(case, facts=quantized(case.facts, bits))
        if smaller.needs(work).total_bytes <= case.machine.usable_bytes:
            return bits
    return None


def _reason(needs: Needs, machine: Machine, work: Work, longest: int | None) -> str:
    if longest is not None:
        return f"{work.context:,} tokens are more than the {longest:,} the model was made for"
    if needs.total_bytes > machine.usable_bytes:
        over = (needs.total_bytes - machine.usable_bytes) / 1e9
        return f"{over:.1f} GB more than a model may use here"
    return ""


def _first_token(work: Work, decode: float | None, prefill: float | None) -> float | None:
    """Of a prompt as long as the context."""
    if decode is None or prefill is None:
        return None
    return _rounded(work.context / prefill + 1 / decode)


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.3g}")
