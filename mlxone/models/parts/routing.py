"""Which experts each token is sent to, and how much each of them counts.

[.., D] to the numbers of the chosen experts and their scores, both [.., chosen]. Experts of equal score
are told apart by the place that partitioning leaves them in: so that is part of what a family fixes
(`lowest_first`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

from mlxone.backend.arrays import mx, on_cpu
from mlxone.models.layers import Linear, Norm
from mlxone.models.spec import DecoderSpec, RouterSpec
from mlxone.models.weights import WeightSource

Chosen = tuple[mx.array, mx.array]
Choice = Callable[[mx.array, mx.array | None], Chosen]


class Router:
    __slots__ = ("choose", "correction", "expert_scales", "norm", "project", "spec")

    def __init__(
        self,
        spec: RouterSpec,
        project: Linear,
        *,
        correction: mx.array | None = None,
        norm: Norm | None = None,
        expert_scales: mx.array | None = None,
    ) -> None:
        self.spec, self.project, self.correction = spec, project, correction
        self.norm, self.expert_scales = norm, expert_scales
        self.choose = choice_of(spec)

    def __call__(self, x: mx.array) -> Chosen:
        logits = self.project(x if self.norm is None else self.norm(x))
        indices, scores = self.choose(logits, self.correction)
        if self.expert_scales is not None:
            scores = scores * self.expert_scales[indices]
        if self.spec.scoring == "sigmoid" and not self.spec.precise:
            scores = scores.astype(x.dtype)
        return indices, scores

    def arrays(self) -> list[mx.array]:
        norm = [] if self.norm is None else self.norm.arrays()
        rest = [a for a in (self.correction, self.expert_scales) if a is not None]
        return [*self.project.arrays(), *norm, *rest]


@cache
def choice_of(spec: RouterSpec) -> Choice:
    """Logits and correction to the choice."""
    scoring = SCORINGS[spec.scoring]

    def choose(logits: mx.array, correction: mx.array | None) -> Chosen:
        return scoring(spec, logits, correction)

    # Fused steps are faster, and on CUDA they round otherwise: so what mlx-lm compiles is compiled, which
    # are the sigmoids in float32, and nothing else.
    fused = spec.scoring == "sigmoid" and spec.precise
    return mx.compile(choose) if fused and not on_cpu() else choose


def _softmax(spec: RouterSpec, logits: mx.array, _: mx.array | None) -> Chosen:
    scores = _limited(spec, mx.softmax(logits, axis=-1, precise=spec.precise))
    indices = _best(spec, scores)
    return indices, _weighed(spec, mx.take_along_axis(scores, indices, axis=-1))


def _chosen_softmax(spec: RouterSpec, logits: mx.array, _: mx.array | None) -> Chosen:
    indices = _best(spec, logits)
    chosen = mx.take_along_axis(logits, indices, axis=-1)
    if spec.wide:
        chosen = chosen.astype(mx.float32)
    return indices, _weighed(spec, mx.softmax(chosen, axis=-1, precise=spec.precise))


def _sigmoid(spec: RouterSpec, logits: mx.array, correction: mx.array | None) -> Chosen:
    scores = mx.sigmoid(logits.astype(mx.float32) if spec.precise else logits)
    wanted = scores if correction is None else scores.astype(mx.float32) + correction
    indices = _best(spec, _limited(spec, wanted))
    return indices, _weighed(spec, mx.take_along_axis(scores, indices, axis=-1))


SCORINGS: Mapping[str, Callable[[RouterSpec, mx.array, mx.array | None], Chosen]] = {
    "softmax": _softmax,
    "chosen_softmax": _chosen_softmax,
    "sigmoid": _sigmoid,
}


def _limited(spec: RouterSpec, scores: mx.array) -> mx.array:
    """Zero outside of the best groups: those with the best expert, or where each scores for itself, with
    the best two."""
    if spec.groups == spec.chosen_groups:
        return scores
    grouped = mx.unflatten(scores, -1, (spec.groups, -1))
    if spec.scoring == "sigmoid":
        worth = mx.topk(grouped, 2, axis=-1).sum(axis=-1, keepdims=True)
    else:
        worth = grouped.max(axis=-1, keepdims=True)
    others = spec.groups - spec.chosen_groups
    worst = mx.stop_gradient(mx.argpartition(worth, kth=others - 1, axis=-2)[..., :others, :])
    grouped = mx.put_along_axis(grouped, worst, mx.array(0.0, scores.dtype), axis=-2)
    return mx.flatten(grouped, -2, -1)


def _best(spec: RouterSpec, scores: mx.array) -> mx.array:
    chosen = spec.chosen
    if spec.lowest_first:
        best = mx.argpartition(-scores, kth=chosen - 1, axis=-1)[..., :chosen]
    else:
        best = mx.argpartition(scores, kth=-chosen, axis=-1)[..., -chosen:]
    return mx.stop_gradient(best)  # training learns through the scores


def _weighed(spec: RouterSpec, scores: mx.array) -> mx.array:
    if spec.normalised:
        total = scores.sum(axis=-1, keepdims=True)
        scores = scores / (total + spec.normal_eps if spec.normal_eps else total)
    return scores if spec.factor == 1 else scores * spec.factor


def build(spec: RouterSpec, model: DecoderSpec, source: WeightSource, path: str) -> Router:
    """`path` is that of the part it belongs to."""
    hidden, own = model.hidden_size, f"{path}.{model.name('router')}"
    if spec.own_norm is None:
        project = source.linear(own, hidden, spec.experts, bias=spec.bias)
        correction = source.vector(f"{path}.{spec.correction}", spec.experts) if spec.correction else None
        return Router(spec, project, correction=correction)
    weight = source.vector(f"{own}.scale", hidden) * hidden**-0.5
    return Router(
        spec,
        source.linear(f"{own}.proj", hidden, spec.experts, bias=spec.bias),
        norm=Norm(weight, spec.own_norm.eps),
        expert_scales=source.vector(f"{own}.per_expert_scale", spec.experts),
    )
