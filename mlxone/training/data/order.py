"""Which samples make step k: a pure function of lengths, batch and seed, for any k at any time.

Each epoch takes every sample exactly once, in an order of its own; its last step may be smaller.
With `pack` a step takes `batch` rows, each filled with samples up to `pack` tokens. Which samples
share a row is settled once, so that every epoch has the same number of steps; the rows are
shuffled anew each epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from mlxone.core.errors import DataError, UsageError

WINDOW = 512  # samples that are packed together: enough to fill rows well, few enough to stay mixed


class Order:
    def __init__(self, lengths: Sequence[int], *, batch: int, seed: int, pack: int | None = None) -> None:
        if batch < 1:
            raise UsageError(f"batch must be at least 1, not {batch}", param="batch")
        if pack is not None and pack < 1:
            raise UsageError(f"pack must be at least 1 token, not {pack}", param="pack")
        if not lengths:
            raise DataError("there is no sample to learn from")
        self._batch, self._seed = batch, seed
        self._rows = [[at] for at in range(len(lengths))]
        if pack is not None:
            self._rows = _packed(lengths, pack, _random(seed, "rows"))
        self._epoch, self._shuffled = -1, list[int]()  # of one epoch only: those before are not needed

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self._rows) // self._batch)

    @property
    def rows(self) -> int:
        """What a batch counts: samples, or packed rows of them."""
        return len(self._rows)

    def indices(self, step: int) -> list[int]:
        epoch, step = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._shuffled = epoch, list(range(len(self._rows)))
            _random(self._seed, epoch).shuffle(self._shuffled)
        chosen = self._shuffled[step * self._batch : (step + 1) * self._batch]
        return [at for row in chosen for at in self._rows[row]]


def _random(seed: int, of: int | str) -> Random:
    return Random(f"{seed} {of}")  # text is hashed: neighbouring seeds have nothing in common


def _packed(lengths: Sequence[int], room: int, random: Random) -> list[list[int]]:
    order = list(range(len(lengths)))
    random.shuffle(order)
    windows = (order[start : start + WINDOW] for start in range(0, len(order), WINDOW))
    return [row for window in windows for row in _first_fit(window, lengths, room)]


def _first_fit(window: Sequence[int], lengths: Sequence[int], room: int) -> list[list[int]]:
    """Longest first, each into the first row with room for it. One that is too long has its own row."""
    rows: list[list[int]] = []
    left: list[int] = []
    for at in sorted(window, key=lambda at: -lengths[at]):
        row = next((number for number, free in enumerate(left) if free >= lengths[at]), None)
        if row is None:
            rows.append([])
            left.append(room)
            row = len(rows) - 1
        rows[row].append(at)
        left[row] -= lengths[at]
    return rows
