"""metrics.jsonl: a line for each report and validation, as they come; a run that goes on cuts it back.

Each line has `step, train_loss, valid_loss, lr, tokens_per_s, peak_memory` (bytes), null where there is
nothing to say, and what preferences tell besides.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from mlxone.training.events import Stepped, Validated
from mlxone.training.folder import replacing, storing


class Metrics:
    def __init__(self, path: Path, *, step: int | None = None, validated: bool = True) -> None:
        """`step`: what comes after it is cut off; None begins anew. Without `validated` the validation that
        belongs behind that step is still to come, and cut off if it was measured already."""
        self.path = path
        kept = [] if step is None else _lines_to(path, step, validated)
        with replacing(path) as place:
            place.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        with storing(path):
            self._file = path.open("a", encoding="utf-8")

    def stepped(self, event: Stepped) -> None:
        self._add(
            event.step,
            dict(event.extras),
            train_loss=event.loss,
            lr=event.lr,
            tokens_per_s=event.tokens_per_s,
            peak_memory=event.peak_memory,
        )

    def validated(self, event: Validated) -> None:
        self._add(event.step, {f"valid_{name}": v for name, v in event.extras.items()}, valid_loss=event.loss)

    def flush(self) -> None:
        """To the disk: before a state that counts on it."""
        with storing(self.path):
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        with storing(self.path):
            self._file.close()

    def _add(self, step: int, more: dict[str, float], **figures: float) -> None:
        line: dict[str, Any] = {"step": step}
        names = ("train_loss", "valid_loss", "lr", "tokens_per_s", "peak_memory")
        line |= {name: figures.get(name) for name in names}
        with storing(self.path):
            self._file.write(json.dumps(line | more) + "\n")
            self._file.flush()  # a line is there whole for whoever follows


def _lines_to(path: Path, step: int, validated: bool) -> list[str]:
    """Without a last line that a kill cut off, or what is none of ours."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    kept = []
    for line in text.splitlines():
        at, is_validation = _place_of(line)
        if 0 <= at < step or (at == step and (validated or not is_validation)):
            kept.append(line)
    return kept


def _place_of(line: str) -> tuple[int, bool]:
    """The step, and whether it is of a validation; -1 is no step."""
    try:
        row = json.loads(line)
        step, is_validation = row["step"], row.get("valid_loss") is not None
    except (ValueError, KeyError, TypeError):
        return -1, False
    return (step if isinstance(step, int) else -1), is_validation
