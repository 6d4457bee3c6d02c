"""Low-rank changes as training computes them: the same numbers as `models/changes.py`, to rounding.

The scaling and the sum are one product's (`addmm`), and linears that are joined get one low-rank
product for all of them. What is left out under dropout stays in the model's dtype.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mlxone.backend.arrays import mx
from mlxone.models.block import AnyBlock
from mlxone.models.changed import changed_block, rebuilt
from mlxone.models.changes import Changes, LowRank
from mlxone.models.layers import Joined, Linear, Parallel


def adapted_block(block: AnyBlock, changes: Changes) -> AnyBlock:
    deltas = {path: own[0] for path, own in changes.items() if len(own) == 1}
    low_rank = {path: delta for path, delta in deltas.items() if isinstance(delta, LowRank)}
    if len(low_rank) < len(changes):
        return changed_block(block, changes)

    def piece(old: Any) -> Any:
        if type(old) is Joined and (joined := _joined(old, low_rank)):
            return joined
        if isinstance(old, Joined | Parallel):
            leaves = old.leaves()
            changed = any(leaf.path in low_rank for leaf in leaves)
            return Parallel([piece(leaf) for leaf in leaves]) if changed else old
        return AdaptedLinear(old, low_rank[old.path]) if old.path in low_rank else old

    adapted: AnyBlock = rebuilt(block, piece)
    return adapted


class AdaptedLinear:
    """A product, and the low-rank one added to it."""

    __slots__ = ("base", "delta", "path")

    def __init__(self, base: Linear, delta: LowRank) -> None:
        self.base, self.delta, self.path = base, delta, base.path

    def __call__(self, x: mx.array) -> mx.array:
        delta = self.delta
        return mx.addmm(self.base(x), thinned(x, delta) @ delta.a, delta.b, alpha=delta.scale)

    def arrays(self) -> list[mx.array]:
        return self.base.arrays() + self.delta.arrays()


class AdaptedJoined:
    """One product for all parts, and one low-rank product: the a side by side, the b along a diagonal."""

    __slots__ = ("a", "b", "base", "scale")

    def __init__(self, base: Joined, deltas: Sequence[LowRank]) -> None:
        self.base, self.scale = base, deltas[0].scale
        self.a = mx.concatenate([delta.a for delta in deltas], axis=1)
        self.b = _diagonal([delta.b for delta in deltas])

    def __call__(self, x: mx.array) -> list[mx.array]:
        out = mx.addmm(self.base.whole(x), x @ self.a, self.b, alpha=self.scale)
        return list(mx.split(out, self.base.borders, axis=-1))

    def arrays(self) -> list[mx.array]:
        return [*self.base.arrays(), self.a, self.b]


def thinned(x: mx.array, delta: LowRank) -> mx.array:
    """What dropout leaves of x, as much more as it takes away."""
    if delta.key is None or not delta.dropout:
        return x
    kept = mx.random.bernoulli(1 - delta.dropout, x.shape, key=delta.key)
    return mx.where(kept, x * (1 / (1 - delta.dropout)), mx.array(0, x.dtype))


def _joined(group: Joined, deltas: Mapping[str, LowRank]) -> AdaptedJoined | None:
    """None where not all parts are adapted alike, and with dropout: each part then reads something else."""
    found = [deltas[leaf.path] for leaf in group.leaves() if leaf.path in deltas]
    alike = len(found) == len(group.leaves()) and len({delta.scale for delta in found}) == 1
    return AdaptedJoined(group, found) if alike and all(d.key is None for d in found) else None


def _diagonal(blocks: Sequence[mx.array]) -> mx.array:
    total, before, rows = sum(b.shape[1] for b in blocks), 0, []
    for block in blocks:
        behind = total - before - block.shape[1]
        rows.append(mx.pad(block, [(0, 0), (before, behind)]))
        before += block.shape[1]
    return mx.concatenate(rows, axis=0)
