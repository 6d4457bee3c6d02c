"""Amounts in words, as every message and table of this program says them."""

from __future__ import annotations

from collections.abc import Sequence


def in_words(size: int) -> str:
    """Bytes, in decimal units."""
    for unit, bytes_ in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        # From where the unit below would round up to a thousand.
        if size >= bytes_ * 0.99995:
            return f"{size / bytes_:.1f} {unit}"
    return f"{size / 1e3:.0f} kB" if size >= 1000 else f"{size} B"


def first_of(names: Sequence[str], limit: int = 8) -> str:
    """The first of them, and how many more there are."""
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more} more" if more > 0 else "")
