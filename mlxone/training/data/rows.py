"""Rows of training data, and what is done with bad ones: named together in one error, or counted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from mlxone.core.errors import DataError

NAMED = 3  # places of bad rows that an error lists


@dataclass(frozen=True, slots=True)
class Row:
    """One example under our own key names, whatever its file calls them."""

    value: dict[str, Any]
    place: str  # "train.jsonl:7"


class BadRow(Exception):
    """`reason` is the kind of trouble, in words that can be counted; the message is about this row, and
    `hint` a way out beside leaving the row out."""

    def __init__(self, reason: str, message: str = "", hint: str = "") -> None:
        super().__init__(message or reason)
        self.reason, self.hint = reason, hint


@dataclass(slots=True)
class Tally:
    """Goes on behind a bad row, so that all of them are known when it is over."""

    skip: bool = False
    skipped: dict[str, int] = field(default_factory=dict)  # rows by reason
    _first: tuple[str, BadRow] | None = None
    _places: list[str] = field(default_factory=list)  # of those behind the first
    _more: int = 0

    @contextmanager
    def row(self, place: str) -> Iterator[None]:
        """Around the work on one row: if that is bad, what is left of the work is skipped."""
        try:
            yield
        except BadRow as bad:
            self.add(place, bad)

    def add(self, place: str, bad: BadRow) -> None:
        self.count(bad.reason)
        if self._first is None:
            self._first = place, bad
            return
        self._more += 1
        if len(self._places) < NAMED - 1:
            self._places.append(place)

    def count(self, reason: str) -> None:
        self.skipped[reason] = self.skipped.get(reason, 0) + 1

    def finish(self) -> None:
        """Raises about all bad rows at once, unless they are to be skipped."""
        if self._first is not None and not self.skip:
            hints = [self.hint, "`--skip-bad` leaves out such rows"]
            raise DataError(self.first + self._rest(), hint="; ".join(filter(None, hints)))

    @property
    def first(self) -> str:
        """What is wrong with the first bad row; empty where none is bad."""
        return "" if self._first is None else f"{self._first[0]}: {self._first[1]}"

    @property
    def hint(self) -> str:
        return "" if self._first is None else self._first[1].hint

    def _rest(self) -> str:
        if not self._more:
            return ""
        dots = ", ..." if self._more > len(self._places) else ""
        rows = "row" if self._more == 1 else "rows"
        return f" (and {self._more:,} more bad {rows}: {', '.join(self._places)}{dots})"

    def summary(self) -> str:
        """'3 × not JSON, 1 × empty conversation'"""
        return ", ".join(f"{count:,} × {reason}" for reason, count in self.skipped.items())
