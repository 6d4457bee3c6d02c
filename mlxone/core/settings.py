"""The settings table: every knob once, with its default, range and help.

The command line, the documentation and the checks derive from this table. The two default
columns are deliberate: a library call is greedy and short, a person at a terminal is not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mlxone.core.errors import UsageError

PREFILL_STEP = 2048
LIBRARY_MAX_TOKENS = 512
FALLBACK_TEMPERATURE = 0.7  # `run` and `serve`, where neither user nor model says otherwise


@dataclass(frozen=True, slots=True)
class Setting:
    name: str  # as an option of the library; the flag is the same with dashes
    kind: Callable[[str], Any]
    help: str
    default: Any = None  # the library's
    run_default: str = ""  # what `run` and `serve` fall back to, in words
    low: float | None = None
    high: float | None = None
    aliases: tuple[str, ...] = ()

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def range(self) -> str:
        if self.low is None and self.high is None:
            return ""
        if self.high is None:
            return f"at least {self.low}"
        return f"between {self.low} and {self.high}"


SETTINGS: tuple[Setting, ...] = (
    Setting(
        "max_tokens",
        int,
        "Longest answer, in tokens.",
        LIBRARY_MAX_TOKENS,
        "to the end of the context",
        low=1,
    ),
    Setting(
        "temperature",
        float,
        "Randomness; 0 always takes the likeliest token.",
        0.0,
        "the model's, else 0.7",
        low=0,
        high=5,
        aliases=("--temp",),
    ),
    Setting(
        "top_p",
        float,
        "Draw from the likeliest tokens that hold this share; 0 and 1 are off.",
        0.0,
        "the model's, else off",
        low=0,
        high=1,
    ),
    Setting(
        "top_k",
        int,
        "Draw from this many likeliest tokens; 0 is off.",
        0,
        "the model's, else off",
        low=0,
        high=1_000_000,
    ),
    Setting(
        "min_p",
        float,
        "Drop tokens less likely than this share of the likeliest; 0 is off.",
        0.0,
        "the model's, else off",
        low=0,
        high=1,
    ),
    Setting("seed", int, "Makes an answer repeatable.", None, "drawn afresh", low=0, high=2**63 - 1),
    Setting(
        "repetition_penalty",
        float,
        "Divides the odds of tokens seen lately; 1 is off.",
        None,
        "the model's, else off",
        low=0.01,
        high=10,
    ),
    Setting(
        "presence_penalty", float, "Lowers tokens seen lately, once each.", None, "off", low=-10, high=10
    ),
    Setting(
        "frequency_penalty", float, "Lowers tokens seen lately, by how often.", None, "off", low=-10, high=10
    ),
    Setting(
        "xtc_probability",
        float,
        "Chance to leave out the likeliest tokens; 0 is off.",
        0.0,
        "off",
        low=0,
        high=1,
    ),
    Setting("xtc_threshold", float, "How likely a token must be for that.", 0.1, "0.1", low=0, high=0.5),
    Setting(
        "ctx_size", int, "Longest prompt and answer together, in tokens.", None, "the model's context", low=1
    ),
    Setting("prefill_step", int, "Prompt tokens read at once.", PREFILL_STEP, str(PREFILL_STEP), low=1),
)

BY_NAME: Mapping[str, Setting] = {s.name: s for s in SETTINGS}


def check(name: str, value: Any, *, shown_as: str | None = None) -> Any:
    """Returns the value, or raises the one line that names the setting and its range."""
    setting = BY_NAME[name]
    if value is None:
        return value
    low, high = setting.low, setting.high
    # `not (a <= b)` so that NaN is refused as well.
    if (low is not None and not value >= low) or (high is not None and not value <= high):
        raise UsageError(f"{shown_as or name} must be {setting.range}, not {value}")
    return value
