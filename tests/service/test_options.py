"""An operator's values: each is checked before anything runs, and the complaint names it."""

from __future__ import annotations

from math import inf, nan
from pathlib import Path
from typing import Any

import pytest

from mlxone.core.errors import UsageError
from mlxone.service.options import Options

NUMBERS = [
    "memory_budget", "ctx_size", "prefill_step", "prompt_cache_bytes", "prompt_cache_entries", "max_tokens",
    "timeout", "queue", "idle_unload",
]  # fmt: skip


@pytest.mark.parametrize("value", ["5", True, [1], {}, nan, inf, -1, -0.5, object()])
@pytest.mark.parametrize("name", NUMBERS)
def test_what_is_no_such_number_is_named(name: str, value: Any):
    with pytest.raises(UsageError, match=rf"^{name} must be"):
        Options(**{name: value}).check()


WRONG: list[dict[str, Any]] = [
    {"prefill_step": None}, {"prompt_cache_bytes": None}, {"queue": None}, {"allow_manage": None},
    {"allow_manage": "yes"}, {"thinking": 1}, {"chat_template": 7}, {"template_kwargs": 7},
    {"template_kwargs": {1: 2}}, {"sampling": [1]}, {"sampling": {"tempo": 1}}, {"sampling": {1: 1}},
    {"sampling": {"top_k": "x"}}, {"ctx_size": 1.0}, {"memory_budget": 0}, {"prompt_cache_entries": 0},
]  # fmt: skip


@pytest.mark.parametrize("given", WRONG, ids=str)
def test_what_cannot_be_honoured_is_named(given: dict[str, Any]):
    (name, value), *_ = given.items()
    with pytest.raises(UsageError) as refused:
        Options(**given).check()
    inner = next(iter(value)) if isinstance(value, dict) else name
    assert name in refused.value.message or str(inner) in refused.value.message


def test_what_can_be_passes():
    Options().check()
    Options(
        memory_budget=4, ctx_size=1, prompt_cache_bytes=0, prompt_cache_entries=1, sampling={"top_k": 0},
        max_tokens=1, thinking=False, chat_template=Path("x"), template_kwargs={"a": 1}, timeout=0, queue=0,
        idle_unload=0, allow_manage=True,
    ).check()  # fmt: skip
    Options(timeout=None, idle_unload=0.5, chat_template="x").check()
