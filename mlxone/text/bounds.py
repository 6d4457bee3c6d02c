"""What one rendering of a template may use: time, and the size of what it makes.

A template runs inside our own process, where nothing can stop it from outside. So everything it
does asks here: each step of a loop and each call for the time, everything that makes a text, a
list or a number for its size. Lists and the like are immutable in the sandbox; what is made of
them is measured once, with all it holds, so no value can be larger than the limit however often
parts of it are shared. What stays unbounded is a single operation of Python upon values of that
size, which ends within seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import chain
from typing import NoReturn, TypeVar

TIME_LIMIT = 5.0  # seconds
SIZE_LIMIT = 32_000_000  # of one value, in characters; each item of a list counts for ITEM of them
TOTAL_LIMIT = 512_000_000  # of everything made on the way
ITEM = 64  # about what an item costs in memory
DEPTH_LIMIT = 200  # lists in lists: Python hashes a tuple with no check of its own
NUMBER_BITS = 16_384
WORK_LIMIT = 1_000_000_000  # steps of one operation whose time grows faster than its values
PATH_LIMIT = 200  # characters of `a.b.c` in a filter's `attribute`

T = TypeVar("T")
_CONTAINERS = (list, tuple, dict, set, frozenset)


class Exceeded(Exception):
    """The template took more than it may. The message goes behind the template's name."""


class Allowance:
    """What is left for one rendering."""

    __slots__ = ("_known", "clock", "end", "left")

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock, self.end = clock, clock() + TIME_LIMIT
        self.left = TOTAL_LIMIT
        # Size and depth of containers by id. They are held, so that no id is used twice.
        self._known: dict[int, tuple[object, int, int]] = {}

    def tick(self) -> None:
        if self.clock() > self.end:
            raise Exceeded(f"it runs longer than {TIME_LIMIT:g} seconds")

    def room(self, size: int, what: str = "text") -> None:
        """Asked before something of this size is made."""
        if size > SIZE_LIMIT:
            raise Exceeded(f"it makes a {what} larger than {SIZE_LIMIT // 1_000_000} MB")

    def work(self, steps: int) -> None:
        if steps > WORK_LIMIT:
            raise Exceeded("it asks for an operation that takes too long")

    def path(self, size: int) -> None:
        if size > PATH_LIMIT:
            raise Exceeded(f"it asks for an attribute by more than {PATH_LIMIT} characters")

    def number(self, bits: int) -> None:
        if bits > NUMBER_BITS:
            raise Exceeded(f"it makes a number of more than {NUMBER_BITS} bits")

    def text(self, size: int) -> None:
        """A text of this size is made, or about to be."""
        self.left -= size + ITEM
        if size > SIZE_LIMIT:
            self.room(size)
        if self.left < 0:
            raise Exceeded(f"it makes more than {TOTAL_LIMIT // 1_000_000} MB of text on its way")

    def made(self, value: T) -> T:
        """The result of an operation, counted."""
        if isinstance(value, str | bytes):
            self.text(len(value))
        elif isinstance(value, _CONTAINERS):
            self.text(len(value) * ITEM)
            self.measure(value)
        elif isinstance(value, int):
            self.number(value.bit_length())
        return value

    def size(self, value: object) -> int:
        return self.measure(value)[0]

    def measure(self, value: object) -> tuple[int, int]:
        """Size and depth. What a list holds twice counts twice: so it is when it is printed."""
        if isinstance(value, str | bytes):
            return len(value), 0
        if not isinstance(value, _CONTAINERS):
            return ITEM, 0
        known = self._known.get(id(value))
        if known is not None:
            return known[1], known[2]
        size, depth = ITEM, 0
        for item in chain(value, value.values()) if isinstance(value, dict) else value:
            inner, below = self.measure(item)
            size += inner + ITEM
            depth = max(depth, below)
            if size > SIZE_LIMIT:
                self.room(size, "list")
        self.keep(value, size, depth + 1)
        return size, depth + 1

    def keep(self, value: object, size: int, depth: int) -> None:
        if depth > DEPTH_LIMIT:
            _too_deep()
        self._known[id(value)] = (value, size, depth)


def _too_deep() -> NoReturn:
    raise Exceeded(f"it nests lists more than {DEPTH_LIMIT} deep")


_running: ContextVar[Allowance] = ContextVar("what the template that runs here may still use")
current = _running.get


@contextmanager
def within(allowance: Allowance) -> Iterator[None]:
    """What templates do meanwhile, in this thread, is at the cost of this allowance."""
    token = _running.set(allowance)
    try:
        yield
    finally:
        _running.reset(token)


def joined(pieces: Iterable[str]) -> str:
    """What a template wrote, or a part of it. What a loop writes again and again is one text in memory."""
    written = list(pieces)
    current().text(sum(map(len, written)))
    return "".join(written)
