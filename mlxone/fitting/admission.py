"""Who may start: memory promised to requests before any work is done on them.

A GPU that runs out of memory ends the process and cannot be caught, so what would not fit is
refused beforehand. All requests in flight count together: their layer states in full, and the
transients of the longest. Arithmetic only; no lock is held longer than a few sums.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from mlxone.fitting.report import Case
from mlxone.fitting.work import Work


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why not, in one line, with the numbers. False where a yes or no is asked."""

    reason: str
    needed_bytes: int
    budget_bytes: int
    max_context: int  # what one request of this many rows may have in all, beside those in flight
    can_wait: bool  # it would fit once others have finished

    def __bool__(self) -> bool:
        return False


class Ticket:
    """A request's share of the memory, until it is given back. True where a yes or no is asked."""

    __slots__ = ("_release", "context", "rows")

    def __init__(self, context: int, rows: int, release: Callable[[Ticket], None]) -> None:
        self.context, self.rows, self._release = context, rows, release

    def __bool__(self) -> bool:
        return True

    def release(self) -> None:
        """Gives the memory back; once is enough, more often does no harm."""
        self._release(self)

    def __enter__(self) -> Ticket:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class Admission:
    def __init__(self, case: Case, budget: int, work: Work | None = None) -> None:
        """`work` says how prompts are read and keys kept; its context and rows are each request's own."""
        self.case, self.budget = case, budget
        self._work = work or Work()
        self._tickets: set[Ticket] = set()
        self._lock = threading.Lock()

    def admit(self, prompt_tokens: int, max_tokens: int, rows: int = 1) -> Ticket | Refusal:
        context = prompt_tokens + max_tokens
        with self._lock:
            needed = self._needed(context, rows)
            limit = self.case.facts.context_length
            if needed <= self.budget and (limit is None or context <= limit):
                ticket = Ticket(context, rows, self._take_back)
                self._tickets.add(ticket)
                return ticket
            return self._refusal(prompt_tokens, max_tokens, rows, needed)

    @property
    def in_flight(self) -> int:
        with self._lock:
            return sum(ticket.rows for ticket in self._tickets)

    @property
    def promised_bytes(self) -> int:
        """Weights, and all that the requests in flight may grow to."""
        with self._lock:
            return self._needed(0, 0)

    def _take_back(self, ticket: Ticket) -> None:
        with self._lock:
            self._tickets.discard(ticket)

    def _needed(self, context: int, rows: int) -> int:
        """Bytes in all, with this request beside those in flight."""
        asked = [(t.context, t.rows) for t in self._tickets] + ([(context, rows)] if rows else [])
        each = [self.case.needs(replace(self._work, context=c, rows=r)) for c, r in asked]
        longest = replace(
            self._work, context=max((c for c, _ in asked), default=0), rows=sum(r for _, r in asked)
        )
        alone = self.case.needs(longest)
        return alone.weights_bytes + sum(n.kv_bytes for n in each) + (alone.transient_bytes if asked else 0)

    def _refusal(self, prompt_tokens: int, max_tokens: int, rows: int, needed: int) -> Refusal:
        context, limit = prompt_tokens + max_tokens, self.case.facts.context_length
        longest = self._longest(rows)
        asked = f"{prompt_tokens:,} prompt tokens and up to {max_tokens:,} more"
        if limit is not None and context > limit:
            reason, can_wait = f"{asked} are beyond the model's context of {limit:,}", False
        else:
            tickets, self._tickets = self._tickets, set()
            can_wait = bool(tickets) and self._needed(context, rows) <= self.budget
            self._tickets = tickets
            wait = "; it fits once others have finished" if can_wait else ""
            of_rows = f" in {rows} rows" if rows > 1 else ""
            reason = (
                f"{asked}{of_rows} need {needed / 1e9:.2f} GB of the {self.budget / 1e9:.2f} GB allowed; "
                f"{longest:,} tokens in all would fit{wait}"
            )
        return Refusal(reason, needed, self.budget, longest, can_wait)

    def _longest(self, rows: int) -> int:
        low, high = 0, (self.case.facts.context_length or 2**22) + 1
        while low < high - 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._needed(middle, rows) <= self.budget else (low, middle)
        return low
