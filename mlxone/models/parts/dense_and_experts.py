"""A dense part and a mixture of experts over the same hidden state, each between norms of its own.

It stands where no norm comes before it, and its tensors lie in the layer itself. The router sees
the hidden state as it is.
"""

from __future__ import annotations

from mlxone.backend.arrays import mx
from mlxone.models.layers import AnyNorm
from mlxone.models.parts import experts, feed_forward
from mlxone.models.parts.experts import Experts
from mlxone.models.parts.feed_forward import Dense
from mlxone.models.spec import DecoderSpec, DenseAndExpertsSpec
from mlxone.models.weights import WeightSource


class DenseAndExperts:
    __slots__ = ("after_dense_norm", "after_experts_norm", "dense", "dense_norm", "experts", "experts_norm")

    def __init__(
        self, dense: Dense, experts: Experts, around_dense: list[AnyNorm], around_experts: list[AnyNorm]
    ) -> None:
        self.dense, self.experts = dense, experts
        self.dense_norm, self.after_dense_norm = around_dense
        self.experts_norm, self.after_experts_norm = around_experts

    def __call__(self, x: mx.array) -> mx.array:
        dense = self.after_dense_norm(self.dense(self.dense_norm(x)))
        chosen = self.experts.chosen(self.experts_norm(x), *self.experts.router(x))
        return dense + self.after_experts_norm(chosen)

    def arrays(self) -> list[mx.array]:
        norms = (self.dense_norm, self.after_dense_norm, self.experts_norm, self.after_experts_norm)
        return [a for part in (self.dense, self.experts, *norms) for a in part.arrays()]


def build(spec: DenseAndExpertsSpec, model: DecoderSpec, source: WeightSource, path: str) -> DenseAndExperts:
    """`path` is the layer's."""

    def norms(*roles: str) -> list[AnyNorm]:
        return [source.norm(f"{path}.{model.name(role)}", model.hidden_size, model.norm) for role in roles]

    return DenseAndExperts(
        feed_forward.build(spec.dense, model, source, f"{path}.{model.name('dense')}"),
        experts.build(spec.experts, model, source, path),
        norms("feed_forward_norm", "after_dense_norm"),
        norms("experts_norm", "after_experts_norm"),
    )
