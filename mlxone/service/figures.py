"""What a context has done and holds, as values: `/stats`, `/metrics` and the status bar read these."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModelCard:
    """A model that a request may name."""

    id: str
    created: int  # seconds since 1970: when its files came here
    context_length: int | None = None
    size_bytes: int = 0
    loaded: bool = False
    problem: str | None = None  # why it cannot answer
    capabilities: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CacheFigures:
    entries: int = 0
    bytes: int = 0
    max_bytes: int = 0
    hits: int = 0
    misses: int = 0
    hit_tokens: int = 0


@dataclass(frozen=True, slots=True)
class AdmissionFigures:
    """Of the model that is used at present."""

    max_safe_context: int = 0
    memory_budget_bytes: int | None = None  # None: what a model may use on this machine
    usable_bytes: int = 0
    weights_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Totals:
    """Since the start."""

    answers: int = 0  # ended by themselves
    failed: int = 0
    cancelled: int = 0
    refused: int = 0  # before any work
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class MemoryFigures:
    active_bytes: int = 0
    cached_bytes: int = 0
    peak_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Figures:
    owner: str  # "serve" or "embedded"
    model: str | None  # used last
    started_at: float  # seconds since 1970
    loaded: tuple[str, ...] = ()
    running: int = 0  # answers at work
    waiting: int = 0
    prompt_cache: CacheFigures = CacheFigures()
    admission: AdmissionFigures = AdmissionFigures()
    memory: MemoryFigures = MemoryFigures()
    totals: Totals = Totals()
    decode_tps: float = 0.0  # of late
