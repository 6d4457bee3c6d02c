"""What is asked of a model: so many conversations of such a length, read so many tokens at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mlxone.core.facts import ModelFacts
from mlxone.core.settings import PREFILL_STEP

FEWEST_TOKENS = 32  # of an answer that teaches: a shorter one says more of its start than of its speed
DEFAULT_CONTEXT = 8192  # where nobody says how long
KvQuant = Literal["off", "4", "8", "config"]


@dataclass(frozen=True, slots=True)
class Work:
    context: int = DEFAULT_CONTEXT  # prompt and answer together, of each row
    rows: int = 1
    prefill_step: int = PREFILL_STEP
    kv_quant: KvQuant = "off"
    vision: bool = False  # whether the towers beside the language model are needed


def usual_context(facts: ModelFacts) -> int:
    return min(DEFAULT_CONTEXT, facts.context_length or DEFAULT_CONTEXT)
