"""Who decides a sampling value: the request, then a flag, then the model, then the built-in one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from mlxone.core.errors import UsageError
from mlxone.core.settings import BY_NAME, FALLBACK_TEMPERATURE, check
from mlxone.core.words import Sampling
from mlxone.service.model import Model

# What a model's generation_config.json may decide.
MODEL_DECIDES = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


def sampling_for(model: Model, flags: Mapping[str, Any]) -> Sampling:
    """The sampling of `run` and `serve`; a flag that is None was not given."""
    values: dict[str, Any] = {"temperature": FALLBACK_TEMPERATURE}
    values |= {k: v for k, v in _models_own(model).items() if v is not None}
    values |= {k: v for k, v in flags.items() if v is not None}
    return make_sampling(values, model.vocab_size)


def _models_own(model: Model) -> dict[str, Any]:
    stated = model.generation_config
    if stated.get("do_sample") is False:
        return {"temperature": 0.0}
    values = {name: stated.get(name) for name in MODEL_DECIDES}
    # Files in the wild hold oddities ("temperature": 0 beside sampling, null, text): keep what is in range.
    return {name: value for name, value in values.items() if _in_range(name, value)}


def _in_range(name: str, value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        check(name, value)
    except UsageError:
        return False
    return True


def make_sampling(values: Mapping[str, Any], vocab_size: int) -> Sampling:
    """A checked `Sampling` from options; each complaint names the option and its range."""
    known = {f.name for f in fields(Sampling)}
    for name, value in values.items():
        if name not in known:
            raise UsageError(f"{name} is not a sampling option")
        if name in BY_NAME:
            _check_number(name, value)
    for token in values.get("logit_bias", {}):
        if not 0 <= int(token) < vocab_size:
            raise UsageError(f"logit_bias names token {token}, outside the vocabulary of {vocab_size}")
    return Sampling(**values)


def _check_number(name: str, value: Any) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UsageError(f"{name} must be a number, not {value!r}")
    check(name, value)
