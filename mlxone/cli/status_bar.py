"""The bar below a server's log: what it does and what it holds, in two lines. Pure but for its colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlxone.cli.live import Line
from mlxone.cli.sizes import in_words, share_in_words
from mlxone.cli.table import display_width, shortened
from mlxone.cli.terminal import one_line

if TYPE_CHECKING:
    from mlxone.cli.process_load import Load
    from mlxone.server.counters import Counters
    from mlxone.service.figures import CacheFigures, Figures

PERIOD = 0.5  # seconds between two looks
BETWEEN = " · "
_LABELS = r"\b(?:memory|prompts|process|CPU|GPU)\b|·"


@dataclass(frozen=True, slots=True)
class Part:
    text: str
    worth: int  # the least goes first where there is no room


def bar_text(url: str, figures: Figures, counters: Counters, load: Load, width: int) -> str:
    """Two lines, neither wider than `width`; numbers are never cut, parts go as a whole."""
    return "\n".join(fitted(parts, width) for parts in (_work(url, figures, counters), _held(figures, load)))


class Colours:
    """A bar's text as lines for the terminal: what names a number steps back behind it."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True)

    def __call__(self, text: str) -> list[Line]:
        return [self._line(line) for line in text.split("\n")]

    def _line(self, line: str) -> Line:
        from rich.text import Text

        text = Text(line)
        text.highlight_regex(_LABELS, "dim")
        with self._console.capture() as written:
            self._console.print(text, end="", soft_wrap=True)
        return Line(written.get(), display_width(line))


def _work(url: str, figures: Figures, counters: Counters) -> list[Part]:
    waiting = f", {figures.waiting:,} waiting" if figures.waiting else ""
    parts = [
        Part(f"{figures.running:,} running{waiting}", 5),
        Part(f"{_speed(figures.decode_tps)} tok/s", 4) if figures.decode_tps else None,
        Part("1 request" if counters.total == 1 else f"{counters.total:,} requests", 3),
        Part(one_line(figures.model), 1) if figures.model else None,
        Part(url, 2),
    ]
    return [part for part in parts if part]


def _held(figures: Figures, load: Load) -> list[Part]:
    parts = [
        Part(_memory(figures), 5),
        Part(_prompts(figures.prompt_cache), 1) if figures.prompt_cache.max_bytes else None,
        Part(f"process {in_words(load.resident_bytes)}", 2) if load.resident_bytes is not None else None,
        Part(f"CPU {load.cpu:.0f} %", 4) if load.cpu is not None else None,
        Part(f"GPU {load.gpu} %", 3) if load.gpu is not None else None,
    ]
    return [part for part in parts if part]


def _speed(tokens_per_second: float) -> str:
    return f"{tokens_per_second:.{1 if tokens_per_second < 100 else 0}f}"


def _memory(figures: Figures) -> str:
    # Weights may wait on the disk for the first request; their place is taken all the same.
    taken = max(figures.memory.active_bytes, figures.admission.weights_bytes)
    usable = figures.admission.usable_bytes
    return f"memory {share_in_words(taken, usable) if usable else in_words(taken)}"


def _prompts(cache: CacheFigures) -> str:
    asked = cache.hits + cache.misses
    hits = f" ({100 * cache.hits // asked} % hits)" if asked else ""
    return f"prompts {share_in_words(cache.bytes, cache.max_bytes)}{hits}"


def fitted(parts: Sequence[Part], width: int) -> str:
    left = list(parts)
    while len(left) > 1 and display_width(BETWEEN.join(part.text for part in left)) > width:
        left.remove(min(left, key=lambda part: part.worth))
    return shortened(BETWEEN.join(part.text for part in left), width)
