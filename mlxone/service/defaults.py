"""Who decides a sampling value: the request, then a flag, then the model, then the built-in one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from mlxone.core.errors import UsageError
from mlxone.core.settings import FALLBACK_TEMPERATURE
from mlxone.core.words import Sampling
from mlxone.service.checks import check_ids, check_number, checked_bias, listed
from mlxone.service.model import Model

# What a model's generation_config.json may decide.
MODEL_DECIDES = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


def sampling_for(model: Model, flags: Mapping[str, Any]) -> Sampling:
    """The sampling of `run` and `serve`; a flag that is None was not given."""
    values: dict[str, Any] = {"temperature": FALLBACK_TEMPERATURE}
    values |= _models_own(model)
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
    try:
        check_number(name, value)
    except UsageError:
        return False
    return value is not None


def make_sampling(values: Mapping[str, Any], vocab_size: int) -> Sampling:
    """A checked `Sampling` from options; each complaint names the option and its range."""
    known = {f.name for f in fields(Sampling)}
    for name in values:
        if name not in known:
            raise UsageError(f"{name} is not a sampling option")
    given = {name: value for name, value in values.items() if value is not None}
    for name, value in given.items():
        if name == "logit_bias":
            given[name] = checked_bias(value, vocab_size)
        elif name == "xtc_special_tokens":
            given[name] = listed(name, value)
            check_ids(given[name], vocab_size)
        else:
            check_number(name, value)
    return Sampling(**given)
