"""What a training run shows at the bottom of a terminal: how far it is, its figures, its curve. Pure.

Rows of pieces, each a text and what it is; `train_view.py` gives them their colours.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from mlxone.cli.curve import Piece, curve
from mlxone.cli.sizes import duration_in_words, in_words
from mlxone.cli.status_bar import Part, fitted
from mlxone.cli.table import display_width
from mlxone.cli.train_progress import Progress

Row = list[Piece]

TALLEST, SHORTEST = 8, 3  # rows of the curve
KEPT_FREE = 7  # rows of the terminal for what is above the panel, and for its own figures
NARROWEST_BAR = 6
# "loss" and "valid" have the colours of their lines: that is the curve's legend.
_KINDS = {"loss": "train", "valid": "valid"}
_LABELS = re.compile(r"\b(loss|valid|best|lr|memory|saved|step|accuracy|margin)\b|·")
ENDS = {"done": "done", "asked": "stopped", "nan": "broke down", "failed": "failed", "killed": "killed"}


def panel(progress: Progress, width: int, rows: int) -> list[Row]:
    """No row is wider than `width`, and there are fewer than `rows` of them."""
    lines = [_bar(progress, width)]
    lines += [_labelled(fitted(parts, width)) for parts in (_losses(progress), _costs(progress)) if parts]
    height = min(TALLEST, rows - KEPT_FREE)
    drawn: list[Row] = []
    if height >= SHORTEST:
        drawn = curve(progress.train.points, progress.valid.points, width, height)
    return (lines + drawn)[: max(rows - 1, 1)]


def text_of(row: Row) -> str:
    return "".join(text for text, _ in row)


def report(progress: Progress) -> str:
    """The same figures as one line, for a log."""
    parts = [
        part.text
        for parts in (_losses(progress, valid=False), _costs(progress, saved=False))
        for part in parts
    ]
    left = _left(progress)
    return f"step {_steps(progress)}: " + ", ".join([*parts, left] if left else parts)


def validated(progress: Progress) -> str:
    """A line for a log, just after the model was asked what it does not learn from."""
    if progress.valid_loss is None:
        return ""
    is_best = len(progress.valid.points) > 1 and progress.best == (progress.valid_loss, progress.step)
    best = " (the best so far)" if is_best else ""
    return f"step {_steps(progress)}: valid loss {loss_in_words(progress.valid_loss)}{best}"


def loss_in_words(loss: float) -> str:
    return f"{loss:.4f}" if math.isfinite(loss) else "not a number"


def _steps(progress: Progress) -> str:
    return f"{progress.step:,}" + (f"/{progress.steps:,}" if progress.steps else "")


def _left(progress: Progress) -> str:
    return f"{duration_in_words(progress.eta_s)} left" if progress.eta_s else ""


def _bar(progress: Progress, width: int) -> Row:
    head = f"step {_steps(progress)}"
    end = ENDS.get(progress.state, progress.state) or _left(progress)
    if not progress.steps:
        return _labelled(fitted([Part(head, 2), *([Part(end, 1)] if end else [])], width))
    share = min(progress.step / progress.steps, 1.0)
    tail = f"{100 * share:.0f} %" + (f" · {end}" if end else "")
    room = width - display_width(head) - display_width(tail) - 2
    if room < NARROWEST_BAR:
        return _labelled(fitted([Part(head, 2), Part(tail, 1)], width))
    full = round(share * room)
    return [
        *_labelled(head + " "),
        ("━" * full, "done"),
        ("─" * (room - full), "axis"),
        *_labelled(" " + tail),
    ]


def _losses(progress: Progress, *, valid: bool = True) -> list[Part]:
    parts = []
    if progress.loss is not None:
        parts.append(Part(f"loss {loss_in_words(progress.loss)}", 9))
    if valid and progress.valid_loss is not None:
        parts.append(Part(f"valid {loss_in_words(progress.valid_loss)}", 8))
    if valid and progress.best is not None and len(progress.valid.points) > 1:
        loss, step = progress.best
        parts.append(Part(f"best {loss_in_words(loss)} at step {step:,}", 4))
    if progress.lr is not None:
        parts.append(Part(f"lr {progress.lr:.2e}", 6))
    for name in ("accuracy", "margin"):
        if name in progress.extras:
            parts.append(Part(f"{name} {progress.extras[name]:.3g}", 5))
    return parts


def _costs(progress: Progress, *, saved: bool = True) -> list[Part]:
    parts = []
    if progress.tokens_per_s is not None:
        parts.append(Part(f"{progress.tokens_per_s:,.0f} tok/s", 9))
    if progress.peak_memory is not None:
        parts.append(Part(f"memory {in_words(progress.peak_memory)}", 8))
    if saved and progress.saved is not None:
        parts.append(Part(f"saved at step {progress.saved:,}", 5))
    return parts


def _labelled(text: str) -> Row:
    """What names a number steps back behind it."""
    return list(_pieces(text))


def _pieces(text: str) -> Iterator[Piece]:
    at = 0
    for found in _LABELS.finditer(text):
        if found.start() > at:
            yield text[at : found.start()], ""
        yield found[0], _KINDS.get(found[0], "axis")
        at = found.end()
    if at < len(text):
        yield text[at:], ""
