"""`GET /metrics`: Prometheus' text format, version 0.0.4: `text(figures, version, more)`, with `MEDIA_TYPE`.

`more` are metrics of the caller's own: a `Metric` has a name, a kind, a help text and its samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from mlxone.server.protocols.figures import Figures

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Samples = Iterable[tuple[Mapping[str, str], float]]


@dataclass(frozen=True, slots=True)
class Metric:
    name: str  # after "mlxone_"; a counter's ends in _total
    kind: Literal["counter", "gauge"]
    help: str
    samples: Samples

    def lines(self) -> Iterable[str]:
        name = f"mlxone_{self.name}"
        yield f"# HELP {name} {self.help}"
        yield f"# TYPE {name} {self.kind}"
        for labels, value in self.samples:
            yield f"{name}{_labels(labels)} {_number(value)}"


def text(figures: Figures, version: str, more: Iterable[Metric] = ()) -> bytes:
    metrics = [*_server(figures, version), *_work(figures), *_cache(figures), *_memory(figures), *more]
    return ("\n".join(line for metric in metrics for line in metric.lines()) + "\n").encode(errors="replace")


def _gauge(name: str, help: str, value: float) -> Metric:
    return Metric(name, "gauge", help, [({}, value)])


def _counter(name: str, help: str, value: float) -> Metric:
    return Metric(name, "counter", help, [({}, value)])


def _server(figures: Figures, version: str) -> Iterable[Metric]:
    loaded = [({"model": model}, 1.0) for model in figures.loaded]
    yield Metric("info", "gauge", "The version that runs; always 1.", [({"version": version}, 1)])
    yield _gauge("start_time_seconds", "When it started, in seconds since 1970.", figures.started_at)
    yield Metric("model_loaded", "gauge", "Models in memory, each 1.", loaded)


def _work(figures: Figures) -> Iterable[Metric]:
    totals = figures.totals
    ends = {
        "finished": totals.answers,
        "failed": totals.failed,
        "cancelled": totals.cancelled,
        "refused": totals.refused,
    }
    yield Metric("answers_total", "counter", "Answers by how they ended.", _by("end", ends))
    yield _gauge("answers_running", "Answers at work.", figures.running)
    yield _gauge("answers_waiting", "Answers that wait for their turn.", figures.waiting)
    yield _counter("prompt_tokens_total", "Tokens of all prompts, cached ones too.", totals.prompt_tokens)
    yield _counter("cached_tokens_total", "Prompt tokens that were not read again.", totals.cached_tokens)
    yield _counter("generated_tokens_total", "Tokens of all answers.", totals.generated_tokens)
    yield _counter("prefill_seconds_total", "Time spent on reading prompts.", totals.prefill_seconds)
    yield _counter("decode_seconds_total", "Time spent on writing answers.", totals.decode_seconds)
    yield _gauge("decode_tokens_per_second", "Speed of writing, of late.", figures.decode_tps)


def _cache(figures: Figures) -> Iterable[Metric]:
    cache = figures.prompt_cache
    looked = {"hit": cache.hits, "miss": cache.misses}
    yield _gauge("prompt_cache_entries", "Prompts kept for reuse.", cache.entries)
    yield _gauge("prompt_cache_bytes", "Memory they take.", cache.bytes)
    yield _gauge("prompt_cache_max_bytes", "Memory they may take; 0 is off.", cache.max_bytes)
    yield Metric("prompt_cache_lookups_total", "counter", "Prompts looked up.", _by("result", looked))
    yield _counter("prompt_cache_hit_tokens_total", "Tokens found there.", cache.hit_tokens)


def _memory(figures: Figures) -> Iterable[Metric]:
    memory, admission = figures.memory, figures.admission
    yield _gauge("memory_active_bytes", "Memory the models' arrays take.", memory.active_bytes)
    yield _gauge("memory_cached_bytes", "Freed memory kept for the next arrays.", memory.cached_bytes)
    yield _gauge("memory_peak_bytes", "The most that arrays took.", memory.peak_bytes)
    if admission.memory_budget_bytes is not None:
        yield _gauge("memory_budget_bytes", "What the operator allows.", admission.memory_budget_bytes)
    yield _gauge("memory_usable_bytes", "What models may take.", admission.usable_bytes)
    yield _gauge("weights_bytes", "Weights of the model used last.", admission.weights_bytes)
    yield _gauge("adapters_mounted", "Adapters that requests may choose.", figures.adapters.mounted)
    yield _gauge("adapters_bytes", "What their files hold.", figures.adapters.bytes)
    yield _gauge("max_safe_context_tokens", "Longest context that fits it.", admission.max_safe_context)


def _by(label: str, values: Mapping[str, float]) -> Samples:
    return [({label: name}, value) for name, value in values.items()]


def _labels(labels: Mapping[str, str]) -> str:
    pairs = (f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return "{" + ",".join(pairs) + "}" if labels else ""


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    """Python's own digits are read back as the same number; only the names of what is none differ."""
    return {"inf": "+Inf", "-inf": "-Inf", "nan": "NaN"}.get(repr(float(value)), f"{value!r}")
