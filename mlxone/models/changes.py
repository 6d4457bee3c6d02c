"""What fine-tuning does to one weight of a model, as values; the base itself is never modified.

The arithmetic and its dtypes are mlx-lm's, bit for bit. Paths are those of the checkpoint, without
".weight". Nothing here asks whether shapes fit: `models/adapters.py` does that with files, and
training makes its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mlxone.backend.arrays import mx
from mlxone.core.errors import AdapterMismatch
from mlxone.models.layers import AnyNorm, Joined, Linear, Parallel, PlainLinear


@dataclass(frozen=True, slots=True, eq=False)
class LowRank:
    """Adds scale * (x a) b. With a key, a share `dropout` of x is left out: training only."""

    a: mx.array  # [in, r]
    b: mx.array  # [r, out]
    scale: float
    dropout: float = 0.0
    key: mx.array | None = None

    def delta(self, x: mx.array) -> mx.array:
        z = (self._thinned(x) @ self.a) @ self.b
        return (self.scale * z).astype(x.dtype)

    def matrix(self) -> mx.array:
        """[out, in]: what is added to the weight."""
        return (self.scale * self.b.T) @ self.a.T

    def _thinned(self, x: mx.array) -> mx.array:
        if self.key is None or not self.dropout:
            return x
        kept = mx.random.bernoulli(1 - self.dropout, x.shape, key=self.key)
        return (1 / (1 - self.dropout)) * (kept * x)  # so that x stays as narrow as it is

    def arrays(self) -> list[mx.array]:
        return [self.a, self.b]


@dataclass(frozen=True, slots=True, eq=False)
class Dora:
    """A low-rank change of the weight's direction, and a magnitude for each of its rows."""

    a: mx.array
    b: mx.array
    magnitude: mx.array  # [out]
    scale: float
    dropout: float = 0.0
    key: mx.array | None = None

    @property
    def direction(self) -> LowRank:
        return LowRank(self.a, self.b, self.scale, self.dropout, self.key)


@dataclass(frozen=True, slots=True, eq=False)
class Replaced:
    """Another weight in the old one's place; of a norm, too. The bias stays unless one is given."""

    weight: mx.array
    bias: mx.array | None = None


Change = LowRank | Dora | Replaced
Changes = Mapping[str, tuple[Change, ...]]


class LowRankLinear:
    """A linear and what is added to its output, one low-rank change after another."""

    __slots__ = ("base", "bias", "bits", "deltas", "in_dims", "out_dims", "path")

    def __init__(self, base: Linear, deltas: Sequence[LowRank]) -> None:
        self.base, self.deltas = base, tuple(deltas)
        self.path, self.in_dims, self.out_dims = base.path, base.in_dims, base.out_dims
        self.bits, self.bias = base.bits, base.bias

    def __call__(self, x: mx.array) -> mx.array:
        return _added(self.base(x), x, self.deltas)

    def dense(self) -> mx.array:
        weight = self.base.dense()
        for delta in self.deltas:
            weight = weight + delta.matrix().astype(weight.dtype)
        return weight

    def arrays(self) -> list[mx.array]:
        return self.base.arrays() + [a for delta in self.deltas for a in delta.arrays()]


class DoraLinear:
    """A linear whose direction and magnitude are changed. `factor` is worked out once, not at every step.

    The base's product is with its dense weight even where it is packed: only that is mlx-lm's number.
    """

    __slots__ = ("base", "bias", "bits", "direction", "factor", "in_dims", "out_dims", "path")

    def __init__(self, base: Linear, change: Dora) -> None:
        self.base, self.direction = base, change.direction
        self.path, self.in_dims, self.out_dims = base.path, base.in_dims, base.out_dims
        self.bits, self.bias = base.bits, base.bias
        length = mx.linalg.norm(base.dense() + self.direction.matrix(), axis=1)
        self.factor = change.magnitude / mx.stop_gradient(length)  # [out]

    def __call__(self, x: mx.array) -> mx.array:
        out = x @ self.base.dense().T + self.direction.delta(x)
        out = self.factor.astype(x.dtype) * out
        return out if self.bias is None else out + self.bias

    def dense(self) -> mx.array:
        weight = self.base.dense()
        weight = weight + self.direction.matrix().astype(weight.dtype)
        return self.factor[:, None].astype(weight.dtype) * weight

    def arrays(self) -> list[mx.array]:
        return [*self.base.arrays(), *self.direction.arrays(), self.factor]


class LowRankJoined(Joined):
    """Still one product for all parts, and each part's own changes added to its share."""

    __slots__ = ("deltas",)

    def __init__(self, base: Joined, deltas: Sequence[Sequence[LowRank]]) -> None:
        super().__init__(base.whole, base.borders, base.parts, apart=base.apart)
        self.deltas = [tuple(of_part) for of_part in deltas]

    def __call__(self, x: mx.array) -> list[mx.array]:
        outs = super().__call__(x)
        return [_added(out, x, deltas) for out, deltas in zip(outs, self.deltas, strict=True)]

    def leaves(self) -> list[Linear]:
        return [
            LowRankLinear(leaf, deltas) if deltas else leaf
            for leaf, deltas in zip(super().leaves(), self.deltas, strict=True)
        ]

    def arrays(self) -> list[mx.array]:
        added = [a for deltas in self.deltas for delta in deltas for a in delta.arrays()]
        return super().arrays() + added


def _added(out: mx.array, x: mx.array, deltas: Sequence[LowRank]) -> mx.array:
    for delta in deltas:
        out = out + delta.delta(x)
    return out


def changed_linear(linear: Linear, changes: Sequence[Change]) -> Linear:
    """A Dora works first, whatever the order: low-rank changes beside it are added to what it gives."""
    replaced = [c for c in changes if isinstance(c, Replaced)]
    doras = [c for c in changes if isinstance(c, Dora)]
    deltas = [c for c in changes if isinstance(c, LowRank)]
    if replaced and len(changes) > 1:
        raise _clash(linear.path, "another weight in its place, and a second adapter changes it")
    if len(doras) > 1:
        raise _clash(linear.path, "magnitudes from two DoRA adapters")
    if replaced:
        bias = linear.bias if replaced[0].bias is None else replaced[0].bias
        return PlainLinear(replaced[0].weight, bias, path=linear.path, bits=linear.bits)
    for dora in doras:
        linear = DoraLinear(linear, dora)
    return LowRankLinear(linear, deltas) if deltas else linear


def changed_norm(norm: AnyNorm, changes: Sequence[Change]) -> AnyNorm:
    if len(changes) > 1:
        raise _clash(norm.path, "weights from two adapters")
    change = changes[0]
    if not isinstance(change, Replaced) or change.bias is not None:
        raise AdapterMismatch(f"{norm.path} is a norm: only its weight can be replaced")
    return norm.with_stored(change.weight)


def changed_group(group: Joined | Parallel, changes: Changes) -> Joined | Parallel:
    """Joined as long as low-rank changes are all there is; only then is it still one product."""
    leaves = group.leaves()
    own = [changes.get(leaf.path, ()) for leaf in leaves]
    if not any(own):
        return group
    deltas = [[c for c in part if isinstance(c, LowRank)] for part in own]
    if type(group) is Joined and deltas == [list(part) for part in own]:
        return LowRankJoined(group, deltas)
    return Parallel([changed_linear(leaf, part) for leaf, part in zip(leaves, own, strict=True)])


def _clash(path: str, what: str) -> AdapterMismatch:
    return AdapterMismatch(
        f"{path} would get {what}", hint="such adapters can be used one at a time, not together"
    )
