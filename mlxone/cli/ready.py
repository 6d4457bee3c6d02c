"""The line that says a server is ready: what it serves, where, and with how much room."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from mlxone import __version__
from mlxone.cli.sizes import share_in_words
from mlxone.core.amounts import first_of
from mlxone.service.context import Context
from mlxone.service.options import Options


@dataclass(frozen=True, slots=True)
class Ready:
    url: str
    models: tuple[str, ...]  # that a request may name
    loaded: tuple[str, ...] = ()
    named: bool = True  # by the operator; else whatever is here is loaded when it is asked for
    default: str | None = None  # of those that are here, for a request that names none
    context: int | None = None  # tokens; only of a single model, as each has its own
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
        if self.named:
            return first_of(self.models, 3) or "nothing"
        models = "1 model" if len(self.models) == 1 else f"{len(self.models):,} models"
        default = f"{self.default} by default" if self.default else "no default"
        return f"{models}, loaded when asked for, {default},"

    def _context(self) -> str:
        return f"context {self.context:,}" if self.context else ""

    def _memory(self) -> str:
        if not (self.loaded and self.usable_bytes):
            return ""
        return share_in_words(self.memory_bytes, self.usable_bytes)


def ready(
    url: str, context: Context, options: Options, default: str | None = None, *, named: bool = True
) -> Ready:
    """`default` is what answers where nobody named a model, and so there are none that are `named`."""
    cards = context.models()
    figures = context.figures()
    loaded = [card for card in cards if card.loaded]
    single = loaded[0] if len(cards) == 1 and loaded else None
    lengths = [single.context_length, options.ctx_size, figures.admission.max_safe_context] if single else []
    return Ready(
        url=url,
        models=tuple(card.id for card in cards if not card.problem),
        loaded=tuple(card.id for card in loaded),
        named=named,
        default=default,
        context=min((length for length in lengths if length), default=None),
        # Weights may be on the disk until the first request needs them; their place is taken all the same.
        memory_bytes=max(figures.memory.active_bytes, figures.admission.weights_bytes),
        usable_bytes=figures.admission.usable_bytes,
    )
