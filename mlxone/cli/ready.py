"""The line that says a server is ready: what it serves, where, and with how much room."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from mlxone import __version__
from mlxone.core.amounts import first_of
from mlxone.service.context import Context
from mlxone.service.options import Options


@dataclass(frozen=True, slots=True)
class Ready:
    url: str
    models: tuple[str, ...]  # that a request may name
    loaded: tuple[str, ...] = ()
    default: str | None = None  # of a request that names none; None where one model takes all requests
    context: int | None = None  # tokens, of the model that is loaded
    memory_bytes: int = 0
    usable_bytes: int = 0

    def __str__(self) -> str:
        room = "; ".join(part for part in (self._context(), self._memory()) if part)
        return f"mlxone serving {self._models()} on {self.url}" + (f" ({room})" if room else "")

    def as_json(self) -> dict[str, Any]:
        return {
            "event": "ready",
            "url": self.url,
            "models": list(self.models),
            "loaded": list(self.loaded),
            "default": self.default,
            "context": self.context,
            "memory_bytes": self.memory_bytes,
            "usable_bytes": self.usable_bytes,
            "version": __version__,
            "pid": os.getpid(),
        }

    def _models(self) -> str:
        if self.default is None:
            return first_of(self.models, 3) or "nothing"
        models = "1 model" if len(self.models) == 1 else f"{len(self.models):,} models"
        return f"{models}, loaded when asked for, {self.default} by default,"

    def _context(self) -> str:
        return f"context {self.context:,}" if self.context else ""

    def _memory(self) -> str:
        if not (self.loaded and self.usable_bytes):
            return ""
        return f"{self.memory_bytes / 1e9:.2f} of {self.usable_bytes / 1e9:.1f} GB"


def ready(url: str, context: Context, options: Options, default: str | None = None) -> Ready:
    """`default` is what answers where nobody named a model."""
    cards = context.models()
    figures = context.figures()
    loaded = [card for card in cards if card.loaded]
    safe = figures.admission.max_safe_context if loaded else None
    lengths = [loaded[0].context_length if loaded else None, options.ctx_size, safe]
    return Ready(
        url=url,
        models=tuple(card.id for card in cards if not card.problem),
        loaded=tuple(card.id for card in loaded),
        default=default,
        context=min((length for length in lengths if length), default=None),
        # Weights may be on the disk until the first request needs them; their place is taken all the same.
        memory_bytes=max(figures.memory.active_bytes, figures.admission.weights_bytes),
        usable_bytes=figures.admission.usable_bytes,
    )
