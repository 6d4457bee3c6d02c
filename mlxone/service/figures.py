"""What a context has done and holds, as values: `/stats`, `/metrics` and the status bar read these."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, fields, replace

from mlxone.core.words import Event, Failed, Finished, Stats

LATE = 8  # answers that "of late" means


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
class StateFigures:
    """How the model used last remembers what it reads."""

    full: int = 0  # layers that keep every token
    sliding: int = 0  # layers that keep a window's
    element: str = ""  # bf16, f16 or f32: of keys and values; empty before its first answer


@dataclass(frozen=True, slots=True)
class AdapterFigures:
    """Of all models, those that are put away too."""

    mounted: int = 0
    bytes: int = 0


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
    states: StateFigures = StateFigures()
    adapters: AdapterFigures = AdapterFigures()


class Tally:
    """Counts as things happen, from whatever thread; every accepted answer is counted once at its end."""

    def __init__(self) -> None:
        self._totals = Totals()
        self._late: deque[Stats] = deque(maxlen=LATE)
        self._lock = threading.Lock()

    @property
    def totals(self) -> Totals:
        return self._totals

    def ended(self, event: Event | None) -> None:
        """An accepted answer's terminal event; None: nobody waited for it."""
        if isinstance(event, Finished):
            self._add(Totals(answers=1))
        elif isinstance(event, Failed):
            self._add(Totals(failed=1))
        else:
            self._add(Totals(cancelled=1))

    def refused(self) -> None:
        self._add(Totals(refused=1))

    def worked(self, stats: Stats) -> None:
        """What an answer cost, however it ended."""
        self._add(
            Totals(
                prompt_tokens=stats.prompt_tokens,
                cached_tokens=stats.cached_tokens,
                generated_tokens=stats.generated_tokens,
                prefill_seconds=stats.prefill_ms / 1e3,
                decode_seconds=stats.decode_ms / 1e3,
            )
        )
        with self._lock:
            self._late.append(replace(stats, cache_tokens=()))  # thousands of numbers each

    @property
    def decode_tps(self) -> float:
        late = list(self._late)
        seconds = sum(stats.decode_ms for stats in late) / 1e3
        # The first token is the prompt's: decoding is what comes after it.
        return sum(max(0, stats.generated_tokens - 1) for stats in late) / seconds if seconds else 0.0

    @property
    def seconds_per_answer(self) -> float:
        late = list(self._late)
        return sum(s.prefill_ms + s.decode_ms for s in late) / 1e3 / len(late) if late else 1.0

    def _add(self, more: Totals) -> None:
        with self._lock:
            sums = {f.name: getattr(self._totals, f.name) + getattr(more, f.name) for f in fields(Totals)}
            self._totals = replace(self._totals, **sums)
