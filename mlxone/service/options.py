"""What an operator decides for all requests of a server; a request's own values win where it has any."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from mlxone.core.errors import UsageError
from mlxone.core.settings import PREFILL_STEP, SERVE_SETTINGS, Setting
from mlxone.core.words import Sampling
from mlxone.service.adapters import absolute
from mlxone.service.checks import check_number, check_setting, checked_template_values
from mlxone.service.mounts import check_id

PROMPT_CACHE_BYTES = 2_000_000_000
QUEUE = 256
TIMEOUT = 300.0

_TABLE = {setting.name: setting for setting in SERVE_SETTINGS}
# As the flags of the same name, but for what a program may want and a person would only mistype.
_CHECKED: Mapping[str, Setting] = {
    **{name: _TABLE[name] for name in ("memory_budget", "ctx_size", "prefill_step", "prompt_cache_bytes")},
    **{name: _TABLE[name] for name in ("max_tokens", "timeout", "idle_unload")},
    "prompt_cache_entries": replace(_TABLE["prompt_cache_size"], name="prompt_cache_entries"),
    "queue": replace(_TABLE["queue"], low=0),
}
_NEEDED = ("prefill_step", "prompt_cache_bytes", "queue", "allow_manage")


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
    chat_template: str | Path | None = None
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    timeout: float | None = TIMEOUT  # seconds without a new token, or progress in the prompt; 0: for ever
    queue: int = QUEUE  # answers that may wait for their turn
    idle_unload: float | None = None  # seconds; 0: never
    allow_manage: bool = False
    # By id: folders of adapters for the model that requests get which name none. One alone is their default.
    adapters: Mapping[str, str | Path] = field(default_factory=dict)
    adapter_dir: str | Path | None = None  # adapters under it may be mounted by requests

    def check(self) -> None:
        """Names the first that cannot be honoured, whatever the model."""
        for name in _NEEDED:
            if getattr(self, name) is None:
                raise UsageError(f"{name} must not be None", hint="leave it out for its default")
        for name, setting in _CHECKED.items():
            check_setting(setting, getattr(self, name))
        for name in ("thinking", "allow_manage"):
            if not isinstance(getattr(self, name), bool | None):
                raise UsageError(f"{name} must be True or False, not {str(getattr(self, name))[:60]!r}")
        for name in ("chat_template", "adapter_dir"):
            if not isinstance(getattr(self, name), str | Path | None):
                raise UsageError(f"{name} must be a path, not {str(getattr(self, name))[:60]!r}")
        self._check_adapters()
        checked_template_values(self.template_kwargs)
        self._check_sampling()

    def _check_adapters(self) -> None:
        if self.adapter_dir is not None and not os.path.isdir(absolute(self.adapter_dir)):
            raise UsageError(f"adapter_dir {self.adapter_dir} is no folder")
        if not isinstance(self.adapters, Mapping):
            raise UsageError(f"adapters must be a mapping, not {str(self.adapters)[:60]!r}")
        for id, path in self.adapters.items():
            check_id(id)
            if not isinstance(path, str | Path):
                raise UsageError(f"adapters must name folders, not {str(path)[:60]!r}")

    def _check_sampling(self) -> None:
        if not isinstance(self.sampling, Mapping):
            raise UsageError(f"sampling must be a mapping, not {str(self.sampling)[:60]!r}")
        known = {f.name for f in fields(Sampling)} - {"logit_bias", "xtc_special_tokens"}
        for name, value in self.sampling.items():
            if name not in known:
                raise UsageError(f"{str(name)[:60]} is not a sampling option of a server")
            check_number(name, value)
