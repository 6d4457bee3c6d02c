"""`/stats` in mlx-bun's schema; every figure of a context is in it and in `/metrics`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

from mlxone.server.protocols import prometheus, stats
from mlxone.service.figures import (
    AdapterFigures,
    AdmissionFigures,
    CacheFigures,
    Figures,
    MemoryFigures,
    StateFigures,
    Totals,
)

# mlx-bun's page, "Observability".
SCHEMA: dict[str, set[str]] = {
    "server": {"owner", "model", "started_at"},
    "prompt_cache": {"entries", "bytes", "max_bytes", "hits", "misses"},
    "response_store": {"entries", "bytes", "max_bytes", "ttl_ms"},
    "kv_quant": {"mode", "layers", "attention"},
    "admission": {"max_safe_context", "memory_budget_bytes", "usable_bytes", "weights_bytes"},
    "batch": {"configured", "batched", "active_rows"},
}
NUMBERED = Figures(
    "serve",
    "org/m",
    1_001.0,
    ("org/m", "b"),
    1_002,
    1_003,
    CacheFigures(*range(1_004, 1_010)),
    AdmissionFigures(*range(1_010, 1_014)),
    MemoryFigures(*range(1_014, 1_017)),
    Totals(*range(1_017, 1_026)),
    1_026.0,
    adapters=AdapterFigures(1_027, 1_028),
)


def numbers(value: Any) -> Iterator[float]:
    if is_dataclass(value):
        for field in fields(value):
            yield from numbers(getattr(value, field.name))
    elif isinstance(value, dict):
        for inner in value.values():
            yield from numbers(inner)
    elif isinstance(value, int | float) and not isinstance(value, bool) and value > 1_000:
        yield value


def test_the_schema_is_all_there():
    said = json.loads(stats.body(NUMBERED))
    for part, names in SCHEMA.items():
        assert names <= said[part].keys(), part
    assert json.loads(stats.body(Figures("embedded", None, 0.0)))["admission"]["memory_budget_bytes"] is None


def test_states_are_told_as_what_they_are():
    said = json.loads(stats.body(replace(NUMBERED, states=StateFigures(10, 38, "bf16"))))["kv_quant"]
    assert said == {"mode": "bf16", "layers": {"bf16": 48}, "attention": {"global": 10, "sliding_window": 38}}
    said = json.loads(stats.body(replace(NUMBERED, states=StateFigures(4))))["kv_quant"]
    assert said == {"mode": "off", "layers": {}, "attention": {"global": 4}}  # before its first answer
    said = json.loads(stats.body(NUMBERED))["kv_quant"]
    assert said == {"mode": "off", "layers": {}, "attention": {}}


def test_every_figure_is_told_once():
    assert sorted(numbers(json.loads(stats.body(NUMBERED)))) == sorted(numbers(NUMBERED))


def test_every_figure_is_in_the_metrics():
    lines = prometheus.text(NUMBERED, "1").decode().splitlines()
    told = {float(line.rsplit(" ", 1)[1]) for line in lines if not line.startswith("#")}
    assert set(numbers(NUMBERED)) <= told
    assert b"memory_budget" not in prometheus.text(Figures("embedded", None, 0.0), "1")


def test_values_stand_under_their_names():
    said = json.loads(stats.body(NUMBERED))
    assert said["server"] == {
        "owner": "serve",
        "model": "org/m",
        "started_at": 1_001,
        "loaded": ["org/m", "b"],
    }
    assert said["batch"] == {"configured": 1, "batched": False, "active_rows": 1_002, "waiting": 1_003}
    for part in ("prompt_cache", "admission", "memory", "totals"):
        figures = getattr(NUMBERED, part)
        assert said[part] == {field.name: getattr(figures, field.name) for field in fields(figures)}
