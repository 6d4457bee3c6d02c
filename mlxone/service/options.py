"""What an operator decides for all requests of a server; a request's own values win where it has any."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlxone.core.settings import PREFILL_STEP

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
