"""What an operator decides for all requests of a server; a request's own values win where it has any."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from mlxone.core.errors import UsageError
from mlxone.core.settings import PREFILL_STEP
from mlxone.core.words import Sampling
from mlxone.service.checks import check_number

PROMPT_CACHE_BYTES = 2_000_000_000
QUEUE = 256
TIMEOUT = 300.0


@dataclass(frozen=True, slots=True)
class Options:
    memory_budget: float | None = None  # decimal GB
    ctx_size: int | None = None
    prefill_step: int = PREFILL_STEP
    prompt_cache_bytes: int = PROMPT_CACHE_BYTES  # 0 turns the prompt cache off
    prompt_cache_entries: int | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)  # flags that were given
    max_tokens: int | None = None
    thinking: bool | None = None
    chat_template: Path | None = None
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    timeout: float | None = TIMEOUT  # seconds without a new token, or without progress in the prompt
    queue: int = QUEUE  # answers that may wait for their turn
    idle_unload: float | None = None  # seconds
    allow_manage: bool = False

    def check(self) -> None:
        """Names the first that cannot be honoured, whatever the model."""
        known = {f.name for f in fields(Sampling)} - {"logit_bias", "xtc_special_tokens"}
        for name, value in self.sampling.items():
            if name not in known:
                raise UsageError(f"{name} is not a sampling option of a server")
            check_number(name, value)
        for name in ("ctx_size", "prefill_step", "max_tokens"):
            check_number(name, getattr(self, name))
        for name, least in (("timeout", 0), ("idle_unload", 0), ("queue", 0), ("prompt_cache_bytes", 0)):
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise UsageError(f"{name} must be at least {least}, not {value}")
