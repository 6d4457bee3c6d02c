"""Sizes as people write and read them: decimal units, everywhere in this program."""

from __future__ import annotations

import math
import re

from mlxone.core.amounts import in_words as in_words
from mlxone.core.errors import UsageError

_UNITS = {"": 1e9, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}
_SIZE = re.compile(r"(\d+\.?\d*|\.\d+)\s*([KMGT]?B?)", re.IGNORECASE)


def read_size(text: str, name: str = "a size") -> int:
    """Bytes; a number alone is in GB."""
    found = _SIZE.fullmatch(text.strip())
    unit = found[2].upper() if found else "?"
    scale = _UNITS.get(unit if unit in ("", "B") or unit.endswith("B") else f"{unit}B")
    if found is None or scale is None:
        raise UsageError(f"{name} takes a size such as 10GB, 500MB or 1.5TB, not {text!r}")
    value = float(found[1]) * scale
    if not math.isfinite(value) or value > 1e18:
        raise UsageError(f"{name}: {text} is more than any disk holds")
    return int(value)


def share_in_words(part: int, whole: int) -> str:
    """Both in the unit of the whole: a number that changes its unit is hard to follow."""
    if whole < 1e9:
        return f"{part / 1e6:.0f} of {whole / 1e6:.0f} MB"
    return f"{part / 1e9:.2f} of {whole / 1e9:.1f} GB"


def count_in_words(count: int) -> str:
    """Of parameters: 4.0B, 135M."""
    if count >= 999_500_000:
        return f"{count / 1e9:.1f}B"
    return f"{count / 1e6:.0f}M" if count >= 999_500 else f"{count / 1e3:.0f}K"


def context_in_words(tokens: int) -> str:
    """Contexts are powers of two, mostly: 131072 is 128k."""
    if tokens % 1024 == 0:
        return f"{tokens // 1024}k" if tokens < 1024**2 else f"{tokens / 1024**2:.4g}M"
    return str(tokens) if tokens < 10_000 else f"{round(tokens / 1000)}k"


def bits_in_words(bits: float) -> str:
    return f"{bits:.4g}"


def read_tokens(text: str, name: str) -> int:
    """A count of tokens; 32k is 32 x 1024, as contexts are named."""
    found = re.fullmatch(r"(\d+)\s*([kKmM]?)", text.strip())
    count = int(found[1]) * {"": 1, "k": 1024, "m": 1024**2}[found[2].lower()] if found else 0
    if not 1 <= count <= 10**9:
        raise UsageError(f"{name} takes a number of tokens such as 8192 or 32k, not {text!r}")
    return count


def duration_in_words(seconds: float) -> str:
    """As rough as a prediction is: 0.4 s, 12 s, 25 min, 50 h."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"
