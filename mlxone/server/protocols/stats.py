"""`GET /stats`, in mlx-bun's schema with more of ours beside it: `body(figures)`."""

from __future__ import annotations

from typing import Any

import msgspec

from mlxone.server.protocols.figures import Admission, Cache, Figures, Memory, States, Totals

_encode = msgspec.json.Encoder().encode


def body(figures: Figures) -> bytes:
    """What is not built says so: no stored responses, one row at a time."""
    server = {"owner": figures.owner, "model": figures.model, "started_at": int(figures.started_at)}
    batch = {"configured": 1, "batched": False, "active_rows": figures.running}
    return _encode(
        {
            "server": {**server, "loaded": figures.loaded},
            "prompt_cache": _cache(figures.prompt_cache),
            "response_store": {"entries": 0, "bytes": 0, "max_bytes": 0, "ttl_ms": 0},
            "kv_quant": _states(figures.states),
            "adapters": {"mounted": figures.adapters.mounted, "bytes": figures.adapters.bytes},
            "admission": _admission(figures.admission),
            "batch": {**batch, "waiting": figures.waiting},
            "totals": _totals(figures.totals),
            "memory": _memory(figures.memory),
            "decode_tps": figures.decode_tps,
        }
    )


def _cache(of: Cache) -> dict[str, Any]:
    return {
        "entries": of.entries,
        "bytes": of.bytes,
        "max_bytes": of.max_bytes,
        "hits": of.hits,
        "misses": of.misses,
        "hit_tokens": of.hit_tokens,
    }


def _admission(of: Admission) -> dict[str, Any]:
    return {
        "max_safe_context": of.max_safe_context,
        "memory_budget_bytes": of.memory_budget_bytes,
        "usable_bytes": of.usable_bytes,
        "weights_bytes": of.weights_bytes,
    }


def _states(of: States) -> dict[str, Any]:
    """By element, as nothing is quantized; off before it is known."""
    layers = {of.element: of.full + of.sliding} if of.element else {}
    attention = {
        name: count for name, count in (("global", of.full), ("sliding_window", of.sliding)) if count
    }
    return {"mode": of.element or "off", "layers": layers, "attention": attention}


def _totals(of: Totals) -> dict[str, Any]:
    return {
        "answers": of.answers,
        "failed": of.failed,
        "cancelled": of.cancelled,
        "refused": of.refused,
        "prompt_tokens": of.prompt_tokens,
        "cached_tokens": of.cached_tokens,
        "generated_tokens": of.generated_tokens,
        "prefill_seconds": of.prefill_seconds,
        "decode_seconds": of.decode_seconds,
    }


def _memory(of: Memory) -> dict[str, Any]:
    return {
        "active_bytes": of.active_bytes,
        "cached_bytes": of.cached_bytes,
        "peak_bytes": of.peak_bytes,
    }
