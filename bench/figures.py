"""Medians, paired ratios with their interval, and tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import mean, median, stdev

# Student's t at 97.5 % for n - 1 degrees of freedom, by n.
_T = {
    2: 12.7,
    3: 4.30,
    4: 3.18,
    5: 2.78,
    6: 2.57,
    7: 2.45,
    8: 2.36,
    9: 2.31,
    10: 2.26,
    12: 2.20,
    15: 2.14,
    20: 2.09,
}


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, float]:
    """Geometric mean of the paired ratios and its 95 % interval."""
    logs = [math.log(a / b) for a, b in zip(ours, theirs, strict=True)]
    if len(logs) < 2:
        return math.exp(logs[0]), math.nan, math.nan
    t = next((v for n, v in sorted(_T.items(), reverse=True) if n <= len(logs)), 12.7)
    half = t * stdev(logs) / math.sqrt(len(logs))
    return math.exp(mean(logs)), math.exp(mean(logs) - half), math.exp(mean(logs) + half)


def shown(ours: Sequence[float], theirs: Sequence[float]) -> str:
    middle, low, high = ratio(ours, theirs)
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


__all__ = ["median", "ratio", "shown", "table"]
