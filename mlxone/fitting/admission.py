"""Who may start: memory promised to requests before any work is done on them.

A GPU that runs out of memory ends the process and cannot be caught, so what would not fit is
refused beforehand. All requests in flight count together: their layer states in full, and the
transients of the longest. What else shares the budget (other models, kept prompts) is one number that
is asked for. Arithmetic only; no lock is held longer than a few sums.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from mlxone.core.errors import UsageError
from mlxone.fitting.report import LONGEST, Case
from mlxone.fitting.work import Work


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why not, in one line, with the numbers. False where a yes or no is asked."""

    reason: str
    needed_bytes: int
    budget_bytes: int
    max_context: int  # what one request of this many rows may have in all, beside those in flight
    can_wait: bool  # it would fit once others have finished, here and elsewhere

    def __bool__(self) -> bool:
        return False


class Ticket:
    """A request's share of the memory, until it is given back. True where a yes or no is asked."""

    __slots__ = ("_release", "context", "kv_bytes", "rows")

    def __init__(self, load: _Load, release: Callable[[Ticket], None]) -> None:
        self.context, self.rows, self.kv_bytes, self._release = (
            load.context,
            load.rows,
            load.kv_bytes,
            release,
        )

    def __bool__(self) -> bool:
        return True

    def release(self) -> None:
        """Gives the memory back; once is enough, more often does no harm."""
        self._release(self)

    def __enter__(self) -> Ticket:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


@dataclass(frozen=True, slots=True)
class _Load:
    """Requests taken together: their longest context, their rows, what their layer states may grow to."""

    context: int = 0
    rows: int = 0
    kv_bytes: int = 0

    def __add__(self, other: _Load) -> _Load:
        return _Load(max(self.context, other.context), self.rows + other.rows, self.kv_bytes + other.kv_bytes)


def _nothing() -> int:
    return 0


class Admission:
    def __init__(
        self,
        case: Case,
        budget: int,
        work: Work | None = None,
        *,
        elsewhere: Callable[[], int] = _nothing,
        lock: threading.RLock | None = None,
    ) -> None:
        """`work` says how prompts are read and keys kept; its context and rows are each request's own.

        `elsewhere` is what is promised of the same budget outside this admission. Those who ask each
        other share one `lock`.
        """
        self.case, self.budget = case, budget
        self.mounted_bytes = 0  # of adapters, which are in memory beside the weights
        self._work = work or Work()
        self._elsewhere = elsewhere
        self._tickets: set[Ticket] = set()
        self._longest_alone: dict[tuple[int, ...], int] = {}  # by what decides it: asked for at every look
        self._lock = lock or threading.RLock()

    def admit(self, prompt_tokens: int, max_tokens: int, rows: int = 1) -> Ticket | Refusal:
        _check(prompt_tokens, max_tokens, rows)
        asked = self._load(prompt_tokens + max_tokens, rows)
        with self._lock:
            held, beside = self._held(), self._elsewhere()
            if self._fits(held + asked, beside):
                ticket = Ticket(asked, self._take_back)
                self._tickets.add(ticket)
                return ticket
        return self._refusal(prompt_tokens, max_tokens, asked, held, beside)

    def extend(self, ticket: Ticket, tokens: int) -> Ticket | Refusal:
        """So many tokens more for each row of a ticket in flight; refused, it stays as it was."""
        _check(ticket.context, tokens, ticket.rows)
        asked = self._load(ticket.context + tokens, ticket.rows)
        with self._lock:
            held, beside = self._held(without=ticket), self._elsewhere()
            if self._fits(held + asked, beside):
                ticket.context, ticket.kv_bytes = asked.context, asked.kv_bytes
                return ticket
        return self._refusal(ticket.context, tokens, asked, held, beside)

    def never(self, prompt_tokens: int, max_tokens: int, rows: int = 1) -> Refusal | None:
        """Why such a request is refused however long it waits; None where it may come in some day."""
        _check(prompt_tokens, max_tokens, rows)
        asked = self._load(prompt_tokens + max_tokens, rows)
        if self._fits(asked, 0):
            return None
        return self._refusal(prompt_tokens, max_tokens, asked, _Load(), 0)

    def longest(self, rows: int = 1) -> int:
        """The longest context with nothing else in memory; 0 where not even the weights fit."""
        key = self.budget, self.mounted_bytes, rows
        known = self._longest_alone.get(key)
        if known is None:
            known = self._longest(rows, _Load(), 0)
            self._longest_alone = {key: known}
        return known

    @property
    def in_flight(self) -> int:
        with self._lock:
            return self._held().rows

    @property
    def promised_bytes(self) -> int:
        """Weights, adapters, and all that the requests in flight may grow to."""
        with self._lock:
            return self._total(self._held())

    def _take_back(self, ticket: Ticket) -> None:
        with self._lock:
            self._tickets.discard(ticket)

    def _held(self, without: Ticket | None = None) -> _Load:
        loads = (_Load(t.context, t.rows, t.kv_bytes) for t in self._tickets if t is not without)
        return sum(loads, _Load())

    def _load(self, context: int, rows: int) -> _Load:
        return _Load(context, rows, self.case.needs(replace(self._work, context=context, rows=rows)).kv_bytes)

    def _fits(self, load: _Load, beside: int) -> bool:
        limit = self.case.facts.context_length
        return self._total(load) + beside <= self.budget and (limit is None or load.context <= limit)

    def _total(self, load: _Load) -> int:
        needs = self.case.needs(replace(self._work, context=load.context, rows=load.rows))
        weights = needs.weights_bytes + self.mounted_bytes
        return weights + load.kv_bytes + (needs.transient_bytes if load.rows else 0)

    def _refusal(
        self, prompt_tokens: int, max_tokens: int, asked: _Load, held: _Load, beside: int
    ) -> Refusal:
        limit, needed = self.case.facts.context_length, self._total(held + asked) + beside
        longest = self._longest(asked.rows, held, beside)
        words = f"{prompt_tokens:,} prompt tokens and up to {max_tokens:,} more"
        if limit is not None and asked.context > limit:
            reason, can_wait = f"{words} are beyond the model's context of {limit:,}", False
        else:
            can_wait = self._total(asked) <= self.budget
            wait = "; it fits once others have finished" if can_wait else ""
            of_rows = f" in {asked.rows} rows" if asked.rows > 1 else ""
            reason = (
                f"{words}{of_rows} need {needed / 1e9:.2f} GB of the {self.budget / 1e9:.2f} GB allowed; "
                f"{longest:,} tokens in all would fit{wait}"
            )
        return Refusal(reason, needed, self.budget, longest, can_wait)

    def _longest(self, rows: int, held: _Load, beside: int) -> int:
        low, high = 0, (self.case.facts.context_length or LONGEST) + 1
        while low < high - 1:
            middle = (low + high) // 2
            fits = self._total(held + self._load(middle, rows)) + beside <= self.budget
            low, high = (middle, high) if fits else (low, middle)
        return low


def _check(prompt_tokens: int, max_tokens: int, rows: int) -> None:
    if prompt_tokens < 0 or max_tokens < 0 or rows < 1:
        raise UsageError(f"no such request: {prompt_tokens} and {max_tokens} tokens in {rows} rows")
