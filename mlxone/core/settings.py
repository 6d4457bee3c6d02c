"""The settings table: every knob once, with its default, range and help.

The command line, the documentation and the checks derive from this table. The two default
columns are deliberate: a library call is greedy and short, a person at a terminal is not.
`SETTINGS` shape an answer, `SERVER_SETTINGS` a server; `SERVE_SETTINGS` are all that `serve` takes.
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
    metavar: str = ""  # the value in the help; GB also says how it is read. A truth without one is a switch
    choices: tuple[str, ...] = ()
    many: bool = False  # may be given more than once

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def range(self) -> str:
        if self.choices:
            return "one of " + ", ".join(self.choices)
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

LOG_LEVELS = ("error", "warn", "info", "debug")
_LONGEST = 1_000_000  # seconds; more than that is a slip of the finger

SERVER_SETTINGS: tuple[Setting, ...] = (
    Setting(
        "host",
        str,
        "The address to listen on; 0.0.0.0 or :: is every one this machine has.",
        "127.0.0.1",
        "127.0.0.1",
        metavar="ADDRESS",
    ),
    Setting("port", int, "The port to listen on; 0 takes a free one.", 8090, "8090", low=0, high=65_535),
    Setting("uds", str, "A Unix socket to listen on in place of a port.", None, "none", metavar="PATH"),
    Setting(
        "api_key",
        str,
        "A key that requests must carry; @FILE names a file with one on each line; may be repeated.",
        None,
        "none is asked for",
        metavar="KEY",
        many=True,
    ),
    Setting(
        "allowed_origins",
        str,
        "Web pages that may ask, as origins with commas between (https://chat.example) or * for all; "
        "may be repeated.",
        None,
        "pages of this machine",
        metavar="ORIGINS",
        many=True,
    ),
    Setting(
        "allowed_hosts",
        str,
        "Names that a Host header may say besides localhost, with commas between; may be repeated.",
        None,
        "none; on loopback the header is always checked",
        metavar="NAMES",
        many=True,
    ),
    Setting(
        "adapter",
        str,
        "An adapter for the model, called by its folder's name where no NAME is given; may be repeated. One "
        "alone is what requests get that name none; of several each request chooses, and gets the model as "
        "it is where it names none.",
        None,
        "none",
        aliases=("--adapter-path",),
        metavar="[NAME=]DIR",
        many=True,
    ),
    Setting(
        "adapter_dir",
        str,
        "A folder whose adapters clients may mount and unmount.",
        None,
        "they may not",
        metavar="DIR",
    ),
    Setting("allow_manage", bool, "Let clients load and unload models.", None, "they may not"),
    Setting(
        "memory_budget",
        float,
        "Most memory that models, their states and the prompt cache may take.",
        None,
        "what a model may use here",
        low=0.001,
        high=1_000_000,
        metavar="GB",
    ),
    Setting(
        "prompt_cache",
        float,
        "Most memory for prompts kept from earlier requests; 0 keeps none.",
        2.0,
        "2 GB",
        low=0,
        high=1_000_000,
        metavar="GB",
    ),
    Setting("prompt_cache_bytes", int, "The same in bytes.", None, "2 GB", low=0, high=10**15),
    Setting("prompt_cache_size", int, "Most prompts kept.", None, "as many as its memory holds", low=1),
    Setting("queue", int, "Answers that may wait for their turn; more are refused.", 256, "256", low=1),
    Setting(
        "timeout",
        float,
        "How long an answer may go without a new token; 0 is for ever.",
        300.0,
        "300",
        low=0,
        high=_LONGEST,
        metavar="SECONDS",
    ),
    Setting(
        "grace",
        float,
        "How long answers may go on when the server is told to stop.",
        10.0,
        "10",
        low=0,
        high=_LONGEST,
        metavar="SECONDS",
    ),
    Setting(
        "idle_unload",
        float,
        "Unload a model that nobody asked for so long; 0 is never.",
        None,
        "never",
        low=0,
        high=_LONGEST,
        metavar="SECONDS",
    ),
    Setting(
        "thinking",
        bool,
        "Ask the template to let the model think first, or not to.",
        None,
        "the template's way",
        metavar="true|false",
    ),
    Setting(
        "chat_template",
        str,
        "A Jinja template to use instead of the models' own.",
        None,
        "the model's",
        metavar="FILE",
    ),
    Setting(
        "chat_template_args",
        str,
        "A JSON object of values for the template.",
        None,
        "none",
        metavar="JSON",
    ),
    Setting(
        "log_level",
        str,
        "How much is logged: " + ", ".join(LOG_LEVELS) + ".",
        "info",
        "info",
        metavar="LEVEL",
        choices=LOG_LEVELS,
    ),
    Setting("log_json", bool, "Log in JSON, an object on each line.", None, "plain"),
)

# What shapes an answer and may be set for all of a server's; the rest is for each request to say.
_FOR_ALL_ANSWERS = ("max_tokens", "temperature", "top_p", "top_k", "min_p", "ctx_size", "prefill_step")
SERVE_SETTINGS: tuple[Setting, ...] = (*(BY_NAME[name] for name in _FOR_ALL_ANSWERS), *SERVER_SETTINGS)


def check(name: str, value: Any, *, shown_as: str | None = None) -> Any:
    """Returns the value, or raises the one line that names the setting and its range."""
    return check_value(BY_NAME[name], value, shown_as=shown_as)


def check_value(setting: Setting, value: Any, *, shown_as: str | None = None) -> Any:
    if value is None:
        return value
    low, high = setting.low, setting.high
    # `not (a <= b)` so that NaN is refused as well.
    outside = (low is not None and not value >= low) or (high is not None and not value <= high)
    if outside or (setting.choices and value not in setting.choices):
        raise UsageError(f"{shown_as or setting.name} must be {setting.range}, not {value}")
    return value
