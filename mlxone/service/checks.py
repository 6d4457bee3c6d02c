"""What a caller may hand in: each complaint names the option, and comes before anything runs."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf
from numbers import Integral
from typing import Any

from mlxone.core.errors import UsageError
from mlxone.core.settings import BY_NAME, Setting, check_value

# Whole numbers that only the library knows, with the least they may be.
LIBRARY_ONLY = {
    "repetition_context_size": 0,
    "presence_context_size": 0,
    "frequency_context_size": 0,
    "min_tokens_to_keep": 1,
    "logprobs": 0,
}


MOST_BIAS = 10_000


def check_number(name: str, value: Any) -> None:
    """None means not given and passes. A bool is not a number here."""
    if value is None:
        return
    if name not in LIBRARY_ONLY:
        check_setting(BY_NAME[name], value)
        return
    _check_kind(name, value, whole=True)
    if not LIBRARY_ONLY[name] <= value < 2**31:
        raise UsageError(f"{name} must be at least {LIBRARY_ONLY[name]} and below 2**31, not {value}")


def check_setting(setting: Setting, value: Any) -> None:
    """A number of the settings table."""
    if value is not None:
        _check_kind(setting.name, value, whole=setting.kind is int)
        check_value(setting, value)


def _check_kind(name: str, value: Any, *, whole: bool) -> None:
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        raise UsageError(f"{name} must be a {'whole ' if whole else ''}number, not {str(value)[:60]!r}")


def check_ids(ids: Iterable[int], vocab_size: int) -> None:
    """MLX itself reads past the end of a table without a word."""
    for id in ids:
        if not isinstance(id, Integral) or isinstance(id, bool):
            raise UsageError(f"a token id is a whole number, not {str(id)[:60]!r}")
        if not 0 <= id < vocab_size:
            raise UsageError(f"token id {id} is outside the vocabulary of {vocab_size}")


def check_tokens(ids: Iterable[int], vocab_size: int) -> None:
    """The same of a request's field `tokens`."""
    try:
        check_ids(ids, vocab_size)
    except UsageError as error:
        error.param = error.param or "tokens"
        raise


def checked_bias(bias: Any, vocab_size: int) -> dict[int, float]:
    """Keys may be text, as JSON has them."""
    try:
        if any(isinstance(token, float) for token in bias):
            raise TypeError
        numbers = {int(token): float(value) for token, value in bias.items()}
    except (TypeError, ValueError, AttributeError, OverflowError):
        raise UsageError(f"logit_bias maps token ids to numbers, unlike {str(bias)[:60]!r}") from None
    for token, value in numbers.items():
        if not 0 <= token < vocab_size:
            raise UsageError(f"logit_bias names token {token}, outside the vocabulary of {vocab_size}")
        # NaN and infinity poison the whole row, and so does what float16 cannot hold; minus infinity forbids.
        if not (value == -inf or abs(value) <= MOST_BIAS):
            raise UsageError(f"logit_bias of token {token} must be between ±{MOST_BIAS} or -inf, not {value}")
    return numbers


def listed(name: str, given: Any) -> tuple[Any, ...]:
    try:
        return tuple(given)
    except TypeError:
        raise UsageError(f"{name} must be a list, not {str(given)[:60]!r}") from None


def checked_template_values(values: Any) -> dict[str, Any]:
    """What a caller hands to the chat template beside the conversation itself."""
    try:
        checked = dict(values)
    except (TypeError, ValueError):
        raise UsageError(f"template_kwargs must be a mapping, not {str(values)[:60]!r}") from None
    for name in checked:
        if not isinstance(name, str) or name in ("self", "messages"):
            raise UsageError(f"template_kwargs cannot hold {str(name)[:60]!r}")
    return checked
